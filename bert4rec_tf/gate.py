"""How well exported versions recommend: what decides whether a new one may take the place of the one that is served."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.errors import InputError
from bert4rec_tf.metrics import ranking_metrics
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, Vocabulary
from tfrecords.manifest import Manifest, verify
from tfrecords.reader import evaluation_batches

_USERS = 10_000  # at the most: the first ones of the split, the same for both versions
_BATCH_USERS = 64
_CUTOFF = 10


@dataclasses.dataclass(frozen=True)
class Comparison:
    """NDCG@10 of two versions over the same users, or of the smaller K of their answers, where that is below 10.

    Attributes:
        users: how many were asked.
        candidate, served: of the new version and of the one that is served.
        served_version: the latter's number.
    """

    users: int
    candidate: float
    served: float
    served_version: str

    @property
    def regression(self) -> float:
        """The share of the served version's NDCG that the candidate lacks; negative where it is better."""
        return 1 - self.candidate / self.served if self.served else 0.0


def compare(candidate: pathlib.Path, served: pathlib.Path, data_dir: str) -> Comparison:
    """Asks two versions for the test items of a data directory's users.

    Both are asked by raw item ids, so they may be of different vocabularies: a version does not recommend an item that
    it does not know.

    Raises:
        InputError: the served version cannot be asked, or no records to ask with.
    """
    loaded = [_signature(version) for version in (candidate, served)]
    cutoff = min(_CUTOFF, *(int(signature.structured_outputs["item_ids"].shape[1]) for signature, _ in loaded))
    ranks: list[list[np.ndarray]] = [[], []]
    for rows, targets in histories_of(data_dir, "test", _BATCH_USERS, _USERS):
        for (signature, _), found in zip(loaded, ranks, strict=True):
            found.append(_ranks(signature, rows, targets, cutoff))
    ndcg = [ranking_metrics(np.concatenate(found))["ndcg@10"] for found in ranks]
    return Comparison(sum(map(len, ranks[0])), ndcg[0], ndcg[1], served.name)


def histories_of(
    data_dir: str, split: str, batch_users: int, max_users: int
) -> Iterator[tuple[list[list[str]], list[str]]]:
    """Histories and targets of a split's users, as raw ids, the histories padded with "".

    Raises:
        InputError: damaged records, or none of this split.
    """
    manifest = Manifest.load(data_dir)
    verify(data_dir, manifest)
    names = [""] * NUM_SPECIAL_IDS + list(Vocabulary.load(data_dir).item_ids)
    for batch in evaluation_batches(data_dir, manifest, split, batch_users, max_users):
        rows = [[names[item] for item in row] for row in batch["item_ids"].numpy()]
        yield rows, [names[item] for item in batch["target_item_id"].numpy()]


def _ranks(ask: Callable, rows: list[list[str]], targets: list[str], cutoff: int) -> np.ndarray:
    answers = ask(item_ids=tf.constant(rows))["item_ids"].numpy()[:, :cutoff]
    hits = answers == np.array([[target.encode("utf-8")] for target in targets], object)
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, _CUTOFF + 1)


def _signature(version: pathlib.Path) -> tuple[Any, Any]:
    """`serving_default`, and the model that it is of, as long as which it lives."""
    try:
        loaded = tf.saved_model.load(str(version))
        signature = loaded.signatures["serving_default"]
    except (OSError, ValueError, KeyError, tf.errors.OpError) as error:
        raise InputError(
            f"The served version must answer `serving_default`, to be compared with. Received: {version} "
            f"({error!r:.200}). Fix: python export.py rollback, or leave --max_regression out"
        ) from None
    return signature, loaded
