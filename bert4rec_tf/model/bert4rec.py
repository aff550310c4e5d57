"""BERT4Rec as a Keras model: from masked instances to logits at the masked slots, or at every slot if causal."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import Config, ModelConfig
from bert4rec_tf.model.batch import ENCODER_INPUTS, Batch, pack_masked_slots
from bert4rec_tf.model.embeddings import ItemAndPositionEmbedding
from bert4rec_tf.model.encoder import Encoder
from bert4rec_tf.model.event_times import UNKNOWN_TIME, SlotTimes, slot_times, times_from_first
from bert4rec_tf.model.item_features import FeatureArrays, FeatureShapes
from bert4rec_tf.model.masked_item_head import MaskedItemHead
from bert4rec_tf.model.sampled_loss import SampledLoss
from tfrecords.errors import InputError
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

_INPUT_SPECS = {
    "item_ids": tf.TensorSpec([None, None], tf.int32),
    "valid_mask": tf.TensorSpec([None, None], tf.bool),
    "masked_positions": tf.TensorSpec([None, None], tf.int32),
    "prefix_lengths": tf.TensorSpec([None, 1], tf.int32),
    "times": tf.TensorSpec([None, None], tf.int32),
    "dropout_seed": tf.TensorSpec([3], tf.int32),
    "masked_item_ids": tf.TensorSpec([None, None], tf.int32),
    "masked_weights": tf.TensorSpec([None, None], tf.float32),
}
_INPUTS = ("item_ids", "valid_mask")
_LABELLED = (*_INPUTS, "masked_item_ids", "masked_weights")


@tf.keras.utils.register_keras_serializable("bert4rec_tf")
class Bert4Rec(tf.keras.Model):
    """The model of the paper (sections 3.3 to 3.6).

    With `config.attention` "prefix" it stays bidirectional at serving, but is trained on next items after random
    prefixes. With "causal" it is the left-to-right model that the paper argues against; everything else is the same.
    In both nothing is masked, and a "masked" slot predicts the item after it.

    The one input is a dict:

        item_ids           int32 [B, L], L <= N, PAD_ID after the last item
        valid_mask         bool [B, L], True = a real item or [MASK]
        masked_positions   int32 [B, P], optional, the slots to score; by default all, and P is L
        prefix_lengths     int32 [B, 1], optional, see `MultiHeadAttention.call`
        times              int32 [B, L] or [B, L + 1], optional, see `slot_times`; only models with times use them
        dropout_seed       int32 [3], optional, see `SeededDropout`; by default there is dropout only if `training`

    `fit` and `evaluate` also need the labels in this dict: `masked_item_ids`, int32 [B, P], and `masked_weights`,
    float32 [B, P]. `predict` returns logits for such a dict. For histories, int32 [B, L], it returns the scores of the
    next item, see `score_next_item`.

    Args:
        config: sizes and regularisation.
        vocabulary_size: V, the three special ids included.
        max_seq_length: N.
        log_popularity: float32 [V], needed if `config.output_bias` is "log_popularity".
        seed: of the starting weights, which depend on nothing else, and of the dropout in training.
        item_features: needed if `config.item_features` is not "none": the features, or for a model that is loaded,
            their sizes alone.
        draw_items: whether the item vectors start at random. False: at 0, for a model whose weights are loaded, which
            takes a third of the memory.

    >>> from bert4rec_tf.inputs.length_buckets import choose_buckets
    >>> from bert4rec_tf.inputs.objectives import training_instances
    >>> from bert4rec_tf.inputs.training_batches import training_batches
    >>> buckets = choose_buckets(built.manifest.length_histogram, 1)
    >>> instances = training_instances(built.manifest, "masked_item")
    >>> batches = training_batches("data", instances, buckets, batch_size=20, seed=1)
    >>> model = Bert4Rec(ModelConfig(hidden_size=8, num_layers=1), vocabulary_size=13, max_seq_length=6)
    >>> model.compile("adam")
    >>> history = model.fit(batches, epochs=2, steps_per_epoch=3, verbose=0).history
    >>> {name: len(values) for name, values in history.items()}
    {'loss': 2, 'masked_items': 2, 'items': 2}
    >>> model.predict([[3, 5, 6]], verbose=0).shape
    (1, 13)
    >>> model.save_weights("bert4rec.weights.h5")
    >>> copied = tf.keras.models.clone_model(model)
    >>> copied.load_weights("bert4rec.weights.h5")
    >>> all(np.array_equal(*pair) for pair in zip(copied.get_weights(), model.get_weights()))
    True
    """

    def __init__(
        self,
        config: ModelConfig,
        vocabulary_size: int,
        max_seq_length: int,
        log_popularity: np.ndarray | None = None,
        seed: int = 1,
        name: str = "bert4rec",
        item_features: FeatureArrays | FeatureShapes | None = None,
        draw_items: bool = True,
    ):
        super().__init__(name=name)
        self.config = config
        self.vocabulary_size = vocabulary_size
        self.max_seq_length = max_seq_length
        self.seed = seed
        self._log_popularity = None if log_popularity is None else np.asarray(log_popularity, np.float32)
        self._compiled: Any = None  # a `_Compiled`
        self._feature_shapes = _feature_shapes(config, item_features)
        self.embedding = ItemAndPositionEmbedding(
            vocabulary_size, max_seq_length, config, seed, self._feature_shapes, draw_items, name="embedding"
        )
        self.encoder = Encoder(config, seed, name="encoder")
        self.head = MaskedItemHead(vocabulary_size, config, seed, log_popularity, name="masked_item_head")
        # Without it, Keras's `export` accepts only the window length of the first call.
        self._set_save_spec({name: _INPUT_SPECS[name] for name in (*_INPUTS, "masked_positions")})
        # Creates the weights, first those of the items, which all else uses. A product without slots takes no memory.
        with tf.name_scope(name):
            self.embedding(tf.zeros([1, 1], tf.int32), tf.ones([1, 1], tf.bool))
            self.head(tf.zeros([1, 0, config.hidden_size]), self.embedding.item_table)
        # Traced, not computed: the vectors of all items may be large. AutoGraph would take seconds and convert nothing,
        # since no Python loop or condition of this package depends on a tensor.
        tf.function(self.score_next_item, autograph=False).get_concrete_function(tf.TensorSpec([1, 1], tf.int32))
        if isinstance(item_features, FeatureArrays) and self.embedding.item_features is not None:
            self.embedding.item_features.assign(item_features)

    @property
    def item_table(self) -> tf.Variable:
        """The vectors of all items, float32 [V, D], if no features are part of them (see `fold_item_vectors`).

        >>> trained.model.item_table.shape
        TensorShape([13, 16])
        """
        return self.embedding.item_table

    @property
    def output_bias(self) -> tf.Variable:
        """The output biases of all items, float32 [V], if no features are part of them.

        >>> trained.model.output_bias.shape
        TensorShape([13])
        """
        return self.head.output_bias

    @property
    def uses_times(self) -> bool:
        """Whether the times of events change the scores.

        >>> trained.model.uses_times
        False
        """
        return self.config.uses_times

    @property
    def takes_request_time(self) -> bool:
        """Whether the time for which the next item is predicted changes the scores.

        >>> trained.model.takes_request_time
        False
        """
        return self.config.request_time > 0

    @property
    def attention_shape(self) -> tuple[int, int]:
        """The numbers of layers and heads in the result of `attend_to_history`.

        >>> trained.model.attention_shape
        (1, 2)
        """
        return self.config.num_layers, self.config.num_heads

    @property
    def floats_per_history(self) -> int:
        """About how much memory a history of N items takes at serving, in float32 numbers.

        >>> trained.model.floats_per_history
        1680
        """
        slots, config = self.max_seq_length, self.config
        floats_per_slot = 8 * config.hidden_size + 2 * (config.feed_forward_size or 4 * config.hidden_size)
        return slots * (floats_per_slot + 2 * config.num_heads * slots)

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the constructor creates the weights, and no input shape affects them.

        >>> trained.model.build()
        >>> trained.model.built
        True
        """

    def call(self, inputs: Batch, training: bool | None = None) -> tf.Tensor:
        """Logits at the masked slots, float32 [B, P, V]; those of the special ids are -1e9.

        >>> window = {"item_ids": tf.constant([[3, 5, 6, 0]]), "valid_mask": tf.constant([[True, True, True, False]])}
        >>> trained.model(window).shape
        TensorShape([1, 4, 13])
        >>> trained.model(window | {"masked_positions": tf.constant([[2]])}).shape
        TensorShape([1, 1, 13])
        """
        _check_names(inputs, _INPUTS)
        inputs = {name: _typed(name, value, _INPUT_SPECS[name]) for name, value in inputs.items()}
        seed = inputs.get("dropout_seed")
        if training and seed is None:
            seed = tf.concat([tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32), [0]], axis=0)
        vectors = self.embedding.all_vectors(seed)
        hidden = self.encode(
            inputs["item_ids"],
            inputs["valid_mask"],
            inputs.get("masked_positions"),
            seed,
            prefix_lengths=inputs.get("prefix_lengths"),
            item_vectors=vectors,
            times=inputs.get("times"),
        )
        return self.head(hidden, vectors, self.all_biases(seed))

    def encode(
        self,
        item_ids: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None,
        dropout_seed: tf.Tensor | None = None,
        packed_index: tf.Tensor | None = None,
        prefix_lengths: tf.Tensor | None = None,
        times: tf.Tensor | None = None,
        item_vectors: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Hidden states of the last layer, [B, P, D] or [1, M, D]; arguments as in the layers' own `call`.

        They are float32; with a mixed-precision policy of Keras, of its compute dtype.

        `times`: see `slot_times`.

        >>> trained.model.encode(tf.constant([[3, 5, 6]]), tf.constant([[True, True, True]]), None).shape
        TensorShape([1, 3, 16])
        """
        known = self._slot_times(times, item_ids, dropout_seed)
        hidden = self.embedding(item_ids, valid_mask, dropout_seed, item_vectors, known)
        return self.encoder(hidden, valid_mask, query_positions, dropout_seed, packed_index, prefix_lengths, known)

    def _slot_times(
        self, times: tf.Tensor | None, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None
    ) -> SlotTimes | None:
        return slot_times(times, item_ids, self.config, dropout_seed) if self.config.uses_times else None

    def attention_weights(
        self,
        item_ids: tf.Tensor,
        valid_mask: tf.Tensor,
        query_positions: tf.Tensor | None = None,
        times: tf.Tensor | None = None,
    ) -> list[tf.Tensor]:
        """Attention weights of each block, float32 [B, h, P, L], without dropout; arguments as in `encode`.

        >>> weights = trained.model.attention_weights(tf.constant([[3, 5, 6]]), tf.constant([[True, True, True]]))
        >>> len(weights), weights[0].shape
        (1, TensorShape([1, 2, 3, 3]))
        """
        known = self._slot_times(times, item_ids, None)
        hidden = self.embedding(item_ids, valid_mask, times=known)
        return self.encoder.attention_weights(hidden, valid_mask, query_positions, known)

    def score_next_item(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Scores every item as the next one: appends [MASK] to each history and predicts it (paper section 3.6).

        A model of next items (`config.attention` "prefix" or "causal") predicts it at the history's last item instead.

        Args:
            histories: as for `encode_next_item`, like the other arguments.
            times: of the events.
            request_times: for which the next item is predicted.

        Returns:
            float32 [B, V], -1e9 for special ids. A row does not depend on its padding or on the other rows.

        >>> scores = trained.model.score_next_item(tf.constant([trained.vocabulary.ids_of(["1", "2", "3"])]))
        >>> scores.shape
        TensorShape([1, 13])
        >>> trained.vocabulary.item_ids[int(tf.argmax(scores[0])) - NUM_SPECIAL_IDS]
        '4'
        """
        return self(self._next_item_inputs(histories, times, request_times))[:, 0]

    def encode_next_item(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The query of the next item: its inner product with an item's embedding, plus the item's bias, is the logit.

        Args:
            histories: int32 [B, L] of any L, oldest first, PAD_ID anywhere. Special ids are skipped. Of the items that
                remain, the last N - 1 are used (also if no [MASK] follows them: a window of N items has N - 1 next
                items, so position N is never trained).
            times: int64 [B, L], the time of each event in seconds; negative if it is unknown. None: all are unknown.
                Only models with times use them.
            request_times: int64 [B], the time for which the next item is predicted; negative or None: unknown.

        Returns:
            float32 [B, D].

        >>> histories = tf.constant([[3, 5, 6]])
        >>> queries = trained.model.encode_next_item(histories)
        >>> queries.shape
        TensorShape([1, 16])
        >>> scores = queries @ tf.transpose(trained.model.embedding.item_table) + trained.model.head.output_bias
        >>> np.allclose(scores[:, 3:], trained.model.score_next_item(histories)[:, 3:], atol=1e-4)
        True
        """
        inputs = self._next_item_inputs(histories, times, request_times)
        hidden = self.encode(
            inputs["item_ids"], inputs["valid_mask"], inputs["masked_positions"], times=inputs.get("times")
        )
        return tf.cast(self.head.project(hidden), tf.float32)

    def attend_to_history(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """How much the slot that predicts the next item attends to each item of its history.

        Args:
            histories: as for `encode_next_item`, like the other arguments.
            times: of the events.
            request_times: for which the next item is predicted.

        Returns:
            float32 [B, layers, h, L], the weights after the softmax, in the columns of `histories`; 0 for padding, for
            special ids and for items before the last N - 1. What is missing to a sum of 1 is the weight of [MASK].

        >>> trained.model.attend_to_history(tf.constant([[0, 3, 5, 6]])).shape
        TensorShape([1, 1, 2, 4])
        """
        inputs = self._next_item_inputs(histories, times, request_times)
        names = ("item_ids", "valid_mask", "masked_positions", "times")
        weights = self.attention_weights(*map(inputs.get, names))
        known = histories >= NUM_SPECIAL_IDS
        slots_before_window = tf.maximum(tf.reduce_sum(tf.cast(known, tf.int32), axis=1) - self.max_seq_length + 1, 0)
        slots = tf.cumsum(tf.cast(known, tf.int32), axis=1) - 1 - slots_before_window[:, None]
        by_slot = tf.transpose(tf.stack([layer[:, :, 0] for layer in weights], axis=1), [0, 3, 1, 2])  # [B, slots, ..]
        in_columns = tf.gather(by_slot, tf.maximum(slots, 0), batch_dims=1)
        in_columns = tf.where((known & (slots >= 0))[:, :, None, None], in_columns, 0.0)
        return tf.transpose(in_columns, [0, 2, 3, 1])

    def _next_item_inputs(
        self, histories: tf.Tensor, times: tf.Tensor | None, request_times: tf.Tensor | None
    ) -> Batch:
        # Not by ragged operations, which other runtimes, such as OpenVINO, do not have.
        known = histories >= NUM_SPECIAL_IDS
        items = tf.math.count_nonzero(known, axis=1, dtype=tf.int32)
        lengths = tf.minimum(items, self.max_seq_length - 1)
        width = tf.reduce_max(tf.pad(lengths, [[0, 1]])) + 1  # also without a history
        slots = tf.range(width)[None]
        places = (tf.cumsum(items) - lengths)[:, None] + slots  # among the known items of all histories
        is_item, is_asked = slots < lengths[:, None], slots == lengths[:, None]

        def newest(values: tf.Tensor, asked: tf.Tensor | int, padding: tf.Tensor | int) -> tf.Tensor:
            of_items = tf.pad(tf.boolean_mask(values, known), [[0, 1]])  # one more, as there may be none
            moved = tf.gather(of_items, tf.minimum(places, tf.size(of_items) - 1))
            return tf.where(is_item, moved, tf.where(is_asked, asked, padding))

        item_ids = newest(histories, MASK_ID, PAD_ID)
        # A model of next items ignores the appended [MASK], unless the history is empty and it is the only slot.
        valid_lengths = tf.maximum(lengths, 1) if self.config.predicts_next_items else lengths + 1
        inputs = {
            "item_ids": item_ids,
            "valid_mask": tf.sequence_mask(valid_lengths, tf.shape(item_ids)[1]),
            "masked_positions": valid_lengths[:, None] - 1,
        }
        if not self.config.uses_times or (times is None and request_times is None):
            return inputs
        unknown = tf.constant(UNKNOWN_TIME, tf.int64)
        times = tf.fill(tf.shape(histories), unknown) if times is None else times
        asked = tf.fill([tf.shape(histories)[0]], unknown) if request_times is None else request_times
        return inputs | {"times": times_from_first(newest(times, asked[:, None], unknown))}

    def compile(
        self,
        optimizer: tf.keras.optimizers.Optimizer | str,
        loss: None = None,
        metrics: None = None,
        *,
        jit_compile: bool = False,
        sampled_loss: SampledLoss | None = None,
        run_eagerly: bool | None = None,
        steps_per_execution: int | None = None,
        **unsupported: Any,
    ) -> None:
        """Prepares `fit` and `evaluate`.

        Args:
            optimizer: an optimizer or its name. A sampled loss needs one that does not update untouched rows, see
                `make_optimizer`.
            loss: must be None; the model has its own loss.
            metrics: must be None; see `evaluation.evaluate`.
            jit_compile: compiles the forward and backward pass by XLA.
            sampled_loss: the loss over a sample of the items; None: the softmax over all of them.
            run_eagerly: see Keras.
            steps_per_execution: see Keras.
            **unsupported: other arguments of Keras, or misspelt ones; all are refused.

        Raises:
            InputError: an argument that the model does not support.

        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.compile("adam", jit_compile=False)
        >>> model.compile("adam", metrics=["accuracy"])
        Traceback (most recent call last):
        tfrecords.errors.InputError: compile() takes ... Received: metrics=['accuracy']. ...
        """
        for name, value in {"loss": loss, "metrics": metrics, **unsupported}.items():
            _check(
                not value,
                f"compile() takes optimizer, jit_compile, sampled_loss, run_eagerly and steps_per_execution. "
                f"Received: {name}={value!r}. Fix: leave it out; the loss is the model's own (`sampled_loss` replaces "
                "it), and bert4rec_tf.evaluate ranks",
            )
        _check(
            jit_compile is None or isinstance(jit_compile, bool),
            f"`jit_compile` must be True or False. Received: {jit_compile!r}",
        )
        _check(
            sampled_loss is None or isinstance(sampled_loss, SampledLoss),
            f"`sampled_loss` must be a SampledLoss, or None. Received: {sampled_loss!r}",
        )
        optimizer = tf.keras.optimizers.get(optimizer)
        _check(
            isinstance(optimizer, tf.keras.optimizers.Optimizer | tf.keras.optimizers.legacy.Optimizer),
            f"`optimizer` must be one of Keras's optimizers, or its name. Received: {optimizer!r}",
        )
        super().compile(optimizer=optimizer, run_eagerly=run_eagerly, steps_per_execution=steps_per_execution)
        self._sampled_loss = sampled_loss
        self._scales_loss = isinstance(self.optimizer, tf.keras.mixed_precision.LossScaleOptimizer)
        self._compiled = _Compiled(
            {"jit_compile": jit_compile, "run_eagerly": run_eagerly, "steps_per_execution": steps_per_execution}
        )
        # The update is not compiled: replicas exchange gradients before it, which XLA cannot do.
        options = {"jit_compile": jit_compile, "reduce_retracing": True, "autograph": False}
        self._compiled_gradients = tf.function(self._loss_and_gradients, **options)
        self._compiled_loss = tf.function(self._loss, **options)

    def get_config(self) -> dict[str, Any]:
        """The arguments, as JSON values.

        >>> config = trained.model.get_config()
        >>> config["vocabulary_size"], config["max_seq_length"], config["config"]["hidden_size"]
        (13, 6, 16)
        """
        return {
            "config": dataclasses.asdict(self.config),
            "vocabulary_size": self.vocabulary_size,
            "max_seq_length": self.max_seq_length,
            "log_popularity": None if self._log_popularity is None else self._log_popularity.tolist(),
            "seed": self.seed,
            "name": self.name,
        } | ({} if self._feature_shapes is None else {"item_features": dataclasses.asdict(self._feature_shapes)})

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict | None = None) -> "Bert4Rec":  # noqa: ARG003
        """A new model with the same arguments, at its starting weights.

        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.count_params() == trained.model.count_params()
        True
        """
        sizes = Config.from_dict({"model": config["config"]}, "the saved model").model
        shapes = config.get("item_features")
        return cls(**config | {"config": sizes, "item_features": None if shapes is None else FeatureShapes(**shapes)})

    def save(self, filepath: str | pathlib.Path, **kwargs: Any) -> None:
        """Writes a `.keras` file, which holds weights, arguments, loss and optimizer.

        Raises:
            InputError: `filepath` names another format. HDF5 and Keras's SavedModel cannot hold this model.

        >>> trained.model.save("model.keras")
        >>> type(tf.keras.models.load_model("model.keras")).__name__
        'Bert4Rec'
        >>> trained.model.save("model.h5")
        Traceback (most recent call last):
        tfrecords.errors.InputError: save() writes a .keras file. Received: model.h5. Fix: ...
        """
        _check(
            str(filepath).endswith(".keras"),
            f"save() writes a .keras file. Received: {filepath}. Fix: name it *.keras. bert4rec_tf.export writes a "
            "model for TensorFlow Serving, and save_weights writes only the weights",
        )
        super().save(filepath, **kwargs)

    def get_build_config(self) -> None:
        """None: the constructor creates the weights.

        >>> trained.model.get_build_config() is None
        True
        """

    def get_compile_config(self) -> dict[str, Any] | None:
        """The arguments of `compile`, for a saved model.

        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.get_compile_config() is None
        True
        >>> model.compile("adam")
        >>> sorted(model.get_compile_config())
        ['jit_compile', 'optimizer', 'run_eagerly', 'sampled_loss', 'steps_per_execution']
        """
        if self._compiled is None:
            return None
        objects = {"optimizer": self.optimizer, "sampled_loss": self._sampled_loss}
        serialized = {name: tf.keras.saving.serialize_keras_object(value) for name, value in objects.items()}
        return serialized | self._compiled.arguments

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded model, and creates its optimizer's variables.

        >>> model, loaded = (Bert4Rec.from_config(trained.model.get_config()) for _ in range(2))
        >>> model.compile("adam")
        >>> loaded.compile_from_config(model.get_compile_config())
        >>> loaded.optimizer.name
        'Adam'
        """
        self.compile(**tf.keras.saving.deserialize_keras_object(config))
        if isinstance(self.optimizer, tf.keras.optimizers.Optimizer):
            self.optimizer.build(self.trainable_variables)

    @property
    def metrics(self) -> list[tf.keras.metrics.Metric]:
        """What Keras resets at the start of an epoch.

        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.compile("sgd")
        >>> [metric.name for metric in model.metrics]
        ['loss', 'masked_items', 'items']
        """
        return [] if self._compiled is None else self._compiled.means

    def train_step(self, data: Any) -> Batch:
        """Keras's training step: one update.

        Returns:
            Means over the epoch so far: of the loss over masked items, of masked items and items over batches.

        >>> batch = {
        ...     "item_ids": tf.constant([[3, 5, 1]]), "valid_mask": tf.constant([[True, True, True]]),
        ...     "masked_positions": tf.constant([[2]]), "masked_item_ids": tf.constant([[6]]),
        ...     "masked_weights": tf.constant([[1.0]]),
        ... }
        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.compile("sgd")
        >>> {name: float(value) for name, value in model.train_step(batch).items()}
        {'loss': 2.31..., 'masked_items': 1.0, 'items': 3.0}
        """
        return self._compiled.add(**self.update_weights(self._checked(_inputs_alone(data), _LABELLED)))

    def test_step(self, data: Any) -> Batch:
        """Keras's step of `evaluate`: the training loss, without dropout.

        A sampled loss draws the same items for every batch, so that epochs can be compared.

        Returns:
            The mean over all masked items so far.

        >>> batch = {
        ...     "item_ids": tf.constant([[3, 5, 6]]), "valid_mask": tf.constant([[True, True, True]]),
        ...     "masked_item_ids": tf.constant([[5, 6, 7]]), "masked_weights": tf.constant([[1.0, 1.0, 1.0]]),
        ... }
        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.compile("sgd")
        >>> {name: float(value) for name, value in model.test_step(batch).items()}
        {'loss': 2.28...}
        """
        batch = self._checked(_inputs_alone(data), _LABELLED)
        drawn = (
            {} if self._sampled_loss is None else self._sampled_loss.draw(tf.constant(-1))
        )  # training never has this step
        loss, weight = self._compiled_loss(pack_masked_slots(batch) | drawn | {"dropout_seed": None})
        loss, weight = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, [loss, weight])
        return self._compiled.add(loss / tf.maximum(weight, 1.0), weight)

    def predict_step(self, data: Any) -> tf.Tensor:
        """Keras's step of `predict`: logits for a dict, see `call`; scores of the next item for histories.

        >>> trained.model.predict_step(tf.constant([[3, 5, 6], [7, 0, 0]])).shape
        TensorShape([2, 13])
        """
        inputs = _inputs_alone(data)
        if isinstance(inputs, dict):
            return self(self._checked(inputs, _INPUTS), training=False)
        histories = inputs.to_tensor(PAD_ID) if isinstance(inputs, tf.RaggedTensor) else inputs
        histories = _typed("histories", histories, _INPUT_SPECS["item_ids"])
        with tf.control_dependencies([_assert_below(self.vocabulary_size, "histories", histories)]):
            return self.score_next_item(tf.identity(histories))

    def _checked(self, inputs: Batch, needed: tuple[str, ...]) -> Batch:
        """Checks names, types, ids and positions: XLA and GPUs read past the end of a table without an error."""
        _check_names(inputs, needed)
        batch = {name: _typed(name, value, _INPUT_SPECS[name]) for name, value in inputs.items()}
        length = tf.shape(batch["item_ids"])[1]
        limits = {"item_ids": self.vocabulary_size, "masked_item_ids": self.vocabulary_size, "masked_positions": length}
        checks = [_assert_below(limit, name, batch[name]) for name, limit in limits.items() if name in batch]
        checks.append(_assert_below(self.max_seq_length + 1, "the length of item_ids", length))
        with tf.control_dependencies(checks):
            return {name: tf.identity(value) for name, value in batch.items()}

    def update_weights(self, batch: Batch) -> Batch:
        """One update from a batch that is not checked, without Keras's means.

        Returns:
            loss, the mean over the masked items of all replicas together; masked_items and items, their numbers.

        >>> batch = {
        ...     "item_ids": tf.constant([[3, 5, 6]]), "valid_mask": tf.constant([[True, True, True]]),
        ...     "masked_item_ids": tf.constant([[5, 6, 7]]), "masked_weights": tf.constant([[1.0, 1.0, 1.0]]),
        ... }
        >>> model = Bert4Rec.from_config(trained.model.get_config())
        >>> model.compile("sgd")
        >>> {name: float(value) for name, value in model.update_weights(batch).items()}
        {'loss': 2.28..., 'masked_items': 3.0, 'items': 3.0}
        """
        replica = tf.distribute.get_replica_context()
        first_row = replica.replica_id_in_sync_group * tf.shape(batch["item_ids"])[0]
        seed = tf.stack([self.seed, tf.cast(self.optimizer.iterations, tf.int32), first_row])
        drawn = {} if self._sampled_loss is None else self._sampled_loss.draw(self.optimizer.iterations)
        loss, weight, gradients = self._compiled_gradients(pack_masked_slots(batch) | drawn | {"dropout_seed": seed})
        items = tf.reduce_sum(tf.cast(batch["valid_mask"], tf.float32))
        loss, weight, items = replica.all_reduce(tf.distribute.ReduceOp.SUM, [loss, weight, items])
        divisor = tf.maximum(weight, 1.0)
        if self._scales_loss:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        # apply_gradients sums over the replicas, so each one divides by the weight of all of them.
        gradients = [_divided(gradient, divisor) for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss / divisor, "masked_items": weight, "items": items}

    def _loss_and_gradients(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor | tf.IndexedSlices]]:
        with tf.GradientTape() as tape:
            loss, weight = self._loss(batch)
            scaled_loss = self.optimizer.get_scaled_loss(loss) if self._scales_loss else loss
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        if self._sampled_loss is None:  # the item table has a dense gradient plus a sparse one from the input
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
        return loss, weight, gradients

    def _loss(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """The loss summed over the masked items of a packed batch, and the sum of their weights."""
        item_ids, valid_mask, positions, seed, packed, prefix, times = (batch.get(name) for name in ENCODER_INPUTS)
        if self._sampled_loss is None:
            vectors = self.embedding.all_vectors(seed)
            hidden = self.encode(item_ids, valid_mask, positions, seed, packed, prefix, times, vectors)
            return self.head.loss(
                hidden, vectors, self.all_biases(seed), batch["masked_item_ids"], batch["masked_weights"]
            )
        hidden = self.encode(item_ids, valid_mask, positions, seed, packed, prefix, times)
        drawn = tf.reshape(batch["masked_item_ids"], [-1]), batch["sampled_item_ids"]
        items = [(self.embedding.vectors_of(ids, seed), self._bias_of(ids, seed)) for ids in drawn]
        return self._sampled_loss(*self.head.sampled_logits(hidden, *items), batch)

    def all_biases(self, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """The output biases of all items (b^O of equation 7), float32 [V]; `dropout_seed`: see `SeededDropout`.

        >>> trained.model.all_biases().shape
        TensorShape([13])
        """
        features = self.embedding.item_features
        if features is None:
            return self.head.output_bias
        return features.biases_of(self.head.output_bias, tf.range(self.vocabulary_size), dropout_seed)

    def _bias_of(self, item_ids: tf.Tensor, dropout_seed: tf.Tensor | None = None) -> tf.Tensor:
        """The output biases of the given items, float32 [...]."""
        features = self.embedding.item_features
        if features is None:
            return tf.gather(self.head.output_bias, item_ids)
        return features.biases_of(self.head.output_bias, item_ids, dropout_seed)


class _Compiled:
    """What `compile` sets that is no part of the model's state, so that no checkpoint holds it.

    Attributes:
        arguments: of `compile`, as JSON values.
        means: the metrics of the current epoch.
    """

    def __init__(self, arguments: dict[str, Any]):
        self.arguments = arguments
        # In double precision: the sum over a long epoch has more digits than single precision holds.
        self.means = [tf.keras.metrics.Mean(name, tf.float64) for name in ("loss", "masked_items", "items")]

    def add(self, loss: tf.Tensor, masked_items: tf.Tensor, items: tf.Tensor | None = None) -> Batch:
        """Adds a batch and returns the means so far: of the loss over masked items, of the numbers over batches."""
        mean_loss, *numbers = self.means
        mean_loss.update_state(loss, sample_weight=masked_items)
        if items is None:
            return {"loss": mean_loss.result()}
        for mean, number in zip(numbers, (masked_items, items), strict=True):
            mean.update_state(number)
        return {mean.name: mean.result() for mean in self.means}


def _feature_shapes(config: ModelConfig, item_features: FeatureArrays | FeatureShapes | None) -> FeatureShapes | None:
    """The sizes of the features that the model uses; None if it uses none."""
    if config.item_features == "none":
        return None
    _check(
        item_features is not None,
        f"model.item_features={config.item_features} needs items with features. Received: none. Fix: build the records "
        "with --item_features, or set model.item_features=none",
    )
    return item_features.shapes() if isinstance(item_features, FeatureArrays) else item_features


def _inputs_alone(data: Any) -> Any:
    inputs, targets, weights = tf.keras.utils.unpack_x_y_sample_weight(data)
    _check(
        targets is None and weights is None,
        "The labels belong in the dict of inputs: masked_item_ids and masked_weights. Received: y or sample_weight "
        "besides the dict. Fix: pass only x",
    )
    return inputs


def _check_names(inputs: Any, needed: tuple[str, ...]) -> None:
    _check(
        isinstance(inputs, dict),
        f"The model takes a dict of {', '.join(needed)}. Received: {type(inputs).__name__}. Fix: pass such a dict; "
        "predict and score_next_item take histories",
    )
    missing = [name for name in needed if name not in inputs]
    _check(not missing, f"The model's inputs must have {', '.join(needed)}. Received: none named {', '.join(missing)}")
    unknown = [str(name) for name in inputs if name not in _INPUT_SPECS]
    _check(not unknown, f"The model's inputs may be {', '.join(_INPUT_SPECS)}. Received: {', '.join(unknown)}")


def _typed(name: str, value: Any, spec: tf.TensorSpec) -> tf.Tensor:
    value = tf.convert_to_tensor(value)
    fits = value.dtype.is_integer or value.dtype.is_bool or (value.dtype.is_floating and spec.dtype.is_floating)
    _check(
        fits and value.shape.is_compatible_with(spec.shape),
        f"`{name}` must be {spec.dtype.name} {spec.shape}. Received: {value.dtype.name} {value.shape}",
    )
    return tf.cast(value, spec.dtype)


def _assert_below(limit: tf.Tensor | int, name: str, values: tf.Tensor) -> tf.Operation:
    inside = tf.reduce_all((values >= 0) & (values < limit))
    return tf.debugging.Assert(inside, [f"{name} must be from 0 to below", limit, ". Received:", values])


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _divided(gradient: tf.Tensor | tf.IndexedSlices, divisor: tf.Tensor) -> tf.Tensor | tf.IndexedSlices:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / divisor, gradient.indices, gradient.dense_shape)
    return gradient / divisor


def build_model(
    config: ModelConfig,
    vocabulary_size: int,
    max_seq_length: int,
    log_popularity: np.ndarray | None = None,
    seed: int = 1,
    item_features: FeatureArrays | None = None,
    draw_items: bool = True,
) -> Bert4Rec:
    """A new `Bert4Rec`; see there for the arguments."""
    return Bert4Rec(
        config,
        vocabulary_size,
        max_seq_length,
        log_popularity,
        seed,
        item_features=item_features,
        draw_items=draw_items,
    )
