"""The model as it is served: a history of item ids in, the top k other items out."""

import json
import pathlib
import shutil
import time

import tensorflow as tf

from bert4rec_tf.errors import InputError
from bert4rec_tf.model import Bert4Rec
from bert4rec_tf.model_dir import load_model
from bert4rec_tf.ranking import items_in
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, PAD_ID, UNK_ID, VOCABULARY_FILE, Vocabulary


class Recommender(tf.Module):
    """What a SavedModel holds: the tables, the model, and one signature.

    Args:
        model: built, with its weights.
        vocabulary: of the model.
        top_k: K; at most the number of items is returned, the rest is filled up.
    """

    def __init__(self, model: Bert4Rec, vocabulary: Vocabulary, top_k: int):
        super().__init__(name="recommender")
        self.model = model
        self.top_k = top_k
        ids = tf.range(NUM_SPECIAL_IDS, vocabulary.size, dtype=tf.int32)
        # The raw ids stand in the graph once, as a constant: no asset file is looked up at serving, and ids may hold
        # tabs and line ends.
        self._raw_ids = tf.constant(list(vocabulary.item_ids))
        self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(self._raw_ids, ids), UNK_ID)
        self._log_popularity = tf.constant(vocabulary.log_popularity())

    @tf.function(input_signature=[tf.TensorSpec([None, None], tf.string, name="item_ids")])
    def recommend(self, item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """The `serving_default` signature: the K best items that are not in the history.

        Args:
            item_ids: string [B, L], any B and L, newest last; "" is padding, anywhere. Ids that the model does not know
                are passed over. Of the others the last N - 1 count as context, and all as seen. A history without a
                known item gets the most popular items.

        Returns:
            item_ids: string [B, K], best first, never one of the history, never one twice; "" where fewer are left.
            scores: float32 [B, K], logits (log popularity for a history without a known item); -inf beside "".
        """
        histories = tf.where(item_ids == "", PAD_ID, self._table.lookup(item_ids))
        known = tf.reduce_any(histories >= NUM_SPECIAL_IDS, axis=1, keepdims=True)
        scores = tf.where(known, self.model.score_next_item(histories), self._log_popularity)
        scores = self._without_specials_and_seen(scores, histories)
        top_scores, top = tf.math.top_k(scores, k=min(self.top_k, len(self._raw_ids)))
        top_ids = tf.gather(tf.concat([[""] * NUM_SPECIAL_IDS, self._raw_ids], axis=0), top)
        top_ids = tf.where(tf.math.is_finite(top_scores), top_ids, "")
        missing = [[0, 0], [0, self.top_k - tf.shape(top)[1]]]
        return {
            "item_ids": tf.pad(top_ids, missing, constant_values=""),
            "scores": tf.pad(top_scores, missing, constant_values=float("-inf")),
        }

    def _without_specials_and_seen(self, scores: tf.Tensor, histories: tf.Tensor) -> tf.Tensor:
        special = tf.range(self.model.vocabulary_size) < NUM_SPECIAL_IDS
        dropped = items_in(histories, self.model.vocabulary_size) | special
        return tf.where(dropped, float("-inf"), scores)


def export(model_dir: str, export_dir: str, top_k: int) -> pathlib.Path:
    """Writes the best checkpoint of `model_dir` as the next version below `export_dir`, by rename.

    Returns:
        The version's directory, an integer that is larger than every other one's.

    Raises:
        InputError: no trained model, or `top_k` below 1.
    """
    if top_k < 1:
        raise InputError(f"--top_k must be at least 1. Received: {top_k}")
    trained = load_model(model_dir)
    root = pathlib.Path(export_dir)
    root.mkdir(parents=True, exist_ok=True)
    versions = [int(path.name) for path in root.iterdir() if path.name.isdigit()]
    version = root / str(max([int(time.time()), *(number + 1 for number in versions)]))
    # TF Serving loads any directory with an integer for a name, whole or not: this one has a dot.
    temporary = root / f".tmp-{version.name}"
    try:
        recommender = Recommender(trained.model, trained.vocabulary, top_k)
        # No option beyond the signatures: the graph has stock ops only, and no XLA, which TF Serving refuses.
        tf.saved_model.save(recommender, str(temporary), signatures={"serving_default": recommender.recommend})
        extra = temporary / "assets.extra"
        extra.mkdir()
        (extra / VOCABULARY_FILE).write_bytes(trained.vocabulary.to_bytes())
        described = {"top_k": top_k, "config": trained.config.to_dict(), "training": trained.state}
        (extra / "metadata.json").write_text(json.dumps(described, indent=1) + "\n")
        temporary.rename(version)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return version
