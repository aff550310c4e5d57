"""Ranks each user's target by both protocols, over all users."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.catalogue import catalogue_metrics
from bert4rec_tf.inputs.evaluation_batches import EVALUATION_BATCH, evaluation_batches
from bert4rec_tf.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.ranking import best_items, full_ranks, sampled_ranks
from bert4rec_tf.slices import slices
from bert4rec_tf.user_ranks import Ranks
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

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
) -> Ranks:
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
    return Ranks(user_ids, *map(np.concatenate, zip(*columns, strict=True)))


def popularity_scorer(vocabulary: Vocabulary) -> Scorer:
    """POP of the paper: every user gets the items by falling training count."""
    log_popularity = tf.constant(vocabulary.log_popularity())
    return lambda histories: tf.tile(log_popularity[None, :], [tf.shape(histories)[0], 1])


def last_item_scorer(law: np.ndarray, vocabulary: Vocabulary, item_ids: Iterable[str]) -> Scorer:
    """Scores by the known law of the item after the last one.

    Args:
        law: float [items, items], row i that of the item after item i.
        vocabulary: of the records.
        item_ids: the raw id of each row and column.
    """
    ids = np.array(vocabulary.ids_of(list(item_ids)))
    known = ids >= NUM_SPECIAL_IDS
    scores = np.full([vocabulary.size, vocabulary.size], np.log(1e-30), np.float32)
    scores[np.ix_(ids[known], ids[known])] = np.log(np.maximum(law[np.ix_(known, known)], 1e-30))
    table = tf.constant(scores)

    def score(histories: tf.Tensor) -> tf.Tensor:
        lengths = tf.reduce_sum(tf.cast(histories != PAD_ID, tf.int32), axis=1)
        return tf.gather(table, tf.gather(histories, lengths - 1, batch_dims=1))

    return score


def metrics_json(
    ranks: Ranks,
    model: dict[str, Any],
    manifest: Manifest,
    vocabulary: Vocabulary,
    split: str,
    drop_seen: bool = True,
) -> dict[str, Any]:
    """The content of metrics.json.

    `repeats` counts the users whose target stands in their own history, and `drop_seen` tells how they were ranked.
    `unseen_users`, those of whom nothing was trained on, are there where there are any, and `catalogue` where the best
    items were asked for.
    """
    unseen = ranks.of(ranks.trained_items == 0)
    return {
        "split": split,
        "drop_seen": drop_seen,
        **ranks.metrics(),
        "repeats": {"users": int(ranks.repeats.sum()), "share": float(ranks.repeats.mean())},
        **({"unseen_users": unseen.metrics()} if unseen.user_ids else {}),
        "slices": slices(ranks, vocabulary.counts),
        **({"catalogue": catalogue_metrics(ranks.recommended, vocabulary)} if ranks.recommended.shape[1] else {}),
        "model": model,
        "data": {"manifest_sha256": manifest.sha256(), "source": manifest.source, "counts": manifest.counts},
    }
