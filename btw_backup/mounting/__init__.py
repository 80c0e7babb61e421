"""Backups as a filesystem: which entry is where, their content, and what the kernel is told through FUSE."""
