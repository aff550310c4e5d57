"""The fixed negatives of the sampled protocol: items the user never met, drawn by popularity (paper section 4.2)."""

import numpy as np

from tfrecords.hashed_random import NEGATIVES, RARE_NEGATIVES, hashed_uniform
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import NUM_SPECIAL_IDS

SPLITS = ("validation", "test")  # in the order that draws count them


def draw_negatives(
    met: Ragged, user_keys: np.ndarray, counts: np.ndarray, number: int, seed: int, split: str = "test"
) -> Ragged:
    """Draws `number` different items for each user, one after the other, each with a chance proportional to its count.

    Items that the user met are never drawn, nor items with a count of 0; a user who has met nearly all items gets
    fewer negatives. The draw depends on the seed, the split and the user's key alone.

    Args:
        met: integer item ids of each user: the whole sequence, the targets included, and those of dropped events.
        user_keys: uint64 [users].
        counts: int64 [V - 3], training events of each item.
        number: of negatives for each user.
        seed: of the pipeline.
        split: one of `SPLITS`; each draws for itself.

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
    # Drawing with replacement and passing over repeats and seen items IS drawing one after the other without them.
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
    # The few users whose unseen items are rare or few: the same law by exponential races (Efraimidis & Spirakis 2006).
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
    """Which user has met which item, as one sorted array of (user, item) pairs."""

    def __init__(self, sequences: Ragged, size: int):
        self._size = size
        users = np.repeat(np.arange(len(sequences)), sequences.lengths)
        self._pairs = np.unique(users * size + sequences.values)

    def contains(self, users: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
        pairs = users * self._size + item_ids
        places = np.searchsorted(self._pairs, pairs)
        return self._pairs[np.minimum(places, len(self._pairs) - 1)] == pairs


def _first_occurrence(item_ids: np.ndarray) -> np.ndarray:
    """True where a row holds an item for the first time; bool [rows, columns]."""
    order = np.argsort(item_ids, axis=1, kind="stable")
    ordered = np.take_along_axis(item_ids, order, axis=1)
    first = np.ones_like(ordered, bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, axis=1)
    return result
