"""Masked instances as lists, for tests that compare with a plain implementation."""

from collections.abc import Sequence

from tfrecords.vocabulary import MASK_ID

Instance = tuple[list[int], list[int], list[int]]  # shown items, masked slots, original items of these slots


def instances_of(
    item_ids: Sequence[int], counts: Sequence[int], positions: Sequence[int], shown: Sequence[int]
) -> list[Instance]:
    """The instances of one stored window."""
    assert sum(counts) == len(positions)
    assert len(shown) in (0, len(positions))
    result, first = [], 0
    for count in counts:
        slots = list(positions[first : first + count])
        row = list(item_ids)
        for slot, item in zip(slots, shown[first : first + count] or [MASK_ID] * count, strict=True):
            row[slot] = item
        result.append((row, slots, [item_ids[slot] for slot in slots]))
        first += count
    return result
