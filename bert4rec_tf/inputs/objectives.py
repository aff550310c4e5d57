"""The training objectives: which instances each of them makes of the training windows."""

import abc
import collections
from collections.abc import Callable, Sequence
from typing import Literal

import tensorflow as tf

from bert4rec_tf.inputs.instance_draws import draw_lengths, draw_masks, draw_prefixes, max_predictions_of
from bert4rec_tf.inputs.length_buckets import Bucket
from tfrecords.manifest import LengthCount, Manifest
from tfrecords.schema import MASKED_WINDOW, parse_batch
from tfrecords.vocabulary import MASK_ID, PAD_ID

# What is predicted: "masked_item", masked items of a window, from both sides; "next_item", at every slot the item after
# it, from what lies before; "random_prefix", the items after a prefix that is seen from both sides; "last_item", the
# last item of a window that was cut at random.
Objective = Literal["masked_item", "next_item", "random_prefix", "last_item"]
Instances = dict[str, tf.Tensor]
DrawKeys = Callable[[tf.Tensor], tf.Tensor]  # instance ids -> uint64 [...], keys of random draws, new in every pass

# An instance id is turn * IDS_PER_TURN + file * IDS_PER_FILE + record, each counted from 0.
IDS_PER_FILE = 1 << 30
IDS_PER_TURN = IDS_PER_FILE << 17  # more files than a data directory can have
_ITEMS = tuple(feature for feature in MASKED_WINDOW if feature.name == "item_ids")
_ITEMS_AND_TIMES = tuple(feature for feature in MASKED_WINDOW if feature.name in ("item_ids", "times"))


class TrainingInstances(abc.ABC):
    """How one objective turns windows into training instances.

    A pass takes turns over the windows: each turn makes one instance of each window.

    Args:
        manifest: of the records.
        with_times: whether instances have the times of their events.
    """

    def __init__(self, manifest: Manifest, with_times: bool = False):
        self.manifest = manifest
        self._masking = manifest.config.masking
        self._with_times = with_times

    @abc.abstractmethod
    def length_histogram(self) -> Sequence[LengthCount]:
        """How many instances of each length a pass holds, for `choose_buckets`."""

    @abc.abstractmethod
    def predicted_slots(self) -> int:
        """An upper bound of the slots that one pass predicts; 0 if it has nothing to predict."""

    @abc.abstractmethod
    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        """Makes one instance of each of R windows.

        Args:
            records: string [R], of the schema `MASKED_WINDOW`.
            instance_ids: int64 [R], name the record and the turn.
            draw_keys: gives the keys of these instances' random draws.

        Returns:
            length int32 [R], slots of each instance; item_ids int32 [R, any]; masked_item_ids int32 [R, any], the items
            to predict; masked_positions int32 [R, any], their slots, unless all slots are predicted. Rows are padded
            with PAD_ID. What `mask` adds to a batch may be missing. With times also times int32 [R, any], of the events
            that the slots stand for, in seconds since the window's first; where slots predict next items, then that of
            the last item to predict.
        """

    def turns(self, buckets: Sequence[Bucket], batch_size: int) -> int:
        """Turns over the windows that fill the batches of one pass."""
        return self._masking.instances_per_window

    def max_predictions(self, bucket: Bucket) -> int:
        """P, the most slots to predict in a row of a batch of this shape."""
        return bucket.predictions

    def mask(self, batch: Instances, predictions: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        """Masks the items of a batch, if `make_instances` did not.

        Args:
            batch: instances, [B, any].
            predictions: int64 scalar, P of the batch.
            draw_keys: see `make_instances`.

        Returns:
            item_ids int32 [B, L], masked_item_ids int32 [B, P] and, unless all slots are predicted, masked_positions
            int32 [B, P].
        """
        return batch

    def _windows_of(self, records: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, Instances]:
        """The items of windows, int32 [R, any], their number, int32 [R], and the windows' `_times`."""
        windows = parse_batch(_ITEMS_AND_TIMES if self._with_times else _ITEMS, records)
        item_ids = windows["item_ids"]
        return item_ids.to_tensor(PAD_ID), tf.cast(item_ids.row_lengths(), tf.int32), self._times(windows)

    def _times(self, windows: dict[str, tf.RaggedTensor]) -> Instances:
        """Times for the instances of parsed records, int32 [R, any], as a dict; empty without times."""
        if not self._with_times:
            return {}
        times = windows["times"]
        first = tf.repeat(tf.gather(times.values, times.row_starts()), times.row_lengths())
        since_first = tf.minimum(times.values - first, tf.int32.max - 1)
        return {"times": windows["item_ids"].with_values(tf.cast(since_first, tf.int32)).to_tensor(0)}


class StoredMaskInstances(TrainingInstances):
    """Windows with the masks that the pipeline stored: the Cloze objective (paper section 3.6).

    Each turn takes another one of a window's stored instances, so a pass holds every stored instance once.
    """

    def length_histogram(self) -> Sequence[LengthCount]:
        return self.manifest.length_histogram

    def predicted_slots(self) -> int:
        return sum(row.max_predictions * row.instances for row in self.manifest.length_histogram)

    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        windows = parse_batch(MASKED_WINDOW, records)
        item_ids = windows["item_ids"]
        # Neighbouring records start at different instances, so that last-item instances are spread over a turn.
        turns, record_numbers = instance_ids // IDS_PER_TURN, instance_ids % IDS_PER_FILE
        index = (turns + record_numbers) % self._masking.instances_per_window
        counts = tf.cast(windows["masked_counts"].to_tensor(0), tf.int64)
        first = tf.gather(tf.cumsum(counts, axis=1, exclusive=True), index, batch_dims=1)
        number = tf.gather(counts, index, batch_dims=1)

        def of_instance(name: str) -> tf.RaggedTensor:
            starts = windows[name].row_starts() + first
            slots = tf.ragged.range(starts, starts + number, row_splits_dtype=tf.int64)
            return slots.with_values(tf.gather(windows[name].values, slots.values))

        positions = of_instance("masked_positions")
        items = tf.gather(
            item_ids.values, tf.repeat(item_ids.row_starts(), number) + tf.cast(positions.values, tf.int64)
        )
        instances = {
            "length": tf.cast(item_ids.row_lengths(), tf.int32),
            "item_ids": item_ids.to_tensor(PAD_ID),
            "masked_positions": positions.to_tensor(0),
            "masked_item_ids": positions.with_values(items).to_tensor(PAD_ID),
        }
        if self._masking.random_item_rate or self._masking.kept_item_rate:
            instances["shown_item_ids"] = of_instance("shown_item_ids").to_tensor(PAD_ID)
        return instances | self._times(windows)

    def mask(self, batch: Instances, predictions: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        masked = tf.where(batch["masked_item_ids"] != PAD_ID)
        positions = tf.cast(tf.gather_nd(batch["masked_positions"], masked), tf.int64)
        shown = batch.pop("shown_item_ids", None)
        shown = tf.fill(tf.shape(positions), MASK_ID) if shown is None else tf.gather_nd(shown, masked)
        scatter_indices = tf.stack([masked[:, 0], positions], axis=1)
        return batch | {"item_ids": tf.tensor_scatter_nd_update(batch["item_ids"], scatter_indices, shown)}


class RedrawnMaskInstances(StoredMaskInstances):
    """Windows with new masks in every pass, drawn as the pipeline draws them: the Cloze objective (paper section 3.6).

    Args:
        manifest: of the records; their stored masks are not used.
        vocabulary_size: V, for random replacement items.
        with_times: whether instances have the times of their events.
    """

    def __init__(self, manifest: Manifest, vocabulary_size: int, with_times: bool = False):
        super().__init__(manifest, with_times)
        self._vocabulary_size = vocabulary_size

    def max_predictions(self, bucket: Bucket) -> int:
        return max_predictions_of(bucket.length, self._masking)

    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        item_ids, lengths, times = self._windows_of(records)
        return {"length": lengths, "item_ids": item_ids, "instance_id": instance_ids} | times

    def mask(self, batch: Instances, predictions: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        keys = draw_keys(batch.pop("instance_id"))
        predictions = tf.cast(predictions, tf.int32)
        return batch | draw_masks(batch["item_ids"], keys, self._masking, self._vocabulary_size, predictions)


class NextItemInstances(TrainingInstances):
    """Windows x_1 ... x_n of which each slot of x_1 ... x_(n-1) predicts the item after it.

    Nothing is masked: the "masked" items are x_2 ... x_n, and `masked_positions` is left out, for every slot is
    predicted. All instances of a window would be equal, so a pass holds each window once. A window of one item becomes
    an empty row.
    """

    def length_histogram(self) -> Sequence[LengthCount]:
        found: collections.Counter[int] = collections.Counter()
        for row in self.manifest.length_histogram:
            found[max(row.length - 1, 1)] += self._windows(row)
        return [LengthCount(length, found[length], length) for length in sorted(found) if found[length]]

    def predicted_slots(self) -> int:
        return sum((row.length - 1) * self._windows(row) for row in self.manifest.length_histogram)

    def turns(self, buckets: Sequence[Bucket], batch_size: int) -> int:
        return 1

    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        item_ids, lengths, times = self._windows_of(records)
        shown = tf.sequence_mask(lengths - 1, tf.shape(item_ids)[1] - 1)
        shown_item_ids = tf.where(shown, item_ids[:, :-1], PAD_ID)
        return {"length": lengths - 1, "item_ids": shown_item_ids, "masked_item_ids": item_ids[:, 1:]} | times

    def _windows(self, row: LengthCount) -> int:
        return row.instances // self._masking.instances_per_window


class RandomPrefixInstances(NextItemInstances):
    """Windows x_1 ... x_n with a random prefix: slots that attend to each other from both sides, as at serving.

    Of the slots of x_1 ... x_(n-1) the first s form the prefix, and the last one of these and all later slots predict
    the item after them. Prefixes are new in every pass, see `draw_prefix`. Not in the paper; a prefix language model
    (Raffel et al., JMLR 2020, section 3.2) whose prefix's last slot predicts too.

    Args:
        manifest: of the records.
        causal_rows: share of the rows with s = 0.
        with_times: whether instances have the times of their events.
    """

    def __init__(self, manifest: Manifest, causal_rows: float, with_times: bool = False):
        super().__init__(manifest, with_times)
        self.causal_rows = causal_rows

    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        instances = super().make_instances(records, instance_ids, draw_keys)
        next_items = instances["masked_item_ids"]
        prefixes = draw_prefixes(instances["length"], self.causal_rows, draw_keys(instance_ids))[:, None]
        predicted = tf.range(tf.shape(next_items)[1]) >= prefixes - 1
        return instances | {
            "masked_item_ids": tf.where(predicted, next_items, PAD_ID),
            "prefix_lengths": prefixes,
        }


class LastItemInstances(TrainingInstances):
    """Windows cut at random, with the last remaining item masked, as at serving.

    A window keeps its first items: two of them, all of them, or any number between, each equally likely. Cuts are new
    in every pass. How many instances fall into each batch shape is random, so a pass ends after the number of batches
    that is expected.
    """

    def length_histogram(self) -> Sequence[LengthCount]:
        found: collections.Counter[int] = collections.Counter()
        for row in self.manifest.length_histogram:
            cuts = max(row.length - 1, 1)
            for cut in range(cuts):
                # Equally many of each length; the remainder goes to the longest ones.
                found[row.length - cut] += row.instances // cuts + (cut < row.instances % cuts)
        return [LengthCount(length, found[length], 1) for length in sorted(found) if found[length]]

    def predicted_slots(self) -> int:
        return self.manifest.instances()

    def turns(self, buckets: Sequence[Bucket], batch_size: int) -> int:
        # Extra turns, so that a pass always fills its batches however the random cuts fall.
        extra = -(-2 * len(buckets) * batch_size // self.manifest.records("train"))
        return self._masking.instances_per_window + extra

    def make_instances(self, records: tf.Tensor, instance_ids: tf.Tensor, draw_keys: DrawKeys) -> Instances:
        item_ids, lengths, times = self._windows_of(records)
        kept = draw_lengths(lengths, draw_keys(instance_ids))
        last = kept[:, None] - 1
        slots = tf.range(tf.shape(item_ids)[1])
        instances = {
            "length": kept,
            "item_ids": tf.where(slots < last, item_ids, tf.where(slots == last, MASK_ID, PAD_ID)),
            "masked_positions": last,
            "masked_item_ids": tf.gather(item_ids, last, batch_dims=1),
        }
        return instances | {name: tf.where(slots <= last, values, 0) for name, values in times.items()}


def training_instances(
    manifest: Manifest,
    objective: Objective,
    vocabulary_size: int | None = None,
    causal_rows: float = 0.0,
    with_times: bool = False,
) -> TrainingInstances:
    """The instances of an objective.

    Args:
        manifest: of the records.
        objective: what is predicted.
        vocabulary_size: V, to draw new masks in every pass; None: the masks of the records. Only for "masked_item".
        causal_rows: see `RandomPrefixInstances`. Only for "random_prefix".
        with_times: whether instances have the times of their events.
    """
    if objective == "random_prefix":
        return RandomPrefixInstances(manifest, causal_rows, with_times)
    if objective == "next_item":
        return NextItemInstances(manifest, with_times)
    if objective == "last_item":
        return LastItemInstances(manifest, with_times)
    if vocabulary_size is None:
        return StoredMaskInstances(manifest, with_times)
    return RedrawnMaskInstances(manifest, vocabulary_size, with_times)


def windows_of_one_item(manifest: Manifest) -> int:
    """Training windows that have no next item to predict."""
    instances = sum(row.instances for row in manifest.length_histogram if row.length == 1)
    return instances // manifest.config.masking.instances_per_window
