"""Why an item is recommended, against a model whose scores are sums over the history."""

import numpy as np
import pytest

from bert4rec_tf.explorer.explanation import MAX_LEFT_OUT, left_out_effects, similar_items, target_rank
from tests.support.explored_models import ITEM_IDS, TableModel


def test_leaving_out_an_event_takes_its_part_of_the_score() -> None:
    model, history = TableModel(), ["i0", "unknown", "日本", "i0"]
    effects = left_out_effects(model, history, ["i2", "100%"])
    assert sorted(effects) == [0, 2, 3], "unknown items have no effect"
    for position, effect in effects.items():
        at = ITEM_IDS.index(history[position])
        expected = model.table[at, [ITEM_IDS.index("i2"), ITEM_IDS.index("100%")]]
        np.testing.assert_allclose(effect, expected, atol=1e-5)


@pytest.mark.parametrize("history", [[], ["i0"], ["unknown", "i0"]])
def test_without_two_known_items_there_is_no_reason(history: list[str]) -> None:
    assert left_out_effects(TableModel(), history, ["i2"]) == {}


def test_only_the_newest_events_are_left_out() -> None:
    effects = left_out_effects(TableModel(), ["i0"] * (MAX_LEFT_OUT + 5), ["i2"])
    assert sorted(effects) == list(range(5, MAX_LEFT_OUT + 5))


def test_similar_items_have_the_largest_cosines() -> None:
    model = TableModel()
    similar = similar_items(model, "i2", k=4)
    cosines = model.nearest_items.cosines(2, np.arange(len(ITEM_IDS)))
    cosines[2] = -2
    assert [each.item_id for each in similar] == [ITEM_IDS[at] for at in np.argsort(-cosines)[:4]]
    assert similar_items(model, "unknown", k=4) == []


def test_the_rank_of_a_target_counts_what_may_be_recommended() -> None:
    model, history = TableModel(), ["i0", "i1"]
    scores = dict(zip(ITEM_IDS, model.scores(history), strict=True))
    for target in ITEM_IDS[2:]:
        ahead = {item_id for item_id in ITEM_IDS if scores[item_id] > scores[target]}
        assert target_rank(model, history, target, ITEM_IDS, True, []) == 1 + len(ahead)
        assert target_rank(model, history, target, ITEM_IDS, False, []) == 1 + len(ahead - {*history})
        excluded = [item_id for item_id in ITEM_IDS[5:] if item_id != target]
        rank = target_rank(model, history, target, ITEM_IDS, False, excluded)
        assert rank == 1 + len(ahead - {*history, *excluded})
    assert target_rank(model, [], "i2", ITEM_IDS, False, []) == 3, "of equal scores, the earlier item is ahead"


def test_a_target_without_a_rank_has_a_reason() -> None:
    model = TableModel()
    assert "in the history" in str(target_rank(model, ["i0"], "i0", ITEM_IDS, False, []))
    assert isinstance(target_rank(model, ["i0"], "i0", ITEM_IDS, True, []), int)
    assert "excluded" in str(target_rank(model, ["i0"], "i1", ITEM_IDS, False, ["i1"]))
    assert "does not know" in str(target_rank(model, ["i0"], "unknown", ITEM_IDS, False, []))
