"""The configuration from log to served model: five frozen sections, read from JSON and `--set`.

`data` and `masking` are declared in `tfrecords.config`, the other sections here. Unknown names, wrong types and
impossible values are refused with `InputError`, so that a typing error never trains a different model unnoticed.

The string below a field is its meaning, as in `tfrecords.config`.
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
    """The Transformer (paper sections 3.3 to 3.5). The defaults are the paper's.

    >>> ModelConfig(hidden_size=32, attention="causal").num_heads
    2
    >>> ModelConfig(hidden_size=31)
    Traceback (most recent call last):
    tfrecords.errors.InputError: `hidden_size` must be a positive multiple of num_heads=2. Received: 31
    """

    hidden_size: int = _shapes_weights(64)
    """D of the paper: the width of the embeddings and of all hidden states."""
    num_layers: int = _shapes_weights(2)
    """L of the paper: Transformer blocks."""
    num_heads: int = _shapes_weights(2)
    """h of the paper: attention heads of each block."""
    feed_forward_size: int | None = _shapes_weights(None)
    """Width of the feed-forward sublayers. None: four times `hidden_size`, as in the paper."""
    dropout: float = 0.1
    """Dropout rate on the embeddings and on each sublayer's output."""
    attention_dropout: float = 0.1
    """Dropout rate on the attention probabilities (in the authors' code, not in the paper's text)."""
    layer_norm: Literal["post", "pre", "none"] = _shapes_weights("post")
    """The layer norm of each sublayer. "post": after the residual (the paper). "pre": before the sublayer, which allows
    ten times the learning rate. "none": no layer norm."""
    embedding_layer_norm: bool = _shapes_weights(False)
    """A further layer norm on the embeddings (in the authors' code, not in the paper's text). With layer_norm=pre it
    keeps an item's embedding from vanishing beside what attention adds to it. On logs with few events per item no
    other setting gains as much."""
    feed_forward: bool = _shapes_weights(True)
    """Whether blocks have a feed-forward sublayer. False is one of the paper's ablations (Table 5), like
    residual=false, layer_norm=none, positions=none and dropout=0."""
    residual: bool = _shapes_weights(True)
    """Whether sublayers have residual connections. False is an ablation, see `feed_forward`."""
    attention: Literal["bidirectional", "prefix", "causal"] = _shapes_weights("bidirectional")
    """"bidirectional": slots attend to the whole window and masked items are predicted (Cloze, the paper). "prefix":
    bidirectional too at serving, over the whole history, and the newest item's slot predicts the next item. In training
    only the slots of a random prefix attend to each other from both sides; each later slot attends to the prefix and to
    what lies before it, and predicts the next item, so that a window trains many slots at once (a prefix language model
    as in T5: Raffel et al., JMLR 2020). "causal": left to right, at serving too. Slots attend to themselves and earlier
    slots, and each predicts the next item, as in SASRec (Kang & McAuley, ICDM 2018) but with the loss of
    "bidirectional". With "prefix" and "causal" `masking` and training.masking are ignored."""
    neighbours: float = _shapes_weights(0.0)
    """Above 0: the input at a slot also holds the embeddings of the items before and after it, each times a learned
    vector of `hidden_size` numbers that start at this value, so that a [MASK] shows what lies beside it before any
    attention is learned. With attention=prefix and attention=causal, only the item before: the one after is the answer.
    Not in the paper."""
    item_vectors: Literal["free", "unit"] = _shapes_weights("free")
    """Length of the items' vectors, at the input and at the output. "free": learned (the paper). "unit": 1. A score
    then depends on the direction of an item's vector, and the output bias models popularity (Gupta et al., NISER, 2019,
    arXiv 1909.04276). Such a model learns faster, and overfits sooner."""
    item_features: Literal["none", "sum", "gated"] = _shapes_weights("none")
    """How the features of items (`--item_features` of make_tfrecords.py) enter an item's vector, at the input and at
    the output. "none": not at all. "sum": an embedding of the features is added to the item's own. "gated": the same,
    times a learned gate. Not in the paper."""
    item_id_dropout: float = 0.02
    """With item features: the share of items that stand for unknown ones in a step of training, with their features
    alone, so that features learn to describe items without training events."""
    cold_item_boost: float = 2.0
    """With item features: what the output bias of an item without a training event exceeds the mean of the trained
    items by. Features alone describe an item less sharply than its events do, so its score needs this help to reach the
    best ones. It plays no part in training."""
    time_bias: bool = _shapes_weights(False)
    """Whether each head adds a learned bias to an attention score, one for each of 72 buckets of the logarithm of the
    time between the two events, as in HSTU (Zhai et al., ICML 2024), and one if a time is unknown. Not in the paper."""
    request_time: float = _shapes_weights(0.0)
    """Above 0: the model takes the time of the request. The slot that predicts an item gets an embedding of the time
    since the event before it, from the same buckets. In training, this share of the slots know the time of the item to
    predict; the others learn to predict without. Not in the paper."""
    time_dropout: float = 0.1
    """With time_bias or request_time: the share of the training rows whose times are hidden, so that the model also
    answers requests without times."""
    block: Literal["transformer", "gated"] = _shapes_weights("transformer")
    """"transformer": the paper's blocks. "gated": what a sublayer adds is first multiplied by a learned gate,
    sigmoid(LN(x) W + b), as in LiGR (Borisyuk et al., 2025, arXiv 2502.03417); needs layer_norm=pre."""
    positions: Literal["from_oldest", "from_newest", "none"] = _shapes_weights("from_oldest")
    """Where learned positions are counted from: the oldest item of the window (the paper) or the newest one; "none":
    there are none. With "from_newest" the next item of a short history is predicted at a position that every window
    trains (with attention=prefix and attention=causal, only the window's last slot trains it)."""
    relative_distances: int = _shapes_weights(0)
    """Above 0: each head adds a learned bias to an attention score, one for each distance between two slots up to this
    many slots before or after; larger distances share the bias of the largest one. Not in the paper."""
    initializer_range: float = 0.02
    """Weights start from a truncated normal within plus or minus this value (the paper: 0.02)."""
    dense_initializer: Literal["paper", "glorot"] = "paper"
    """Initial matrices of the dense layers. "paper": drawn as the embeddings are. "glorot" (Glorot & Bengio, AISTATS
    2010): uniform within plus or minus sqrt(6 / (rows + columns)), about five times as large, which learns much
    faster."""
    head_projection: bool = _shapes_weights(True)
    """Whether hidden states go through GELU(h W^P + b^P) before the product with the item embeddings (equation 7).
    Without it the model learns faster."""
    output_bias: Literal["zeros", "log_popularity"] = "zeros"
    """Initial b^O of equation 7: zeros, or the logarithm of each item's share of the training events."""

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
        check_field(self, "neighbours", self.neighbours >= 0, "at least 0")
        check_field(self, "request_time", 0 <= self.request_time < 1, "at least 0 and below 1")
        check_field(self, "time_dropout", 0 <= self.time_dropout < 1, "at least 0 and below 1")
        check_field(self, "item_id_dropout", 0 <= self.item_id_dropout < 1, "at least 0 and below 1")
        check_field(
            self, "block", self.block != "gated" or self.layer_norm == "pre", "transformer unless layer_norm is pre"
        )

    @property
    def uses_times(self) -> bool:
        """Whether the model takes the times of events.

        >>> ModelConfig().uses_times, ModelConfig(time_bias=True).uses_times
        (False, True)
        """
        return self.time_bias or self.request_time > 0

    @property
    def predicts_next_items(self) -> bool:
        """Whether the slot of an item predicts the item after it; if not, the slot of a [MASK] predicts its own.

        >>> ModelConfig().predicts_next_items, ModelConfig(attention="prefix").predicts_next_items
        (False, True)
        """
        return self.attention != "bidirectional"

    @property
    def model_name(self) -> str:
        """What the model is called: its family, how it is trained, and what it reads besides the items' order.

        >>> ModelConfig().model_name, ModelConfig(attention="causal").model_name
        ('BERT4Rec, Cloze', 'left to right, next item')
        >>> ModelConfig(item_features="sum", time_bias=True).model_name
        'BERT4Rec, Cloze, with item features and times'
        """
        name = {
            "bidirectional": "BERT4Rec, Cloze",
            "prefix": "BERT4Rec, random prefix",
            "causal": "left to right, next item",
        }[self.attention]
        read = {"item features": self.item_features != "none", "times": self.uses_times}
        used = " and ".join(what for what, is_used in read.items() if is_used)
        return f"{name}, with {used}" if used else name


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation (paper section 4.3) and the training run.

    >>> TrainingConfig(num_steps=2000, learning_rate=0.001).batch_size
    256
    """

    num_steps: int = _resumable(400_000)
    """Optimizer updates of the run (the authors' scripts: 400,000)."""
    num_passes: int | None = _resumable(None)
    """Instead of `num_steps`: the run's passes over the training windows (with Cloze over the instances of the
    records), so that one recipe trains logs of any size. None: `num_steps` holds."""
    batch_size: int = 256
    """Instances in one update, over all replicas."""
    masking: Literal["pregenerated", "resample"] = "pregenerated"
    """"pregenerated": uses the masks of the records. "resample": draws new masks in every pass over the records, from
    the same distribution. Ignored with model.attention=causal."""
    last_item_share: float = 0.0
    """Share of the steps, at the end of the run, that train the task of serving: each window is cut after a random
    item, and only that item is masked. Not in the paper. Ignored with model.attention=causal, which always trains this
    task at every slot, and with model.attention=prefix, whose longest prefixes are this task."""
    prefix_share: float = 1.0
    """With model.attention=prefix: the share of the steps, at the end of the run, that have random prefixes. Before
    them all rows are left to right, which learns sooner."""
    causal_rows: float = 0.5
    """With model.attention=prefix: of the steps with random prefixes, the share of the rows whose prefix is empty, so
    that every slot predicts from what lies before it. The other rows have a prefix of 1 to all of their slots, each
    equally likely."""
    loss: Literal["softmax", "sampled_softmax", "gbce"] = "softmax"
    """"softmax": over all items (the paper). For large catalogues: "sampled_softmax", over items drawn by popularity,
    with the logQ correction, or "gbce" (Petrov & Macdonald, RecSys 2023), over items drawn uniformly. Both update
    only the rows of the item table that a step uses."""
    sampled_items: int = 1024
    """Items drawn per step, shared by all its masked slots; not used with loss=softmax."""
    gbce_calibration: float = 0.75
    """t of gBCE: 0 is plain binary cross-entropy, 1 full calibration; only with loss=gbce."""
    num_length_buckets: int = 8
    """Number of batch shapes: windows are padded to one of this many lengths."""
    learning_rate: float = 1e-4
    """The peak of the learning rate, after warm-up."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """The learning rate after warm-up; linear and cosine reach 0 at `num_steps`, or at the time limit."""
    warmup_steps: int = 100
    """Steps of linear warm-up to `learning_rate`."""
    weight_decay: float = 0.01
    """Decoupled weight decay (AdamW); not on biases and layer norms."""
    beta_1: float = 0.9
    """Decay of Adam's first moment."""
    beta_2: float = 0.999
    """Decay of Adam's second moment."""
    epsilon: float = 1e-6
    """Adam's epsilon."""
    clip_norm: float = 5.0
    """Largest global norm of the gradient; larger gradients are scaled down."""
    steps_per_epoch: int | None = None
    """Steps between validations and checkpoints. None: one pass over the records."""
    validation_users: int | None = _resumable(None)
    """Users ranked at each validation in training. None: all."""
    early_stopping_epochs: int | None = _resumable(None)
    """Stop after this many epochs without a better validation. None: never. If a last stage has another
    task (last_item_share above 0, prefix_share below 1), only its epochs are counted."""
    checkpoints_to_keep: int = _resumable(2)
    """How many of the latest checkpoints are kept; the best one is always kept."""
    checkpoint_minutes: float = _resumable(10.0)
    """Save a checkpoint after this many minutes without a validation."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """In training, of the matrix products and of the activations between them, as in Keras's mixed precision. Weights,
    softmaxes, the loss and the update always have single precision, and so has a trained model when it is evaluated or
    served. For GPUs and TPUs, and with jit_compile=false for CPUs with AVX512-BF16. "mixed_float16" scales the loss,
    and skips the update where a gradient overflows."""
    jit_compile: bool = _resumable(True)
    """XLA for the forward and backward pass."""
    seed: int = 1
    """Seed of all random draws of a training: initial weights, dropout, order of the batches, masks drawn in training,
    sampled items."""

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_length_buckets", "checkpoints_to_keep", "sampled_items"):
            check_field(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps_per_epoch", "validation_users", "early_stopping_epochs", "num_passes"):
            check_field(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "epsilon", "clip_norm", "checkpoint_minutes"):
            check_field(self, name, getattr(self, name) > 0, "above 0")
        for name in ("warmup_steps", "weight_decay"):
            check_field(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("beta_1", "beta_2"):
            check_field(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        check_field(self, "last_item_share", 0 <= self.last_item_share <= 1, "from 0 to 1")
        check_field(self, "prefix_share", 0 < self.prefix_share <= 1, "above 0 and at most 1")
        check_field(self, "causal_rows", 0 <= self.causal_rows <= 1, "from 0 to 1")
        check_field(self, "gbce_calibration", 0 <= self.gbce_calibration <= 1, "from 0 to 1")
        check_field(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2**31 - 1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How targets are ranked, in validation during training, by evaluate.py and by `export.py --max_regression`.

    >>> EvaluationConfig().drop_seen
    True
    """

    drop_seen: bool = True
    """True: items of the user's history are not ranked, as by default at serving. A target that is in the history then
    counts as missed. False: they are ranked, as by `recommend` with drop_seen=false."""
    target_time: bool = False
    """Whether a model with model.request_time is told the time of the target, as a server knows the time of a request.
    A target's time is that of the event itself, so this is a little more than a server knows. Some published figures
    use it."""


@dataclasses.dataclass(frozen=True)
class Config(RecordsConfig):
    """Everything that determines what a run computes; written beside the model.

    >>> config = Config(model=ModelConfig(hidden_size=32), training=TrainingConfig(num_steps=2000))
    >>> config.model.hidden_size, config.data.max_seq_length
    (32, 200)
    """

    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


def read_settings(path: str | None, assignments: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads the settings of a `Config` that the user set: see `tfrecords.settings.read_settings`."""
    return settings.read_settings(Config, path, assignments)
