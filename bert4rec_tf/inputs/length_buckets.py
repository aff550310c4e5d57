"""Batch shapes: windows are padded to one of a few lengths."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tfrecords.manifest import LengthCount


@dataclasses.dataclass(frozen=True)
class Bucket:
    """One batch shape: instances up to `length` items are padded to it, their masked slots to `predictions`."""

    length: int
    predictions: int
    instances: int


def choose_buckets(histogram: Sequence[LengthCount], number: int) -> list[Bucket]:
    """At most `number` batch shapes with the least padding, by dynamic programming over the lengths."""
    lengths = np.array([row.length for row in histogram])
    records = np.concatenate([[0], np.cumsum([row.instances for row in histogram])])
    # cost[i]: the fewest slots for the lengths before the i-th, with the number of buckets so far.
    # cut[i]: the index of the first length in the last of these buckets.
    cost = np.concatenate([[0.0], np.full(len(lengths), np.inf)])
    cuts = []
    for _ in range(min(number, len(lengths))):
        # slots[i, j]: of a last bucket with the lengths j to i - 1, all padded to length i - 1
        slots = np.concatenate([[0], lengths])[:, None] * (records[:, None] - records[None, :])
        total = np.where(np.tri(len(cost), k=0, dtype=bool), cost[None, :] + slots, np.inf)
        cuts.append(np.argmin(total, axis=1))
        cost = np.min(total, axis=1)
    buckets, end = [], len(lengths)
    for cut in reversed(cuts):
        start = int(cut[end])
        if start < end:
            rows = histogram[start:end]
            predictions = max(row.max_predictions for row in rows)
            buckets.append(Bucket(rows[-1].length, predictions, sum(row.instances for row in rows)))
        end = start
    return buckets[::-1]


def steps_per_pass(buckets: Sequence[Bucket], batch_size: int) -> int:
    """Batches in one pass over the records; the last batch of each bucket is filled up with empty rows."""
    return sum(-(-bucket.instances // batch_size) for bucket in buckets)
