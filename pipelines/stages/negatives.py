"""The fixed negatives of the sampled protocol: items new to the user, drawn by popularity (paper section 4.2)."""

import numpy as np

from tfrecords.hashed_random import NEGATIVES, RARE_NEGATIVES, hashed_uniform
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import NUM_SPECIAL_IDS

SPLITS = ("validation", "test")  # the index of a split is part of its draws' key


def draw_negatives(
    met: Ragged, user_keys: np.ndarray, counts: np.ndarray, number: int, seed: int, split: str = "test"
) -> Ragged:
    """Draws `number` distinct items per user, without replacement, with probability proportional to their counts.

    Items of the user's history and items with a count of 0 are never drawn. A user with nearly all items in the history
    gets fewer negatives. The draw depends only on the seed, the split and the user's key.

    Args:
        met: integer item ids of each user: the whole sequence, including the targets, and the items of dropped events.
        user_keys: uint64 [users].
        counts: int64 [V - 3], training events of each item.
        number: of negatives per user.
        seed: of the pipeline.
        split: one of `SPLITS`; their draws are independent.

    Returns:
        Integer item ids, [users] rows of at most `number`, in the order drawn.
    """
    users, draw = len(met), SPLITS.index(split)
    drawn = np.zeros((users, number), np.int64)
    found = np.zeros(users, np.int64)
    cumulative = np.cumsum(counts)
    if number == 0 or users == 0 or cumulative[-1] == 0:
        return Ragged.from_lengths(drawn[:0, :0].ravel(), found)
    seen = _SeenItems(met, len(counts) + NUM_SPECIAL_IDS)
    waiting = np.arange(users)
    # Drawing with replacement and skipping repeats and seen items equals drawing without replacement.
    for tries in (2 * number, 16 * number):
        uniform = hashed_uniform(seed, NEGATIVES, draw, user_keys[waiting, None], np.arange(tries))
        item_ids = np.searchsorted(cumulative, uniform * cumulative[-1], side="right") + NUM_SPECIAL_IDS
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
    """The items of each user's history, as one sorted array of (user, item) pairs."""

    def __init__(self, sequences: Ragged, size: int):
        self._size = size
        users = np.repeat(np.arange(len(sequences)), sequences.lengths)
        self._pairs = np.unique(users * size + sequences.values)

    def contains(self, users: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        pairs = users * self._size + item_ids
        indices = np.searchsorted(self._pairs, pairs)
        return self._pairs[np.minimum(indices, len(self._pairs) - 1)] == pairs


def _first_occurrence(item_ids: np.ndarray) -> np.ndarray:
    """True at the first occurrence of each item in a row; bool [rows, columns]."""
    order = np.argsort(item_ids, axis=1, kind="stable")
    ordered = np.take_along_axis(item_ids, order, axis=1)
    first = np.ones_like(ordered, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result
