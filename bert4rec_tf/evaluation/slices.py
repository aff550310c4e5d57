"""Metrics of groups of users: by length of the history, popularity of the target, and whether it is a repeat."""

from typing import Any

import numpy as np

from bert4rec_tf.evaluation.user_ranks import UserRanks
from tfrecords.vocabulary import NUM_SPECIAL_IDS

HISTORY_LENGTHS = (1, 5, 10, 20, 50, 100, 200)  # where a bucket begins
POPULARITY_GROUPS = 5


def slices(ranks: UserRanks, counts: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Metrics by history length, by the target's popularity, and by repeats; groups without a user are left out.

    The items, by falling training count, are cut into five groups that hold a fifth of the training events each, head
    to tail: an item belongs to the fifth in which its first event falls. The tail also has the items never trained on.

    Args:
        ranks: of the users.
        counts: int64 [V - 3], training events of each item, never rising.

    Returns:
        Groups, each with its `UserRanks.metrics` and:
        "history_length": "from" and "to" (None: no end), items of the history, by rising length.
        "target_popularity": "items", how many the group has, "from" and "to", their fewest and most training events,
        from head to tail.
        "repeats": "repeat", whether the target stands in the user's own history, users without first.
    """
    return {
        "history_length": _by_history_length(ranks),
        "target_popularity": _by_target_popularity(ranks, counts),
        "repeats": [
            {"repeat": repeat, **ranks.of(ranks.repeats == repeat).metrics()}
            for repeat in np.unique(ranks.repeats).tolist()
        ],
    }


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """The group of each item, from 0, the head: int64 [V - 3], never rising -> int64 [V - 3]."""
    before = np.cumsum(counts) - counts
    return np.minimum(POPULARITY_GROUPS * before // max(1, counts.sum()), POPULARITY_GROUPS - 1)


def _by_history_length(ranks: UserRanks) -> list[dict[str, Any]]:
    groups = np.searchsorted(HISTORY_LENGTHS, ranks.history_lengths, side="right") - 1
    ends = [*(start - 1 for start in HISTORY_LENGTHS[1:]), None]
    return [
        {"from": HISTORY_LENGTHS[group], "to": ends[group], **ranks.of(groups == group).metrics()}
        for group in np.unique(groups).tolist()
    ]


def _by_target_popularity(ranks: UserRanks, counts: np.ndarray) -> list[dict[str, Any]]:
    of_items = popularity_groups(counts)
    of_users = of_items[ranks.targets - NUM_SPECIAL_IDS]
    found = []
    for group in np.unique(of_users).tolist():
        held = counts[of_items == group]
        bounds = {"items": len(held), "from": int(held.min()), "to": int(held.max())}
        found.append({**bounds, **ranks.of(of_users == group).metrics()})
    return found
