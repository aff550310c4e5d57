"""Scores all users of a log or of a data directory: the nightly table of recommendations."""
