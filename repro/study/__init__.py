"""A figure command: which figures on which data sets, and their finished runs as tables."""
