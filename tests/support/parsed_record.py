"""One record, parsed alone."""

import tensorflow as tf

from tfrecords.schema import Schema, parse_batch


def parse(schema: Schema, record: tf.Tensor) -> dict[str, tf.Tensor]:
    """The features of a serialised record, as `parse_batch` gives them for several."""
    return {name: values[0] for name, values in parse_batch(schema, tf.reshape(record, [1])).items()}
