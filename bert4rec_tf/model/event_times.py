"""The times of events in the model: buckets of gaps, and which times a training step hides (not in the paper)."""

from typing import NamedTuple

import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.dropout import REQUEST_TIMES_SALT, ROW_TIMES_SALT, kept_elements
from tfrecords.vocabulary import MASK_ID

UNKNOWN_TIME = -1
GAP_BUCKETS = 72  # the last one begins at 60 years
UNKNOWN_GAP = GAP_BUCKETS  # the row of a table for a gap between times of which one is unknown
_BUCKET_WIDTH = 0.301  # each bucket begins at 1.35 times the begin of the one before
_LONGEST = 2**31 - 2  # seconds, 68 years


class SlotTimes(NamedTuple):
    """The times of the slots of a batch, as attention and the input use them.

    Attributes:
        times: int32 [B, L], in seconds, from any moment of the row; `UNKNOWN_TIME` if unknown. A [MASK] has the time of
            the event before it, as at serving.
        request_gaps: int32 [B, L], the seconds from that time to the item that the slot predicts; `UNKNOWN_TIME` if
            unknown.
    """

    times: tf.Tensor
    request_gaps: tf.Tensor

    def between(self, query_positions: tf.Tensor | None) -> tf.Tensor:
        """The buckets of the time between slots, whichever is the later one.

        Args:
            query_positions: int32 [B, P], the slots to compare with all others; None: all.

        Returns:
            int32 [B, P, L].
        """
        queries = self.times if query_positions is None else tf.gather(self.times, query_positions, batch_dims=1)
        queries, others = queries[:, :, None], self.times[:, None, :]
        unknown = (queries == UNKNOWN_TIME) | (others == UNKNOWN_TIME)
        return gap_buckets(tf.where(unknown, UNKNOWN_TIME, tf.abs(queries - others)))


def gap_buckets(gaps: tf.Tensor) -> tf.Tensor:
    """floor(ln(max(1, gap)) / 0.301), as in the code of HSTU (Zhai et al., ICML 2024).

    Args:
        gaps: int32 of any shape, in seconds.

    Returns:
        int32 of the same shape, from 0 to `GAP_BUCKETS` - 1; `UNKNOWN_GAP` for a negative gap.

    >>> gap_buckets(tf.constant([0, 1, 2, 60, 86_400, 2**31 - 1, -1])).numpy().tolist()
    [0, 0, 2, 13, 37, 71, 72]
    """
    logarithms = tf.math.log(tf.cast(tf.maximum(gaps, 1), tf.float32))
    buckets = tf.minimum(tf.cast(logarithms / _BUCKET_WIDTH, tf.int32), GAP_BUCKETS - 1)
    return tf.where(gaps < 0, UNKNOWN_GAP, buckets)


def slot_times(
    times: tf.Tensor | None, item_ids: tf.Tensor, config: ModelConfig, dropout_seed: tf.Tensor | None
) -> SlotTimes:
    """The time of each slot, and the time from it to the item that it predicts.

    In training, a row loses all its times with the chance `config.time_dropout`. Each slot of the other rows knows the
    time of the item that it predicts with the chance `config.request_time`.

    Args:
        times: int32 [B, L] or [B, L + 1], the time of each slot's event, in seconds from any moment of the row,
            `UNKNOWN_TIME` if unknown. The time of a [MASK] is that of the item that it stands for. Where slots predict
            next items, the last time is that of the item after the last one. None: all are unknown.
        item_ids: int32 [B, L].
        config: of the model.
        dropout_seed: see `SeededDropout`; None hides nothing.
    """
    length = tf.shape(item_ids)[1]
    times = tf.fill(tf.shape(item_ids), UNKNOWN_TIME) if times is None else times
    times = tf.pad(times, [[0, 0], [1, 1]], constant_values=UNKNOWN_TIME)
    before, own, after = (times[:, first : first + length] for first in range(3))
    if not config.predicts_next_items:
        masked = item_ids == MASK_ID
        own, after = tf.where(masked, before, own), tf.where(masked, own, UNKNOWN_TIME)
    gaps = tf.where((own < 0) | (after < 0), UNKNOWN_TIME, tf.maximum(after - own, 0))
    if dropout_seed is None:
        return SlotTimes(own, gaps)
    row_index = dropout_seed[2] + tf.range(tf.shape(item_ids)[0])
    kept = kept_elements(row_index, config.time_dropout, ROW_TIMES_SALT, dropout_seed)[:, None]
    slot_index = row_index[:, None] * length + tf.range(length)
    asked = kept_elements(slot_index, 1 - config.request_time, REQUEST_TIMES_SALT, dropout_seed) & kept
    return SlotTimes(tf.where(kept, own, UNKNOWN_TIME), tf.where(asked, gaps, UNKNOWN_TIME))


def times_from_first(times: tf.Tensor) -> tf.Tensor:
    """Seconds since the earliest known time of each row.

    Args:
        times: int64 [B, L], negative if unknown.

    Returns:
        int32 [B, L], at most 68 years; `UNKNOWN_TIME` if unknown.

    >>> times_from_first(tf.constant([[-1, 1_700_000_060, 1_700_000_000]], tf.int64)).numpy().tolist()
    [[-1, 60, 0]]
    """
    known = times >= 0
    first = tf.reduce_min(tf.where(known, times, tf.int64.max), axis=1, keepdims=True)
    return tf.where(known, tf.cast(tf.minimum(times - first, _LONGEST), tf.int32), UNKNOWN_TIME)
