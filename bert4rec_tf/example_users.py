"""A few users to look at, from those the model serves best to those it serves worst."""

import pathlib
from collections.abc import Collection

import numpy as np

from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from bert4rec_tf.metrics import MISSED_RANK
from bert4rec_tf.user_ranks import Ranks
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import PAD_ID

EXAMPLES = 10
_BATCH_USERS = 256


def spread_over_ranks(ranks: Ranks, number: int = EXAMPLES) -> list[int]:
    """Rows of users whose full ranks are spread evenly on a logarithmic scale, best first.

    Each is the user nearest to a rank, of several the one of the lowest user id, so the choice is a function of the
    ranks alone; no user is chosen twice. Missed targets count as just behind the worst rank.
    """
    missed = ranks.full == MISSED_RANK
    worst = ranks.full[~missed].max(initial=1)
    logs = np.log(np.where(missed, 1 + worst, ranks.full))
    left = sorted(range(len(logs)), key=lambda row: ranks.user_ids[row])
    chosen = []
    for wanted in np.linspace(logs.min(), logs.max(), min(number, len(left))):
        nearest = int(np.argmin(np.abs(logs[left] - wanted)))
        chosen.append(left.pop(nearest))
    return sorted(chosen, key=lambda row: (ranks.full[row], ranks.user_ids[row]))


def with_long_histories(ranks: Ranks, number: int, items: int) -> list[int]:
    """Rows of so many users with at least so many items of history, evenly among them by user id.

    Where fewer have that many, the quarter of all users with the longest histories is taken instead, if it is smaller
    than `number`.
    """
    lengths = np.sort(ranks.history_lengths)[::-1]
    least = min(items, lengths[min(number, -(-len(lengths) // 4)) - 1])
    order = sorted(np.flatnonzero(ranks.history_lengths >= least).tolist(), key=lambda row: ranks.user_ids[row])
    return [order[place] for place in np.linspace(0, len(order) - 1, min(number, len(order))).astype(int)]


def histories_of(
    user_ids: Collection[str],
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    max_items: int | None = None,
) -> dict[str, np.ndarray]:
    """The histories of some users of a split: ids, int32 [any], oldest first, by raw user id.

    Of each only the newest `max_items` are read; None: all.
    """
    wanted, found = {user_id.encode("utf-8") for user_id in user_ids}, {}
    for batch in evaluation_batches(data_dir, manifest, split, _BATCH_USERS, max_items=max_items):
        for user_id, history in zip(batch["user_id"].numpy(), batch["item_ids"].numpy(), strict=True):
            if user_id in wanted:
                found[user_id.decode("utf-8")] = history[history != PAD_ID]
        if len(found) == len(wanted):
            break
    return found
