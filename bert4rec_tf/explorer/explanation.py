"""Why an item is recommended: what its score loses without each item of the history, and which items are like it."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert4rec_tf.explorer.explored_model import ExploredModel

MAX_LEFT_OUT = 50  # newest items of a history, each left out once


@dataclasses.dataclass(frozen=True)
class Similar:
    """An item and its cosine with another one."""

    item_id: str
    cosine: float


def left_out_effects(model: ExploredModel, history: Sequence[str], item_ids: Sequence[str]) -> dict[int, np.ndarray]:
    """What the scores of items lose when one event is taken out of the history; it needs no knowledge of the model.

    Args:
        model: that recommends.
        history: item ids, oldest first.
        item_ids: C recommended items.

    Returns:
        For positions in the history, of the newest `MAX_LEFT_OUT` known items, the score with the event minus the score
        without it, float [C]. Empty if there is at most one known item: without it, scores are log popularity.

    Raises:
        ModelError: no answer.
    """
    if not history or not item_ids:
        return {}
    _, known = model.rank([history], history)
    positions = np.flatnonzero(known).tolist()
    if len(positions) < 2:
        return {}
    left_out = positions[-MAX_LEFT_OUT:]
    shorter = [[*history[:position], *history[position + 1 :]] for position in left_out]
    scores, _ = model.rank([history, *shorter], item_ids)
    return {position: scores[0] - row for position, row in zip(left_out, scores[1:], strict=True)}


def similar_items(model: ExploredModel, item_id: str, k: int) -> list[Similar]:
    """The items whose vectors have the largest cosine with that of an item; none if the vectors are unknown."""
    index = model.indices.get(item_id)
    if model.nearest_items is None or model.vocabulary is None or index is None:
        return []
    found = zip(*model.nearest_items.search(index, k), strict=True)
    return [Similar(model.vocabulary.item_ids[other], float(cosine)) for other, cosine in found]


def target_rank(
    model: ExploredModel,
    history: Sequence[str],
    target: str,
    item_ids: Sequence[str],
    keep_seen: bool,
    excluded: Sequence[str],
) -> int | str:
    """The rank of an item among all items that may be recommended, or why it has none.

    Ties are ordered as in evaluation: an item before the target in `item_ids` is ahead of it.

    Args:
        model: that ranks.
        history: item ids, oldest first.
        target: the item.
        item_ids: all items.
        keep_seen: whether items of the history count.
        excluded: items that do not count.

    Raises:
        ModelError: no answer.
    """
    if target in excluded:
        return "it is excluded"
    if target in history and not keep_seen:
        return "it is in the history, and seen items are not recommended"
    scores, known = model.rank([history], [target, *item_ids])
    if not known[0]:
        return "the model does not know it"
    left_out = {*excluded, *([] if keep_seen else history), target}
    counted = known[1:] & ~np.fromiter((item_id in left_out for item_id in item_ids), bool, len(item_ids))
    before = np.zeros(len(item_ids), bool)
    if target in item_ids:
        before[: list(item_ids).index(target)] = True
    ahead = (scores[0, 1:] > scores[0, 0]) | ((scores[0, 1:] == scores[0, 0]) & before)
    return 1 + int((ahead & counted).sum())
