"""Brings back what is not here any more: from a target, with the key."""
