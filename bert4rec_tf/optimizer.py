"""AdamW with warm-up and decay (paper section 4.3)."""

import math

import tensorflow as tf

from bert4rec_tf.config import TrainingConfig


class WarmupThenDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """Rises over `warmup_steps`, then decays to 0 at `total_steps`: linearly (the paper's), as a cosine, or not.

    Args:
        config: peak, warm-up and form.
        total_steps: int64 variable; a run that is to end at a given time moves it as its pace becomes known.
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

    def get_config(self) -> dict:
        return {"config": self.config, "total_steps": self.total_steps}


def make_optimizer(config: TrainingConfig, total_steps: tf.Variable) -> tf.keras.optimizers.Optimizer:
    """AdamW with decoupled decay on all weights but biases and layer norms, and clipping by the global norm.

    Departure from the paper: it says l2 weight decay; like the authors' code, this decouples it (Loshchilov & Hutter,
    ICLR 2019). Clipping comes after the gradients of all replicas are summed.
    """
    optimizer = tf.keras.optimizers.AdamW(
        learning_rate=WarmupThenDecay(config, total_steps),
        weight_decay=config.weight_decay,
        beta_1=config.beta_1,
        beta_2=config.beta_2,
        epsilon=config.epsilon,
        global_clipnorm=config.clip_norm,
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "layer_norm"])
    return optimizer
