"""The clock of a run: calls that stop where something else begins, and stages that share the steps or the time."""

import math
import pathlib

import pytest

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.steps import StepSums
from bert4rec_tf.training.tensorboard import Profiler


class Seconds:
    """A clock that stands still unless it is told to go on."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    made = Seconds()
    monkeypatch.setattr("time.monotonic", made)
    return made


def steps_of(clock: RunClock, progress: Progress, seconds: Seconds, pace: float, most: int = 10_000) -> list[int]:
    """The steps after each call, until the end or so many calls, at so many seconds a step."""
    ends: list[int] = []
    while len(ends) < most and (number := clock.next_steps()):
        seconds.now += number * pace
        progress.step.assign_add(number)
        clock.after_steps(StepSums(number, 1.0, 1.0, 1.0, 0.0, number * pace))
        ends.append(clock.step)
    return ends


@pytest.mark.parametrize(("share", "begins"), [(0.0, None), (0.25, 75), (0.3, 70), (1.0, 0)])
def test_the_last_stage_has_its_share_of_the_steps(seconds: Seconds, share: float, begins: int | None) -> None:
    config, progress = TrainingConfig(num_steps=100, last_item_share=share), Progress(100)
    clock = RunClock(progress, config, 40, 1, None, False)
    ends = steps_of(clock, progress, seconds, pace=0.02)
    assert {40, 80, 100} <= set(ends)
    assert int(progress.last_stage_from.numpy()) == (-1 if begins is None else begins)
    assert not begins or begins in ends, "no call goes past its beginning"


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_the_last_stage_has_its_share_of_the_time(seconds: Seconds, share: float) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000, last_item_share=share), Progress(1_000_000)
    clock = RunClock(progress, config, 1_000, 1, 60.0, False)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(160, abs=0.5)
    assert int(progress.last_stage_from.numpy()) == pytest.approx(600 * (1 - share), abs=5)
    assert clock.step == pytest.approx(600, abs=5)


def test_the_time_of_the_last_validation_is_kept(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000), Progress(1_000_000)
    clock = RunClock(progress, config, 1_000, 1, 60.0, False)
    clock.reserve(20.0)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(140, abs=0.5)


def test_a_trace_is_of_ten_steps_whatever_a_call_holds(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    made: list[str] = []
    monkeypatch.setattr("tensorflow.profiler.experimental.start", lambda _: made.append("start"))
    monkeypatch.setattr("tensorflow.profiler.experimental.stop", lambda: made.append("stop"))
    for calls in ([1, 2, 102, 100, 100], [10, 10, 5, 5, 5]):
        made.clear()
        profiler, after = Profiler(tmp_path), []
        for number in calls:
            profiler.after_steps(StepSums(number, 1.0, 1.0, 1.0, 0.0, 1.0))
            after.append(len(made))
        profiler.close()
        assert made == ["start", "stop"]
        assert after == ([0, 0, 1, 2, 2] if calls[2] == 102 else [0, 1, 1, 2, 2])


def test_the_schedule_follows_the_pace_of_the_last_stage(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000, last_item_share=0.5), Progress(1_000_000)
    clock = RunClock(progress, config, 1_000, 1, 60.0, False)
    while int(progress.last_stage_from.numpy()) < 0:
        steps_of(clock, progress, seconds, pace=0.1, most=1)
        clock.next_steps()
    begun = int(progress.last_stage_from.numpy())
    steps_of(clock, progress, seconds, pace=0.05, most=5)
    assert int(progress.total_steps.numpy()) == pytest.approx(begun + 30 / 0.05, abs=10)
    steps_of(clock, progress, seconds, pace=0.05)
    assert int(progress.total_steps.numpy()) == clock.step + 1


def test_the_compilers_time_is_soon_out_of_the_pace(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000), Progress(1_000_000)
    clock = RunClock(progress, config, 1_000, 1, 200.0, False)
    steps_of(clock, progress, seconds, pace=2.0, most=20)
    assert int(progress.total_steps.numpy()) == pytest.approx(100, abs=1)
    steps_of(clock, progress, seconds, pace=0.1, most=5)
    assert clock.step >= 40
    expected = clock.step + (300 - seconds.now) / 0.1
    assert int(progress.total_steps.numpy()) == pytest.approx(expected, rel=0.01)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(300, abs=0.5)


def test_a_run_that_is_taken_up_stays_in_its_stage(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=100, last_item_share=0.5), Progress(100)
    steps_of(RunClock(progress, config, 40, 1, None, False), progress, seconds, pace=0.1)
    longer = TrainingConfig(num_steps=300, last_item_share=0.5)
    clock = RunClock(progress, longer, 40, 1, math.inf, False)
    assert steps_of(clock, progress, seconds, pace=0.1)[-1] == 300
    assert int(progress.last_stage_from.numpy()) == 50
