"""Approximate search for large catalogues, in plain TensorFlow operations: an inverted file over k-means cells."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.retrieval import MISSING_SCORE, ItemScores, contains, top_of
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS

_ROUNDS = 10  # of k-means
_SAMPLES_OF_A_CELL = 64  # items that place a cell's centre, at the most
_BLOCK = 16_384  # items compared with all centres at once


class InvertedFileIndex(tf.Module):
    """Items in cells by k-means; a query looks only into the `probes` cells whose centres score best.

    An item's vector is its embedding with its output bias behind it, and a query's ends in 1: the product is the logit.
    The vectors of a cell lie side by side, so that probing reads a few stretches of the table.

    Items belong together whose scores are alike for the queries that come, not whose vectors are near: k-means runs
    over C^(1/2) v with C = E[q q^T] of a sample of queries: the squared distance of v and w is then E[(q.v - q.w)^2].

    Args:
        scores: of the items.
        queries: float32 [Q, D], a sample from `Bert4Rec.encode_next_item`; None: plain distance.
        num_cells: how many; None: four times the square root of the number of items.
        seed: of the first centres.
    """

    def __init__(
        self, scores: ItemScores, queries: np.ndarray | None = None, num_cells: int | None = None, seed: int = 1
    ):
        super().__init__(name="inverted_file_index")
        self._scores = scores
        vectors = np.concatenate([scores.item_table.numpy(), scores.output_bias.numpy()[:, None]], axis=1)
        vectors = vectors[NUM_SPECIAL_IDS:]
        num_cells = num_cells or max(1, min(len(vectors), round(4 * len(vectors) ** 0.5)))
        placed = vectors if queries is None else vectors @ _root_of_second_moment(queries)
        cells = _nearest(placed, _k_means(placed, num_cells, seed))
        order = np.argsort(cells, kind="stable")
        counts = np.bincount(cells, minlength=num_cells)
        ends = np.cumsum(counts)
        centres = tf.math.unsorted_segment_sum(vectors, cells, num_cells).numpy() / np.maximum(counts, 1)[:, None]
        self.num_cells = num_cells
        self.num_items = len(vectors)
        self._centres = _stored(centres.astype(np.float32), "centres")
        self._ends = _stored(ends.astype(np.int32), "ends")
        self._ids = _stored((order + NUM_SPECIAL_IDS).astype(np.int32), "ids")
        self._vectors = _stored(vectors[order], "vectors")
        self.probes = tf.Variable(num_cells, trainable=False, dtype=tf.int32, name="probes")

    def top(self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items of the probed cells, as `ExactIndex.top`: fewer where the cells hold fewer.

        What is found has its exact score, and nothing dropped is found. Rows without a known item are exact.
        """
        queries = tf.pad(query, [[0, 0], [0, 1]], constant_values=1.0)
        width = tf.shape(dropped)[1]
        # Popularity is the order of the ids: the first ones suffice, whatever is dropped of them.
        first = tf.range(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + tf.minimum(k + width, self.num_items))
        popular = tf.tile(first[None, :], [tf.shape(query)[0], 1])
        popular_scores, popular_ids = top_of(popular, query, known, dropped, k, self._scores)
        dropped = tf.sort(tf.pad(dropped, [[0, 0], [0, 1]]), axis=1)  # never empty
        rows = tf.shape(query)[0]
        one = [[0, tf.maximum(0, 1 - rows)], [0, 0]]  # map_fn cannot do without a row
        found_scores, found_ids = tf.map_fn(
            lambda row: self._top_of_a_row(row[0], row[1], k),
            (tf.pad(queries, one), tf.pad(dropped, one)),
            fn_output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)),
        )
        found_scores, found_ids = found_scores[:rows], found_ids[:rows]
        known = known[:, None]
        return tf.where(known, found_scores, popular_scores), tf.where(known, found_ids, popular_ids)

    def _top_of_a_row(self, query: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        _, cells = tf.math.top_k(tf.linalg.matvec(self._centres, query), self.probes, sorted=False)
        ends = tf.gather(self._ends, cells)
        starts = tf.where(cells > 0, tf.gather(self._ends, tf.maximum(cells - 1, 0)), 0)
        places = tf.ragged.range(starts, ends).values
        ids = tf.gather(self._ids, places)
        scores = tf.linalg.matvec(tf.gather(self._vectors, places), query)
        scores = tf.where(contains(dropped[None, :], ids[None, :])[0], MISSING_SCORE, scores)
        missing = tf.maximum(0, k - tf.size(ids))
        scores = tf.pad(scores, [[0, missing]], constant_values=MISSING_SCORE)
        best, chosen = tf.math.top_k(scores, k)
        return best, tf.gather(tf.pad(ids, [[0, missing]]), chosen)


def _stored(values: np.ndarray, name: str) -> tf.Variable:
    # Variables and no constants: these would lie in the graph, which may not grow past 2 GB.
    return tf.Variable(values, trainable=False, name=name)


def _root_of_second_moment(queries: np.ndarray) -> np.ndarray:
    """The symmetric square root of E[q q^T], float32 [D + 1, D + 1], each query with the 1 that meets the bias."""
    whole = np.pad(queries.astype(np.float64), [[0, 0], [0, 1]], constant_values=1.0)
    values, vectors = np.linalg.eigh(whole.T @ whole / len(whole))
    return ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T).astype(np.float32)


def _k_means(vectors: np.ndarray, num_cells: int, seed: int) -> np.ndarray:
    """Lloyd's rounds over a sample; a centre that loses all its items starts anew at a random one."""
    random = np.random.default_rng(seed)
    sample = random.permutation(len(vectors))[: num_cells * _SAMPLES_OF_A_CELL]
    sample = vectors[np.sort(sample)]
    centres = sample[random.permutation(len(sample))[:num_cells]]
    for _ in range(_ROUNDS):
        cells = _nearest(sample, centres)
        sums = tf.math.unsorted_segment_sum(sample, cells, num_cells).numpy()
        counts = np.bincount(cells, minlength=num_cells)[:, None]
        anew = sample[random.integers(len(sample), size=num_cells)]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), anew).astype(np.float32)
    return centres


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest centre of each vector, by squared distance."""
    half_norms = tf.reduce_sum(tf.square(centres), axis=1) / 2
    found = []
    for first in range(0, len(vectors), _BLOCK):
        block = vectors[first : first + _BLOCK]
        nearness = tf.matmul(block, centres, transpose_b=True) - half_norms
        found.append(tf.argmax(nearness, axis=1, output_type=tf.int32).numpy())
    return np.concatenate(found)
