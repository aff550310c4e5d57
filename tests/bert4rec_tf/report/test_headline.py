"""The comparison with the popularity baseline and with a second run, at the head of the report."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pytest

from bert4rec_tf.api.runs import evaluate as evaluate_by_name
from bert4rec_tf.evaluation.comparison import compare_runs, read_run
from bert4rec_tf.evaluation.metrics import METRICS
from bert4rec_tf.evaluation.results import write_metrics
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.headline import Rival, rivals
from bert4rec_tf.report.report import write_report
from tests.support.evaluated_models import small_evaluation
from tests.support.html_page import Page
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.errors import InputError


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return small_evaluation(tmp_path_factory.mktemp("headline"))


def check_metrics(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert {name: found[name] for name in METRICS} == pytest.approx({name: expected[name] for name in METRICS})
    for name in METRICS:
        assert found["ci95"][name] == pytest.approx(expected["ci95"][name])


def test_popularity_is_that_of_the_baseline_on_the_same_users(evaluation: Evaluation) -> None:
    (popularity,) = rivals(evaluation)
    expected = evaluate_by_name("popularity", evaluation.data_dir).metrics
    assert popularity.metrics["full"]["ndcg@10"] > 0
    for protocol in ("full", "sampled"):
        check_metrics(popularity.metrics[protocol], expected[protocol])
        for name in ("ndcg@10", "hr@10"):
            row = popularity.comparison[protocol][name]
            assert row["a"] == pytest.approx(expected[protocol][name])
            assert row["b"] == pytest.approx(evaluation.metrics[protocol][name])


@pytest.mark.slow
def test_popularity_follows_the_split_and_rule_of_the_evaluation(tmp_path: pathlib.Path) -> None:
    evaluation = small_evaluation(tmp_path, "validation", drop_seen=False)
    (popularity,) = rivals(evaluation)
    expected = evaluate_by_name("popularity", evaluation.data_dir, split="validation", drop_seen=False).metrics
    check_metrics(popularity.metrics["full"], expected["full"])


def test_a_second_run_has_the_interval_of_a_comparison(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    second = dataclasses.replace(evaluation.ranks, full=np.maximum(1, evaluation.ranks.full // 2))
    files = tmp_path / "second.json", tmp_path / "this.json"
    write_metrics(files[0], evaluation.metrics | second.metrics(), second, evaluation.vocabulary)
    write_metrics(files[1], evaluation.metrics, evaluation.ranks, evaluation.vocabulary)
    beside = dataclasses.replace(evaluation, second_run=read_run(files[0], "compare_with"))
    _, rival = rivals(beside)
    compared = compare_runs(files)
    for protocol in ("full", "sampled"):
        assert rival.comparison[protocol] == compared[protocol]
    write_report(tmp_path / "report.html", beside)
    read = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    row = compared["full"]["ndcg@10"]
    low, high = row["ci95"]
    assert high < 0
    assert f"The model ranks worse than {files[0]}." in read.texts_of("strong")
    assert [
        text
        for text in read.texts_of("p")
        if f"NDCG@10 over all items is {row['b']:.4f}, {row['b'] / row['a']:.2f} times {files[0]}'s {row['a']:.4f} "
        f"(95% interval of the difference [{low:+.4f}, {high:+.4f}])." in text
    ]


def test_a_second_run_of_other_users_is_refused(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    ranks = ranks_of_users([1, 2, 3])
    write_metrics(tmp_path / "a.json", evaluation.metrics | ranks.metrics(), ranks, evaluation.vocabulary)
    beside = dataclasses.replace(evaluation, second_run=read_run(tmp_path / "a.json", "compare_with"))
    with pytest.raises(InputError, match=r"same users. Received: 3 in .*a.json and 80 in this evaluation.*Fix: "):
        write_report(tmp_path / "report.html", beside)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.1, 0.3, "The model ranks better than popularity."),
        (-0.3, -0.1, "The model ranks worse than popularity."),
        (-0.1, 0.3, "The model and popularity do not differ reliably."),
        (0, 0.3, "The model and popularity do not differ reliably."),
    ],
)
def test_the_verdict_follows_the_interval(low: float, high: float, words: str) -> None:
    row = {"a": 0.0181, "b": 0.196, "difference": 0.1779, "ci95": [low, high]}
    assert Rival("popularity", {}, {"full": {"ndcg@10": row}}).verdict() == (
        words,
        "NDCG@10 over all items is 0.1960, 10.8 times popularity's 0.0181 "
        f"(95% interval of the difference [{low:+.4f}, {high:+.4f}]).",
    )


def test_the_verdict_has_no_ratio_to_zero() -> None:
    row = {"a": 0.0, "b": 0.2, "difference": 0.2, "ci95": [0.1, 0.3]}
    _, figures = Rival("popularity", {}, {"full": {"ndcg@10": row}}).verdict()
    assert figures.startswith("NDCG@10 over all items is 0.2000, against popularity's 0.0000 (95% interval")
