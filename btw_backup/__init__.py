"""btw-backup: backups of trees, databases, command output and images, and their restores."""

__version__ = "3.0.0"
