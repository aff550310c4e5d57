"""What training, evaluation and serving read: batches out of TFRecords."""
