"""The state of a page in its address."""

import doctest
import urllib.parse
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.explorer import catalogue, state
from bert4rec_tf.explorer.state import MAX_HISTORY, MAX_K, State, decode, encode
from bert4rec_tf.serving import nearest_items

IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
STATES = st.builds(
    State,
    history=st.none() | st.lists(IDS, min_size=1).map(tuple),
    excluded=st.lists(IDS, unique=True).map(tuple),
    k=st.integers(1, MAX_K),
    keep_seen=st.booleans(),
    user=st.none() | IDS,
)


def parsed(query: str) -> State:
    return State.from_query(urllib.parse.parse_qsl(query, keep_blank_values=True))


@given(STATES)
def test_an_address_gives_the_state_again(chosen: State) -> None:
    assert parsed(chosen.to_query()) == chosen


@given(IDS)
def test_ids_survive_a_form(item_id: str) -> None:
    value = encode(item_id)
    assert value.isascii()
    assert not set(value) & set("\r\n\0\t <>\"'&")
    assert decode(value) == item_id


def test_an_emptied_history_is_not_that_of_the_user() -> None:
    assert parsed(State((), user="u").to_query()) == State((), user="u")
    assert parsed(State(None, user="u").to_query()) == State(None, user="u")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", State()),
        ("k=0&seen=yes", State(k=1)),
        ("k=-3", State()),
        ("k=99999999999999999999", State()),
        ("k=500", State(k=MAX_K)),
        ("k=5&k=20", State(k=20)),
        ("x=a&x=a&x=", State(excluded=("a",))),
        ("user=++&nothing=1", State()),
        ("h=%FF&h=%25zz", State(("\ufffd", "%zz"))),
    ],
)
def test_what_makes_no_sense_is_left_out(query: str, expected: State) -> None:
    assert parsed(query) == expected


def test_long_histories_keep_their_newest_items() -> None:
    query = "&".join(f"h={number}" for number in range(MAX_HISTORY + 7))
    history = parsed(query).history or ()
    assert len(history) == MAX_HISTORY
    assert history[-1] == str(MAX_HISTORY + 6)


@pytest.mark.parametrize("module", [state, catalogue, nearest_items], ids=lambda module: module.__name__)
def test_examples_of_docstrings(module: ModuleType) -> None:
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
