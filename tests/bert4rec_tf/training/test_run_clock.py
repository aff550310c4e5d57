"""The run clock: calls end at validations and stages, and each stage gets its share of the steps or of the time."""

import math

import pytest

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.config import TrainingConfig
from bert4rec_tf.training.run_clock import RunClock
from bert4rec_tf.training.steps import StepSums


class Seconds:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    made = Seconds()
    monkeypatch.setattr("time.monotonic", made)
    return made


def steps_of(clock: RunClock, progress: Progress, seconds: Seconds, pace: float, max_calls: int = 10_000) -> list[int]:
    """Runs up to `max_calls` calls, at `pace` seconds per step; gives the step after each call."""
    ends: list[int] = []
    while len(ends) < max_calls and (number := clock.next_steps()):
        seconds.now += number * pace
        progress.step.assign_add(number)
        clock.after_steps(StepSums(number, 1.0, 1.0, 1.0, 0.0, number * pace))
        ends.append(clock.step)
    return ends


@pytest.mark.parametrize(("share", "begins"), [(0.0, None), (0.25, 75), (0.3, 70), (1.0, 0)])
def test_the_last_stage_has_its_share_of_the_steps(seconds: Seconds, share: float, begins: int | None) -> None:
    config, progress = TrainingConfig(num_steps=100, last_item_share=share), Progress(100)
    clock = RunClock(progress, config.num_steps, config.last_item_share, 40, 1, None, False)
    ends = steps_of(clock, progress, seconds, pace=0.02)
    assert {40, 80, 100} <= set(ends)
    assert int(progress.last_stage_from.numpy()) == (-1 if begins is None else begins)
    assert not begins or begins in ends, "a call ends where the last stage begins"


@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_the_last_stage_has_its_share_of_the_time(seconds: Seconds, share: float) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000, last_item_share=share), Progress(1_000_000)
    clock = RunClock(progress, config.num_steps, config.last_item_share, 1_000, 1, 60.0, False)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(160, abs=0.5)
    assert int(progress.last_stage_from.numpy()) == pytest.approx(600 * (1 - share), abs=5)
    assert clock.step == pytest.approx(600, abs=5)


def test_time_is_reserved_for_the_last_validation(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000), Progress(1_000_000)
    clock = RunClock(progress, config.num_steps, config.last_item_share, 1_000, 1, 60.0, False)
    clock.reserve(20.0)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(140, abs=0.5)


def test_the_schedule_follows_the_pace_of_the_last_stage(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000, last_item_share=0.5), Progress(1_000_000)
    clock = RunClock(progress, config.num_steps, config.last_item_share, 1_000, 1, 60.0, False)
    while int(progress.last_stage_from.numpy()) < 0:
        steps_of(clock, progress, seconds, pace=0.1, max_calls=1)
        clock.next_steps()
    begun = int(progress.last_stage_from.numpy())
    steps_of(clock, progress, seconds, pace=0.05, max_calls=5)
    assert int(progress.total_steps.numpy()) == pytest.approx(begun + 30 / 0.05, abs=10)
    steps_of(clock, progress, seconds, pace=0.05)
    assert int(progress.total_steps.numpy()) == clock.step + 1


def test_compilation_time_soon_leaves_the_pace(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=1_000_000), Progress(1_000_000)
    clock = RunClock(progress, config.num_steps, config.last_item_share, 1_000, 1, 200.0, False)
    steps_of(clock, progress, seconds, pace=2.0, max_calls=20)
    assert int(progress.total_steps.numpy()) == pytest.approx(100, abs=1)
    steps_of(clock, progress, seconds, pace=0.1, max_calls=5)
    assert clock.step >= 40
    expected = clock.step + (300 - seconds.now) / 0.1
    assert int(progress.total_steps.numpy()) == pytest.approx(expected, rel=0.01)
    steps_of(clock, progress, seconds, pace=0.1)
    assert seconds.now == pytest.approx(300, abs=0.5)


def test_a_resumed_run_stays_in_its_stage(seconds: Seconds) -> None:
    config, progress = TrainingConfig(num_steps=100, last_item_share=0.5), Progress(100)
    steps_of(
        RunClock(progress, config.num_steps, config.last_item_share, 40, 1, None, False), progress, seconds, pace=0.1
    )
    longer = TrainingConfig(num_steps=300, last_item_share=0.5)
    clock = RunClock(progress, longer.num_steps, longer.last_item_share, 40, 1, math.inf, False)
    assert steps_of(clock, progress, seconds, pace=0.1)[-1] == 300
    assert int(progress.last_stage_from.numpy()) == 50
