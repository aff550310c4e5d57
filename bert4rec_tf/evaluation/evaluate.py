"""Ranks each user's target by both protocols, over all users."""

import pathlib
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.evaluation.ranking_ops import best_items, full_ranks, sampled_ranks
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.inputs.evaluation_batches import EVALUATION_BATCH, evaluation_batches
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import PAD_ID

# Histories int32 [B, L], padded with PAD_ID -> scores float32 [B, V]. With times it also takes those of the histories,
# int64 [B, L], and those of the targets, int64 [B] or None.
Scorer = Callable[..., tf.Tensor]
# The times that a scorer gets: none; those of the history; also the target's own, which no server knows before it asks.
Times = Literal["none", "history", "target"]
Ranker = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]
_MAX_BATCH_USERS = 256
_MAX_BATCH_SCORES = 1 << 26  # users times items, so a large catalogue gets smaller batches


def make_ranker(scorer: Scorer, top_k: int = 0, drop_seen: bool = True, times: Times = "none") -> Ranker:
    """Builds the graph that ranks a batch of users. Build it once and call it for every batch.

    Args:
        scorer: scores all items after each history.
        top_k: K, the number of best items to compute; with 0, as in training, that step is left out.
        drop_seen: `evaluation.drop_seen`: whether items of the history are left out, as serving leaves them out.
        times: which times the scorer is called with, besides the histories.

    Returns:
        A function from a batch to "finite", bool: whether all scores are; "full" and "sampled", int32 [B], the ranks;
        "repeats", bool [B]; and "recommended", int32 [B, K], the best items.
    """

    @tf.function(input_signature=[dict(EVALUATION_BATCH)], autograph=False)
    def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        seen, targets = batch["seen_item_ids"], batch["target_item_id"]
        with_times = () if times == "none" else (batch["times"], batch["target_time"] if times == "target" else None)
        scores = scorer(batch["item_ids"], *with_times)
        repeats = tf.reduce_any(seen == targets[:, None], axis=1)
        dropped = seen if drop_seen else seen[:, :0]
        missed = repeats & drop_seen
        sampled = sampled_ranks(scores, targets, batch["negative_item_ids"])
        return {
            "finite": tf.reduce_all(tf.math.is_finite(scores)),
            "full": tf.where(missed, MISSED_RANK, full_ranks(scores, dropped, targets)),
            "sampled": tf.where(missed, MISSED_RANK, sampled),
            "repeats": repeats,
            "recommended": best_items(scores, dropped, top_k) if top_k else tf.zeros([tf.size(targets), 0], tf.int32),
        }

    return rank


def evaluate(
    ranker: Ranker,
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    max_users: int | None = None,
    max_items: int | None = None,
) -> UserRanks:
    """Ranks the targets of a split, by the rule of the served model.

    Equal scores rank by the lower id, which is the more popular item. If the ranker drops seen items, a target that is
    in its own history is never recommended: its rank is MISSED_RANK by both protocols. A user with fewer negatives than
    `data.num_negatives` has the sampled rank NO_RANK.

    Args:
        ranker: from `make_ranker`.
        data_dir: the records' directory.
        manifest: the records' manifest.
        split: "validation" or "test".
        max_users: rank only this many users, the first of the files; None: all users.
        max_items: pass only this many items of a history to the scorer, the newest ones; None: all, which takes more
            memory. All items of the history count as seen in either case.

    Raises:
        InputError: a score is not finite.
    """
    return rank_batches(ranker, batches_to_rank(data_dir, manifest, split, max_users, max_items), manifest)


def batches_to_rank(
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    max_users: int | None = None,
    max_items: int | None = None,
) -> tf.data.Dataset:
    """The batches of `evaluate`, as large as the catalogue allows. Built once, they can be ranked many times."""
    users = max(1, min(_MAX_BATCH_USERS, _MAX_BATCH_SCORES // max(1, manifest.counts["items"])))
    return evaluation_batches(data_dir, manifest, split, users, max_users, max_items)


def rank_batches(ranker: Ranker, batches: tf.data.Dataset, manifest: Manifest) -> UserRanks:
    """Ranks the targets of `batches_to_rank`; see `evaluate`."""
    user_ids, columns = [], []
    for batch in batches:
        found = ranker(batch)
        if not found["finite"]:
            raise InputError(
                "Scores must be finite. Received: NaN or infinity from the model. Fix: train it again, "
                "with a smaller training.learning_rate if it diverged"
            )
        user_ids += [user_id.decode("utf-8") for user_id in batch["user_id"].numpy()]
        negatives = tf.math.count_nonzero(batch["negative_item_ids"] != PAD_ID, axis=1)
        sampled = tf.where(negatives < max(1, manifest.config.data.num_negatives), NO_RANK, found["sampled"])
        from_records = (batch[name] for name in ("trained_items", "history_length", "target_item_id"))
        columns_of_batch = (found["full"], sampled, *from_records, found["repeats"], found["recommended"])
        columns.append([values.numpy() for values in columns_of_batch])
    return UserRanks(user_ids, *map(np.concatenate, zip(*columns, strict=True)))


def choose_times(uses_times: bool, takes_request_time: bool, records_have_times: bool, target_time: bool) -> Times:
    """Which times a ranker needs.

    Args:
        uses_times: whether the model does.
        takes_request_time: whether it was trained to use the time of a request.
        records_have_times: whether the records hold the times of events.
        target_time: `evaluation.target_time`.

    Raises:
        InputError: the records have no times, or the model does not take the target's.
    """
    if target_time and not takes_request_time:
        raise InputError(
            "evaluation.target_time=true needs a model that takes the time of a request. Received: one that does not. "
            "Fix: train with model.request_time above 0, or set evaluation.target_time=false"
        )
    if not uses_times:
        return "none"
    if not records_have_times:
        raise InputError(
            "A model with model.time_bias or model.request_time needs records with the times of events. Received: "
            "records of an earlier version, which have none. Fix: rebuild them with pipelines/make_tfrecords.py "
            "--overwrite, or leave these settings out"
        )
    return "target" if target_time else "history"


def merge_evaluation_settings(trained: dict[str, Any], overrides: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The model's own `evaluation` settings with a user's overrides.

    Args:
        trained: the section `evaluation` of the model's configuration; empty for a baseline.
        overrides: what the user set, by section.

    Returns:
        The section `evaluation`.

    Raises:
        InputError: an override of another section.
    """
    other_sections = sorted(overrides.keys() - {"evaluation"})
    if other_sections:
        section = other_sections[0]
        raise InputError(
            f"evaluate.py takes settings of `evaluation` only. Received: --set={section}.… Fix: pass settings of "
            f"`{section}` to make_tfrecords.py or train.py"
        )
    return trained | overrides.get("evaluation", {})
