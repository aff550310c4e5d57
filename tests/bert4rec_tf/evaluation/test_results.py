"""The content of metrics.json."""

import json
import pathlib

import numpy as np
import pytest

from bert4rec_tf.evaluation.baselines import popularity_scorer
from bert4rec_tf.evaluation.results import metrics_json
from tests.support.evaluated_log import LOG, ranks_of
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


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
