"""Ranks, metrics, and whether one model is better than another. It takes a scorer, not a model."""
