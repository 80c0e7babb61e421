"""What is kept, what room it takes, what differs, and what is not wanted any more."""
