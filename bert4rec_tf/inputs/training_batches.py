"""From shards to batches: instances for training in a fixed small set of shapes, users for evaluation."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.inputs.hashed_random import hashed_bits
from bert4rec_tf.inputs.length_buckets import Bucket, steps_per_pass
from bert4rec_tf.inputs.objectives import Objective, instances_per_window
from bert4rec_tf.inputs.redrawn_masks import draw_cut, draw_masks, max_predictions_of
from tfrecords.manifest import Manifest
from tfrecords.schema import MASKED_WINDOW, parse
from tfrecords.vocabulary import MASK_ID, PAD_ID

_SHUFFLE_RECORDS = 20_000
_FILES_AT_ONCE = 8
_PLACES_IN_A_FILE = 1 << 30
_PLACES_IN_A_TURN = _PLACES_IN_A_FILE << 17  # more files than there may be


def training_batches(
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    buckets: Sequence[Bucket],
    batch_size: int,
    seed: int,
    first_step: int = 0,
    vocabulary_size: int | None = None,
    asked: Objective = "masked",
) -> tf.data.Dataset:
    """Batches without end; which records the n-th one holds is a function of the seed and n.

    A pass holds every instance once: it takes turns over the windows, with another instance of each in each turn.
    Every pass has its own order (shards, then a shuffle buffer) and the same number of batches; batches have one of the
    shapes of `buckets`, filled up with empty rows at the end of a pass.

    With "next" nothing is masked: of a window x_1 ... x_n the slots hold x_1 ... x_(n-1), and each predicts the item
    after it: the "masked" items are x_2 ... x_n, and `masked_positions`, being all, are left out. The
    instances of a window would all be the same, so a pass holds each window once. A window of one item becomes an empty
    row.

    With "last" each instance is the window's first items, two to all of them, any number as likely, and the last of
    these alone is masked: what serving asks, at every place of a history. Cuts are new in every pass. How many fall to
    a batch shape is left to chance, so a pass ends after the number of batches that is expected.

    Args:
        data_dir: of `manifest`.
        manifest: names the shards.
        buckets: from `choose_buckets`, over `lengths_of` what is asked for.
        batch_size: B.
        seed: of the order.
        first_step: batches to pass over, for a run that goes on.
        vocabulary_size: V, to mask every record anew in each pass, a function of the seed, the pass and the record;
            None: the masks of the records.
        asked: what for; but for "masked", the records' masks and `vocabulary_size` count for nothing.

    Returns:
        Dicts of item_ids int32 [B, L], valid_mask bool [B, L], masked_positions (but for "next") and masked_item_ids
        int32 [B, P], masked_weights float32 [B, P].
    """
    files = [str(pathlib.Path(data_dir) / shard.file) for shard in manifest.shards("train") if shard.records]
    steps = steps_per_pass(buckets, batch_size)
    lengths = tf.constant([bucket.length for bucket in buckets], tf.int64)
    masking = manifest.config.masking
    redrawn = asked == "masked" and vocabulary_size is not None
    widths = [  # P of each bucket
        max_predictions_of(bucket.length, masking) if redrawn else bucket.predictions for bucket in buckets
    ]
    predictions = tf.constant(widths, tf.int64)
    copies = 1 if asked == "next" else instances_per_window(manifest)
    turns = copies
    if asked == "last":  # and enough to fill a pass's batches whatever the cuts: all shapes' last ones, and begun ones
        turns += -(-2 * len(buckets) * batch_size // manifest.records("train"))
    shows_items = bool(masking.random_item_rate or masking.kept_item_rate)

    def one_pass(epoch: tf.Tensor) -> tf.data.Dataset:
        tf.compat.v1.set_random_seed(1)  # of this graph alone: shuffle() mixes the global one into its seed
        seeds = tf.random.stateless_uniform([2], [seed, tf.cast(epoch, tf.int32)], 0, tf.int32.max, tf.int32)
        records = tf.data.Dataset.range(turns).flat_map(lambda turn: one_turn(turn, seeds))
        records = records.shuffle(_SHUFFLE_RECORDS, tf.cast(seeds[0], tf.int64), reshuffle_each_iteration=False)
        instances = records.map(functools.partial(instance, epoch), num_parallel_calls=2, deterministic=True)
        batches = instances.group_by_window(bucket_of, batch, window_size=batch_size)
        if asked != "masked":
            return batches.take(steps)
        mask = stored_masks if vocabulary_size is None else functools.partial(new_masks, epoch, vocabulary_size)
        return batches.map(mask, num_parallel_calls=2)

    def one_turn(turn: tf.Tensor, seeds: tf.Tensor) -> tf.data.Dataset:
        """Every window once: the record, and a number of turn, file and record that names one of its instances."""
        order = tf.random.experimental.stateless_shuffle(tf.range(len(files)), seeds + tf.cast(turn, tf.int32))

        def read_file(file: tf.Tensor) -> tf.data.Dataset:
            first = turn * _PLACES_IN_A_TURN + tf.cast(file, tf.int64) * _PLACES_IN_A_FILE
            return tf.data.TFRecordDataset(tf.gather(files, file)).enumerate(first)

        return tf.data.Dataset.from_tensor_slices(order).interleave(
            read_file, cycle_length=_FILES_AT_ONCE, num_parallel_calls=2, deterministic=True
        )

    def instance(epoch: tf.Tensor, place: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        if asked == "masked" and not redrawn:
            return stored_instance(place, record)
        (item_ids,) = parse(MASKED_WINDOW[:1], record).values()
        if redrawn:
            return {"item_ids": item_ids, "place": place}
        if asked == "next":
            return {"item_ids": item_ids[:-1], "masked_item_ids": item_ids[1:]}
        last = draw_cut(tf.size(item_ids), hashed_bits(seed, epoch, place)) - 1
        shown = tf.concat([item_ids[:last], [MASK_ID]], axis=0)
        return {"item_ids": shown, "masked_positions": last[None], "masked_item_ids": item_ids[last, None]}

    def stored_instance(place: tf.Tensor, record: tf.Tensor) -> dict[str, tf.Tensor]:
        window = parse(MASKED_WINDOW, record)
        # Neighbours take different turns, so that the instances that mask the last item alone are spread out.
        copy = (place // _PLACES_IN_A_TURN + place % _PLACES_IN_A_FILE) % copies
        first, number = tf.reduce_sum(window["masked_counts"][:copy]), window["masked_counts"][copy]
        positions = window["masked_positions"][first : first + number]
        found = {"item_ids": window["item_ids"], "masked_positions": positions}
        found["masked_item_ids"] = tf.gather(window["item_ids"], positions)
        if shows_items:
            found["shown_item_ids"] = window["shown_item_ids"][first : first + number]
        return found

    def stored_masks(instances: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        masked = tf.where(instances["masked_item_ids"] != PAD_ID)
        positions = tf.cast(tf.gather_nd(instances["masked_positions"], masked), tf.int64)
        shown = instances.pop("shown_item_ids", None)
        shown = tf.fill(tf.shape(positions), MASK_ID) if shown is None else tf.gather_nd(shown, masked)
        slots = tf.stack([masked[:, 0], positions], axis=1)
        return instances | {"item_ids": tf.tensor_scatter_nd_update(instances["item_ids"], slots, shown)}

    def new_masks(epoch: tf.Tensor, size: int, instances: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        keys = hashed_bits(seed, epoch, instances["place"])
        bucket = tf.searchsorted(lengths, tf.shape(instances["item_ids"], tf.int64)[1:])[0]
        return draw_masks(instances["item_ids"], keys, masking, size, tf.cast(predictions[bucket], tf.int32))

    def bucket_of(instance: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.searchsorted(lengths, tf.size(instance["item_ids"], tf.int64)[None], out_type=tf.int64)[0]

    def batch(bucket: tf.Tensor, window: tf.data.Dataset) -> tf.data.Dataset:
        widths = {"item_ids": lengths[bucket, None], "place": []}
        shapes = {name: widths.get(name, predictions[bucket, None]) for name in window.element_spec}
        padding = {name: tf.constant(PAD_ID, spec.dtype) for name, spec in window.element_spec.items()}
        return window.padded_batch(batch_size, shapes, padding_values=padding)

    def complete(records: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        missing = batch_size - tf.shape(records["item_ids"])[0]
        filled = {name: tf.pad(value, [[0, missing], [0, 0]]) for name, value in records.items()}
        for name, value in filled.items():
            width = buckets[0].length if name == "item_ids" else widths[0]
            value.set_shape([batch_size, width if len(buckets) == 1 else None])
        return filled | {
            "valid_mask": filled["item_ids"] != PAD_ID,
            "masked_weights": tf.cast(filled["masked_item_ids"] != PAD_ID, tf.float32),
        }

    passes = tf.data.Dataset.range(first_step // steps, np.iinfo(np.int64).max)
    batches = passes.flat_map(one_pass).skip(first_step % steps).map(complete, num_parallel_calls=2)
    options = tf.data.Options()
    options.deterministic = True
    return batches.with_options(options).prefetch(4)
