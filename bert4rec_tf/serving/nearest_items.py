"""Items whose vectors point in the same direction."""

import pathlib

import numpy as np
import pyarrow.parquet as pq

_VECTORS_FILE = "assets.extra/item_vectors.parquet"


class NearestItems:
    """Finds the items with the largest cosine.

    Args:
        vectors: float32 [items, D].

    >>> NearestItems(np.array([[1.0, 0.0], [2.0, 0.2], [0.0, 1.0]])).search(0, k=1)[0]
    array([1])
    """

    def __init__(self, vectors: np.ndarray):
        self._unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def search(self, index: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of an item, without itself: int [k] and their cosines, float [k]; fewer if there are."""
        cosines = self._unit @ self._unit[index]
        cosines[index] = -np.inf
        best = np.argsort(-cosines, kind="stable")[: min(k, len(cosines) - 1)]
        return best, cosines[best]

    def cosines(self, index: int, others: np.ndarray) -> np.ndarray:
        """The cosines of an item with the items `others`, int [n]: float [n]."""
        return self._unit[others] @ self._unit[index]


def read_item_vectors(version: pathlib.Path) -> np.ndarray:
    """The items' vectors of an exported version, float32 [items, D], in the order of its vocabulary."""
    return np.stack(pq.read_table(version / _VECTORS_FILE)["vector"].to_numpy(zero_copy_only=False))
