"""Evaluation of records against brute force in Python."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.baselines import popularity_scorer
from bert4rec_tf.evaluation.evaluate import Scorer, evaluate, make_ranker, merge_evaluation_settings
from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.evaluation.results import metrics_json
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from tests.support.evaluated_log import CONFIG, LOG, optimum, ranks_of
from tfrecords.config import DataConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary


def records(data_dir: pathlib.Path, split: str) -> dict[str, tuple[list[int], int, list[int]]]:
    """History, target and negatives of each user, in the order of the files, by TensorFlow's own parser."""
    users = {}
    for shard in Manifest.load(data_dir).splits[split]:
        for record in tf.data.TFRecordDataset(str(data_dir / shard.file)):
            features = tf.train.Example.FromString(record.numpy()).features.feature
            users[features["user_id"].bytes_list.value[0].decode()] = (
                list(features["item_ids"].int64_list.value),
                features["target_item_id"].int64_list.value[0],
                list(features["negative_item_ids"].int64_list.value),
            )
    return users


def rank_among(scores: np.ndarray, target: int, others: set[int]) -> int:
    """The target's rank when it and the others are sorted by falling score, then by id."""
    return sorted({target, *others}, key=lambda item: (-scores[item], item)).index(target) + 1


def popularity_by_hand(vocabulary: Vocabulary, history: list[int]) -> np.ndarray:
    return np.concatenate([np.full(NUM_SPECIAL_IDS, -1), vocabulary.counts])


def optimum_by_hand(vocabulary: Vocabulary, history: list[int]) -> np.ndarray:
    rows = [LOG.item_ids().index(item_id) for item_id in vocabulary.item_ids]
    probabilities = LOG.transitions()[rows[history[-1] - NUM_SPECIAL_IDS], rows]
    return np.concatenate([np.full(NUM_SPECIAL_IDS, -1), probabilities])


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("make_scorer", "by_hand"),
    [(popularity_scorer, popularity_by_hand), (optimum, optimum_by_hand)],
    ids=["popularity", "optimum"],
)
def test_ranks_equal_brute_force(
    data_dir: pathlib.Path,
    make_scorer: Callable[[Vocabulary], Scorer],
    by_hand: Callable[[Vocabulary, list[int]], np.ndarray],
    split: str,
) -> None:
    vocabulary, users = Vocabulary.load(data_dir), records(data_dir, split)
    ranks = ranks_of(data_dir, make_scorer(vocabulary), split, top_k=10)
    assert sorted(ranks.user_ids) == sorted(users)
    assert len(users) == LOG.num_users
    items = set(range(NUM_SPECIAL_IDS, vocabulary.size))
    assert ranks.recommended.shape == (LOG.num_users, 10)
    rows = zip(ranks.user_ids, ranks.full, ranks.sampled, ranks.recommended.tolist(), strict=True)
    for user_id, full, sampled, recommended in rows:
        history, target, negatives = users[user_id]
        scores = by_hand(vocabulary, history)
        assert full == rank_among(scores, target, items - set(history)), user_id
        assert sampled == rank_among(scores, target, set(negatives)), user_id
        best = sorted(items - set(history), key=lambda item: (-scores[item], item))
        assert recommended == (best + [PAD_ID] * 10)[:10], user_id
    in_order = [users[user_id] for user_id in ranks.user_ids]
    assert ranks.targets.tolist() == [target for _, target, _ in in_order]
    assert ranks.history_lengths.tolist() == [len(history) for history, _, _ in in_order]


@pytest.fixture(scope="module")
def repeating_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A log in which about half of the targets are in their user's own history."""
    path = tmp_path_factory.mktemp("repeats")
    generator = np.random.default_rng(1)
    own = [(7 * user + generator.integers(15, size=4 + user % 20)) % 60 for user in range(80)]
    rows = [(f"u{user}", f"i{item}") for user, items in enumerate(own) for item in items]
    (path / "log.txt").write_text("".join(f"{user} {item}\n" for user, item in rows))
    build_records(LogSource([str(path / "log.txt")]), {}, CONFIG, str(path / "data"))
    return path / "data"


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("drop_seen", [True, False])
def test_a_repeat_is_missed_if_seen_items_are_dropped(repeating_dir: pathlib.Path, split: str, drop_seen: bool) -> None:
    vocabulary, users = Vocabulary.load(repeating_dir), records(repeating_dir, split)
    manifest = Manifest.load(repeating_dir)
    ranker = make_ranker(popularity_scorer(vocabulary), 10, drop_seen)
    ranks = evaluate(ranker, repeating_dir, manifest, split, max_items=1)
    items = set(range(NUM_SPECIAL_IDS, vocabulary.size))
    rows = zip(
        ranks.user_ids, ranks.full, ranks.sampled, ranks.repeats, ranks.recommended, ranks.history_lengths, strict=True
    )
    for user_id, full, sampled, repeat, recommended, length in rows:
        history, target, negatives = users[user_id]
        scores = popularity_by_hand(vocabulary, history)
        left = items - set(history) if drop_seen else items
        assert repeat == (target in history)
        assert length == len(history)
        missed = repeat and drop_seen
        assert full == (MISSED_RANK if missed else rank_among(scores, target, left))
        assert sampled == (MISSED_RANK if missed else rank_among(scores, target, set(negatives)))
        best = sorted(left, key=lambda item: (-scores[item], item))
        assert recommended.tolist() == (best + [PAD_ID] * 10)[:10]
    metrics = metrics_json(ranks, {}, manifest, vocabulary, split, drop_seen)
    number = sum(target in history for history, target, _ in users.values())
    assert 10 < number < len(users) - 10
    assert metrics["repeats"] == {"users": number, "share": number / len(users)}
    assert metrics["drop_seen"] == drop_seen
    assert [(group["repeat"], group["users"]) for group in metrics["slices"]["repeats"]] == [
        (False, len(users) - number),
        (True, number),
    ]
    repeat_group = metrics["slices"]["repeats"][1]
    for protocol in ("full", "sampled"):
        assert (max(repeat_group[protocol][name] for name in ("hr@10", "ndcg@10", "mrr")) == 0) == drop_seen


def test_best_items_are_computed_only_with_top_k(data_dir: pathlib.Path) -> None:
    vocabulary, manifest = Vocabulary.load(data_dir), Manifest.load(data_dir)
    ranks = ranks_of(data_dir, popularity_scorer(vocabulary))
    assert ranks.recommended.shape == (LOG.num_users, 0)
    assert "catalogue" not in metrics_json(ranks, {}, manifest, vocabulary, "test")
    graphs = [make_ranker(popularity_scorer(vocabulary), k).get_concrete_function().graph for k in (0, 10)]
    assert ["TopKV2" in {node.type for node in graph.get_operations()} for graph in graphs] == [False, True]


def test_targets_are_the_last_items_of_the_log(data_dir: pathlib.Path) -> None:
    vocabulary, by_user = Vocabulary.load(data_dir), {}
    for row in LOG.interactions().sort_by("timestamp").to_pylist():
        by_user.setdefault(row["user_id"], []).append(row["item_id"])
    for split, from_end in (("validation", 2), ("test", 1)):
        for user_id, (history, target, negatives) in records(data_dir, split).items():
            own = vocabulary.ids_of(by_user[user_id])
            assert (history, target) == (own[:-from_end], own[-from_end])
            assert len(set(negatives)) == CONFIG.data.num_negatives
            assert not set(negatives) & set(own)


def test_users_with_too_few_negatives_are_left_out_of_the_sampled_protocol(tmp_path: pathlib.Path) -> None:
    # Of 8 items, user "all" has seen every one and "most" all but one. The others leave at least the two negatives
    # that `num_negatives` requires.
    items, log = [f"i{number}" for number in range(8)], tmp_path / "log.txt"
    histories = {"all": items, "most": items[:7], **{f"some{user}": items[user : user + 4] for user in range(5)}}
    log.write_text("".join(f"{user} {item}\n" for user, met in histories.items() for item in met))
    data = DataConfig(max_seq_length=8, min_user_events=3, num_negatives=2, num_shards=1)
    build_records(LogSource([str(log)]), {}, Config(data=data), str(tmp_path / "data"))
    vocabulary, manifest = Vocabulary.load(tmp_path / "data"), Manifest.load(tmp_path / "data")
    ranks = ranks_of(tmp_path / "data", popularity_scorer(vocabulary))
    few = {user: len(negatives) < 2 for user, (_, _, negatives) in records(tmp_path / "data", "test").items()}
    assert {"all", "most"} <= {user for user, is_few in few.items() if is_few}
    assert [rank == NO_RANK for rank in ranks.sampled] == [few[user] for user in ranks.user_ids]
    sampled = metrics_json(ranks, {}, manifest, vocabulary, "test")["sampled"]
    assert (sampled["users"], sampled["users_left_out"]) == (7 - sum(few.values()), sum(few.values()))
    kept = [rank for user, rank in zip(ranks.user_ids, ranks.sampled, strict=True) if not few[user]]
    assert sampled["mrr"] == pytest.approx(np.mean(1 / np.array(kept)))


def test_max_users_takes_the_first_users_of_the_files(data_dir: pathlib.Path) -> None:
    scorer = popularity_scorer(Vocabulary.load(data_dir))
    everyone = ranks_of(data_dir, scorer)
    full = dict(zip(everyone.user_ids, everyone.full.tolist(), strict=True))
    some = ranks_of(data_dir, scorer, max_users=7)
    assert sorted(some.user_ids) == sorted(list(records(data_dir, "test"))[:7])
    assert some.full.tolist() == [full[user_id] for user_id in some.user_ids]
    assert len(ranks_of(data_dir, scorer, max_users=10_000).full) == LOG.num_users


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(data_dir: pathlib.Path, bad: float) -> None:
    size = Vocabulary.load(data_dir).size

    def diverged(histories: tf.Tensor) -> tf.Tensor:
        return tf.tile(tf.constant([[0.0] * (size - 1) + [bad]]), [tf.shape(histories)[0], 1])

    with pytest.raises(InputError, match="finite"):
        ranks_of(data_dir, diverged)


def test_merged_settings_keep_what_is_not_overridden() -> None:
    assert merge_evaluation_settings({"drop_seen": True}, {}) == {"drop_seen": True}
    assert merge_evaluation_settings({"drop_seen": True}, {"evaluation": {"drop_seen": False}}) == {"drop_seen": False}
    with pytest.raises(InputError, match=r"`evaluation` only. Received: --set=model.… Fix: .* make_tfrecords.py or"):
        merge_evaluation_settings({}, {"model": {"num_layers": 1}})
