"""What the user has set: names, values, targets and jobs."""
