"""The vocabulary: every id survives its file, and damage to the file is named."""

import hashlib
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, UNK_ID, VOCABULARY_FILE, Vocabulary

NASTY_IDS = (
    "a\tb", "a\nb", "a\r\nb", '"quoted"', "back\\slash", "line\u2028separator", "next\x85line", "nul\x00", "\ufeffbom",
    "😀", "\u00e9", "e\u0301", " ", " a", "[MASK]", "null", "x" * 10_000,
)  # fmt: skip


def vocabulary_of(item_ids: tuple[str, ...]) -> Vocabulary:
    titles = tuple(None if index % 2 else f"title of {item_id}" for index, item_id in enumerate(item_ids))
    return Vocabulary(item_ids, np.arange(len(item_ids))[::-1], titles)


@pytest.mark.parametrize("item_ids", [NASTY_IDS, ("one",), ()])
def test_a_vocabulary_survives_its_file(tmp_path: pathlib.Path, item_ids: tuple[str, ...]) -> None:
    written = vocabulary_of(item_ids)
    (tmp_path / VOCABULARY_FILE).write_bytes(written.to_bytes())
    read = Vocabulary.load(tmp_path)
    assert (read.item_ids, read.titles) == (written.item_ids, written.titles)
    np.testing.assert_array_equal(read.counts, written.counts)
    assert read.sha256() == hashlib.sha256(written.to_bytes()).hexdigest()
    assert read.size == len(item_ids) + NUM_SPECIAL_IDS


def test_ids_follow_the_special_ids_and_unknown_items_are_unk() -> None:
    vocabulary = vocabulary_of(NASTY_IDS)
    assert vocabulary.ids_of(list(NASTY_IDS)) == list(range(NUM_SPECIAL_IDS, vocabulary.size))
    assert vocabulary.ids_of(["a", "", "e\u0301", "E\u0301"]) == [
        UNK_ID, UNK_ID, NUM_SPECIAL_IDS + NASTY_IDS.index("e\u0301"), UNK_ID,
    ]  # fmt: skip
    assert vocabulary.ids_of([]) == []


@given(st.lists(st.integers(0, 10**9), max_size=20))
def test_log_popularity_is_the_log_of_a_distribution_in_the_order_of_the_counts(counts: list[int]) -> None:
    log_popularity = Vocabulary(tuple(map(str, range(len(counts)))), np.array(counts, np.int64), (None,) * len(counts))
    shares = log_popularity.log_popularity()
    assert shares.dtype == np.float32
    assert shares.shape == (len(counts) + NUM_SPECIAL_IDS,)
    assert np.isfinite(shares).all()
    assert np.exp(shares.astype(np.float64)).sum() == pytest.approx(1, rel=1e-5)
    assert (np.diff(shares[NUM_SPECIAL_IDS:][np.argsort(counts, kind="stable")]) >= 0).all()
    assert (shares[:NUM_SPECIAL_IDS] == shares.min()).all()


@pytest.mark.parametrize(
    "line", [b"{", b"", b"[]", b"3", b'{"item_id": "b"}', b'{"count": 1}', b'{"item_id": "b", "count": "x"}', b"\xff"]
)
def test_a_damaged_line_is_named(tmp_path: pathlib.Path, line: bytes) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(
        b'{"item_id": "a", "count": 1}\n' + line + b'\n{"item_id": "c", "count": 1}\n'
    )
    with pytest.raises(InputError, match=rf"{VOCABULARY_FILE}, line 2"):
        Vocabulary.load(tmp_path)


def test_a_file_cut_within_a_line_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / VOCABULARY_FILE).write_bytes(vocabulary_of(("a", "b", "c")).to_bytes()[:-5])
    with pytest.raises(InputError, match=rf"{VOCABULARY_FILE}, line 3"):
        Vocabulary.load(tmp_path)


def test_a_missing_file_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=rf"(?s){VOCABULARY_FILE}.*{tmp_path.name}"):
        Vocabulary.load(tmp_path)


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="2 items, 1 counts, 2 titles"):
        Vocabulary(("a", "b"), np.array([1]), (None, None))
