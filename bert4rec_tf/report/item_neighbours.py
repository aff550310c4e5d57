"""Whether items of one category lie near each other in the model."""

import dataclasses

import numpy as np

from tfrecords.item_features import CategoricalFeature, ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS

NEIGHBOURS = 10
_MAX_ITEMS = 1000  # the most popular ones
_ITEMS_AT_ONCE = 32  # so that the cosines with a large catalogue need little memory


@dataclasses.dataclass(frozen=True)
class SharedCategories:
    """How often two items share a category of a feature.

    Attributes:
        feature: its name.
        near: for the nearest items of an item, by the cosine of their vectors.
        random: for items drawn at random.
        items: the number of items whose neighbours were compared.
    """

    feature: str
    near: float
    random: float
    items: int


def shared_categories(item_table: np.ndarray, features: ItemFeatures | None) -> list[SharedCategories]:
    """Compares the categories of popular items with those of their ten nearest items.

    Items without a value of a feature are left out of its comparison.

    Args:
        item_table: float32 [V, D].
        features: of the items; None: they have none.
    """
    categorical = [] if features is None else features.categorical()
    if not categorical or len(item_table) - NUM_SPECIAL_IDS < 2:
        return []
    near = _nearest_items(item_table[NUM_SPECIAL_IDS:])
    others = np.random.default_rng(1).integers(len(item_table) - NUM_SPECIAL_IDS, size=near.shape)
    found = []
    for feature in categorical:
        shares = []
        for neighbours in (near, others):
            pairs = [(item, other) for item, row in enumerate(neighbours.tolist()) for other in row if other != item]
            known = [_share(feature, *pair) for pair in pairs if _has(feature, pair[0]) and _has(feature, pair[1])]
            shares.append(float(np.mean(known)) if known else 0.0)
        items = sum(_has(feature, item) for item in range(len(near)))
        if items:
            found.append(SharedCategories(feature.name, shares[0], shares[1], items))
    return found


def _nearest_items(vectors: np.ndarray) -> np.ndarray:
    """The nearest items of the most popular ones, int64 [items, neighbours], without the items themselves."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    number, neighbours = min(_MAX_ITEMS, len(unit)), min(NEIGHBOURS, len(unit) - 1)
    rows = []
    for first in range(0, number, _ITEMS_AT_ONCE):
        cosines = unit[first : min(first + _ITEMS_AT_ONCE, number)] @ unit.T
        own = np.arange(len(cosines))
        cosines[own, first + own] = -np.inf
        rows.append(np.argpartition(-cosines, neighbours - 1, axis=1)[:, :neighbours])
    return np.concatenate(rows)


def _has(feature: CategoricalFeature, item: int) -> bool:
    return bool(feature.values.offsets[item] < feature.values.offsets[item + 1])


def _share(feature: CategoricalFeature, item: int, other: int) -> bool:
    values, offsets = feature.values.values, feature.values.offsets
    one, two = (values[offsets[index] : offsets[index + 1]] for index in (item, other))
    return bool(np.isin(one, two).any())
