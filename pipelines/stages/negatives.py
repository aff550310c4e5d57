"""The fixed negatives of the sampled protocol: items new to the user, drawn by popularity (paper section 4.2)."""

import numpy as np

from tfrecords.hashed_random import NEGATIVES, RARE_NEGATIVES, hashed_uniform
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import NUM_SPECIAL_IDS

SPLITS = ("validation", "test")  # the index of a split is part of its draws' key
_MAX_CELLS = 1 << 20
_CELLS_PER_ITEM = 32


class Popularity:
    """Finds the items that uniform numbers draw with probability proportional to the items' counts.

    The unit interval is cut into equal cells. Most of them belong to one item, which takes one look instead of a binary
    search over all items.

    Args:
        counts: int64 [V - 3], training events of each item.
    """

    def __init__(self, counts: np.ndarray):
        self.counts = counts
        self._cumulative = np.cumsum(counts)
        cells = min(_MAX_CELLS, 1 << (_CELLS_PER_ITEM * len(counts)).bit_length())
        # A number times a power of two is exact, and so are these bounds.
        bounds = self._search(np.arange(cells + 1) / cells).astype(np.int32)
        self._items = np.where(bounds[:-1] == bounds[1:], bounds[:-1], -1)

    @property
    def total(self) -> int:
        """The number of training events."""
        return int(self._cumulative[-1]) if len(self._cumulative) else 0

    def draw(self, uniform: np.ndarray) -> np.ndarray:
        """The index of the item that each number in [0, 1) draws, int64 of the same shape."""
        items = self._items[(uniform * len(self._items)).astype(np.int32)].astype(np.int64)
        several = items < 0
        items[several] = self._search(uniform[several])
        return items

    def _search(self, uniform: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._cumulative, uniform * self.total, side="right")


def draw_negatives(
    met: Ragged, user_keys: np.ndarray, popularity: Popularity, number: int, seed: int, split: str = "test"
) -> Ragged:
    """Draws `number` distinct items per user, without replacement, with probability proportional to their counts.

    Items of the user's history and items with a count of 0 are never drawn. A user with nearly all items in the history
    gets fewer negatives. The draw depends only on the seed, the split and the user's key.

    Args:
        met: integer item ids of each user: the whole sequence, including the targets, and the items of dropped events.
        user_keys: uint64 [users].
        popularity: of the items.
        number: of negatives per user.
        seed: of the pipeline.
        split: one of `SPLITS`; their draws are independent.

    Returns:
        Integer item ids, [users] rows of at most `number`, in the order drawn.
    """
    users, draw = len(met), SPLITS.index(split)
    drawn = np.zeros((users, number), np.int64)
    found = np.zeros(users, np.int64)
    counts = popularity.counts
    if number == 0 or users == 0 or popularity.total == 0:
        return Ragged.from_lengths(drawn[:0, :0].ravel(), found)
    seen = _SeenItems(met, len(counts) + NUM_SPECIAL_IDS)
    waiting = np.arange(users)
    # Drawing with replacement and skipping repeats and seen items equals drawing without replacement.
    for tries in (number + number // 2, 2 * number, 16 * number):
        uniform = hashed_uniform(seed, NEGATIVES, draw, user_keys[waiting, None], np.arange(tries))
        item_ids = popularity.draw(uniform) + NUM_SPECIAL_IDS
        usable = ~seen.contains(np.repeat(waiting, tries), item_ids.ravel()).reshape(item_ids.shape)
        usable &= _first_occurrence(item_ids)
        order = np.cumsum(usable, axis=1) - 1
        rows, columns = np.nonzero(usable & (order < number))
        drawn[waiting[rows], order[rows, columns]] = item_ids[rows, columns]
        found[waiting] = np.minimum(usable.sum(axis=1), number)
        waiting = waiting[found[waiting] < number]
        if not len(waiting):
            break
    # A few users have few or rare unseen items. Exponential races (Efraimidis & Spirakis 2006) draw from the same
    # distribution.
    for user in waiting:
        history = met.values[met.offsets[user] : met.offsets[user + 1]]
        open_items = np.setdiff1d(np.flatnonzero(counts) + NUM_SPECIAL_IDS, history)
        uniform = hashed_uniform(seed, RARE_NEGATIVES, draw, user_keys[user], open_items)
        times = -np.log1p(-uniform) / counts[open_items - NUM_SPECIAL_IDS]
        fastest = open_items[np.argsort(times, kind="stable")[:number]]
        drawn[user, : len(fastest)] = fastest
        found[user] = len(fastest)
    return Ragged.from_lengths(drawn[np.arange(number) < found[:, None]], found)


class _SeenItems:
    """The items of each user's history, as one sorted array of (user, item) pairs.

    A table of the pairs' lowest bits tells most pairs that are not in it without a search.
    """

    def __init__(self, sequences: Ragged, size: int):
        self._size = size
        users = np.repeat(np.arange(len(sequences)), sequences.lengths)
        self._pairs = np.unique(users * size + sequences.values)
        self._low_bits = (1 << (32 * len(self._pairs)).bit_length()) - 1
        self._may_be_in = np.zeros(self._low_bits + 1, bool)
        self._may_be_in[self._pairs & self._low_bits] = True

    def contains(self, users: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        pairs = users * self._size + item_ids
        result = self._may_be_in[pairs & self._low_bits]
        some = pairs[result]
        indices = np.searchsorted(self._pairs, some)
        result[result] = self._pairs[np.minimum(indices, len(self._pairs) - 1)] == some
        return result


def _first_occurrence(item_ids: np.ndarray) -> np.ndarray:
    """True at the first occurrence of each item in a row; bool [rows, columns]."""
    columns = item_ids.shape[1]
    # Sorting items with their columns, as one number, is faster than a stable argsort.
    items, order = np.divmod(np.sort(item_ids * columns + np.arange(columns), axis=1), columns)
    first = np.ones_like(items, bool)
    first[:, 1:] = items[:, 1:] != items[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result
