"""Gives back what was kept: trees, paths of them, streams, databases; and writes nowhere else."""
