"""A training run in this process: what it refuses to train on, and how it handles changed records and signals."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.inputs.objectives import RandomPrefixInstances
from bert4rec_tf.inputs.training_batches import training_batches
from bert4rec_tf.training import trainer
from bert4rec_tf.training.steps import BatchesOf, StepSums
from pipelines.sources.synthetic import MarkovLog
from tests.support.short_run import build, train_here
from tfrecords.errors import InputError, Stopped
from tfrecords.manifest import Manifest, VerifiedRecords


def made_up_ranks() -> UserRanks:
    """Ranks of three users, with values in all columns."""
    names = [field.name for field in dataclasses.fields(UserRanks)][1:]
    columns = {name: np.array([1, 2, 3]) for name in names} | {"repeats": np.zeros(3, bool)}
    columns |= {"recommended": np.zeros([3, 0], np.int32)}
    return UserRanks(["a", "b", "c"], **columns)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return build(tmp_path_factory.mktemp("training") / "data")


@pytest.fixture
def data_dir(built: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A copy of the records, for tests that change them."""
    return pathlib.Path(shutil.copytree(built, tmp_path / "data"))


def saved_steps(model_dir: pathlib.Path, folder: str = "latest") -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in (model_dir / "checkpoints" / folder).glob("ckpt-*"))


def weights_of(model_dir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(model_dir / f"checkpoints/latest/ckpt-{step}/state"))
    names = [name for name in reader.get_variable_to_shape_map() if name.startswith(("model/", "optimizer/"))]
    return {name: reader.get_tensor(name) for name in names}


class CheapSteps:
    """Steps that take batches but train nothing; `before` is called with the number of steps made so far."""

    made = 0
    before: Callable[[int], object] = staticmethod(lambda _: None)

    def __init__(self, model: object, strategy: object, batches_of: BatchesOf):
        self._batches = iter(batches_of(0, 1))

    @staticmethod
    def min_steps() -> int:
        return 1

    def __call__(self, number: int) -> StepSums:
        CheapSteps.before(CheapSteps.made)
        for _ in range(number):
            next(self._batches)
        CheapSteps.made += number
        return StepSums(number, 2.0 * number, number, number, 0.0, 0.001 * number)


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Replaces steps and validations by ones that compute nothing."""
    monkeypatch.setattr(CheapSteps, "made", 0)
    monkeypatch.setattr(trainer, "SynchronousSteps", CheapSteps)
    monkeypatch.setattr(trainer, "rank_batches", lambda *_, **__: made_up_ranks())
    monkeypatch.setattr("bert4rec_tf.training.run_clock._CALL_SECONDS", 1e-9)  # a call makes one step
    return monkeypatch


def act_at(step: int, act: Callable[[], object]) -> Callable[[int], object]:
    """For `CheapSteps.before`."""
    return lambda made: act() if made == step else None


def test_windows_of_one_item_among_others_are_counted(
    tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = build(tmp_path / "data", min_events=3, max_events=5)
    train_here(data_dir, tmp_path / "model", model={"attention": "causal"}, training={"num_steps": 1})
    users = MarkovLog.from_description(Manifest.load(data_dir).source).interactions()["user_id"].to_pylist()
    with_three_events = sum(users.count(user) == 3 for user in set(users))
    assert 0 < with_three_events < 30
    assert f"{with_three_events} of these are windows of one item" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "stages"),
    [(1.0, [(0, 0.3)]), (0.5, [(0, 1.0), (0, 0.3)])],
    ids=["one stage", "left to right first"],
)
def test_random_prefixes_have_their_share_of_the_steps(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch, share: float, stages: list
) -> None:
    made: list[tuple[int, float]] = []

    def recorded(*arguments: Any) -> tf.data.Dataset:
        _, instances, *_, first_step, _, _ = arguments
        assert isinstance(instances, RandomPrefixInstances)
        made.append((first_step, instances.causal_rows))
        return training_batches(*arguments)

    cheap.setattr(trainer, "training_batches", recorded)
    training = {"prefix_share": share, "causal_rows": 0.3}
    train_here(data_dir, tmp_path / "model", model={"attention": "prefix"}, training=training)
    assert made == stages


@pytest.mark.parametrize(
    "change",
    ["rebuilt", *(pytest.param(change, marks=pytest.mark.slow) for change in ("removed", "overwritten in place"))],
)
def test_records_that_change_in_training_are_refused(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch, change: str
) -> None:
    def act() -> None:
        if change == "rebuilt":
            build(data_dir, seed=2, overwrite=True)
        elif change == "removed":
            shutil.rmtree(data_dir)
        else:
            shutil.copy(data_dir / "train/00000-of-00002.tfrecord", data_dir / "train/00001-of-00002.tfrecord")

    cheap.setattr(CheapSteps, "before", act_at(3, act))
    with pytest.raises(InputError, match=r"records must not change while they are read\..*the last checkpoint"):
        train_here(data_dir, tmp_path / "model")
    assert CheapSteps.made == 4
    assert saved_steps(tmp_path / "model") == [2], "step 4 may have read other records"


@pytest.mark.slow
def test_rebuilding_equal_records_is_no_change(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch
) -> None:
    cheap.setattr(CheapSteps, "before", act_at(3, lambda: build(data_dir, overwrite=True)))
    train_here(data_dir, tmp_path / "model")
    assert saved_steps(tmp_path / "model") == [4, 6]


def test_records_that_change_during_a_validation_are_refused(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch
) -> None:
    cheap.setattr(trainer, "rank_batches", lambda *_, **__: build(data_dir, seed=2, overwrite=True))
    with pytest.raises(InputError, match="records must not change"):
        train_here(data_dir, tmp_path / "model")
    assert not saved_steps(tmp_path / "model")
    assert not (tmp_path / "model/history.jsonl").exists()


@pytest.mark.slow
def test_a_run_resumes_exactly_after_its_records_are_restored(
    built: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_here(built, tmp_path / "uninterrupted")
    checked = VerifiedRecords.check
    with monkeypatch.context() as while_training:
        calls = []

        def rebuild_late(self: VerifiedRecords) -> None:
            calls.append(1)
            if len(calls) == 6:
                build(data_dir, seed=2, overwrite=True)
            checked(self)

        while_training.setattr(VerifiedRecords, "check", rebuild_late)
        with pytest.raises(InputError, match="records must not change"):
            train_here(data_dir, tmp_path / "model")
    assert saved_steps(tmp_path / "model") == [2]
    with pytest.raises(InputError, match="was trained on other records"):
        train_here(data_dir, tmp_path / "model")
    build(data_dir, overwrite=True)
    train_here(data_dir, tmp_path / "model")
    received, expected = weights_of(tmp_path / "model", 6), weights_of(tmp_path / "uninterrupted", 6)
    assert received.keys() == expected.keys()
    assert all(np.array_equal(received[name], value) for name, value in expected.items())


def stop_in_validation(cheap: pytest.MonkeyPatch, step: int) -> None:
    """Sends SIGTERM while the validation after `step` ranks its second batch."""
    ranked: list[int] = []

    def rank_batches(ranker: Callable[[dict], object], *_: object, **__: object) -> UserRanks:
        for batch in range(3):
            ranked.append(batch)
            if CheapSteps.made == step and batch == 1 and ranked.count(1) <= step:
                os.kill(os.getpid(), signal.SIGTERM)
            ranker({})
        return made_up_ranks()

    cheap.setattr(trainer, "make_ranker", lambda *_, **__: lambda _: {})
    cheap.setattr(trainer, "rank_batches", rank_batches)


def history_of(model_dir: pathlib.Path) -> list[tuple[int, Any]]:
    lines = (model_dir / "history.jsonl").read_text().splitlines() if (model_dir / "history.jsonl").exists() else []
    return [(entry["step"], entry["validation"]) for entry in map(json.loads, lines)]


@pytest.mark.parametrize("step", [2, pytest.param(6, marks=pytest.mark.slow)], ids=["epoch", "last"])
def test_a_signal_interrupts_a_validation_and_the_next_call_repeats_it(
    built: pathlib.Path,
    tmp_path: pathlib.Path,
    cheap: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: int,
) -> None:
    with cheap.context() as stopping:
        stop_in_validation(stopping, step)
        with pytest.raises(Stopped, match="stopped by SIGTERM and saved"):
            train_here(built, tmp_path / "model")
    assert saved_steps(tmp_path / "model")[-1] == step
    assert [at for at, _ in history_of(tmp_path / "model")] == list(range(2, step, 2))
    CheapSteps.made = 0
    train_here(built, tmp_path / "model")
    assert CheapSteps.made == 6 - step
    assert [at for at, _ in history_of(tmp_path / "model")] == [2, 4, 6]
    printed = capsys.readouterr()
    assert f"resuming {tmp_path / 'model'} from step {step}" in printed.out
    assert f"step {step}: loss not measured" in printed.err, "the steps before it were made by another call"
    assert saved_steps(tmp_path / "model", "best") == [2]
    train_here(built, tmp_path / "model")
    assert "is trained already" in capsys.readouterr().out


@pytest.mark.slow
def test_a_validation_without_its_checkpoint_is_repeated(
    built: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch
) -> None:
    with cheap.context() as stopping:
        stop_in_validation(stopping, 2)
        with pytest.raises(Stopped):
            train_here(built, tmp_path / "model")
    with cheap.context() as killed:
        killed.setattr(Checkpoints, "save", raise_interrupt)  # after the line in history.jsonl
        with pytest.raises(KeyboardInterrupt):
            train_here(built, tmp_path / "model")
    assert [at for at, _ in history_of(tmp_path / "model")] == [2]
    train_here(built, tmp_path / "model")
    assert [at for at, _ in history_of(tmp_path / "model")] == [2, 4, 6]
    assert saved_steps(tmp_path / "model", "best") == [2], "the validation of step 2 counted"


def raise_interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_stopped_in_validations_ends_with_the_weights_of_an_uninterrupted_one(
    built: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = {"early_stopping_epochs": 3, "checkpoint_minutes": 1e-6}
    train_here(built, tmp_path / "uninterrupted", training=early)
    rank_batches = trainer.rank_batches
    for _ in range(3):
        with monkeypatch.context() as stopping:

            def stopped(*arguments: Any, **named: Any) -> UserRanks:
                os.kill(os.getpid(), signal.SIGTERM)
                return rank_batches(*arguments, **named)

            stopping.setattr(trainer, "rank_batches", stopped)
            with pytest.raises(Stopped):
                train_here(built, tmp_path / "model", training=early)
    train_here(built, tmp_path / "model", training=early)
    received, expected = weights_of(tmp_path / "model", 6), weights_of(tmp_path / "uninterrupted", 6)
    assert received.keys() == expected.keys()
    assert all(np.array_equal(received[name], value) for name, value in expected.items())
    assert history_of(tmp_path / "model") == history_of(tmp_path / "uninterrupted")
    assert saved_steps(tmp_path / "model", "best") == saved_steps(tmp_path / "uninterrupted", "best")


def test_a_full_disk_under_tensorboard_is_named(
    built: pathlib.Path, tmp_path: pathlib.Path, cheap: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{{{{x}}}} {tmp_path}/events.1; No space left on device\n\tF"
        )

    cheap.setattr(tf.summary, "scalar", fail)
    with pytest.raises(InputError, match=rf"^No space left on device: {tmp_path}/events\.1\. Fix: free space"):
        train_here(built, tmp_path / "model")
