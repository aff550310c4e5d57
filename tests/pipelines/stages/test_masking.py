"""Windows against the authors' algorithm; masks with forced rates, and their invariants."""

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.stages import masking
from pipelines.stages.masking import MaskedWindows, mask_windows
from pipelines.stages.windows import Windows, cut_windows
from tests.support.command_line import ROOT
from tests.support.masked_instances import Instance, instances_of
from tests.support.ragged_lists import lists
from tfrecords.config import MaskingConfig
from tfrecords.hashed_random import hashed_bits
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

V = 50
ML_1M = ROOT / "../shared/data/ml-1m.txt.gz"


def sequences_of(lengths: list[int]) -> Ragged:
    values = hashed_bits(5, np.arange(sum(lengths))) % np.uint64(V - NUM_SPECIAL_IDS)
    return Ragged.from_lengths(values.astype(np.int64) + NUM_SPECIAL_IDS, np.array(lengths, np.int64))


def windows_of(lengths: list[int], max_seq_length: int = 20) -> Windows:
    return cut_windows(sequences_of(lengths), max_seq_length, 0.5)


def all_items(windows: Windows) -> list[list[int]]:
    return lists(windows.item_ids(np.arange(len(windows))))


def keys_of(sequences: int) -> np.ndarray:
    return hashed_bits(9, np.arange(sequences))


def mask(windows: Windows, seed: int = 1, **fields: object) -> list[MaskedWindows]:
    config = MaskingConfig(**{"last_item_instances": 0, **fields})
    return list(mask_windows(windows, keys_of(1000), config, V, seed))


def by_window(chunks: list[MaskedWindows]) -> dict[int, list[Instance]]:
    """The instances of each window by its key."""
    found = {}
    for chunk in chunks:
        rows = map(lists, (chunk.item_ids, chunk.masked_positions, chunk.shown_item_ids))
        for key, counts, *row in zip(chunk.keys.tolist(), chunk.masked_counts.tolist(), *rows, strict=True):
            found[key] = instances_of(row[0], counts, row[1], row[2])
    return found


def rows_of(chunks: list[MaskedWindows]) -> list[Instance]:
    return [instance for instances in by_window(chunks).values() for instance in instances]


@given(st.lists(st.integers(0, 40), max_size=4), st.integers(2, 12), st.floats(0.01, 1))
def test_windows_equal_those_of_the_authors_code(lengths: list[int], longest: int, sliding_window: float) -> None:
    expected = []
    step = max(1, int(sliding_window * longest))
    for sequence, items in enumerate(lists(sequences_of(lengths))):
        starts = [0] if len(items) <= longest else [*range(len(items) - longest, 0, -step), 0][::-1]
        expected += [(sequence, start, items[start : start + longest]) for start in starts if items]
    windows = cut_windows(sequences_of(lengths), longest, sliding_window)
    found = zip(windows.sequences.tolist(), windows.starts.tolist(), all_items(windows), strict=True)
    assert list(found) == expected
    newest = cut_windows(sequences_of(lengths), longest, sliding_window=0)
    assert all_items(newest) == [items[-longest:] for items in lists(sequences_of(lengths)) if items]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 45)), max_size=4), st.integers(2, 12), st.floats(0, 1))
def test_windows_reaching_an_offset_hold_it_or_a_later_one(
    sequences: list[tuple[int, int]], longest: int, sliding_window: float
) -> None:
    lengths, offsets = [length for length, _ in sequences], [offset for _, offset in sequences]
    windows = cut_windows(sequences_of(lengths), longest, sliding_window)
    rows = zip(windows.sequences.tolist(), windows.starts.tolist(), all_items(windows), strict=True)
    found = windows.reaching(np.array(offsets, np.int64))
    assert list(zip(found.sequences.tolist(), found.starts.tolist(), all_items(found), strict=True)) == [
        (sequence, start, items)
        for sequence, start, items in rows
        if any(offset >= offsets[sequence] for offset in range(start, start + len(items)))
    ]


@pytest.mark.skipif(not ML_1M.is_file(), reason=f"{ML_1M} is not there")
def test_ml_1m_has_as_many_instances_as_in_the_authors_code() -> None:
    log = np.array(gzip.decompress(ML_1M.read_bytes()).split(), np.int64).reshape(-1, 2)
    log = log[np.argsort(log[:, 0], kind="stable")]
    lengths = np.unique(log[:, 0], return_counts=True)[1]
    last = np.cumsum(lengths) - 1  # the authors' code trains on the validation item too
    training = Ragged.from_lengths(np.delete(log[:, 1], last) + NUM_SPECIAL_IDS, lengths - 1)
    windows = cut_windows(training, max_seq_length=200, sliding_window=0.5)
    config = MaskingConfig(masking_rates=(0.2,), duplicate_factor=10, last_item_instances=1, max_predictions=40)
    chunks = mask_windows(windows, keys_of(len(training)), config, int(log[:, 1].max()) + 1 + NUM_SPECIAL_IDS, seed=1)
    assert sum(chunk.masked_counts.size for chunk in chunks) == 112_992


@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=5),
    st.floats(0, 1),
    st.none() | st.integers(1, 8),
    st.sampled_from([(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.3, 0.4)]),
)
@settings(max_examples=60)
def test_masking_invariants(lengths: list[int], rate: float, most: int | None, replaced: tuple[float, float]) -> None:
    windows = windows_of(lengths)
    instances = mask(
        windows, masking_rates=(rate,), max_predictions=most, duplicate_factor=2,
        random_item_rate=replaced[0], kept_item_rate=replaced[1],
    )  # fmt: skip
    originals = [items for items in all_items(windows) for _ in range(2)]
    for items, (shown, positions, masked_items) in zip(originals, rows_of(instances), strict=True):
        assert len(positions) == min(most or len(items), max(1, round(len(items) * rate)))
        assert positions == sorted(set(positions))
        unmasked = list(shown)
        for position, item in zip(positions, masked_items, strict=True):
            unmasked[position] = item
            assert shown[position] == MASK_ID or replaced != (0.0, 0.0)
        assert unmasked == items


@pytest.mark.parametrize(("rate", "number"), [(0.0, 1), (1.0, 12)])
def test_masking_rates_of_0_and_1(rate: float, number: int) -> None:
    instances = mask(windows_of([12]), masking_rates=(rate,))
    assert {len(positions) for _, positions, _ in rows_of(instances)} == {number}


def test_last_item_instances_mask_only_the_last_item() -> None:
    windows = windows_of([1, 7, 33])
    rows = rows_of(mask(windows, duplicate_factor=0, last_item_instances=2))
    originals = [items for items in all_items(windows) for _ in range(2)]
    assert rows == [([*items[:-1], MASK_ID], [len(items) - 1], [items[-1]]) for items in originals]


def test_random_items_are_any_items_but_never_special_ids() -> None:
    instances = mask(windows_of([20] * 40), masking_rates=(1.0,), random_item_rate=1.0)
    values = np.concatenate([row for row, _, _ in rows_of(instances)])
    shown, draws, share = np.bincount(values, minlength=V), len(values), 1 / (V - NUM_SPECIAL_IDS)
    assert len(shown) == V
    assert shown[:NUM_SPECIAL_IDS].sum() == 0
    np.testing.assert_allclose(shown[NUM_SPECIAL_IDS:], draws * share, atol=5 * np.sqrt(draws * share))


def test_a_kept_item_shows_itself() -> None:
    windows = windows_of([20, 7])
    instances = mask(windows, masking_rates=(0.5,), kept_item_rate=1.0, duplicate_factor=1)
    assert [row for row, _, _ in rows_of(instances)] == all_items(windows)


def test_eighty_ten_ten() -> None:
    windows = windows_of([20] * 100)
    instances = mask(windows, masking_rates=(1.0,), random_item_rate=0.1, kept_item_rate=0.1)
    rows = rows_of(instances)
    shown, items = (np.concatenate([row[column] for row in rows]) for column in (0, 2))
    by_chance = 0.1 / (V - NUM_SPECIAL_IDS)  # a random item may be the masked item itself
    for share, expected in (
        (np.mean(shown == MASK_ID), 0.8),
        (np.mean(shown == items), 0.1 + by_chance),
    ):
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / len(shown))


def test_every_position_is_masked_equally_often() -> None:
    draws, rate, length = 5000, 0.3, 10
    instances = mask(windows_of([length]), masking_rates=(rate,), duplicate_factor=draws)
    counts = np.bincount(np.concatenate([row[1] for row in rows_of(instances)]), minlength=length)
    np.testing.assert_allclose(counts, draws * rate, atol=5 * np.sqrt(draws * rate * (1 - rate)))
    pairs = np.zeros((length, length))
    for _, positions, _ in rows_of(instances):
        pairs[np.ix_(positions, positions)] += 1
    together = rate * (length * rate - 1) / (length - 1)
    off_diagonal = pairs[~np.eye(length, dtype=bool)]
    np.testing.assert_allclose(off_diagonal, draws * together, atol=5 * np.sqrt(draws * together))


def test_several_rates_are_drawn_equally_often() -> None:
    draws = 3000
    instances = mask(windows_of([10]), masking_rates=(0.1, 0.5, 1.0), duplicate_factor=draws)
    counts = np.bincount([len(positions) for _, positions, _ in rows_of(instances)], minlength=11)
    assert counts.sum() == counts[[1, 5, 10]].sum()
    np.testing.assert_allclose(counts[[1, 5, 10]], draws / 3, atol=5 * np.sqrt(draws * 2 / 9))


MANY = {"masking_rates": (0.2, 0.6), "duplicate_factor": 3, "last_item_instances": 1, "random_item_rate": 0.2}


def test_masks_do_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    windows = windows_of([5, 45, 1, 20, 21])
    whole = mask(windows, **MANY)
    monkeypatch.setattr(masking, "_CHUNK", 7)
    chunked = mask(windows, **MANY)
    assert len(chunked) == 9
    assert by_window(chunked) == by_window(whole)


def test_masks_do_not_depend_on_other_users() -> None:
    sequences, keys = sequences_of([5, 45, 1, 20, 21]), keys_of(5)

    def of(users: list[int]) -> dict[int, list[Instance]]:
        windows = cut_windows(sequences.rows(np.array(users)), 20, 0.5)
        return by_window(list(mask_windows(windows, keys[users], MaskingConfig(**MANY), V, seed=1)))

    everyone, some = of([0, 1, 2, 3, 4]), of([3, 1])
    assert len(everyone) == 1 + 4 + 1 + 1 + 2  # all keys differ
    assert len(some) == 1 + 4
    assert some.items() <= everyone.items()


def test_seeds_and_duplicates_differ() -> None:
    windows = windows_of([20] * 3)
    one, other = (mask(windows, seed=seed, masking_rates=(0.5,)) for seed in (1, 2))
    assert not by_window(one).keys() & by_window(other).keys()
    positions = [tuple(positions) for instances in (one, other) for _, positions, _ in rows_of(instances)]
    assert len(set(positions)) == len(positions) == 60  # of 184,756 ways each
