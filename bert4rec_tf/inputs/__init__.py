"""Batches from TFRecords, for training, evaluation and serving."""
