"""Metrics by group of users: by length of the history, by popularity of the target, by repeats and by cold targets."""

from typing import Any

import numpy as np

from bert4rec_tf.evaluation.user_ranks import UserRanks
from tfrecords.vocabulary import NUM_SPECIAL_IDS

HISTORY_LENGTHS = (1, 5, 10, 20, 50, 100, 200)  # the smallest length of each group
POPULARITY_NAMES = ("head", "2nd fifth", "3rd fifth", "4th fifth", "tail")  # of the training events
POPULARITY_GROUPS = len(POPULARITY_NAMES)


def slices(ranks: UserRanks, counts: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Metrics by history length, the target's popularity, repeats and cold targets; groups without a user are left out.

    Five groups of items, from the most to the least popular, hold a fifth of the training events each: an item belongs
    to the fifth that holds its first event. Items without a training event belong to the last group.

    Args:
        ranks: of the users.
        counts: int64 [V - 3], training events of each item, never rising.

    Returns:
        Groups, each with its `UserRanks.metrics` and:
        "history_length": "from" and "to" (None: no limit), the items of the history, by rising length.
        "target_popularity": "items", their number; "from" and "to", the fewest and the most training events of an item;
        the most popular group first.
        "repeats": "repeat", whether the target is in the user's own history; the group without repeats first.
        "cold_targets": "cold", whether the target has no training event; the group of the other targets first.
    """
    return {
        "history_length": _by_history_length(ranks),
        "target_popularity": _by_target_popularity(ranks, counts),
        "repeats": [
            {"repeat": repeat, **ranks.select(ranks.repeats == repeat).metrics()}
            for repeat in np.unique(ranks.repeats).tolist()
        ],
        "cold_targets": _by_cold_target(ranks, counts),
    }


def popularity_groups(counts: np.ndarray) -> np.ndarray:
    """The group of each item, 0 for the most popular: int64 [V - 3], never rising -> int64 [V - 3]."""
    events_before = np.cumsum(counts) - counts
    return np.minimum(POPULARITY_GROUPS * events_before // max(1, counts.sum()), POPULARITY_GROUPS - 1)


def target_groups(ranks: UserRanks, counts: np.ndarray) -> list[int]:
    """The groups of `slices`' "target_popularity", in its order: indices into `POPULARITY_NAMES`."""
    return np.unique(popularity_groups(counts)[ranks.targets - NUM_SPECIAL_IDS]).tolist()


def _by_history_length(ranks: UserRanks) -> list[dict[str, Any]]:
    groups = np.searchsorted(HISTORY_LENGTHS, ranks.history_lengths, side="right") - 1
    ends = [*(start - 1 for start in HISTORY_LENGTHS[1:]), None]
    return [
        {"from": HISTORY_LENGTHS[group], "to": ends[group], **ranks.select(groups == group).metrics()}
        for group in np.unique(groups).tolist()
    ]


def _by_cold_target(ranks: UserRanks, counts: np.ndarray) -> list[dict[str, Any]]:
    cold = counts[ranks.targets - NUM_SPECIAL_IDS] == 0
    return [{"cold": value, **ranks.select(cold == value).metrics()} for value in np.unique(cold).tolist()]


def _by_target_popularity(ranks: UserRanks, counts: np.ndarray) -> list[dict[str, Any]]:
    item_groups = popularity_groups(counts)
    user_groups = item_groups[ranks.targets - NUM_SPECIAL_IDS]
    found = []
    for group in np.unique(user_groups).tolist():
        group_counts = counts[item_groups == group]
        bounds = {"items": len(group_counts), "from": int(group_counts.min()), "to": int(group_counts.max())}
        found.append({**bounds, **ranks.select(user_groups == group).metrics()})
    return found
