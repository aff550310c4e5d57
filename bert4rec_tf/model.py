"""BERT4Rec as a Keras model: masked instances in, logits at the masked slots out; or left to right, at every slot."""

import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.embeddings import ItemAndPositionEmbedding
from bert4rec_tf.encoder import Encoder
from bert4rec_tf.losses import masked_item_loss
from bert4rec_tf.masked_item_head import MaskedItemHead
from bert4rec_tf.sampled_loss import SampledLoss
from bert4rec_tf.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

Batch = dict[str, tf.Tensor]


class Bert4Rec(tf.keras.Model):
    """The model of the paper (sections 3.3 to 3.6).

    With `config.attention` "causal" it is the left-to-right model that the paper argues against, all else equal:
    nothing is masked, and the item to predict at a "masked" slot is the one after it.

    The one input is a dict:

        item_ids           int32 [B, L], L <= N, PAD_ID after the last item
        valid_mask         bool [B, L], True = a real item or [MASK]
        masked_positions   int32 [B, P], the slots to score; without it all, and P is L
        dropout_seed       int32 [3], optional, see `SeededDropout`; without it there is no dropout, unless `training`

    For `fit`, also `masked_item_ids`, int32 [B, P], and `masked_weights`, float32 [B, P].

    Args:
        config: sizes and regularisation.
        vocabulary_size: V, the three special ids included.
        max_seq_length: N.
        log_popularity: float32 [V], where `config.output_bias` starts from popularity.
        seed: of the starting weights, a function of it alone, and of the dropout in training.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary_size: int,
        max_seq_length: int,
        log_popularity: np.ndarray | None = None,
        seed: int = 1,
        name: str = "bert4rec",
    ):
        super().__init__(name=name)
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.max_seq_length = max_seq_length
        self.seed = seed
        self.embedding = ItemAndPositionEmbedding(vocabulary_size, max_seq_length, config, seed, name="embedding")
        self.encoder = Encoder(config, seed, name="encoder")
        self.head = MaskedItemHead(vocabulary_size, config, seed, log_popularity, name="masked_item_head")

    def call(self, inputs: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits at the masked slots, float32 [B, P, V]; those of the special ids are -1e9."""
        seed = inputs.get("dropout_seed")
        if training and seed is None:
            seed = tf.concat([tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32), [0]], axis=0)
        return self.head(
            self.encode(inputs["item_ids"], inputs["valid_mask"], inputs.get("masked_positions"), seed),
            self.embedding.item_table,
        )

    def encode(
        self,
        item_ids: tf.Tensor,
        valid_mask: tf.Tensor,
        positions: tf.Tensor | None,
        dropout_seed: tf.Tensor | None = None,
        slots: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Hidden states of the last layer at `positions` (None: all), float32 [B, P, D]; [1, M, D] at `slots`."""
        hidden = self.embedding(item_ids, valid_mask, dropout_seed)
        return self.encoder(hidden, valid_mask, positions, dropout_seed, slots)

    def score_next_item(self, histories: tf.Tensor) -> tf.Tensor:
        """Scores every item as the next one: appends [MASK] to each history and predicts it (paper section 3.6).

        A causal model is asked at the history's last item instead.

        Args:
            histories: as for `encode_next_item`.

        Returns:
            float32 [B, V], -1e9 for special ids. A row does not depend on its padding or on the other rows.
        """
        return self(self._asking_for_next_item(histories))[:, 0]

    def encode_next_item(self, histories: tf.Tensor) -> tf.Tensor:
        """What `score_next_item` compares with the items: an item's logit is this . its embedding + its bias.

        Args:
            histories: int32 [B, L] of any L, oldest first, PAD_ID anywhere. Other special ids are passed over
                too; of the items that remain, the last N - 1 count (in a causal model as well: a window of N items
                has N - 1 next ones, so it never learns the N-th position).

        Returns:
            float32 [B, D].
        """
        inputs = self._asking_for_next_item(histories)
        return self.head.project(self.encode(inputs["item_ids"], inputs["valid_mask"], inputs["masked_positions"]))

    def _asking_for_next_item(self, histories: tf.Tensor) -> Batch:
        items = tf.ragged.boolean_mask(histories, histories >= NUM_SPECIAL_IDS)[:, -(self.max_seq_length - 1) :]
        lengths = tf.cast(items.row_lengths(), tf.int32)
        item_ids = tf.concat([items, tf.fill([tf.shape(histories)[0], 1], MASK_ID)], axis=1).to_tensor(PAD_ID)
        # To a causal model the [MASK] is padding, but where it stands alone: an empty history must be asked somewhere.
        slots = tf.maximum(lengths, 1) if self.config.attention == "causal" else lengths + 1
        return {
            "item_ids": item_ids,
            "valid_mask": tf.sequence_mask(slots, tf.shape(item_ids)[1]),
            "masked_positions": slots[:, None] - 1,
        }

    def compile(
        self,
        optimizer: tf.keras.optimizers.Optimizer,
        jit_compile: bool = False,
        sampled_loss: SampledLoss | None = None,
        **kwargs: Any,
    ) -> None:
        """Prepares `fit`.

        Args:
            optimizer: one that leaves untouched rows alone where the loss is sampled, see `make_optimizer`.
            jit_compile: compiles the forward and backward pass by XLA.
            sampled_loss: the loss over a sample of the items; None: the softmax over all of them.
            **kwargs: of `tf.keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        self._sampled_loss = sampled_loss
        # The update stays outside: replicas exchange gradients before it, which XLA cannot do.
        self._compiled_gradients = tf.function(self._loss_and_gradients, jit_compile=jit_compile, reduce_retracing=True)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as JSON values, for whoever inspects a saved model."""
        sizes = {"vocabulary_size": self.vocabulary_size, "max_seq_length": self.max_seq_length, "seed": self.seed}
        return {"config": dataclasses.asdict(self.config), **sizes}

    def train_step(self, batch: Batch) -> Batch:
        """One update; the loss is the mean over the masked items of all replicas together."""
        replica = tf.distribute.get_replica_context()
        first_row = replica.replica_id_in_sync_group * tf.shape(batch["item_ids"])[0]
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32), first_row])
        drawn = {} if self._sampled_loss is None else self._sampled_loss.draw(self.optimizer.iterations)
        loss, weight, gradients = self._compiled_gradients(_packed(batch) | drawn | {"dropout_seed": seed})
        items = tf.reduce_sum(tf.cast(batch["valid_mask"], tf.float32))
        loss, weight, items = replica.all_reduce(tf.distribute.ReduceOp.SUM, [loss, weight, items])
        weight = tf.maximum(weight, 1.0)
        # apply_gradients sums over the replicas, so each divides by the weight of all.
        gradients = [_divided(gradient, weight) for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss / weight, "masked_items": weight, "items": items}

    def _loss_and_gradients(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | tf.IndexedSlices]]:
        with tf.GradientTape() as tape:
            hidden = self.encode(*(batch.get(name) for name in _ENCODED))
            if self._sampled_loss is None:
                logits = self.head(hidden, self.embedding.item_table)
                loss, weight = masked_item_loss(logits, batch["masked_item_ids"], batch["masked_weights"])
            else:
                own, sampled = batch["masked_item_ids"], batch["sampled_item_ids"]
                logits = self.head.some_logits(hidden, self.embedding.item_table, own, sampled)
                loss, weight = self._sampled_loss(*logits, batch)
        gradients = tape.gradient(loss, self.trainable_variables)
        if self._sampled_loss is None:  # the table's is dense, with a sparse part from the input
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return loss, weight, gradients


_ENCODED = ("item_ids", "valid_mask", "masked_positions", "dropout_seed", "slots")
_PACKINGS = 8  # numbers of slots that a batch shape is computed with, for XLA compiles each


def _packed(batch: Batch) -> Batch:
    """Adds `slots`, int32 [M], and gives the masked items and weights of these alone, [1, M] instead of [B, P].

    Rows mask few or many items and are all padded to the most, P; what follows the last attention is computed for what
    is masked. M is rounded up, so that it takes few values; on a TPU, which takes but one, it is B x P.
    """
    weights = tf.reshape(batch["masked_weights"], [-1])
    all_slots = tf.range(tf.size(weights))
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    slots = all_slots if on_tpu else tf.boolean_mask(all_slots, weights > 0)
    step = -(-tf.size(weights) // _PACKINGS)
    padding = [[0, tf.maximum(-(-tf.size(slots) // step), 1) * step - tf.size(slots)]]
    return batch | {
        "slots": tf.pad(slots, padding),
        "masked_item_ids": tf.pad(tf.gather(tf.reshape(batch["masked_item_ids"], [-1]), slots), padding)[None],
        "masked_weights": tf.pad(tf.gather(weights, slots), padding)[None],
    }


def _divided(gradient: tf.Tensor | tf.IndexedSlices, by: tf.Tensor) -> tf.Tensor | tf.IndexedSlices:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / by, gradient.indices, gradient.dense_shape)
    return gradient / by


def build_model(
    config: ModelConfig,
    vocabulary_size: int,
    max_seq_length: int,
    log_popularity: np.ndarray | None = None,
    seed: int = 1,
) -> Bert4Rec:
    """A `Bert4Rec` whose weights exist already; arguments as there."""
    model = Bert4Rec(config, vocabulary_size, max_seq_length, log_popularity, seed)
    model.score_next_item(tf.zeros([1, 1], tf.int32))
    return model
