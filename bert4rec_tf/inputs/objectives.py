"""What training asks of a window, and how many instances that makes."""

import collections
from collections.abc import Sequence
from typing import Literal

from tfrecords.manifest import LengthCount, Manifest

# What a window is asked for: "masked" items; the "next" item at every slot, for causal attention; or the "last" item of
# what is left of it once it is cut at random.
Objective = Literal["masked", "next", "last"]


def lengths_of(manifest: Manifest, asked: Objective) -> Sequence[LengthCount]:
    """How many instances there are of each length, by what windows are asked for; for `choose_buckets`."""
    if asked == "masked":
        return manifest.length_histogram
    found: collections.Counter[int] = collections.Counter()
    for row in manifest.length_histogram:
        if asked == "next":
            # One a window, a slot shorter, all of it predicted; a window of one item stays as an empty row.
            found[max(row.length - 1, 1)] += row.instances // instances_per_window(manifest)
        else:
            # As many of each length, as far as they go round, from two items to all.
            cuts = max(row.length - 1, 1)
            for cut in range(cuts):
                found[row.length - cut] += row.instances // cuts + (cut < row.instances % cuts)
    return [
        LengthCount(length, found[length], length if asked == "next" else 1)
        for length in sorted(found)
        if found[length]
    ]


def predicted_slots(manifest: Manifest, asked: Objective) -> int:
    """An upper bound of the slots that one pass predicts; 0 where a pass has nothing to predict."""
    if asked == "next":
        windows = instances_per_window(manifest)
        return sum((row.length - 1) * (row.instances // windows) for row in manifest.length_histogram)
    if asked == "last":
        return manifest.instances()
    return sum(row.max_predictions * row.instances for row in manifest.length_histogram)


def windows_of_one_item(manifest: Manifest) -> int:
    """Training windows that ask for no next item."""
    lone = sum(row.instances for row in manifest.length_histogram if row.length == 1)
    return lone // instances_per_window(manifest)


def instances_per_window(manifest: Manifest) -> int:
    """How many masked instances were made of each window."""
    return manifest.config.masking.instances_per_window
