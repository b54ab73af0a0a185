"""What a figure command is about: its figures and data sets, and their finished runs as tables."""
