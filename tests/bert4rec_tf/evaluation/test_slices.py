"""Slices and catalogue metrics against plain Python."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.evaluation.metrics import catalogue_metrics, ranking_metrics
from bert4rec_tf.evaluation.slices import popularity_groups, slices
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

BUCKETS = [(1, 4), (5, 9), (10, 19), (20, 49), (50, 99), (100, 199), (200, None)]


def vocabulary_of(counts: list[int]) -> Vocabulary:
    item_ids = tuple(f"item {number}" for number in range(len(counts)))
    return Vocabulary(item_ids, np.array(counts, np.int64), (None,) * len(counts))


def groups_by_hand(counts: list[int]) -> list[int]:
    """The fifth in which each item's first event falls, events counted from the head."""
    events = [item for item, count in enumerate(counts) for _ in range(count)]
    found = []
    for item, count in enumerate(counts):
        first = events.index(item) if count else len(events)
        fifth = next((part for part in range(1, 6) if first * 5 < part * len(events)), 5)
        found.append(fifth - 1 if events else 0)
    return found


falling_counts = st.lists(st.integers(0, 30), min_size=1, max_size=25).map(lambda counts: sorted(counts, reverse=True))


@given(falling_counts)
def test_each_group_of_items_holds_a_fifth_of_the_events(counts: list[int]) -> None:
    groups = popularity_groups(np.array(counts, np.int64)).tolist()
    assert groups == groups_by_hand(counts)
    assert groups == sorted(groups)
    for group in range(5):
        events_so_far = sum(count for count, its_group in zip(counts, groups, strict=True) if its_group <= group)
        # An item belongs to one group only: a fifth may exceed its share by less than its last item.
        assert 5 * events_so_far >= (group + 1) * sum(counts)
        assert 5 * (events_so_far - counts[0]) <= (group + 1) * sum(counts)


@given(st.data(), falling_counts)
def test_slices_equal_those_by_hand(data: st.DataObject, counts: list[int]) -> None:
    number = data.draw(st.integers(1, 12))

    def drawn(values: st.SearchStrategy[int]) -> list[int]:
        return data.draw(st.lists(values, min_size=number, max_size=number))

    full, sampled = drawn(st.integers(1, 30)), drawn(st.integers(1, 101))
    lengths = drawn(st.sampled_from([1, 4, 5, 9, 10, 19, 20, 49, 50, 99, 100, 199, 200, 5000]))
    targets = drawn(st.integers(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + len(counts) - 1))
    repeats = drawn(st.booleans())
    ranks = ranks_of_users(full, sampled, history_lengths=lengths, targets=targets, repeats=repeats)

    def row(bounds: dict, users: list[int]) -> dict:
        protocols = {"full": full, "sampled": sampled}
        metrics = {
            name: ranking_metrics(np.array([ranks[user] for user in users])) for name, ranks in protocols.items()
        }
        metrics["sampled"] |= {"users": len(users), "users_left_out": 0}
        return {**bounds, "users": len(users), **metrics}

    by_length = []
    for first, last in BUCKETS:
        users = [user for user in range(number) if first <= lengths[user] and (last is None or lengths[user] <= last)]
        by_length += [row({"from": first, "to": last}, users)] if users else []
    by_popularity, groups = [], groups_by_hand(counts)
    for group in range(5):
        group_counts = [count for count, its_group in zip(counts, groups, strict=True) if its_group == group]
        users = [user for user in range(number) if groups[targets[user] - NUM_SPECIAL_IDS] == group]
        if users:
            bounds = {"items": len(group_counts), "from": min(group_counts), "to": max(group_counts)}
            by_popularity.append(row(bounds, users))
    by_repeat = []
    for repeat in (False, True):
        users = [user for user in range(number) if repeats[user] == repeat]
        by_repeat += [row({"repeat": repeat}, users)] if users else []
    found = slices(ranks, np.array(counts, np.int64))
    by_cold = []
    for cold in (False, True):
        users = [user for user in range(number) if (counts[targets[user] - NUM_SPECIAL_IDS] == 0) == cold]
        by_cold += [row({"cold": cold}, users)] if users else []
    assert found == {
        "history_length": by_length,
        "target_popularity": by_popularity,
        "repeats": by_repeat,
        "cold_targets": by_cold,
    }


@given(st.data(), falling_counts)
def test_coverage_and_novelty_equal_those_by_hand(data: st.DataObject, counts: list[int]) -> None:
    ids = range(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + len(counts))
    k = data.draw(st.integers(1, 4))
    users = data.draw(st.lists(st.lists(st.sampled_from(ids), max_size=k, unique=True), min_size=1, max_size=6))
    recommended = np.array([items + [PAD_ID] * (k - len(items)) for items in users], np.int32)
    found = catalogue_metrics(recommended, vocabulary_of(counts))
    everything = [item for items in users for item in items]
    assert found.keys() == {f"coverage@{k}", f"novelty@{k}"}
    assert found[f"coverage@{k}"] == len(set(everything)) / len(counts)
    if not everything:
        assert found[f"novelty@{k}"] is None
        return
    total = sum(count + 1 for count in counts) + NUM_SPECIAL_IDS
    bits = [-math.log2((counts[item - NUM_SPECIAL_IDS] + 1) / total) for item in everything]
    assert found[f"novelty@{k}"] == pytest.approx(sum(bits) / len(bits), rel=1e-5)


def test_catalogue_by_hand() -> None:
    # The smoothed shares are 8, 4 and 1 of 16; the special ids have the other 3.
    found = catalogue_metrics(np.array([[3, 4], [3, PAD_ID]]), vocabulary_of([7, 3, 0]))
    assert found == {"coverage@2": pytest.approx(2 / 3), "novelty@2": pytest.approx((1 + 2 + 1) / 3)}
