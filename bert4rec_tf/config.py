"""One configuration for the whole way of the data: five frozen sections, read from JSON and `--set`.

Every field is named in this file and nowhere else. Unknown names, wrong types and impossible values are
refused with `InputError`, so a typing error in a configuration never trains a different model in silence.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from tfrecords import settings
from tfrecords.config import RecordsConfig
from tfrecords.settings import check_field


def _shapes_weights(default: Any) -> Any:
    """A setting that gives the weights their shapes or their meaning: a warm start needs the same value."""
    return dataclasses.field(default=default, metadata={"shapes_weights": True})


def _resumable(default: Any) -> Any:
    """A setting that may change when a run is resumed: how long to train, and what to keep and show."""
    return dataclasses.field(default=default, metadata={"resumable": True})


def fields_with(section: type, mark: Literal["resumable", "shapes_weights"]) -> list[str]:
    """The names of a section's fields that carry a mark."""
    return [field.name for field in dataclasses.fields(section) if field.metadata.get(mark)]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The Transformer (paper sections 3.3 to 3.5). The defaults are the paper's."""

    hidden_size: int = _shapes_weights(64)  # D of the paper
    num_layers: int = _shapes_weights(2)  # L of the paper
    num_heads: int = _shapes_weights(2)  # h of the paper
    feed_forward_size: int | None = _shapes_weights(None)  # None: four times hidden_size, as in the paper
    dropout: float = 0.1  # on the embeddings and on each sublayer's output
    attention_dropout: float = 0.1  # on the attention probabilities (in the authors' code, not in the paper's text)
    # Paper: post; pre trains at ten times the learning rate.
    layer_norm: Literal["post", "pre", "none"] = _shapes_weights("post")
    # Another one on the embeddings (in the authors' code, not in the paper's text). With layer_norm=pre the item itself
    # then counts beside what attention adds to it: on a log that has few events of an item, the largest gain of all.
    embedding_layer_norm: bool = _shapes_weights(False)
    # What the paper's Table 5 leaves out, one at a time: these two, layer_norm=none, positions=none and dropout=0.
    feed_forward: bool = _shapes_weights(True)
    residual: bool = _shapes_weights(True)
    # What a slot sees, and with it what is learned. The paper's: the whole window; masked items are predicted. "causal"
    # is SASRec's (Kang & McAuley, ICDM 2018): itself and the slots before it; each predicts the next item, over the
    # same softmax. Nothing is masked then, and `masking` and training.masking are of no consequence.
    attention: Literal["bidirectional", "causal"] = _shapes_weights("bidirectional")
    # Where the learned positions are counted from. The paper's: the oldest item of the window. From the newest one, a
    # short history is asked at a position that every window trains (with causal attention, by its last slot alone).
    positions: Literal["from_oldest", "from_newest", "none"] = _shapes_weights("from_oldest")
    # Above 0: attention scores have a learned term for the distance between two slots as well, one for each head and
    # each distance up to so many slots either way, the furthest for all beyond. No part of the paper.
    relative_distances: int = _shapes_weights(0)
    initializer_range: float = 0.02  # the paper's truncated normal within +-0.02
    # Where the matrices of the dense layers start: "paper" as the embeddings do; "glorot" (Glorot & Bengio, AISTATS
    # 2010) uniformly within +-sqrt(6 / (rows + columns)), some five times as large, which learns far sooner.
    dense_initializer: Literal["paper", "glorot"] = "paper"
    # Whether a hidden state goes through GELU(h W^P + b^P) before it is compared with the items (equation 7). Without,
    # the model learns sooner.
    head_projection: bool = _shapes_weights(True)
    output_bias: Literal["zeros", "log_popularity"] = "zeros"  # where b^O of equation 7 starts

    def __post_init__(self) -> None:
        check_field(self, "num_heads", self.num_heads >= 1, "at least 1")
        check_field(
            self,
            "hidden_size",
            self.hidden_size >= 1 and self.hidden_size % self.num_heads == 0,
            f"a positive multiple of num_heads={self.num_heads}",
        )
        check_field(self, "num_layers", self.num_layers >= 1, "at least 1")
        check_field(self, "relative_distances", self.relative_distances >= 0, "at least 0")
        check_field(
            self, "feed_forward_size", self.feed_forward_size is None or self.feed_forward_size >= 1, "at least 1"
        )
        check_field(self, "dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        check_field(self, "attention_dropout", 0 <= self.attention_dropout < 1, "at least 0 and below 1")
        check_field(self, "initializer_range", self.initializer_range > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation (paper section 4.3) and the training run."""

    num_steps: int = _resumable(400_000)  # optimizer updates (the authors' scripts: 400,000)
    batch_size: int = 256  # instances in one update, over all replicas
    # "resample" draws new masks in every pass, by the same law; "pregenerated" takes those of the records. Of no
    # consequence with model.attention=causal.
    masking: Literal["pregenerated", "resample"] = "pregenerated"
    # Proportion of the steps, the last ones, that ask what serving asks: each window is cut after a random item, and
    # that item alone is masked. (No part of the paper.) Of no consequence with model.attention=causal, which asks it at
    # every slot.
    last_item_share: float = 0.0
    # "softmax" is the paper's, over all items. For large catalogues: "sampled_softmax", over items drawn by popularity,
    # with the logQ correction; "gbce" (Petrov & Macdonald, RecSys 2023), over items drawn alike. Both update only the
    # rows of the item table that a step touches.
    loss: Literal["softmax", "sampled_softmax", "gbce"] = "softmax"
    sampled_items: int = 1024  # drawn for each step, for all its masked slots
    gbce_calibration: float = 0.75  # t of gBCE: 0 is plain binary cross-entropy, 1 full calibration
    num_length_buckets: int = 8  # batch shapes: lengths are rounded up to one of so many
    learning_rate: float = 1e-4  # the peak, after warm-up
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # decay to 0 at num_steps
    warmup_steps: int = 100
    weight_decay: float = 0.01  # decoupled; never on biases and layer norms
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-6
    clip_norm: float = 5.0  # on the global norm of the gradient
    steps_per_epoch: int | None = None  # steps between validations and checkpoints; None: one pass over the records
    validation_users: int | None = _resumable(None)  # rank so many users during training; None: all
    # Stop after so many epochs without a better validation, counted in the last stage where there is one; None: never.
    early_stopping_epochs: int | None = _resumable(None)
    checkpoints_to_keep: int = _resumable(2)
    checkpoint_minutes: float = _resumable(10.0)  # save a checkpoint after so many minutes without a validation
    jit_compile: bool = _resumable(True)  # XLA for the forward and backward pass
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_length_buckets", "checkpoints_to_keep", "sampled_items"):
            check_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps_per_epoch", "validation_users", "early_stopping_epochs"):
            check_field(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "epsilon", "clip_norm", "checkpoint_minutes"):
            check_field(self, name, getattr(self, name) > 0, "above 0")
        for name in ("warmup_steps", "weight_decay"):
            check_field(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("beta_1", "beta_2"):
            check_field(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        check_field(self, "last_item_share", 0 <= self.last_item_share <= 1, "from 0 to 1")
        check_field(self, "gbce_calibration", 0 <= self.gbce_calibration <= 1, "from 0 to 1")
        check_field(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2**31 - 1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How targets are ranked, in validation during training, by evaluate.py and by `export.py --max_regression`."""

    # Whether items of the user's history are left out of the ranking, as serving leaves them out by default. A target
    # that stands in the history then counts as missed. With false they are ranked, as by `recommend` with
    # drop_seen=false.
    drop_seen: bool = True


@dataclasses.dataclass(frozen=True)
class Config(RecordsConfig):
    """All that decides what a run computes; written beside the model."""

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def read_settings(path: str | None, assignments: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads what the user set of a `Config`: see `tfrecords.settings.read_settings`."""
    return settings.read_settings(Config, path, assignments)
