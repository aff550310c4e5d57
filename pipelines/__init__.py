"""From an interaction log to masked instances: the stages of make_tfrecords.py, in the order of the data."""
