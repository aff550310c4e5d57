"""What times teach: logs in which the next item depends on the time between events, or on the time of the request."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.api.evaluation_records import EvaluationRecords
from bert4rec_tf.api.runs import evaluate
from bert4rec_tf.config import Config, EvaluationConfig
from bert4rec_tf.training.trainer import train
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from tests.support.command_line import run
from tfrecords.errors import InputError

ITEMS, USERS, EVENTS = 24, 400, 12
MINUTE, DAYS = 60, 10 * 86_400
SETTINGS = {
    "data": {"max_seq_length": 12, "num_shards": 2, "num_negatives": 5},
    "masking": {"duplicate_factor": 0, "last_item_instances": 1},
    "model": {
        "attention": "prefix",
        "hidden_size": 32,
        "num_layers": 1,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layer_norm": "pre",
        "relative_distances": 3,
        "positions": "none",
        "dense_initializer": "glorot",
        "head_projection": False,
        "time_dropout": 0.2,
    },
    "training": {
        "num_steps": 500,
        "batch_size": 64,
        "num_length_buckets": 1,
        "learning_rate": 0.01,
        "warmup_steps": 20,
        "steps_per_epoch": 500,
        "jit_compile": False,
    },
    "evaluation": {"drop_seen": False},
}


def write_log(path: pathlib.Path, rule: str) -> None:
    """After a minute the next item is the one after the last. After days it is another one.

    Args:
        path: of the log.
        rule: "between": the time between the last two events counts, and after days the next item follows the one
            before the last. "request": the time from the last event to the next one counts.
    """
    draw = np.random.default_rng(1)
    rows = ["user_id,item_id,timestamp"]
    for user in range(USERS):
        items, time, gap = [int(item) for item in draw.integers(ITEMS, size=2)], 1_700_000_000, MINUTE
        times = [time, time + gap]
        while len(items) < EVENTS:
            next_gap = int(draw.choice([MINUTE, DAYS]))
            if rule == "between":
                item = items[-1] + 1 if gap == MINUTE else items[-2] + 7
            else:
                item = items[-1] + (1 if next_gap == MINUTE else 7)
            gap = next_gap
            items.append(item % ITEMS)
            times.append(times[-1] + gap)
        rows += [f"user-{user},{item},{time}" for item, time in zip(items, times, strict=True)]
    path.write_text("\n".join(rows) + "\n")


@pytest.fixture(scope="module", params=["between", pytest.param("request", marks=pytest.mark.slow)])
def rule(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(rule: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp(rule)
    write_log(path / "log.csv", rule)
    source = LogSource([str(path / "log.csv")], timestamp_unit="s")
    build_records(source, {}, Config.from_dict(SETTINGS), str(path / "data"))
    return path


def best_is_right(folder: pathlib.Path, name: str, target_time: bool, **model: object) -> float:
    """HR@1 over all items, of a model that was trained with further settings."""
    settings = SETTINGS | {"model": SETTINGS["model"] | model}
    trained = train(str(folder / "data"), str(folder / name), settings, tf.distribute.get_strategy())
    records = EvaluationRecords.open(folder / "data", "")
    rules = EvaluationConfig(drop_seen=False, target_time=target_time)
    _, metrics = records.evaluate(trained, "test", rules)
    assert metrics["target_time"] == target_time
    return metrics["full"]["hr@1"]


@pytest.mark.slow
def test_times_teach_what_the_order_cannot(folder: pathlib.Path, rule: str) -> None:
    times = {"time_bias": True} if rule == "between" else {"request_time": 0.7}
    assert best_is_right(folder, "with times", target_time=rule == "request", **times) > 0.95
    assert best_is_right(folder, "by order", target_time=False) < 0.65, "half is chance"


def test_times_need_records_with_times_and_a_model_that_takes_them(folder: pathlib.Path) -> None:
    short = SETTINGS | {"training": SETTINGS["training"] | {"num_steps": 2, "steps_per_epoch": 2}}
    with pytest.raises(InputError, match=r"evaluation.target_time=true needs a model that takes the time of a request"):
        train(
            str(folder / "data"),
            str(folder / "refused"),
            short | {"evaluation": {"target_time": True}},
            tf.distribute.get_strategy(),
        )
    assert not (folder / "refused").exists()
    trained = train(str(folder / "data"), str(folder / "short"), short, tf.distribute.get_strategy())
    with pytest.raises(InputError, match=r"target_time=true needs a model"):
        evaluate(trained, folder / "data", target_time=True)
    records = EvaluationRecords.open(folder / "data", "")
    for system in (trained, "popularity"):
        with pytest.raises(InputError, match=r"target_time=true needs a model.*Fix: train with model.request_time"):
            records.evaluate(system, "test", EvaluationConfig(target_time=True))
    manifest = folder / "data" / "manifest.json"
    content = manifest.read_text()
    try:
        manifest.write_text(content.replace('"schema_version": 3', '"schema_version": 2'))
        answer = run(
            "train.py",
            f"--data_dir={folder / 'data'}",
            f"--model_dir={folder / 'earlier'}",
            "--set=model.time_bias=true",
            code=2,
        )
        assert "needs records with the times of events" in answer
        assert "--overwrite" in answer
    finally:
        manifest.write_text(content)
