"""The items of the explorer: names, popularity and search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.explorer.catalogue import Catalogue
from tests.support.explored_models import ITEM_IDS, TITLES, VOCABULARY
from tfrecords.vocabulary import Vocabulary


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("alien", ["i0", "i1", "i9"]),  # titles that begin with it come before a word that begins with it
        ("mind alien", ["i9"]),
        ("AMELIE", ["i2"]),
        ("amélie", ["i2"]),
        ("i1", ["i1"]),
        ("100%", ["100%"]),
        ("七人", ["日本"]),
        ("uber", ["line\nfeed\r\ttab"]),
        ("<SCRIPT>", ["<b>&\"'"]),
        ("no such title", []),
        ("  ", []),
    ],
)
def test_search(text: str, found: list[str]) -> None:
    assert Catalogue(VOCABULARY).search(text).item_ids == found


def test_an_item_of_the_very_id_comes_first_and_the_rest_by_popularity() -> None:
    vocabulary = Vocabulary(("a", "b", "12", "c"), np.array([9, 8, 7, 6]), ("12 Monkeys", "Room 12", None, "120 Days"))
    matches = Catalogue(vocabulary).search("12", limit=3)
    assert matches.item_ids == ["12", "a", "c"]
    assert matches.total == 4


@given(st.sampled_from(ITEM_IDS), st.data())
def test_every_item_is_found_by_parts_of_its_name(item_id: str, data: st.DataObject) -> None:
    catalogue = Catalogue(VOCABULARY)
    words = catalogue.name(item_id).split()
    part = " ".join(data.draw(st.lists(st.sampled_from(words), min_size=1, max_size=3)))
    assert item_id in catalogue.search(part, limit=len(ITEM_IDS)).item_ids


def test_popularity_has_equal_places_for_equal_counts() -> None:
    catalogue = Catalogue(VOCABULARY)
    assert [catalogue.popularity(item_id) for item_id in ITEM_IDS[:4]] == [(90, 1), (80, 2), (80, 2), (60, 4)]
    assert catalogue.popularity("i9") == (0, 10)
    assert catalogue.popularity("unknown") is None


def test_titles_come_from_the_vocabulary_or_else_from_a_file() -> None:
    catalogue = Catalogue(VOCABULARY, {"100%": "All of it", "i0": "Another", "unknown": "No item"})
    assert catalogue.name("100%") == "All of it"
    assert catalogue.name("i0") == TITLES["i0"]
    assert catalogue.name("unknown") == "unknown"
    assert not Catalogue(VOCABULARY).has_title("100%")
    only_titles = Catalogue(None, {"a": "Alien"})
    assert only_titles.search("alien").item_ids == ["a"]
    assert only_titles.popularity("a") is None
    assert len(Catalogue(None)) == 0
