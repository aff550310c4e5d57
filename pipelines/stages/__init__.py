"""What makes records of the sequences: split, windows, masks, negatives, shuffled shards."""
