"""The synthetic log follows the probabilities that it states."""

import dataclasses
import json
from itertools import pairwise

import numpy as np
import pytest

from pipelines.sources.synthetic import MarkovLog
from tfrecords.errors import InputError

LOG = MarkovLog(num_users=200, num_items=60, num_themes=6, min_events=3, max_events=60)


def histories_of(log: MarkovLog) -> list[list[int]]:
    table = log.interactions()
    index_of = {item_id: index for index, item_id in enumerate(log.item_ids())}
    histories: dict[str, list[int]] = {}
    for user, item in zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True):
        histories.setdefault(user, []).append(index_of[item])
    return list(histories.values())


@pytest.mark.parametrize("log", [LOG, dataclasses.replace(LOG, noise=0.3), dataclasses.replace(LOG, num_themes=60)])
def test_rows_of_transitions_are_distributions(log: MarkovLog) -> None:
    transitions = log.transitions()
    assert transitions.shape == (60, 60)
    assert (transitions >= 0).all()
    np.testing.assert_allclose(transitions.sum(axis=1), 1)
    np.testing.assert_allclose(log.popularity().sum(), 1)


def test_histories_have_distinct_items_and_lengths_within_bounds() -> None:
    histories = histories_of(LOG)
    assert len(histories) == LOG.num_users
    for history in histories:
        assert len(set(history)) == len(history)
        assert LOG.min_events <= len(history) <= LOG.max_events
    assert len({len(history) for history in histories}) > 20


def test_events_of_a_user_are_in_time_order() -> None:
    table = LOG.interactions()
    rows = list(zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True))
    assert rows == sorted(set(rows))


def test_the_log_is_a_function_of_the_seed() -> None:
    assert LOG.interactions().equals(MarkovLog(**dataclasses.asdict(LOG)).interactions())
    assert not LOG.interactions().equals(dataclasses.replace(LOG, seed=2).interactions())


def test_next_items_follow_the_stated_probabilities() -> None:
    log = MarkovLog(num_users=3000, num_items=100, num_themes=5, min_events=4, max_events=4)
    transitions = log.transitions()
    ranked = np.argsort(-transitions, axis=1)
    for rank in range(3):
        expected, variance, hits = 0.0, 0.0, 0
        for history in histories_of(log):
            for seen, (last, item) in enumerate(pairwise(history), start=1):
                guess = ranked[last, rank]
                unseen = 1 - transitions[last, history[:seen]].sum()
                chance = 0 if guess in history[:seen] else transitions[last, guess] / unseen
                expected, variance, hits = expected + chance, variance + chance * (1 - chance), hits + (guess == item)
        assert abs(hits - expected) < 5 * np.sqrt(variance)
        assert hits / (3 * log.num_users) == pytest.approx(log.successors[rank], abs=0.05)


@pytest.mark.parametrize("successors", [(0.0,), ()])
def test_full_noise_is_popularity(successors: tuple[float, ...]) -> None:
    log = dataclasses.replace(LOG, noise=1.0, successors=successors)
    np.testing.assert_allclose(log.transitions(), np.tile(log.popularity(), (log.num_items, 1)))


def test_from_text_reads_every_parameter() -> None:
    text = "num_users=5,num_items=8,num_themes=2,min_events=1,max_events=3,successors=0.5+0.25,noise=0.1"
    assert MarkovLog.from_text(text, seed=9) == MarkovLog(5, 8, 2, 1, 3, (0.5, 0.25), 0.1, seed=9)
    assert MarkovLog.from_text("", seed=9) == MarkovLog(seed=9)


@pytest.mark.parametrize(
    "text",
    [
        "users=5", "num_users", "num_users=x", "num_users=1.5", "num_users=0", "min_events=0", "max_events=7",
        "max_events=301", "num_themes=7", "num_themes=0", "noise=-0.1", "noise=1", "noise=nan", "successors=",
        "successors=0.9+0.2", "successors=-0.1", "successors=nan", "seed=-1",
    ],
)  # fmt: skip
def test_from_text_refuses_impossible_parameters(text: str) -> None:
    with pytest.raises(InputError, match=text.split("=")[0]):
        MarkovLog.from_text(text, seed=1)


def test_a_log_survives_its_description() -> None:
    assert MarkovLog.from_description(json.loads(json.dumps(LOG.description()))) == LOG


def test_the_description_of_another_log_is_refused() -> None:
    with pytest.raises(InputError, match="csv"):
        MarkovLog.from_description({"format": "csv", "inputs": []})
