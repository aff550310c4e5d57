"""Chooses how many cells an inverted file must probe to reach a recall."""

from typing import Any

import tensorflow as tf

from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import MISSING_SCORE
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from tfrecords.vocabulary import Vocabulary

BATCH_USERS = 16
RECALL_USERS = 256  # users whose recall is measured
_SAMPLE_USERS = 2048  # users whose queries k-means uses
_RECALL_K = 100


def known_histories(vocabulary: Vocabulary, data_dir: str) -> list[tuple[tf.Tensor, tf.Tensor]]:
    """Histories of validation users in the vocabulary's ids: batches of int32 [B, L], and their times, int64 [B, L]."""
    batches = list(iterate_raw_histories(data_dir, "validation", BATCH_USERS, _SAMPLE_USERS))
    # One call for all ids, since each call reads the whole vocabulary.
    ids = iter(vocabulary.ids_of([item_id for batch in batches for row in batch.item_ids for item_id in row]))
    return [
        (tf.constant([[next(ids) for _ in row] for row in batch.item_ids], tf.int32), tf.constant(batch.times))
        for batch in batches
    ]


def choose_probes(
    index: InvertedFileIndex, exact: ExactIndex, batches: list[tuple[tf.Tensor, tf.Tensor]], min_recall: float
) -> dict[str, Any]:
    """Sets `index.probes` to the smallest number of cells that reaches the recall, by binary search.

    Args:
        index: the index to set.
        exact: gives the true best items.
        batches: queries, float32 [B, D], and their histories, int32 [B, L].
        min_recall: the recall@100 to reach.

    Returns:
        The description of the index for the version's metadata, with the measured recall.
    """
    k = min(_RECALL_K, index.num_items)
    requests = [(query, tf.ones([len(query)], tf.bool), histories) for query, histories in batches]
    expected = [ids for request in requests for ids in _found(exact.top(*request, k))]

    @tf.function(reduce_retracing=True, autograph=False)
    def search(query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A `row_k` of 1 is the least that a request can need, so no request probes fewer cells than measured here.
        return index.top(query, known, dropped, k, tf.ones([tf.shape(query)[0]], tf.int32))

    def recall(probes: int) -> float:
        index.probes.assign(probes)
        found = [ids for request in requests for ids in _found(search(*request))]
        return sum(len(a & b) / max(1, len(b)) for a, b in zip(found, expected, strict=True)) / len(expected)

    low, high = 1, index.num_cells  # probing all cells is exact
    while low < high:
        middle = (low + high) // 2
        if recall(middle) >= min_recall:
            high = middle
        else:
            low = middle + 1
    measured = recall(high)
    counts = {"cells": index.num_cells, "probes": high, "users": len(expected)}
    return {"kind": "ivf", f"recall@{k}": round(measured, 4), **counts}


def _found(top: tuple[tf.Tensor, tf.Tensor]) -> list[set[int]]:
    scores, ids = (values.numpy().tolist() for values in top)
    return [
        {item for score, item in zip(*row, strict=True) if score > MISSING_SCORE}
        for row in zip(scores, ids, strict=True)
    ]
