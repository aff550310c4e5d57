"""Items with random vectors, queries, and the best items of each query by a plain sort."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.serving.item_scores import MISSING_SCORE, ItemScores
from tfrecords.vocabulary import NUM_SPECIAL_IDS

NUM_ITEMS, D = 200, 8
V = NUM_ITEMS + NUM_SPECIAL_IDS


def item_scores(clusters: int | None = None) -> ItemScores:
    """Random items; with `clusters`, their vectors are close to that many points."""
    random = np.random.default_rng(1)
    table = random.normal(size=[V, D])
    if clusters:
        table = random.normal(size=[clusters, D])[random.integers(clusters, size=V)] + 0.1 * table
    log_popularity = -np.log(np.arange(1, V + 1))  # falls with the id, as in a vocabulary
    return ItemScores(
        tf.Variable(table.astype(np.float32)),
        tf.Variable(random.normal(size=[V]).astype(np.float32)),
        log_popularity.astype(np.float32),
    )


SCORES = item_scores()
QUERIES = np.random.default_rng(2).normal(size=[3, D]).astype(np.float32)
KNOWN = np.array([True, False, True])


def best_by_sort(dropped: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[list[int]]:
    """The best ids of each query, by a sort of all items."""
    table, bias = SCORES.item_table.numpy(), SCORES.output_bias.numpy()
    popular = -np.log(np.arange(1, V + 1)).astype(np.float32)
    found = []
    for row in range(len(QUERIES)):
        scores = table @ QUERIES[row] + bias if KNOWN[row] else popular
        ids = set(range(NUM_SPECIAL_IDS, V) if allowed is None else allowed[row].tolist())
        ids -= set(dropped[row].tolist()) | set(range(NUM_SPECIAL_IDS))
        found.append(sorted(ids, key=lambda item, scores=scores: (-scores[item], item))[:k])
    return found


def found_ids(top: tuple[tf.Tensor, tf.Tensor]) -> list[list[int]]:
    """The ids of each row of a search, without empty entries; checks that scores are finite and fall."""
    scores, ids = (values.numpy() for values in top)
    assert np.isfinite(scores).all()
    assert np.all(scores[:, :-1] >= scores[:, 1:])
    return [row[row_scores > MISSING_SCORE].tolist() for row_scores, row in zip(scores, ids, strict=True)]
