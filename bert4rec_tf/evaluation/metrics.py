"""Ranking metrics of one relevant item among many (paper section 4.2), from the target's rank."""

import math
from typing import Any

import numpy as np

from tfrecords.vocabulary import PAD_ID, Vocabulary

MISSED_RANK = int(np.iinfo(np.int32).max)  # of a target that is never recommended: it is beyond every cutoff
HIT_RATE_CUTOFFS = (1, 5, 10)
NDCG_CUTOFFS = (5, 10)
METRICS = (*(f"hr@{k}" for k in HIT_RATE_CUTOFFS), *(f"ndcg@{k}" for k in NDCG_CUTOFFS), "mrr")
_Z = 1.96  # two-sided 95%
NO_RANK = 0  # of a user whom a protocol leaves out


def ranking_gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """Each user's gains; HR@1/5/10, NDCG@5/10 and MRR are their means over users.

    With one relevant item, a rank of at most k gives 1 for HR@k and 1 / log2(1 + rank) for NDCG@k; any other rank gives
    0. The reciprocal rank is 1 / rank. All gains of `MISSED_RANK` are 0.

    Args:
        ranks: integer [users], from 1.

    Returns:
        "hr@1" ... "mrr" -> float64 [users].

    Raises:
        ValueError: no user, or a rank below 1.
    """
    if not len(ranks) or np.min(ranks) < 1:
        raise ValueError(f"`ranks` must hold at least one rank, each from 1. Received: {len(ranks)} ranks")
    ranks = np.asarray(ranks, np.float64)
    gains = {f"hr@{k}": (ranks <= k).astype(np.float64) for k in HIT_RATE_CUTOFFS}
    gains |= {f"ndcg@{k}": np.where(ranks <= k, 1 / np.log2(1 + ranks), 0.0) for k in NDCG_CUTOFFS}
    gains["mrr"] = np.where(ranks == MISSED_RANK, 0.0, 1 / ranks)
    return gains


def ranking_metrics(ranks: np.ndarray) -> dict[str, Any]:
    """HR@1/5/10, NDCG@5/10 and MRR, each the mean of `ranking_gains` over users, with 95% intervals.

    Args:
        ranks: integer [users], from 1.

    Returns:
        "hr@1" ... "mrr" -> float, and "ci95" -> {the same keys: [low, high]}, by `_interval`.

    Raises:
        ValueError: no user, or a rank below 1.
    """
    gains = ranking_gains(ranks)
    means = {name: float(values.mean()) for name, values in gains.items()}
    return {**means, "ci95": {name: _interval(values) for name, values in gains.items()}}


def _interval(gains: np.ndarray) -> list[float]:
    """The 95% interval of a mean of gains within [0, 1], after Wilson; it has a width even if all gains are 0.

    A hit rate has Wilson's score interval. NDCG and MRR vary less than hits of the same mean: their number of users is
    multiplied by the ratio of the two variances. Gains that are all equal are treated as hits. One user gives [0, 1].
    """
    number, mean = len(gains), float(gains.mean())
    if number == 1:
        return [0.0, 1.0]
    hits_variance = mean * (1 - mean)
    effective = number * hits_variance / float(gains.var()) if np.ptp(gains) > 0 else number
    spread = _Z**2 / effective
    centre = (mean + spread / 2) / (1 + spread)
    margin = math.sqrt(hits_variance * spread + spread**2 / 4) / (1 + spread)
    return [max(0.0, min(mean, centre - margin)), min(1.0, max(mean, centre + margin))]


def sampled_metrics(ranks: np.ndarray) -> dict[str, Any]:
    """`ranking_metrics` over the users who have a rank, and the number of these users.

    A user with fewer stored negatives than `data.num_negatives` has no rank: a rank among fewer items is not
    comparable, and among no items it is always 1.

    Args:
        ranks: integer [users], from 1, or NO_RANK.

    Returns:
        The result of `ranking_metrics`, with None for each number if no user has a rank; "users", and
        "users_left_out".
    """
    ranked = ranks[ranks != NO_RANK]
    none: dict[str, Any] = {**dict.fromkeys(METRICS), "ci95": {name: [None, None] for name in METRICS}}
    metrics = ranking_metrics(ranked) if len(ranked) else none
    return {**metrics, "users": len(ranked), "users_left_out": len(ranks) - len(ranked)}


TOP_K = 10


def catalogue_metrics(recommended: np.ndarray, vocabulary: Vocabulary) -> dict[str, float | None]:
    """Coverage and novelty of the recommended items.

    Args:
        recommended: int [users, K], ids, padded with PAD_ID.
        vocabulary: maps the ids to items.

    Returns:
        "coverage@K": the share of all items that is recommended to at least one user. "novelty@K": the mean of -log2
        of an item's share of the training events over all recommended items, with add-one smoothing
        (`Vocabulary.log_popularity`); None if nothing is recommended, as every user has seen every item.
    """
    k, ids = recommended.shape[1], recommended[recommended != PAD_ID]
    bits = -vocabulary.log_popularity()[ids].astype(np.float64) / math.log(2)
    return {
        f"coverage@{k}": len(np.unique(ids)) / len(vocabulary.item_ids),
        f"novelty@{k}": float(bits.mean()) if len(ids) else None,
    }
