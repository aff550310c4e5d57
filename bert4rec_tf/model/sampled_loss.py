"""The loss over a sample of the items, for catalogues whose full softmax costs too much (not in the paper)."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check
from bert4rec_tf.config import Config, TrainingConfig
from bert4rec_tf.model.losses import gbce_beta, gbce_loss, sampled_softmax_loss
from tfrecords.vocabulary import NUM_SPECIAL_IDS

_SALT = 7_919  # separates the draws of the items from those of the dropout
_ACCIDENTAL_HIT_LOGIT = -1e9  # of a drawn item that is the masked item itself


@tf.keras.utils.register_keras_serializable("bert4rec_tf")
class SampledLoss:
    """Draws items for each step, a function of the seed and the step, as negatives of the masked items.

    "sampled_softmax" draws by popularity, "gbce" uniformly; both with replacement.

    Args:
        config: the loss, the number of drawn items and their seed.
        log_popularity: float32 [V], see `Vocabulary.log_popularity`.
    """

    def __init__(self, config: TrainingConfig, log_popularity: np.ndarray):
        self._config, self._log_popularity = config, np.asarray(log_popularity, np.float32)
        shares = np.exp(np.float64(log_popularity))
        if config.loss == "gbce":
            shares = np.ones_like(shares)
        shares[:NUM_SPECIAL_IDS] = 0
        shares /= shares.sum()
        items = len(shares) - NUM_SPECIAL_IDS
        self._beta = gbce_beta(config.gbce_calibration, config.sampled_items, items)
        # In double precision: the least popular of a million items has a share below single precision's step.
        self._cumulative = tf.constant(np.cumsum(shares))
        expected = np.log(np.maximum(shares * config.sampled_items, 1e-30))
        self._log_expected_counts = tf.constant(expected, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """The arguments as JSON values, for a saved model."""
        return {"config": dataclasses.asdict(self._config), "log_popularity": self._log_popularity.tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SampledLoss":
        """The loss that `get_config` describes."""
        training = Config.from_dict({"training": config["config"]}, "the saved loss").training
        return cls(training, np.array(config["log_popularity"], np.float32))

    def draw(self, step: tf.Tensor) -> dict[str, tf.Tensor]:
        """Draws items for a step.

        Args:
            step: integer scalar.

        Returns:
            sampled_item_ids int32 [S]; log_expected_counts float32 [S], the log of how often each of these items is
            expected among S draws.
        """
        seed = tf.stack([self._config.seed + _SALT, tf.cast(step, tf.int32)])
        draws = tf.random.stateless_uniform([self._config.sampled_items], seed, dtype=tf.float64)
        index = tf.searchsorted(self._cumulative, draws, side="right")
        item_ids = tf.minimum(index, tf.size(self._cumulative) - 1)  # the last cumulative share may round to below 1
        return {
            "sampled_item_ids": item_ids,
            "log_expected_counts": tf.gather(self._log_expected_counts, item_ids),
        }

    def __call__(
        self, positive_logits: tf.Tensor, negative_logits: tf.Tensor, batch: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss summed over masked items, and the sum of their weights.

        Args:
            positive_logits: float32 [M], of the masked items, M = B x P.
            negative_logits: float32 [M, S], of the drawn ones.
            batch: masked_item_ids and masked_weights [B, P], and the results of `draw`.

        Returns:
            float32 scalars; the caller divides the first by the second, summed over all replicas.
        """
        is_positive = tf.reshape(batch["masked_item_ids"], [-1, 1]) == batch["sampled_item_ids"]
        negative_logits = tf.where(is_positive, _ACCIDENTAL_HIT_LOGIT, negative_logits)
        weights = tf.reshape(batch["masked_weights"], [-1])
        if self._config.loss == "gbce":
            loss = gbce_loss(positive_logits, negative_logits, self._beta, weights)
        else:
            loss = sampled_softmax_loss(positive_logits, negative_logits, batch["log_expected_counts"], weights)
        return loss, tf.reduce_sum(weights)
