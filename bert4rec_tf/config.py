"""One configuration for the whole way of the data: five frozen sections, read from JSON and `--set`.

Every field is named in this file and nowhere else. Unknown names, wrong types and impossible values are
refused with `InputError`, so a typing error in a configuration never trains a different model in silence.
"""

import dataclasses
import json
import math
import pathlib
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from bert4rec_tf.errors import InputError, check_local

MOST_SHARDS = 99_999  # five digits in a file name


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """From a raw log to user sequences and their split (paper section 4.1)."""

    max_seq_length: int = 200  # N of the paper: items in one window, the [MASK] at serving included
    max_bad_fraction: float = 0.001  # of the rows of a log that may be unreadable; they are set aside
    min_rating: float | None = None  # events rated lower are dropped; None keeps all
    min_user_events: int = 5  # users and items with fewer events are dropped, repeatedly, until all have enough
    min_item_events: int = 1
    # Events that repeat: "exact" counts one of those equal in user, item and timestamp; "first" and "last" keep
    # one event per user and item; "keep" keeps all.
    duplicates: Literal["exact", "first", "last", "keep"] = "exact"
    # Order within one timestamp. "hash", of seed, user and item, and "item_id" do not depend on the order of the input;
    # but with "item_id" the target is the largest id of its tie, which a model may guess. "input" keeps the input's.
    tie_order: Literal["hash", "item_id", "input"] = "hash"
    # "leave_one_out": each user's last item is the test target, the one before it the validation target (the paper).
    # "temporal": trained on what came before split_time; the test target is the last item of whoever came after it.
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    split_time: float | None = (
        None  # in seconds since 1970 (UTC), whatever the unit of the log; the flag takes dates too
    )
    # Of the users: whose validation target is held out; the others' is trained on, as are all in the authors' code
    # (Petrov & Macdonald, RecSys 2022, hold out those of 2,048 users). The test target is held out of all.
    validation_share: float = 1.0
    # Of the windows, only those with an event at or after this time are trained on, in seconds too; None: all. All
    # else stays that of the whole log: vocabulary, counts, split, evaluated users.
    train_since: float | None = None
    # Step between the windows of a history longer than N, as a proportion of N; 0: the newest window alone.
    sliding_window: float = 0.5
    num_negatives: int = 100  # drawn by popularity for each evaluated user (paper section 4.2)
    num_shards: int | None = None  # None: 8, or one for each million events, so that a shard stays small
    seed: int = 1

    def __post_init__(self) -> None:
        _check(self, "max_seq_length", 2 <= self.max_seq_length, "at least 2")
        _check(self, "max_bad_fraction", 0 <= self.max_bad_fraction <= 1, "from 0 to 1")
        _check(self, "min_rating", self.min_rating is None or math.isfinite(self.min_rating), "a finite number")
        _check(self, "min_user_events", 1 <= self.min_user_events, "at least 1")
        _check(self, "min_item_events", 1 <= self.min_item_events, "at least 1")
        _check(
            self,
            "split_time",
            (self.split == "temporal") == (self.split_time is not None and math.isfinite(self.split_time)),
            "a finite number with split=temporal, and null without",
        )
        _check(self, "validation_share", 0 < self.validation_share <= 1, "above 0 and at most 1")
        _check(self, "train_since", self.train_since is None or math.isfinite(self.train_since), "a finite number")
        _check(self, "sliding_window", 0 <= self.sliding_window <= 1, "from 0 to 1")
        _check(self, "num_negatives", 0 <= self.num_negatives, "at least 0")
        _check(
            self,
            "num_shards",
            self.num_shards is None or 1 <= self.num_shards <= MOST_SHARDS,
            f"from 1 to {MOST_SHARDS}",
        )
        _check(self, "seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
    """The Cloze objective's instances (paper section 3.6)."""

    masking_rates: tuple[float, ...] = (0.2,)  # the paper's proportion; of several, each instance draws one
    duplicate_factor: int = 10  # differently masked instances made of each window
    last_item_instances: int = 1  # further instances of each window in which only the last item is masked
    max_predictions: int | None = None  # cap on masked items in one instance; None leaves the rate alone
    random_item_rate: float = 0.0  # share of masked slots shown as a random item (BERT: 0.1; the paper: 0)
    kept_item_rate: float = 0.0  # share of masked slots that show the item itself (BERT: 0.1; the paper: 0)

    def __post_init__(self) -> None:
        rates_fit = bool(self.masking_rates) and all(0 <= rate <= 1 for rate in self.masking_rates)
        _check(self, "masking_rates", rates_fit, "one or several numbers from 0 to 1")
        _check(self, "duplicate_factor", 0 <= self.duplicate_factor, "at least 0")
        _check(self, "last_item_instances", 0 <= self.last_item_instances, "at least 0")
        instances = self.duplicate_factor + self.last_item_instances
        _check(self, "duplicate_factor", 1 <= instances, "at least 1 where last_item_instances is 0")
        _check(self, "max_predictions", self.max_predictions is None or self.max_predictions >= 1, "at least 1")
        _check(self, "random_item_rate", 0 <= self.random_item_rate <= 1, "from 0 to 1")
        _check(
            self,
            "kept_item_rate",
            0 <= self.kept_item_rate <= 1 - self.random_item_rate,
            "from 0 to 1 - random_item_rate",
        )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The Transformer (paper sections 3.3 to 3.5). The defaults are the paper's."""

    hidden_size: int = 64  # D of the paper
    num_layers: int = 2  # L of the paper
    num_heads: int = 2  # h of the paper
    feed_forward_size: int | None = None  # None: four times hidden_size, as in the paper
    dropout: float = 0.1  # on the embeddings and on each sublayer's output
    attention_dropout: float = 0.1  # on the attention probabilities (in the authors' code, not in the paper's text)
    # Paper: post; pre trains at ten times the learning rate.
    layer_norm: Literal["post", "pre", "none"] = "post"
    # Another one on the embeddings (in the authors' code, not in the paper's text). With layer_norm=pre the item itself
    # then counts beside what attention adds to it: on a log that has few events of an item, the largest gain of all.
    embedding_layer_norm: bool = False
    # What the paper's Table 5 leaves out, one at a time: these two, layer_norm=none, positions=none and dropout=0.
    feed_forward: bool = True
    residual: bool = True
    # What a slot sees, and with it what is learned. The paper's: the whole window; masked items are predicted. "causal"
    # is SASRec's (Kang & McAuley, ICDM 2018): itself and the slots before it; each predicts the next item, over the
    # same softmax. Nothing is masked then, and `masking` and training.masking are of no consequence.
    attention: Literal["bidirectional", "causal"] = "bidirectional"
    # Where the learned positions are counted from. The paper's: the oldest item of the window. From the newest one, a
    # short history is asked at a position that every window trains (with causal attention, by its last slot alone).
    positions: Literal["from_oldest", "from_newest", "none"] = "from_oldest"
    # Above 0: attention scores have a learned term for the distance between two slots as well, one for each head and
    # each distance up to so many slots either way, the furthest for all beyond. No part of the paper.
    relative_distances: int = 0
    initializer_range: float = 0.02  # the paper's truncated normal within +-0.02
    # Where the matrices of the dense layers start: "paper" as the embeddings do; "glorot" (Glorot & Bengio, AISTATS
    # 2010) uniformly within +-sqrt(6 / (rows + columns)), some five times as large, which learns far sooner.
    dense_initializer: Literal["paper", "glorot"] = "paper"
    # Whether a hidden state goes through GELU(h W^P + b^P) before it is compared with the items (equation 7). Without,
    # the model learns sooner.
    head_projection: bool = True
    output_bias: Literal["zeros", "log_popularity"] = "zeros"  # where b^O of equation 7 starts

    def __post_init__(self) -> None:
        _check(self, "num_heads", self.num_heads >= 1, "at least 1")
        _check(
            self,
            "hidden_size",
            self.hidden_size >= 1 and self.hidden_size % self.num_heads == 0,
            f"a positive multiple of num_heads={self.num_heads}",
        )
        _check(self, "num_layers", self.num_layers >= 1, "at least 1")
        _check(self, "relative_distances", self.relative_distances >= 0, "at least 0")
        _check(self, "feed_forward_size", self.feed_forward_size is None or self.feed_forward_size >= 1, "at least 1")
        _check(self, "dropout", 0 <= self.dropout < 1, "at least 0 and below 1")
        _check(self, "attention_dropout", 0 <= self.attention_dropout < 1, "at least 0 and below 1")
        _check(self, "initializer_range", self.initializer_range > 0, "above 0")


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Optimisation (paper section 4.3) and the training run."""

    num_steps: int = 400_000  # optimizer updates (the authors' scripts: 400,000)
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
    validation_users: int | None = None  # rank so many users during training; None: all
    # Stop after so many epochs without a better validation, counted in the last stage where there is one; None: never.
    early_stopping_epochs: int | None = None
    checkpoints_to_keep: int = 2
    checkpoint_minutes: float = 10.0  # minutes without a validation after which a checkpoint is saved all the same
    jit_compile: bool = True  # XLA for the forward and backward pass
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "num_length_buckets", "checkpoints_to_keep", "sampled_items"):
            _check(self, name, getattr(self, name) >= 1, "at least 1")
        for name in ("steps_per_epoch", "validation_users", "early_stopping_epochs"):
            _check(self, name, getattr(self, name) is None or getattr(self, name) >= 1, "at least 1")
        for name in ("learning_rate", "epsilon", "clip_norm", "checkpoint_minutes"):
            _check(self, name, getattr(self, name) > 0, "above 0")
        for name in ("warmup_steps", "weight_decay"):
            _check(self, name, getattr(self, name) >= 0, "at least 0")
        for name in ("beta_1", "beta_2"):
            _check(self, name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        _check(self, "last_item_share", 0 <= self.last_item_share <= 1, "from 0 to 1")
        _check(self, "gbce_calibration", 0 <= self.gbce_calibration <= 1, "from 0 to 1")
        _check(self, "seed", 0 <= self.seed < 2**31, "from 0 to 2**31 - 1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """How targets are ranked, in validation during training, by evaluate.py and by `export.py --max_regression`."""

    # Whether items of the user's history are left out of the ranking, as serving leaves them out by default. A target
    # that stands in the history then counts as missed. With false they are ranked, as by `recommend` with
    # drop_seen=false.
    drop_seen: bool = True


@dataclasses.dataclass(frozen=True)
class Config:
    """All that decides what a run computes; written beside the records and beside the model."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    @classmethod
    def from_dict(cls, values: Any, origin: str = "config") -> "Config":
        """Builds a configuration from nested dicts; fields left out take their defaults.

        Raises:
            InputError: an unknown section or field, a wrong type or an impossible value; `origin` names the source.
        """
        typed = _typed_sections(values, origin)
        sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
        try:
            return cls(**{name: section(**typed.get(name, {})) for name, section in sections.items()})
        except InputError as error:
            raise InputError(f"{error} ({origin})") from None

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """The configuration as nested dicts of JSON values; `from_dict` gives it back."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


def read_settings(path: str | None, assignments: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Reads what the user set, and only that: a JSON file, then `section.field=value` assignments over it.

    Names and types are checked here, and values by `Config.from_dict`, for some are only possible with others.

    Args:
        path: a JSON file of sections and fields, or None.
        assignments: the values of `--set`; the right side is JSON, or else taken as a string.

    Raises:
        InputError: an unreadable file, invalid JSON, or an assignment that is not `section.field=value`.
    """
    settings: dict[str, dict[str, Any]] = {}
    if path is not None:
        check_local("config", path)
        try:
            settings = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"--config must be a readable file. Received: {path!r} ({error})") from None
        except json.JSONDecodeError as error:
            raise InputError(f"--config must be JSON. Received: {path}, line {error.lineno}: {error.msg}") from None
        _typed_sections(settings, path)
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        section, dot, field = name.strip().partition(".")
        if not (equals and dot):
            raise InputError(
                f"--set takes section.field=value. Received: {assignment!r}, "
                "fix: write for example --set=model.num_layers=2"
            )
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        settings.setdefault(section, {})[field] = value
        _typed_sections({section: {field: value}}, f"--set={assignment}")
    return settings


def check_settings_match(settings: dict[str, dict[str, Any]], config: Config, made_by: str, fix: str) -> None:
    """Holds what the user set now against a configuration that was fixed earlier.

    Args:
        settings: what `read_settings` gave.
        config: the earlier configuration; only sections and fields named in `settings` are compared.
        made_by: what the earlier configuration belongs to, for the message.
        fix: what to do, for the message.

    Raises:
        InputError: names the first field that differs and both values.
    """
    received, fixed = json.loads(json.dumps(_typed_sections(settings, "settings"))), config.to_dict()
    for section, fields in settings.items():
        for field in fields:
            if received[section][field] != fixed[section][field]:
                raise InputError(
                    f"`{section}.{field}` must match {made_by}. Received: config={received[section][field]!r}, "
                    f"{made_by}={fixed[section][field]!r}. {fix} or set {section}.{field}={fixed[section][field]!r}."
                )


def _check(section: Any, field: str, holds: bool, rule: str) -> None:
    if not holds:
        raise InputError(f"`{field}` must be {rule}. Received: {getattr(section, field)!r}")


def _check_names(values: Any, known: typing.Collection[str], origin: str, kind: str) -> None:
    if not isinstance(values, dict):
        raise InputError(f"A configuration {kind} must be a JSON object. Received: {values!r} ({origin})")
    for name in values:
        if name not in known:
            raise InputError(f"Unknown {kind} {name!r} ({origin}). Known: {', '.join(sorted(known))}")


def _typed_sections(values: Any, origin: str) -> dict[str, dict[str, Any]]:
    """Checks the names and the types of settings, and gives them as their fields are declared.

    Raises:
        InputError: see `Config.from_dict`.
    """
    sections: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Config)}
    _check_names(values, sections, origin, "section")
    typed = {}
    for name, given in values.items():
        fields = {field.name: field.type for field in dataclasses.fields(sections[name])}
        _check_names(given, fields, f"{origin}, {name}", "field")
        try:
            typed[name] = {key: _typed(name, key, fields[key], value) for key, value in given.items()}
        except InputError as error:
            raise InputError(f"{error} ({origin})") from None
    return typed


def _typed(section: str, field: str, declared: Any, value: Any) -> Any:
    """Checks a JSON value against a field's declared type: ints pass as floats, one number as a list of one."""
    union = isinstance(declared, types.UnionType)
    options = typing.get_args(declared) if union else (declared,)
    if value is None and type(None) in options:
        return None
    for option in options:
        if typing.get_origin(option) is Literal and value in typing.get_args(option):
            return value
        if option is bool and isinstance(value, bool):
            return value
        if isinstance(value, bool):
            continue
        if option is float and isinstance(value, int | float):
            return float(value)
        if option is int and (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
            return int(value)
        if typing.get_origin(option) is tuple:
            numbers = value if isinstance(value, list | tuple) else [value]
            if all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
                return tuple(float(number) for number in numbers)
    raise InputError(f"`{section}.{field}` must be {_words(declared)}. Received: {value!r}")


def _words(declared: Any) -> str:
    if isinstance(declared, types.UnionType):
        return " or ".join(_words(option) for option in typing.get_args(declared))
    if typing.get_origin(declared) is Literal:
        return "one of " + ", ".join(repr(option) for option in typing.get_args(declared))
    if typing.get_origin(declared) is tuple:
        return "a number or a list of numbers"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(declared, "null")
