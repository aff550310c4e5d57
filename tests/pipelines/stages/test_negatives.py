"""The fixed negatives: unseen, different, drawn by popularity, and independent of other users."""

import itertools
import pathlib

import numpy as np
import pytest

from bert4rec_tf.config import Config
from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from pipelines.stages.negatives import Popularity, draw_negatives
from tests.support.ragged_lists import lists, ragged
from tfrecords.config import DataConfig, MaskingConfig
from tfrecords.hashed_random import NEGATIVES, RARE_NEGATIVES, TIES, hashed_bits
from tfrecords.manifest import Manifest
from tfrecords.ragged import Ragged
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

NUM_ITEMS = 60
COUNTS = np.concatenate([1000 // np.arange(1, NUM_ITEMS - 4), np.zeros(5, np.int64)])


def histories(users: int, generator: np.random.Generator) -> Ragged:
    lengths = generator.integers(1, 30, users)
    rows = [generator.choice(NUM_ITEMS, length, replace=False) + NUM_SPECIAL_IDS for length in lengths]
    return ragged([row.tolist() for row in rows])


def all_users_saw(items: list[int], users: int) -> Ragged:
    return ragged([items] * users)


def keys_of(users: int) -> np.ndarray:
    return hashed_bits(11, np.arange(users))


@pytest.mark.parametrize("counts", [[1], [0, 3, 0], [10**9, 1, 1, 10**6], COUNTS, 3000 // np.arange(1, 9000)])
def test_numbers_draw_the_items_of_a_binary_search(counts: np.ndarray) -> None:
    popularity, cumulative = Popularity(np.array(counts)), np.cumsum(counts)
    bounds = cumulative[:-1] / cumulative[-1]
    of_bounds = np.concatenate([[0.0, 1 - 2.0**-53], bounds[bounds < 1], np.nextafter(bounds, 0)])
    uniform = np.concatenate([np.random.default_rng(1).random(5000), of_bounds])
    expected = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    np.testing.assert_array_equal(popularity.draw(uniform), expected)


@pytest.mark.parametrize("number", [0, 1, 10, 40, NUM_ITEMS])
def test_negatives_are_unseen_distinct_and_as_many_as_possible(number: int) -> None:
    sequences = histories(200, np.random.default_rng(1))
    negatives = draw_negatives(sequences, keys_of(200), Popularity(COUNTS), number, seed=1)
    trained_on = set((np.flatnonzero(COUNTS) + NUM_SPECIAL_IDS).tolist())
    for history, drawn in zip(lists(sequences), lists(negatives), strict=True):
        assert len(set(drawn)) == len(drawn) == min(number, len(trained_on - set(history)))
        assert set(drawn) <= trained_on - set(history)


def test_a_draw_depends_only_on_seed_and_user() -> None:
    sequences, keys = histories(200, np.random.default_rng(2)), keys_of(200)
    # 40 of at most 55: some users need one round of draws, some two, and some the exponential races.
    together = lists(draw_negatives(sequences, keys, Popularity(COUNTS), 40, seed=1))
    some = np.array([3, 199, 0, 77])
    alone = lists(draw_negatives(sequences.rows(some), keys[some], Popularity(COUNTS), 40, seed=1))
    assert alone == [together[user] for user in some]
    assert lists(draw_negatives(sequences, keys, Popularity(COUNTS), 40, seed=2)) != together
    assert lists(draw_negatives(sequences, keys + np.uint64(1), Popularity(COUNTS), 40, seed=1)) != together


def test_splits_and_seeds_draw_independently() -> None:
    sequences, keys = all_users_saw([3], 2000), keys_of(2000)
    draws = {
        (seed, split): draw_negatives(sequences, keys, Popularity(COUNTS), 1, seed, split).values
        for seed in (1, 2)
        for split in ("validation", "test")
    }
    probabilities = COUNTS * (np.arange(len(COUNTS)) > 0) / COUNTS[1:].sum()
    by_chance = np.sum(probabilities**2)
    for one, other in itertools.combinations(draws, 2):
        shared = np.mean(draws[one] == draws[other])
        assert abs(shared - by_chance) < 4 * np.sqrt(by_chance * (1 - by_chance) / 2000), (one, other)


def test_different_kinds_of_draws_use_different_bits() -> None:
    keys, index = keys_of(50) >> np.uint64(4), np.arange(100)
    bits = [
        hashed_bits(1, keys[:, None], index),  # windows
        hashed_bits(1, keys[:, None], 2**40),  # validated users
        hashed_bits(1, TIES, keys[:, None], index),
        *(hashed_bits(1, kind, draw, keys[:, None], index) for kind in (NEGATIVES, RARE_NEGATIVES) for draw in (0, 1)),
    ]
    everything = np.concatenate([some.ravel() for some in bits])
    assert len(np.unique(everything)) == len(everything)


def assert_frequencies(drawn: np.ndarray, probabilities: np.ndarray) -> None:
    """Checks the count of each item, within five standard deviations."""
    draws = len(drawn)
    counts = np.bincount(drawn - NUM_SPECIAL_IDS, minlength=len(probabilities))
    deviations = np.sqrt(draws * probabilities * (1 - probabilities))
    np.testing.assert_array_less(np.abs(counts - draws * probabilities), 5 * deviations + 1e-9)


def test_negatives_are_drawn_by_training_count() -> None:
    users, seen = 20_000, [3, 10]
    negatives = draw_negatives(all_users_saw(seen, users), keys_of(users), Popularity(COUNTS), 1, seed=1)
    weights = COUNTS.astype(float)
    weights[np.array(seen) - NUM_SPECIAL_IDS] = 0
    assert_frequencies(negatives.values, weights / weights.sum())


def test_the_second_item_is_drawn_from_the_rest() -> None:
    counts, users = np.array([6, 3, 1]), 20_000
    negatives = draw_negatives(
        all_users_saw([3 + len(counts)], users), keys_of(users), Popularity(np.append(counts, 1)), 2, seed=1
    )
    second = negatives.values.reshape(users, 2)[:, 1]
    # P(second = j) = sum over i != j of p_i p_j / (1 - p_i)
    share = counts / counts.sum()
    probabilities = share * (np.sum(share / (1 - share)) - share / (1 - share))
    assert_frequencies(second, np.append(probabilities, 0))


def test_negatives_fall_back_to_rare_items() -> None:
    # Draws with replacement meet a rare item once in 3e17 times, so the exponential races draw all of these.
    counts, users = np.array([10**17, 10**17, 10**17, 1, 2, 3, 0]), 5_000
    negatives = draw_negatives(all_users_saw([3, 4, 5], users), keys_of(users), Popularity(counts), 1, seed=1)
    assert negatives.lengths.tolist() == [1] * users
    assert_frequencies(negatives.values, np.array([0, 0, 0, 1, 2, 3, 0]) / 6)
    all_rare = draw_negatives(all_users_saw([3, 4, 5], 3), keys_of(3), Popularity(counts), 100, seed=1)
    assert [sorted(row) for row in lists(all_rare)] == [[6, 7, 8]] * 3


def test_a_user_who_saw_every_item_gets_no_negatives() -> None:
    negatives = draw_negatives(all_users_saw([3, 4], 2), keys_of(2), Popularity(np.array([5, 5, 0])), 4, seed=1)
    assert lists(negatives) == [[], []]
    assert lists(draw_negatives(all_users_saw([3], 2), keys_of(2), Popularity(np.array([0, 0])), 4, seed=1)) == [[], []]


def build_rated(directory: pathlib.Path, name: str, rows: list[tuple[str, str, int, int]]) -> pathlib.Path:
    log, lines = directory / name, [f"{user},{item},{time},{rating}\n" for user, item, time, rating in rows]
    log.write_text("user_id,item_id,timestamp,rating\n" + "".join(lines))
    data = DataConfig(min_rating=3, min_user_events=1, num_negatives=8, num_shards=3, max_bad_fraction=0.5)
    config = Config(data=data, masking=MaskingConfig(duplicate_factor=1))
    build_records(LogSource([str(log)], rating_column="rating"), {}, config, str(directory / "data"))
    return directory / "data"


@pytest.mark.parametrize("bad_row", [False, True], ids=["read by the engine", "read line by line"])
def test_items_that_the_user_rated_low_are_no_negatives(tmp_path: pathlib.Path, bad_row: bool) -> None:
    random, rows, met = np.random.default_rng(5), [], {}
    for user in range(60):
        for time, item in enumerate(random.choice(30, 16, replace=False).tolist()):
            rows.append((f"u{user}", f"i{item}", time, 5 if time % 2 else int(random.integers(1, 3))))
            met.setdefault(f"u{user}", set()).add(f"i{item}")
    data_dir = build_rated(tmp_path, "log.csv", rows + [("", "", 0, 0)] * bad_row)
    vocabulary, manifest = Vocabulary.load(data_dir), Manifest.load(data_dir)
    assert manifest.counts["low_rated_rows_dropped"] == 480
    assert manifest.counts["bad_rows_set_aside"] == bad_row
    for split in ("validation", "test"):
        for batch in evaluation_batches(data_dir, manifest, split, 64):
            for user, drawn in zip(batch["user_id"].numpy(), batch["negative_item_ids"].numpy(), strict=True):
                raw = {vocabulary.item_ids[item - NUM_SPECIAL_IDS] for item in drawn.tolist()}
                assert len(raw) == 8
                assert not raw & met[user.decode()]
    assert manifest.counts["evaluated_users_with_few_negatives"] == 0


def test_users_with_few_negatives_are_counted(tmp_path: pathlib.Path) -> None:
    # "few" rated 3 of 10 items well and 4 low, which leaves 3. The other users leave 7, also fewer than the 8 wanted.
    rows = [(f"u{user}", f"i{(user + item) % 10}", item, 5) for user in range(10) for item in range(3)]
    few = [("few", f"i{item}", item, 5 if item < 3 else 1) for item in range(7)]
    data_dir = build_rated(tmp_path, "log.csv", rows + few)
    manifest = Manifest.load(data_dir)
    assert manifest.counts["evaluated_users_with_few_negatives"] == 11
    assert manifest.counts["validated_users_with_few_negatives"] == 11
    lengths = {}
    for batch in evaluation_batches(data_dir, manifest, "test", 64):
        for user, drawn in zip(batch["user_id"].numpy(), batch["negative_item_ids"].numpy(), strict=True):
            lengths[user.decode()] = np.count_nonzero(drawn)
    assert lengths["few"] <= 3 < lengths["u0"] <= 7
