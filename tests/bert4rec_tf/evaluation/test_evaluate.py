"""Evaluation of records against brute force in Python."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.baselines import popularity_scorer, transition_scorer
from bert4rec_tf.evaluation.evaluate import Scorer, evaluate, make_ranker, merge_evaluation_settings
from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK, ranking_metrics
from bert4rec_tf.evaluation.results import metrics_json
from bert4rec_tf.evaluation.user_ranks import UserRanks
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.config import DataConfig, MaskingConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

LOG = MarkovLog(num_users=200, num_items=60, num_themes=6, min_events=5, max_events=20)
CONFIG = Config(
    data=DataConfig(max_seq_length=12, min_user_events=3, num_negatives=15, num_shards=2),
    masking=MaskingConfig(duplicate_factor=1),
)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("evaluation") / "data"
    build_records(LOG, {}, CONFIG, str(path))
    return path


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


def optimum(vocabulary: Vocabulary) -> Scorer:
    return transition_scorer(LOG.transitions(), vocabulary, LOG.item_ids())


def ranks_of(
    data_dir: pathlib.Path, scorer: Scorer, split: str = "test", max_users: int | None = None, top_k: int = 0
) -> UserRanks:
    return evaluate(make_ranker(scorer, top_k), data_dir, Manifest.load(data_dir), split, max_users)


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


def test_slices_and_catalogue_cover_all_users(data_dir: pathlib.Path) -> None:
    vocabulary, manifest = Vocabulary.load(data_dir), Manifest.load(data_dir)
    ranks = ranks_of(data_dir, popularity_scorer(vocabulary), top_k=10)
    metrics = metrics_json(ranks, {}, manifest, vocabulary, "test")
    for groups in metrics["slices"].values():
        assert sum(group["users"] for group in groups) == LOG.num_users
        mean = sum(group["users"] * group["full"]["mrr"] for group in groups) / LOG.num_users
        assert mean == pytest.approx(metrics["full"]["mrr"])
    assert [group["from"] for group in metrics["slices"]["history_length"]] == [1, 5, 10]
    head, *_, tail = metrics["slices"]["target_popularity"]
    assert head["full"]["ndcg@10"] > 0.2, "popularity ranks only the head well"
    assert tail["full"]["ndcg@10"] == 0
    assert set(metrics["catalogue"]) == {"coverage@10", "novelty@10"}
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


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


def test_the_optimum_beats_popularity_by_far(data_dir: pathlib.Path) -> None:
    vocabulary = Vocabulary.load(data_dir)
    popular = ranking_metrics(ranks_of(data_dir, popularity_scorer(vocabulary)).full)
    best = ranking_metrics(ranks_of(data_dir, optimum(vocabulary)).full)
    assert popular["ndcg@10"] < 0.15
    assert best["ndcg@10"] > 0.5


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


def test_transition_scorer_ignores_unknown_items() -> None:
    vocabulary = Vocabulary(("b", "new", "a"), np.array([3, 2, 1]), (None,) * 3)
    transition_matrix = np.array([[0.0, 0.75, 0.25], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    scorer = transition_scorer(transition_matrix, vocabulary, ["a", "b", "unknown"])
    b, new, a = range(NUM_SPECIAL_IDS, vocabulary.size)
    scores = scorer(tf.constant([[new, a, 0], [a, b, 0], [a, b, new]])).numpy()
    assert np.exp(scores[0, [b, a, new]]) == pytest.approx([0.75, 0, 0])
    assert np.exp(scores[1, [b, a, new]]) == pytest.approx([0, 1, 0])
    assert np.isfinite(scores).all()
    assert np.ptp(scores[2]) == 0


def test_metrics_json_keeps_its_contract(data_dir: pathlib.Path) -> None:
    vocabulary, manifest = Vocabulary.load(data_dir), Manifest.load(data_dir)
    ranks = ranks_of_users([1, 20], [2, 3], [5, 1])
    metrics = metrics_json(ranks, {"baseline": "popularity"}, manifest, vocabulary, "test")
    assert "unseen_users" not in metrics
    assert {"users", "full", "sampled", "model", "data"} <= set(metrics)
    names = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}
    for protocol in ("full", "sampled"):
        counted = {"users", "users_left_out"} if protocol == "sampled" else set()
        assert set(metrics[protocol]) == names | {"ci95"} | counted
        assert set(metrics[protocol]["ci95"]) == names
    assert metrics["users"] == 2
    assert metrics["full"]["hr@10"] == 0.5
    assert metrics["sampled"]["hr@5"] == 1
    assert metrics["model"] == {"baseline": "popularity"}
    assert metrics["data"]["manifest_sha256"] == manifest.sha256()
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_unseen_users_have_metrics_of_their_own(data_dir: pathlib.Path) -> None:
    vocabulary, manifest = Vocabulary.load(data_dir), Manifest.load(data_dir)
    ranks = ranks_of_users([1, 20, 1], [2, 3, 9], [0, 4, 0])
    metrics = metrics_json(ranks, {}, manifest, vocabulary, "test")
    assert metrics["users"] == 3
    assert metrics["unseen_users"]["users"] == 2
    assert metrics["unseen_users"]["full"]["hr@1"] == 1
    assert metrics["unseen_users"]["sampled"]["hr@5"] == 0.5
    one_user = metrics_json(ranks.select(np.array([True, False, False])), {}, manifest, vocabulary, "test")
    assert json.loads(json.dumps(one_user, allow_nan=False))["unseen_users"]["users"] == 1


def test_merged_settings_keep_what_is_not_overridden() -> None:
    assert merge_evaluation_settings({"drop_seen": True}, {}) == {"drop_seen": True}
    assert merge_evaluation_settings({"drop_seen": True}, {"evaluation": {"drop_seen": False}}) == {"drop_seen": False}
    with pytest.raises(InputError, match=r"`evaluation` only. Received: --set=model.… Fix: .* make_tfrecords.py or"):
        merge_evaluation_settings({}, {"model": {"num_layers": 1}})
