"""What a notebook calls: records out of any table, training, evaluation, and recommendations as a data frame."""
