"""The report's section of example users, from the best to the worst ranked."""

from typing import Any

import numpy as np

from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.inputs.user_histories import History
from bert4rec_tf.report.item_map import item_name
from tfrecords.vocabulary import PAD_ID, Vocabulary

EXAMPLES = 10


def spread_over_ranks(ranks: UserRanks, number: int = EXAMPLES) -> list[int]:
    """Rows of users whose full ranks are spread evenly on a logarithmic scale, best first.

    For each of the evenly spread ranks, the nearest user is chosen, and the lowest user id among equals, so the choice
    depends on the ranks only. No user is chosen twice. A missed target counts as one rank behind the worst.
    """
    missed = ranks.full == MISSED_RANK
    worst = ranks.full[~missed].max(initial=1)
    logs = np.log(np.where(missed, 1 + worst, ranks.full))
    remaining = sorted(range(len(logs)), key=lambda row: ranks.user_ids[row])
    chosen = []
    for target in np.linspace(logs.min(), logs.max(), min(number, len(remaining))):
        nearest = int(np.argmin(np.abs(logs[remaining] - target)))
        chosen.append(remaining.pop(nearest))
    return sorted(chosen, key=lambda row: (ranks.full[row], ranks.user_ids[row]))


def with_long_histories(ranks: UserRanks, number: int, items: int) -> list[int]:
    """Rows of `number` users with at least `items` items of history, chosen evenly by user id.

    If fewer users than `number`, or than a quarter of all users if that is less, have such histories, the minimum
    length is lowered until that many users have it.
    """
    lengths = np.sort(ranks.history_lengths)[::-1]
    min_length = min(items, lengths[min(number, -(-len(lengths) // 4)) - 1])
    rows = sorted(np.flatnonzero(ranks.history_lengths >= min_length).tolist(), key=lambda row: ranks.user_ids[row])
    return [rows[index] for index in np.linspace(0, len(rows) - 1, min(number, len(rows))).astype(int)]


HISTORY_SHOWN = 10


def users_content(
    rows: list[int], ranks: UserRanks, histories: dict[str, History], vocabulary: Vocabulary
) -> list[dict[str, Any]]:
    """A card for each of the given users, for `templates/users.html`.

    Args:
        rows: the rows of the users in `ranks`.
        ranks: the ranks, with the best items.
        histories: by raw user id; older items may be missing.
        vocabulary: the items of the ids.
    """
    cards = []
    for row in rows:
        among = "too few" if ranks.sampled[row] == NO_RANK else f"{ranks.sampled[row]:,} among the"
        history, target = histories[ranks.user_ids[row]].item_ids, ranks.targets[row]
        recommended = [item for item in ranks.recommended[row] if item != PAD_ID]
        rank = f"rank {ranks.full[row]:,} of all items, {among} negatives"
        if ranks.full[row] == MISSED_RANK:
            rank = "missed: the target is in the history, and items of the history are not recommended"
        cards.append(
            {
                "id": ranks.user_ids[row],
                "rank": rank,
                "target": _named(vocabulary, target, hit=target in recommended),
                "newest": [_named(vocabulary, item) for item in history[-HISTORY_SHOWN:]],
                "length": int(ranks.history_lengths[row]),
                "recommended": [_named(vocabulary, item, hit=item == target) for item in recommended],
            }
        )
    return cards


def _named(vocabulary: Vocabulary, item: int, hit: bool = False) -> dict[str, Any]:
    return {"name": item_name(vocabulary, item), "hit": hit}
