"""What leaves the machine, and what is still owed to each target."""
