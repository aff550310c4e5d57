"""Ranks, metrics and the comparison of two evaluations. The package takes a scorer, not a model."""
