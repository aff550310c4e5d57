"""Approximate search for large catalogues, in plain TensorFlow operations: an inverted file over k-means cells."""

import numpy as np
import tensorflow as tf

from bert4rec_tf.serving.item_scores import MISSING_SCORE, ItemScores, contains
from tfrecords.vocabulary import NUM_SPECIAL_IDS

_ROUNDS = 10  # of k-means
_MAX_SAMPLES_PER_CELL = 64  # items that k-means uses for each cell
_BLOCK = 16_384  # items compared with all centres at once


class InvertedFileIndex(tf.Module):
    """Items in cells by k-means; a query searches only the `probes` cells whose centres score best.

    A query searches all cells if the probed ones may hold too few items for its answer.

    An item's vector is its embedding followed by its output bias, and a query's vector ends in 1, so their product is
    the logit. The vectors of a cell are stored side by side, so probing reads a few stretches of the table.

    Cells group items with similar scores for typical queries, so k-means runs in the space whitened by the queries'
    second moment: over C^(1/2) v with C = E[q q^T] of a sample of queries. There, the squared distance of v and w is
    E[(q.v - q.w)^2].

    Args:
        scores: the parameters of the items' scores.
        queries: float32 [Q, D], a sample from `Bert4Rec.encode_next_item`; None: k-means over the plain vectors.
        num_cells: the number of cells; None: four times the square root of the number of items.
        seed: seed of the first centres.

    Attributes:
        floats_per_row: the size, per row, of the largest tensor that a search makes for all rows at once.
    """

    def __init__(
        self, scores: ItemScores, queries: np.ndarray | None = None, num_cells: int | None = None, seed: int = 1
    ):
        super().__init__(name="inverted_file_index")
        self._scores = scores
        vectors = np.concatenate([scores.item_table.numpy(), scores.output_bias.numpy()[:, None]], axis=1)
        vectors = vectors[NUM_SPECIAL_IDS:]
        num_cells = num_cells or max(1, min(len(vectors), round(4 * len(vectors) ** 0.5)))
        whitened = vectors if queries is None else vectors @ _root_of_second_moment(queries)
        cells = _nearest(whitened, _k_means(whitened, num_cells, seed))
        order = np.argsort(cells, kind="stable")
        counts = np.bincount(cells, minlength=num_cells)
        ends = np.cumsum(counts)
        centres = tf.math.unsorted_segment_sum(vectors, cells, num_cells).numpy() / np.maximum(counts, 1)[:, None]
        self.num_cells = num_cells
        self.num_items = len(vectors)
        self.floats_per_row = num_cells
        self._centres = _stored(centres.astype(np.float32), "centres")
        self._ends = _stored(ends.astype(np.int32), "ends")
        self._ids = _stored((order + NUM_SPECIAL_IDS).astype(np.int32), "ids")
        self._vectors = _stored(vectors[order], "vectors")
        self.probes = tf.Variable(num_cells, trainable=False, dtype=tf.int32, name="probes")

    def top(
        self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, k: tf.Tensor, row_k: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The k best items of the probed cells, as `ExactIndex.top` returns them.

        A row searches all cells if the probed ones may hold too few items that are not dropped, so a row finds fewer
        than `row_k` items only if fewer exist. Scores are exact, and dropped items are never found. Rows without a
        known item are exact.

        Args:
            query: as in `ExactIndex.top`.
            known: as in `ExactIndex.top`.
            dropped: as in `ExactIndex.top`.
            k: as in `ExactIndex.top`.
            row_k: int32 [B], at most k, the number of items that each row needs; None: k.
        """
        rows = tf.shape(query)[0]
        row_k = tf.fill([rows], k) if row_k is None else row_k
        queries = tf.pad(query, [[0, 0], [0, 1]], constant_values=1.0)
        dropped = tf.sort(tf.pad(dropped, [[0, 0], [0, 1]]), axis=1)  # never empty
        one = [0, tf.maximum(0, 1 - rows)]  # map_fn needs at least one row
        scores, ids = tf.map_fn(
            lambda row: self._search_row(row[0], row[1], row[2], row[3], k),
            (
                tf.pad(queries, [one, [0, 0]]),
                tf.pad(known, [one]),
                tf.pad(dropped, [one, [0, 0]]),
                tf.pad(row_k, [one]),
            ),
            fn_output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([None], tf.int32)),
        )
        return scores[:rows], ids[:rows]

    def _search_row(
        self, query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor, row_k: tf.Tensor, k: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        # Any `enough` items include at least `row_k` that are not dropped.
        enough = row_k + tf.math.count_nonzero(dropped >= NUM_SPECIAL_IDS, dtype=tf.int32)
        scores, ids = tf.cond(known, lambda: self._search_cells(query, enough), lambda: self._most_popular(enough))
        scores = tf.where(contains(dropped[None, :], ids[None, :])[0], MISSING_SCORE, scores)
        missing = tf.maximum(0, k - tf.size(ids))
        scores = tf.pad(scores, [[0, missing]], constant_values=MISSING_SCORE)
        best, chosen = tf.math.top_k(scores, k)
        return best, tf.gather(tf.pad(ids, [[0, missing]]), chosen)

    def _most_popular(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores and ids of the `count` most popular items: ids are numbered by popularity."""
        ids = tf.range(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + tf.minimum(count, self.num_items))
        return tf.gather(tf.convert_to_tensor(self._scores.log_popularity), ids), ids

    def _search_cells(self, query: tf.Tensor, enough: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores and ids of the items in the probed cells, or of all items if the cells hold fewer than `enough`."""
        _, cells = tf.math.top_k(tf.linalg.matvec(self._centres, query), self.probes, sorted=False)
        # Rows of the variables' values, not of the variables: see `ItemAndPositionEmbedding.vectors_of`.
        all_ends, all_vectors, all_ids = map(tf.convert_to_tensor, (self._ends, self._vectors, self._ids))
        ends = tf.gather(all_ends, cells)
        starts = tf.where(cells > 0, tf.gather(all_ends, tf.maximum(cells - 1, 0)), 0)
        probed_items = tf.reduce_sum(ends - starts)

        def search_probed() -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.ragged.range(starts, ends).values
            return tf.linalg.matvec(tf.gather(all_vectors, rows), query), tf.gather(all_ids, rows)

        def search_all() -> tuple[tf.Tensor, tf.Tensor]:
            return tf.linalg.matvec(all_vectors, query), tf.identity(all_ids)

        # Copying the vectors of most cells takes more time and memory than reading the whole table without a copy.
        return tf.cond((probed_items < enough) | (probed_items > self.num_items // 4), search_all, search_probed)


def _stored(values: np.ndarray, name: str) -> tf.Variable:
    # A variable, since constants are stored in the graph, which cannot exceed 2 GB.
    return tf.Variable(values, trainable=False, name=name)


def _root_of_second_moment(queries: np.ndarray) -> np.ndarray:
    """The symmetric square root of E[q q^T], float32 [D + 1, D + 1]; each query gets the 1 that multiplies the bias."""
    extended = np.pad(queries.astype(np.float64), [[0, 0], [0, 1]], constant_values=1.0)
    values, vectors = np.linalg.eigh(extended.T @ extended / len(extended))
    return ((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T).astype(np.float32)


def _k_means(vectors: np.ndarray, num_cells: int, seed: int) -> np.ndarray:
    """Lloyd's algorithm over a sample; a centre that loses all its items moves to a random item."""
    random = np.random.default_rng(seed)
    sample = random.permutation(len(vectors))[: num_cells * _MAX_SAMPLES_PER_CELL]
    sample = vectors[np.sort(sample)]
    centres = sample[random.permutation(len(sample))[:num_cells]]
    for _ in range(_ROUNDS):
        cells = _nearest(sample, centres)
        sums = tf.math.unsorted_segment_sum(sample, cells, num_cells).numpy()
        counts = np.bincount(cells, minlength=num_cells)[:, None]
        replacements = sample[random.integers(len(sample), size=num_cells)]
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), replacements).astype(np.float32)
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
