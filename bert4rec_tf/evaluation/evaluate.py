"""Ranks each user's target by both protocols, over all users."""

import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.evaluation.ranking_ops import best_items, full_ranks, sampled_ranks
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.inputs.evaluation_batches import EVALUATION_BATCH, evaluation_batches
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import PAD_ID

Scorer = Callable[[tf.Tensor], tf.Tensor]  # histories int32 [B, L], padded with PAD_ID -> scores float32 [B, V]
Ranker = Callable[[dict[str, tf.Tensor]], dict[str, tf.Tensor]]
_BATCH_USERS = 256
_BATCH_SCORES = 1 << 26  # of a batch: fewer users where there are many items


def make_ranker(scorer: Scorer, top_k: int = 0, drop_seen: bool = True) -> Ranker:
    """The graph that ranks a batch of users; made once, called often.

    Args:
        scorer: of the histories.
        top_k: K, how many of the best items are computed; 0, as in training, costs nothing.
        drop_seen: `evaluation.drop_seen`: whether items of the history are left out, as serving leaves them out.

    Returns:
        From a batch: "finite", bool; "full" and "sampled", the ranks, int32 [B]; "repeats", bool [B]; and
        "recommended", the best items, int32 [B, K].
    """

    @tf.function(input_signature=[dict(EVALUATION_BATCH)])
    def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        scores, seen, targets = scorer(batch["item_ids"]), batch["seen_item_ids"], batch["target_item_id"]
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

    Equal scores rank by the lower id, which is the more popular item. With `drop_seen` of the ranker, a target that
    stands in its own history is never recommended: it has the rank MISSED_RANK by both protocols. Users with fewer
    negatives than `data.num_negatives` get no sampled rank, NO_RANK.

    Args:
        ranker: from `make_ranker`.
        data_dir: of `manifest`.
        manifest: of the records.
        split: "validation" or "test".
        max_users: the first so many users; None: all.
        max_items: how many items of a history, the newest ones, the scorer of `ranker` reads; None: all, whose batches
            take more memory. Seen items are those of the whole history in either case.

    Raises:
        InputError: a score is not finite.
    """
    user_ids, columns = [], []
    users = max(1, min(_BATCH_USERS, _BATCH_SCORES // max(1, manifest.counts["items"])))
    for batch in evaluation_batches(data_dir, manifest, split, users, max_users, max_items):
        found = ranker(batch)
        if not found["finite"]:
            raise InputError(
                "Scores must be finite. Received: NaN or infinity from the model. Fix: train it again, "
                "with a smaller training.learning_rate if it diverged"
            )
        user_ids += [user_id.decode("utf-8") for user_id in batch["user_id"].numpy()]
        negatives = tf.math.count_nonzero(batch["negative_item_ids"] != PAD_ID, axis=1)
        sampled = tf.where(negatives < max(1, manifest.config.data.num_negatives), NO_RANK, found["sampled"])
        known = (batch[name] for name in ("trained_items", "history_length", "target_item_id"))
        row = (found["full"], sampled, *known, found["repeats"], found["recommended"])
        columns.append([values.numpy() for values in row])
    return UserRanks(user_ids, *map(np.concatenate, zip(*columns, strict=True)))
