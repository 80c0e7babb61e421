"""What could keep the next backup, or a restore, from working."""
