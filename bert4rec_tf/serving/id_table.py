"""Lookup tables from text to numbers whose keys a SavedModel stores in a variable."""

import tensorflow as tf


class NumbersInVariable(tf.lookup.KeyValueTensorInitializer):
    """Fills a table from texts to their places in a variable, which loaders restore before they fill tables.

    A constant would be stored in the graph, which cannot exceed 2 GiB. An asset file is no choice either, since ids may
    hold tabs and line ends.

    Args:
        texts: string [any].
        first: the place of the first text that is a key.
    """

    def __init__(self, texts: tf.Variable, first: int):
        super().__init__(tf.constant([], tf.string), tf.constant([], tf.int32))
        self._texts, self._first = texts, first

    def initialize(self, table: tf.lookup.StaticHashTable) -> tf.Operation:
        keys = self._texts[self._first :]
        values = tf.range(self._first, self._first + tf.size(keys))
        return tf.raw_ops.LookupTableImportV2(table_handle=table.resource_handle, keys=keys, values=values)
