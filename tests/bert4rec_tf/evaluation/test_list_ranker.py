"""Lists of another system are ranked by the same rules as a model."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.evaluation.evaluate import make_ranker
from bert4rec_tf.evaluation.list_ranker import ListRanker
from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

ITEMS = 15
VOCABULARY = Vocabulary(tuple(f"item {item}" for item in range(ITEMS)), np.arange(ITEMS, 0, -1), (None,) * ITEMS)
IDS = st.integers(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + ITEMS - 1)


def batch_of(histories: list[list[int]], targets: list[int], negatives: list[list[int]]) -> dict[str, tf.Tensor]:
    """A batch as `evaluation_batches` gives it; rows of ids may differ in length."""
    rows = len(targets)

    def padded(lists: list[list[int]]) -> tf.Tensor:
        return tf.ragged.constant(lists, tf.int32, ragged_rank=1).to_tensor(0)

    return {
        "history_length": tf.constant([len(history) for history in histories]),
        "item_ids": padded(histories),
        "negative_item_ids": padded(negatives),
        "seen_item_ids": padded([list(dict.fromkeys(history)) for history in histories]),
        "target_item_id": tf.constant(targets, tf.int32),
        "target_time": tf.fill([rows], tf.constant(-1, tf.int64)),
        "times": tf.fill(tf.shape(padded(histories)), tf.constant(-1, tf.int64)),
        "trained_items": tf.zeros([rows], tf.int32),
        "user_id": tf.constant([f"user {row}" for row in range(rows)]),
    }


@pytest.mark.slow
@given(st.data(), st.booleans(), st.integers(0, 2**32 - 1))
def test_complete_lists_rank_as_the_scores_that_sorted_them(data: st.DataObject, drop_seen: bool, seed: int) -> None:
    rows = data.draw(st.integers(1, 4))
    histories = [data.draw(st.lists(IDS, min_size=1, max_size=6)) for _ in range(rows)]
    targets = [data.draw(IDS) for _ in range(rows)]
    negatives = []
    for history, target in zip(histories, targets, strict=True):
        others = sorted(set(range(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + ITEMS)) - {target, *history})
        negatives.append(data.draw(st.lists(st.sampled_from(others), unique=True, min_size=1, max_size=3)))
    scores = np.random.default_rng(seed).integers(0, 8, [rows, NUM_SPECIAL_IDS + ITEMS]).astype(np.float32)  # with ties
    batch = batch_of(histories, targets, negatives)
    lists = [
        [VOCABULARY.item_ids[item] for item in np.argsort(-row[NUM_SPECIAL_IDS:], kind="stable")] for row in scores
    ]
    expected = make_ranker(lambda _: tf.constant(scores), 10, drop_seen)(batch)
    found = ListRanker(lambda *_: lists, VOCABULARY, drop_seen, "lists")(batch)
    for name in ("full", "sampled", "repeats", "recommended"):
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def rank(lists: list[list[str]], drop_seen: bool = True) -> dict[str, list]:
    batch = batch_of([[3, 4], [5]], [6, 7], [[8, 9], [8, 9]])
    found = ListRanker(lambda *_: lists, VOCABULARY, drop_seen, "lists")(batch)
    return {name: value.numpy().tolist() for name, value in found.items()}


def test_short_lists_miss_and_unknown_items_keep_their_place() -> None:
    found = rank([["item 0", "from elsewhere", "item 3"], []])
    assert found["full"] == [2, MISSED_RANK], "item 0 was seen, and the unknown item is before the target"
    assert found["sampled"] == [NO_RANK, NO_RANK], "the negatives are in no list"
    assert found["recommended"] == [[6, *[0] * 9], [0] * 10]
    found = rank([["item 0", "from elsewhere", "item 5", "item 3", "item 6"], ["item 4"]], drop_seen=False)
    assert found["full"] == [4, 1]
    assert found["sampled"] == [2, NO_RANK]


def test_the_function_gets_raw_ids() -> None:
    received = []
    batch = batch_of([[3, 4], [5]], [6, 7], [[8], [8]])
    ranker = ListRanker(lambda *given: received.append(given) or [[], []], VOCABULARY, True, "f")  # type: ignore[func-returns-value]
    ranker(batch)
    assert received == [(["user 0", "user 1"], [["item 0", "item 1"], ["item 2"]])]


def test_faulty_lists_are_named() -> None:
    with pytest.raises(InputError, match=r"each item once. Received: lists, with 'item 3' twice for 'user 0'"):
        rank([["item 3", "item 3"], []])
    with pytest.raises(InputError, match=r"lists must return one list a user. Received: 1 for 2"):
        rank([[]])
