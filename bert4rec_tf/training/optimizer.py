"""AdamW with warm-up and decay (paper section 4.3)."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

import bert4rec_tf.legacy_keras  # noqa: F401, a check
from bert4rec_tf.config import Config, TrainingConfig

_UNDECAYED = ("bias", "layer_norm")
_TABLES = (
    "item_table",
    "position_table",
    "category_table",
)  # a step with a sampled loss touches only some of their rows


@tf.keras.utils.register_keras_serializable("bert4rec_tf")
class WarmupThenDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A rate that rises over `warmup_steps`, then decays to 0 at `total_steps`: linearly (the paper) or as a cosine.

    With the "constant" schedule it does not decay.

    Args:
        config: gives the peak rate, the warm-up and the schedule.
        total_steps: int64 variable; a run with a time limit moves it as its pace becomes known.
    """

    def __init__(self, config: TrainingConfig, total_steps: tf.Variable):
        super().__init__()
        self.config = config
        self.total_steps = total_steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Learning rate of an update, float32; `step` counts updates from 0."""
        step = tf.cast(step, tf.float32)
        warmup = float(self.config.warmup_steps)
        total = tf.cast(self.total_steps, tf.float32)
        left = tf.clip_by_value((total - step) / tf.maximum(total - warmup, 1.0), 0.0, 1.0)
        decay = {"linear": left, "cosine": 0.5 - 0.5 * tf.cos(math.pi * left), "constant": tf.ones_like(left)}
        rise = tf.minimum((step + 1.0) / max(warmup, 1.0), 1.0)
        return self.config.learning_rate * rise * decay[self.config.schedule]

    def get_config(self) -> dict[str, Any]:
        """The arguments as JSON values, with the current `total_steps`."""
        return {"config": dataclasses.asdict(self.config), "total_steps": int(self.total_steps.numpy())}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "WarmupThenDecay":
        """The same schedule, with a new variable."""
        training = Config.from_dict({"training": config["config"]}, "the saved optimizer").training
        return cls(training, tf.Variable(config["total_steps"], trainable=False, dtype=tf.int64))


@tf.keras.utils.register_keras_serializable("bert4rec_tf")
class SelectiveAdamW(tf.keras.optimizers.AdamW):
    """AdamW that saves the list of weights without decay. Keras's AdamW loses that list and decays all after loading.

    Args:
        undecayed: weights whose name contains one of these strings are not decayed.
        **kwargs: arguments of `tf.keras.optimizers.AdamW`.
    """

    def __init__(self, undecayed: Sequence[str] = (), **kwargs: Any):
        super().__init__(**kwargs)
        self.exclude_from_weight_decay(var_names=list(undecayed))

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"undecayed": list(self._exclude_from_weight_decay_names)}


@tf.keras.utils.register_keras_serializable("bert4rec_tf")
class LazyAdamW(SelectiveAdamW):
    """AdamW that updates only the rows that a sparse gradient touches: their values, moments and decay.

    Departure from Adam: moments of untouched rows are not decayed, also not later. The cost of a step then depends on
    the batch only, not on the number of rows.
    """

    def _clip_gradients(self, grads: list[tf.Tensor | tf.IndexedSlices]) -> list[tf.Tensor | tf.IndexedSlices]:
        # Repeated rows are summed before the clipping, as in a dense gradient; Keras sums them after it.
        return super()._clip_gradients(super()._deduplicate_sparse_grad(grads))

    def _deduplicate_sparse_grad(self, grads: list[tf.Tensor | tf.IndexedSlices]) -> list[tf.Tensor | tf.IndexedSlices]:
        return grads

    def update_step(self, gradient: tf.Tensor | tf.IndexedSlices, variable: tf.Variable) -> None:
        """Called by Keras for each variable."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        rows, index = gradient.indices, self._index_dict[self._var_key(variable)]
        mean = self._averaged(self._momentums[index], rows, gradient.values, self.beta_1)
        square = self._averaged(self._velocities[index], rows, gradient.values**2, self.beta_2)
        step = tf.cast(self.iterations + 1, tf.float32)
        correction = tf.sqrt(1 - tf.pow(self.beta_2, step)) / (1 - tf.pow(self.beta_1, step))
        change = correction * mean / (tf.sqrt(square) + self.epsilon)
        if _decays(variable):
            change += self.weight_decay * tf.gather(variable, rows)
        variable.scatter_sub(tf.IndexedSlices(tf.cast(self.learning_rate, tf.float32) * change, rows))

    @staticmethod
    def _averaged(moments: tf.Variable, rows: tf.Tensor, values: tf.Tensor, beta: float) -> tf.Tensor:
        averaged = beta * tf.gather(moments, rows) + (1 - beta) * values
        moments.scatter_update(tf.IndexedSlices(averaged, rows))
        return averaged


def make_optimizer(config: TrainingConfig, total_steps: tf.Variable) -> tf.keras.optimizers.Optimizer:
    """AdamW with decoupled decay on all weights except biases and layer norms, and clipping by the global norm.

    Departure from the paper, which names l2 weight decay: like the authors' code, this decouples it (Loshchilov &
    Hutter, ICLR 2019). Gradients are clipped after they are summed over all replicas. A loss over sampled items gets
    `LazyAdamW`.

    Departures from the authors' code (table in docs/architecture.md): Adam's bias correction, which theirs
    omits, so that its early updates are up to 6.6 times as large; a warm-up that does not start at a rate of 0; and
    a decay that starts at the end of the warm-up.
    """
    # LazyAdamW itself decays the rows that it touches.
    kind, by_rows = (SelectiveAdamW, ()) if config.loss == "softmax" else (LazyAdamW, _TABLES)
    optimizer = kind(
        undecayed=[*_UNDECAYED, *by_rows],
        learning_rate=WarmupThenDecay(config, total_steps),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=config.clip_norm,
    )
    if config.precision != "mixed_float16":
        return optimizer
    # The loss is a sum over all masked items of a batch, which scales it already.
    return tf.keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=1.0)


def variables_of(optimizer: tf.keras.optimizers.Optimizer) -> list[tf.Variable]:
    """All state of an optimizer. Keras's list leaves out the scale of the loss."""
    scale = getattr(optimizer, "_loss_scale", None)
    return [*optimizer.variables, *([] if scale is None else [scale.current_loss_scale, scale.counter])]


def _decays(variable: tf.Variable) -> bool:
    return not any(name in variable.name for name in _UNDECAYED)
