"""Categories of an item's neighbours, against a plain loop."""

import numpy as np
import pytest

from bert4rec_tf.report import item_neighbours
from bert4rec_tf.report.item_neighbours import shared_categories
from tests.support.made_up_features import BRANDS, ITEMS, TAGS, made_up_features
from tfrecords.vocabulary import NUM_SPECIAL_IDS


@pytest.mark.parametrize("at_once", [3, 32])
def test_shares_are_those_of_a_loop_over_neighbours(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_neighbours, "NEIGHBOURS", 3)
    monkeypatch.setattr(item_neighbours, "_ITEMS_AT_ONCE", at_once)
    table = np.random.default_rng(1).normal(size=[ITEMS + NUM_SPECIAL_IDS, 4]).astype(np.float32)
    vectors = table[NUM_SPECIAL_IDS:]
    found = shared_categories(table, made_up_features())
    assert [each.feature for each in found] == ["brand", "tags"]
    for cells, each in zip((BRANDS, TAGS), found, strict=True):
        shared = []
        for item in range(ITEMS):
            cosine = {
                other: vectors[item] @ vectors[other] / np.linalg.norm(vectors[item]) / np.linalg.norm(vectors[other])
                for other in range(ITEMS)
                if other != item
            }
            nearest = sorted(cosine, key=lambda other: -cosine[other])[:3]
            shared += [bool({*cells[item]} & {*cells[other]}) for other in nearest if cells[item] and cells[other]]
        assert each.near == pytest.approx(np.mean(shared))
        assert 0 <= each.random <= 1
        assert each.items == sum(map(bool, cells))


def test_items_of_one_category_with_equal_vectors_are_neighbours() -> None:
    table = np.zeros([ITEMS + NUM_SPECIAL_IDS, 3], np.float32)
    axis = {"x": 0, "y": 1}
    for item, cell in enumerate(BRANDS):
        table[NUM_SPECIAL_IDS + item, axis.get(cell[0] if cell else "", 2)] = 1
    brand = shared_categories(table, made_up_features())[0]
    assert brand.near < 1, "there are fewer than ten items of a brand"
    assert brand.near >= brand.random
    assert shared_categories(table, None) == []
