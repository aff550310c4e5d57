"""From shards to training batches in a small fixed set of shapes."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.inputs.hashed_random import hashed_bits
from bert4rec_tf.inputs.length_buckets import Bucket, choose_buckets, steps_per_pass
from bert4rec_tf.inputs.objectives import (
    IDS_PER_FILE,
    IDS_PER_TURN,
    Instances,
    Objective,
    TrainingInstances,
    training_instances,
)
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import PAD_ID

_SHUFFLE_RECORDS = 20_000
_FILES_AT_ONCE = 8
_RECORDS_AT_ONCE = 256  # are parsed together


def objective_buckets(manifest: Manifest, objective: Objective, number: int) -> list[Bucket]:
    """At most `number` batch shapes for the instances of an objective."""
    return choose_buckets(training_instances(manifest, objective).length_histogram(), number)


@tf.autograph.experimental.do_not_convert  # there is nothing to convert, and to look for it takes a second
def training_batches(
    data_dir: str | pathlib.Path,
    instances: TrainingInstances,
    buckets: Sequence[Bucket],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    process: int = 0,
    processes: int = 1,
) -> tf.data.Dataset:
    """Endless batches; which records the n-th one holds is a function of the seed and n.

    A pass takes turns over the windows: each turn holds one instance of each window, made by `instances`. Every pass
    has its own order (shards, then a shuffle buffer) and the same number of batches. Batches have one of the shapes of
    `buckets`; the last ones of a pass are filled up with empty rows.

    Args:
        data_dir: of the records.
        instances: of these records, from `training_instances`.
        buckets: from `objective_buckets`.
        batch_size: B.
        seed: of the order, of new masks and of cuts.
        first_step: batches to skip, for a run that resumes.
        process: the number of this process, from 0.
        processes: how many read the same batches. Each gets its share of the rows of each batch, and masks only these.

    Returns:
        Dicts of item_ids int32 [B, L], valid_mask bool [B, L], masked_positions (not with "next_item" and
        "random_prefix") and masked_item_ids int32 [B, P], masked_weights float32 [B, P], and with "random_prefix"
        prefix_lengths int32 [B, 1]. With times also times int32 [B, L + 1], see `TrainingInstances.make_instances`.
        With several processes, B is divided by their number.
    """
    shapes = _BatchShapes(buckets, [instances.max_predictions(bucket) for bucket in buckets], batch_size // processes)
    files = [str(pathlib.Path(data_dir) / shard.file) for shard in instances.manifest.shards("train") if shard.records]
    steps = steps_per_pass(buckets, batch_size)
    turns = instances.turns(buckets, batch_size)

    def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.compat.v1.set_random_seed(1)  # only of this graph: shuffle() mixes the global seed into its own
        seeds = tf.random.stateless_uniform([2], [seed, tf.cast(epoch, tf.int32)], 0, tf.int32.max, tf.int32)
        draw_keys = functools.partial(hashed_bits, seed, epoch)

        def make_instances(instance_ids: tf.Tensor, records: tf.Tensor) -> Instances:
            return shapes.widest(instances.make_instances(records, instance_ids, draw_keys))

        def finish(batch: Instances) -> Instances:
            batch, predictions = shapes.narrowed(batch, process)
            return shapes.filled_up(instances.mask(batch, predictions, draw_keys))

        records = tf.data.Dataset.range(turns).flat_map(lambda turn: _one_turn(files, turn, seeds))
        records = records.shuffle(_SHUFFLE_RECORDS, tf.cast(seeds[0], tf.int64), reshuffle_each_iteration=False)
        made = records.batch(_RECORDS_AT_ONCE).map(make_instances, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
        batches = made.group_by_window(
            lambda instance: instance["bucket"], lambda _, rows: rows.batch(batch_size), window_size=batch_size
        )
        # Batches that are skipped need no masks.
        first = tf.where(epoch == first_step // steps, tf.constant(first_step % steps, tf.int64), 0)
        return batches.take(steps).skip(first).map(finish, num_parallel_calls=tf.data.AUTOTUNE)

    passes = tf.data.Dataset.range(first_step // steps, np.iinfo(np.int64).max)
    options = tf.data.Options()
    options.deterministic = True
    return passes.flat_map(one_pass).with_options(options).prefetch(4)


def _one_turn(files: list[str], turn: tf.Tensor, seeds: tf.Tensor) -> tf.data.Dataset:
    """Each record once, with the id of the instance to make of it."""
    order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seeds + tf.cast(turn, tf.int32))

    def read_file(file: tf.Tensor) -> tf.data.Dataset:
        first_id = turn * IDS_PER_TURN + tf.cast(file, tf.int64) * IDS_PER_FILE
        return tf.data.TFRecordDataset(tf.gather(files, file)).enumerate(first_id)

    return tf.data.Dataset.from_tensor_slices(order).interleave(
        read_file, cycle_length=_FILES_AT_ONCE, num_parallel_calls=2, deterministic=True
    )


class _BatchShapes:
    """Puts instances into batches of a few shapes.

    Args:
        buckets: the shapes, from the shortest.
        predictions: P of each.
        batch_size: rows of a batch that this process takes.
    """

    def __init__(self, buckets: Sequence[Bucket], predictions: Sequence[int], batch_size: int):
        self._batch_size = batch_size
        self._lengths = tf.constant([bucket.length for bucket in buckets], tf.int64)
        self._predictions = tf.constant(predictions, tf.int64)
        length = buckets[-1].length
        self._widest = {
            "item_ids": length,
            "masked_item_ids": max(predictions),
            "prefix_lengths": 1,
            "times": length + 1,
        }
        # With a single shape, batches have a static shape.
        self._static_length = buckets[0].length if len(buckets) == 1 else None
        self._static_times = buckets[0].length + 1 if len(buckets) == 1 else None
        self._static_predictions = predictions[0] if len(buckets) == 1 else None

    def widest(self, instances: Instances) -> Instances:
        """Instances [R, any] padded to the longest shape, with the index of the smallest shape that each one fits."""
        made = {"bucket": tf.searchsorted(self._lengths, tf.cast(instances["length"], tf.int64), out_type=tf.int64)}
        for name, values in instances.items():
            if name == "instance_id":
                made[name] = values
            elif name != "length":
                width = self._widest.get(name, self._widest["masked_item_ids"])
                made[name] = tf.pad(values, [[0, 0], [0, width - tf.shape(values)[1]]])
                made[name].set_shape([None, width])
        return made

    def narrowed(self, batch: Instances, process: int) -> tuple[Instances, tf.Tensor]:
        """A process's rows of a batch of one bucket, in the bucket's shape, and P, int64 scalar."""
        bucket = batch["bucket"][0]
        length, predictions = self._lengths[bucket], self._predictions[bucket]
        widths = {"item_ids": length, "prefix_lengths": 1, "times": length + 1}
        rows = slice(process * self._batch_size, (process + 1) * self._batch_size)
        narrowed = {
            name: values[rows] if name == "instance_id" else values[rows, : widths.get(name, predictions)]
            for name, values in batch.items()
            if name != "bucket"
        }
        return narrowed, predictions

    def filled_up(self, batch: Instances) -> Instances:
        """The batch with empty rows up to B, its valid mask and the weights of its predictions."""
        missing = self._batch_size - tf.shape(batch["item_ids"])[0]
        filled = {name: tf.pad(value, [[0, missing], [0, 0]]) for name, value in batch.items()}
        for name, value in filled.items():
            widths = {"item_ids": self._static_length, "prefix_lengths": 1, "times": self._static_times}
            value.set_shape([self._batch_size, widths.get(name, self._static_predictions)])
        return filled | {
            "valid_mask": filled["item_ids"] != PAD_ID,
            "masked_weights": tf.cast(filled["masked_item_ids"] != PAD_ID, tf.float32),
        }
