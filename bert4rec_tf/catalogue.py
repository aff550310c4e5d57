"""How much of the catalogue is recommended, and how popular that is."""

import math

import numpy as np

from tfrecords.vocabulary import PAD_ID, Vocabulary

TOP_K = 10


def catalogue_metrics(recommended: np.ndarray, vocabulary: Vocabulary) -> dict[str, float | None]:
    """Coverage and novelty of what users are recommended.

    Args:
        recommended: int [users, K], ids, padded with PAD_ID.
        vocabulary: of the ids.

    Returns:
        "coverage@K": the share of the items that at least one user is recommended. "novelty@K": over all that is
        recommended, the mean of -log2 of the item's share of the training events, each item counted once more than
        seen (`Vocabulary.log_popularity`); None where every user has met every item.
    """
    k, ids = recommended.shape[1], recommended[recommended != PAD_ID]
    bits = -vocabulary.log_popularity()[ids].astype(np.float64) / math.log(2)
    return {
        f"coverage@{k}": len(np.unique(ids)) / len(vocabulary.item_ids),
        f"novelty@{k}": float(bits.mean()) if len(ids) else None,
    }
