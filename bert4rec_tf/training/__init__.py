"""A training run: optimizer steps, validation, checkpoints, on one device or many."""
