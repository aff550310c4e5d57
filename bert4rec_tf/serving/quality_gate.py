"""Compares the recommendations of a new version with those of the served one, to decide whether to publish it."""

import dataclasses
import math
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.comparison import paired_bootstrap
from bert4rec_tf.evaluation.metrics import MISSED_RANK, ranking_gains
from bert4rec_tf.inputs.user_histories import RawHistories, iterate_raw_histories
from bert4rec_tf.model.event_times import UNKNOWN_TIME
from tfrecords.errors import InputError

_MAX_USERS = 10_000  # the first users of the split, the same for both versions
_BATCH_USERS = 64
_CUTOFF, _METRIC = 10, "ndcg@10"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """NDCG@10 of two versions over the same users; the cutoff is smaller if a version answers fewer than 10 items.

    Attributes:
        users: the number of ranked validation users.
        candidate, served: NDCG of the new version and of the served one.
        difference: candidate - served.
        ci95: the 95% interval of the difference, [low, high], by the paired bootstrap over users.
        served_version: the served version's number.
    """

    users: int
    candidate: float
    served: float
    difference: float
    ci95: list[float]
    served_version: str

    def check(self, max_regression: float) -> None:
        """Refuses a candidate that is worse than allowed, or one without any hit.

        A drop is too large if it exceeds `max_regression` of the served NDCG and is significant: the whole interval of
        the difference is below 0.

        Raises:
            InputError: the candidate is refused.
        """
        if self.candidate == self.served == 0:
            raise InputError(
                "The quality gate cannot tell whether the new model is worse: one of the two needs an NDCG@10 above 0. "
                f"Received: 0.0000 against 0.0000 of version {self.served_version}, over {self.users:,} users of the "
                "validation split. Nothing was published. Fix: name a --data_dir of this log whose validation targets "
                "are not all repeats (those count as missed with evaluation.drop_seen=true), or leave "
                "--max_regression out"
            )
        too_low = self.difference < -max_regression * self.served and self.ci95[1] < 0
        if too_low or self.candidate == 0:
            raise InputError(
                f"New model rejected: {self}. --max_regression={max_regression} allows -{max_regression:.1%}. "
                "Nothing was published. Fix: train a better model, or raise --max_regression"
            )

    def __str__(self) -> str:
        change = self.difference / self.served if self.served else math.inf
        interval = f"95% interval of the difference {self.ci95[0]:+.4f} to {self.ci95[1]:+.4f}"
        return (
            f"NDCG@10 {self.candidate:.4f} against {self.served:.4f} of version {self.served_version} ({change:+.1%}), "
            f"over {self.users:,} users of the validation split ({interval})"
        )


def compare(candidate: pathlib.Path, served: pathlib.Path, data_dir: str, drop_seen: bool = True) -> Comparison:
    """Compares the answers of two versions for the validation users of a data directory.

    The choice of a model must not depend on the test split, so validation users are ranked. Both versions get raw item
    ids, so their vocabularies may differ: a version does not recommend an item that it does not know.

    Args:
        candidate: the new version.
        served: the served version.
        data_dir: the records with the users.
        drop_seen: `evaluation.drop_seen`; if false, items of the history may be recommended.

    Raises:
        InputError: a version lacks the required signature, or there are no validation users.
    """
    loaded = [_load(version, drop_seen) for version in (candidate, served)]
    cutoff = min(_CUTOFF, *(version.top_k for version in loaded))
    ranks: list[list[np.ndarray]] = [[], []]
    for batch in iterate_raw_histories(data_dir, "validation", _BATCH_USERS, _MAX_USERS):
        for version, found in zip(loaded, ranks, strict=True):
            found.append(_ranks(version, batch, cutoff))
    if not ranks[0]:
        raise InputError(
            f"--max_regression needs validation users. Received: {data_dir}, which has none. "
            "Fix: name a --data_dir with a validation split, or leave --max_regression out"
        )
    a, b = ({_METRIC: ranking_gains(np.concatenate(found))[_METRIC]} for found in reversed(ranks))
    row = paired_bootstrap(a, b)[_METRIC]
    return Comparison(len(a[_METRIC]), row["b"], row["a"], row["difference"], row["ci95"], served.name)


@dataclasses.dataclass(frozen=True)
class _Version:
    """A loaded version.

    Attributes:
        answer: histories, string [B, L], and their times, int64 [B, L] -> the best items, string [B, at least K], with
            the comparison's `drop_seen`.
        top_k: K of its `serving_default`.
        model: the loaded object, which must be kept referenced while `answer` is used.
    """

    answer: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    top_k: int
    model: Any


def _ranks(version: _Version, users: RawHistories, cutoff: int) -> np.ndarray:
    answers = version.answer(tf.constant(users.item_ids), tf.constant(users.times)).numpy()[:, :cutoff]
    hits = answers == np.array([[target.encode("utf-8")] for target in users.targets], object)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, MISSED_RANK)


def _load(version: pathlib.Path, drop_seen: bool) -> _Version:
    name = "serving_default" if drop_seen else "recommend"
    try:
        loaded = tf.saved_model.load(str(version))
        if "timestamps" in loaded.signatures["recommend"].structured_input_signature[1]:
            name = "recommend"
        signature = loaded.signatures[name]
        top_k = int(loaded.signatures["serving_default"].structured_outputs["item_ids"].shape[1])
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise InputError(
            f"The served version must answer `{name}` for the comparison. Received: {version} "
            f"({error!r:.200}). Fix: python export.py rollback, or leave --max_regression out"
        ) from None

    inputs = signature.structured_input_signature[1]
    defaults = {
        "k": tf.constant([top_k]),
        "drop_seen": tf.constant([drop_seen]),
        "request_time": tf.constant([UNKNOWN_TIME], tf.int64),
    }
    nothing = tf.constant([], tf.string, [1, 0])

    def answer(item_ids: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        given = defaults | {"item_ids": item_ids, "timestamps": times}
        return signature(**{name: given.get(name, nothing) for name in inputs})["item_ids"]

    return _Version(answer, top_k, loaded)
