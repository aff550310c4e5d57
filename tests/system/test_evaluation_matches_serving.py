"""Evaluation against serving: the metrics of small random logs equal those computed from the export's answers."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config, EvaluationConfig, ModelConfig
from bert4rec_tf.evaluation.evaluate import Ranker, batches_to_rank, evaluate, make_ranker, rank_batches
from bert4rec_tf.evaluation.metrics import NO_RANK, ranking_metrics
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.model.averaged_model import AveragedModel, NextItemModel
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model_dir import load_model, open_model_dir
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.serving.recommender import Recommender
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from tfrecords.config import DataConfig
from tfrecords.manifest import Manifest
from tfrecords.ragged import Ragged
from tfrecords.schema import EVALUATION_USER, encode
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary
from tfrecords.writer import write_shard

NEGATIVES = 3
NAMES = ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]
Log = dict[str, tuple[list[int], int, list[int]]]  # user -> history, target, negatives


@dataclasses.dataclass(frozen=True)
class Served:
    """A model with random weights: its rankers for evaluation, and its signatures for serving."""

    vocabulary: Vocabulary
    max_seq_length: int
    rankers: dict[bool, Ranker]  # by drop_seen
    signatures: dict[str, Callable]

    def names(self, item_ids: list[int]) -> list[str]:
        return [self.vocabulary.item_ids[item - NUM_SPECIAL_IDS] for item in item_ids]


@functools.cache
def served(number: int) -> Served:
    """One of several models: of each kind of attention, with N of 2 to 6 and 5 to 33 items.

    Every third has ties, and every fourth is an average of two.
    """
    generator = np.random.default_rng(number)
    num_items, max_seq_length = int(generator.integers(5, 34)), 2 + number % 5
    item_ids = tuple(f"item {index}" for index in generator.permutation(num_items))
    counts = np.sort(generator.integers(0, 9, num_items))[::-1].copy()
    vocabulary = Vocabulary(item_ids, counts, (None,) * num_items)
    attention = ("bidirectional", "prefix", "causal")[number // 2 % 3]
    config = ModelConfig(hidden_size=8, num_layers=1, initializer_range=1.0, attention=attention, neighbours=number % 2)
    model: NextItemModel = build_model(config, vocabulary.size, max_seq_length, seed=number)
    if number % 3 == 0:  # scores have only four values
        model.item_table.assign(tf.zeros_like(model.item_table))
        model.output_bias.assign(generator.integers(4, size=vocabulary.size).astype(np.float32))
    if number % 4 == 1:
        model = AveragedModel([model, build_model(ModelConfig(hidden_size=4), vocabulary.size, 4, seed=number + 1)])
    recommender = Recommender(model, vocabulary, top_k=num_items)
    rankers = {drop_seen: make_ranker(model.score_next_item, 10, drop_seen) for drop_seen in (True, False)}
    return Served(vocabulary, model.max_seq_length, rankers, recommender.signatures())


def random_log(generator: np.random.Generator, num_items: int, max_seq_length: int, repeats: bool) -> Log:
    """Histories of one item to three windows; with `repeats`, histories of few items, and targets that repeat."""
    log: Log = {}
    items = np.arange(num_items) + NUM_SPECIAL_IDS
    for user in range(generator.integers(1, 9)):
        longest = 3 * max_seq_length if repeats else min(3 * max_seq_length, num_items - 1)
        length = int(generator.integers(1, longest + 1))
        own = generator.permutation(items)
        sequence = generator.choice(own[: 1 + length // 2], length + 1) if repeats else own[: length + 1]
        others = np.setdiff1d(items, sequence)
        negatives = generator.permutation(others)[: generator.integers(NEGATIVES - 1, NEGATIVES + 1)]
        log[f"u{user}"] = (sequence[:-1].tolist(), int(sequence[-1]), negatives.tolist())
    return log


def write_log(directory: pathlib.Path, log: Log, num_items: int) -> Manifest:
    histories, targets, negatives = zip(*log.values(), strict=True)

    def ragged(rows: tuple[list[int], ...]) -> Ragged:
        return Ragged.from_lengths(
            np.concatenate([np.array(row, np.int64) for row in rows]), np.array(list(map(len, rows)))
        )

    columns = {
        "item_ids": ragged(histories),
        "negative_item_ids": ragged(negatives),
        "target_item_id": np.array(targets),
        "times": ragged(tuple(list(range(len(row) + 1)) for row in histories)),
        "trained_items": np.array(list(map(len, histories))),
        "user_id": list(log),
    }
    shard = write_shard(directory, "test/0.tfrecord", encode(EVALUATION_USER, columns))
    config = Config(data=DataConfig(num_negatives=NEGATIVES))
    return Manifest(config, {}, {"items": num_items}, (), "", {"test": (shard,)})


def answers(signatures: dict[str, Callable], histories: list[list[str]], drop_seen: bool, k: int) -> list[list[str]]:
    longest = max(map(len, histories))
    # Padding is allowed anywhere, so it is before one history and after the next one.
    padded = [
        [*([""] * (longest - len(row)) * (index % 2)), *row, *([""] * (longest - len(row)) * (1 - index % 2))]
        for index, row in enumerate(histories)
    ]
    item_ids = tf.constant(padded)
    if drop_seen:
        answer = signatures["serving_default"](item_ids=item_ids)
    else:
        none = tf.constant([], tf.string, [1, 0])
        rules = {"k": tf.constant([k]), "drop_seen": tf.constant([False])}
        answer = signatures["recommend"](item_ids=item_ids, **rules, excluded_item_ids=none, allowed_item_ids=none)
    return answer["item_ids"].numpy().astype(str).tolist()


def metrics_by_hand(ranks: list[int | None]) -> dict[str, float]:
    """Metrics from the rank of each target in its answer, from 1; None if the answer does not hold the target."""
    found = [rank for rank in ranks if rank is not None]
    gains = {f"hr@{k}": [1.0 for rank in found if rank <= k] for k in (1, 5, 10)}
    gains |= {f"ndcg@{k}": [1 / math.log2(1 + rank) for rank in found if rank <= k] for k in (5, 10)}
    gains["mrr"] = [1 / rank for rank in found]
    return {name: sum(values) / len(ranks) for name, values in gains.items()}


def check_users(ranks: UserRanks, log: Log, one: Served, drop_seen: bool) -> None:
    """Compares full ranks with `serving_default` or `recommend`, and sampled ranks with the scores of `rank`."""
    rows = [log[user] for user in ranks.user_ids]
    histories = [one.names(history) for history, _, _ in rows]
    answered = answers(one.signatures, histories, drop_seen, len(one.vocabulary.item_ids))
    answered_ranks: list[int | None] = []
    for (history, target, _), repeat, answer in zip(rows, ranks.repeats, answered, strict=True):
        name = one.names([target])[0]
        answered_ranks.append(answer.index(name) + 1 if name in answer else None)
        assert repeat == (target in history)
        assert (answered_ranks[-1] is None) == (repeat and drop_seen)
    full = ranking_metrics(ranks.full)
    assert {name: full[name] for name in NAMES} == pytest.approx(metrics_by_hand(answered_ranks), rel=1e-12)
    for answer, recommended in zip(answered, ranks.recommended.tolist(), strict=True):
        assert one.names([item for item in recommended if item]) == [name for name in answer if name][:10]
    for row, (history, target, negatives) in enumerate(rows):
        if len(negatives) < NEGATIVES:
            assert ranks.sampled[row] == NO_RANK
            continue
        candidates = [target, *negatives]
        scores = one.signatures["rank"](
            item_ids=tf.constant([one.names(history)]), candidate_item_ids=tf.constant([one.names(candidates)])
        )["scores"].numpy()[0]
        order = sorted(range(len(candidates)), key=lambda index: (-scores[index], candidates[index]))
        if answered_ranks[row] is None:
            assert ranks.sampled[row] == ranks.full[row]
        else:
            assert ranks.sampled[row] == order.index(0) + 1


def check_logs(directory: pathlib.Path, numbers: range, models: int) -> None:
    batches: dict[int, tf.data.Dataset] = {}  # by model: each log replaces the records of the one before it
    repeated = users = 0
    for number in numbers:
        generator, one = np.random.default_rng(number), served(number % models)
        num_items = len(one.vocabulary.item_ids)
        drop_seen, repeats = generator.random() < 0.75, generator.random() < 0.75
        log = random_log(generator, num_items, one.max_seq_length, repeats)
        manifest = write_log(directory, log, num_items)
        if number % models not in batches:
            batches[number % models] = batches_to_rank(directory, manifest, "test", max_items=one.max_seq_length - 1)
        ranks = rank_batches(one.rankers[drop_seen], batches[number % models], manifest)
        assert sorted(ranks.user_ids) == sorted(log)
        check_users(ranks, log, one, drop_seen)
        repeated, users = repeated + int(ranks.repeats.sum()), users + len(log)
    assert 0.2 * users < repeated < 0.8 * users


@pytest.mark.filterwarnings("ignore:Even though")
def test_metrics_equal_those_of_the_exports_answers(tmp_path: pathlib.Path) -> None:
    tf.config.run_functions_eagerly(True)  # faster than tracing graphs for so few logs
    try:
        check_logs(tmp_path, range(8), models=2)
    finally:
        tf.config.run_functions_eagerly(False)


@pytest.mark.slow
def test_metrics_of_a_thousand_logs_equal_those_of_the_exports_answers(tmp_path: pathlib.Path) -> None:
    check_logs(tmp_path, range(1000), models=8)


@pytest.mark.slow
@pytest.mark.parametrize("drop_seen", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_metrics_on_disk_equal_those_of_the_export(tmp_path: pathlib.Path, repeats: bool, drop_seen: bool) -> None:
    """Goes from a log to an export, through records and a model directory as the commands write them."""
    generator = np.random.default_rng(7)
    lines = [
        f"u{user} i{item}\n"
        for user in range(40)
        for item in (generator.integers(25, size=12) if repeats else generator.permutation(25)[:12])
    ]
    (tmp_path / "log.txt").write_text("".join(lines))
    config = Config(
        data=DataConfig(max_seq_length=5, min_user_events=1, num_negatives=NEGATIVES),
        model=ModelConfig(hidden_size=8, num_layers=1, initializer_range=1.0),
        evaluation=EvaluationConfig(drop_seen=drop_seen),
    )
    data_dir, model_dir = tmp_path / "data", tmp_path / "model"
    build_records(LogSource([str(tmp_path / "log.txt")]), {}, config, str(data_dir))
    manifest, vocabulary = Manifest.load(data_dir), Vocabulary.load(data_dir)
    open_model_dir(model_dir, config, manifest, vocabulary)
    model = build_model(config.model, vocabulary.size, 5)
    Checkpoints(model_dir, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)
    trained = load_model(model_dir)
    ranker = make_ranker(trained.model.score_next_item, 10, trained.config.evaluation.drop_seen)
    ranks = evaluate(ranker, data_dir, manifest, "test", max_items=4)
    version = export(str(model_dir), str(tmp_path / "exports"), ExportOptions(top_k=len(vocabulary.item_ids)))
    loaded = tf.saved_model.load(str(version))
    sequences: dict[str, list[str]] = {}
    for line in lines:
        user, item = line.split()
        sequences.setdefault(user, []).append(item)
    histories = [sequences[user][:-1] for user in ranks.user_ids]
    answered_ranks: list[int | None] = []
    for user, answer in zip(
        ranks.user_ids, answers(loaded.signatures, histories, drop_seen, len(vocabulary.item_ids)), strict=True
    ):
        answered_ranks.append(answer.index(sequences[user][-1]) + 1 if sequences[user][-1] in answer else None)
    full = ranking_metrics(ranks.full)
    assert {name: full[name] for name in NAMES} == pytest.approx(metrics_by_hand(answered_ranks), rel=1e-12)
    assert (None in answered_ranks) == (repeats and drop_seen)
