"""The stages that turn sequences into records: split, windows, masks, negatives, shuffled shards."""
