"""`--config=auto`: settings that follow from the size of a log.

The two ends are the recipes `bert4rec-dense` (MovieLens: hundreds of events an item) and `bert4rec-sparse` (Amazon
Beauty: a dozen). What lies between them is interpolated, and was not tuned.
"""

import math
from collections.abc import Mapping
from typing import Any

from bert4rec_tf.api.recipes import settings_of
from bert4rec_tf.config import Config
from pipelines.build import LogSize
from tfrecords.config import RecordsConfig
from tfrecords.manifest import Manifest

AUTO = "auto"
_Settings = dict[str, dict[str, Any]]
_WINDOWS = ((20.0, 50), (60.0, 100), (math.inf, 200))  # below so many events a user: the longest window
_BATCHES = {50: 256, 100: 128, 200: 64}  # so that a batch of the longest windows has 12,800 slots
_SPARSE_EVENTS, _DENSE_EVENTS = 20.0, 50.0  # of an item
_SPARSE_DROPOUT, _DENSE_DROPOUT = 0.5, 0.2
_SPARSE_PASSES, _DENSE_PASSES, _FEWEST_PASSES = 8, 25, 5
_MANY_EVENTS = 2_000_000  # a larger log needs fewer passes
_MANY_ITEMS, _SAMPLED_ITEMS = 10_000, 4096  # from here on, the softmax is over a sample
_FEWEST_STEPS = 400
_SMALLEST_BATCH = 16


def records_config(size: LogSize, given: Mapping[str, Mapping[str, Any]]) -> RecordsConfig:
    """The settings of the records for a log of this size; `given` are settings of the user, which come first.

    >>> records_config(LogSize(users=6040, items=3416, events=999_611), {}).data.max_seq_length
    200
    """
    length = _longest_window(size)
    chosen = settings_of("bert4rec-dense" if length > 50 else "bert4rec-sparse")
    data = chosen["data"] | {"max_seq_length": length}
    merged = _merged({"data": data, "masking": chosen["masking"]}, given)
    return Config.from_dict(merged, "--config=auto and flags")


def training_settings(manifest: Manifest, given: Mapping[str, Mapping[str, Any]]) -> _Settings:
    """The settings of the model and its training for these records; `given` are settings of the user.

    >>> training_settings(built.manifest, {"model": {"num_layers": 1}})["model"]["num_layers"]
    1
    """
    size = LogSize.of_counts(manifest.counts)
    dropout = _dropout(size)
    is_sparse = dropout >= (_SPARSE_DROPOUT + _DENSE_DROPOUT) / 2
    chosen = settings_of("bert4rec-sparse" if is_sparse else "bert4rec-dense")
    batch = _batch_size(manifest)
    passes = _passes(size, dropout)
    steps_of_a_pass = max(manifest.instances() / batch, 1.0)
    passes = max(passes, math.ceil(_FEWEST_STEPS / steps_of_a_pass))
    length = manifest.config.data.max_seq_length
    training = chosen["training"] | {
        "batch_size": batch,
        "num_passes": passes,
        "learning_rate": 0.002 if length <= 50 else 0.0015,
        "warmup_steps": min(200, round(passes * steps_of_a_pass / 2)),
        "loss": "sampled_softmax" if size.items > _MANY_ITEMS else "softmax",
        "sampled_items": _SAMPLED_ITEMS,
    }
    return _merged({"model": chosen["model"] | {"dropout": dropout}, "training": training}, given)


def describe_records(size: LogSize, config: RecordsConfig) -> str:
    """What was chosen for the records, and why, in a line."""
    length = config.data.max_seq_length
    step = config.data.sliding_window
    windows = f"windows of {length} items, the newest of each user" if not step else f"overlapping windows of {length}"
    return f"auto: {size.events_per_user:.1f} events a user, so {windows}"


def describe_training(manifest: Manifest, settings: _Settings) -> str:
    """What was chosen for the model and its training, and why, in a line."""
    size, model, training = LogSize.of_counts(manifest.counts), settings["model"], settings["training"]
    loss = f"{training['loss']} over {size.items:,} items"
    passes = f"{training['num_passes']} passes in batches of {training['batch_size']}"
    sizes = f"dropout {model['dropout']:g}, d = {model['hidden_size']}"
    return f"auto: {size.events_per_item:.1f} events an item, so {sizes}, {passes}; {loss}"


def _longest_window(size: LogSize) -> int:
    return next(length for below, length in _WINDOWS if size.events_per_user < below)


def _dropout(size: LogSize) -> float:
    """Falls with the logarithm of the events an item has, in steps of .05."""
    density = min(max(size.events_per_item, _SPARSE_EVENTS), _DENSE_EVENTS)
    share = math.log(density / _SPARSE_EVENTS) / math.log(_DENSE_EVENTS / _SPARSE_EVENTS)
    return round(20 * (_SPARSE_DROPOUT + share * (_DENSE_DROPOUT - _SPARSE_DROPOUT))) / 20


def _passes(size: LogSize, dropout: float) -> int:
    share = (_SPARSE_DROPOUT - dropout) / (_SPARSE_DROPOUT - _DENSE_DROPOUT)
    passes = _SPARSE_PASSES + share * (_DENSE_PASSES - _SPARSE_PASSES)
    return max(_FEWEST_PASSES, round(passes * min(1.0, math.sqrt(_MANY_EVENTS / size.events))))


def _batch_size(manifest: Manifest) -> int:
    """That of the recipes, or the largest power of two of which a pass has four batches."""
    length = manifest.config.data.max_seq_length
    usual = next((batch for longest, batch in _BATCHES.items() if length <= longest), 64)
    fitting = 2 ** int(math.log2(max(manifest.instances() / 4, 1)))
    return max(_SMALLEST_BATCH, min(usual, fitting))


def _merged(chosen: _Settings, given: Mapping[str, Mapping[str, Any]]) -> _Settings:
    sections = {**chosen, **{section: {} for section in given if section not in chosen}}
    merged = {section: {**fields, **given.get(section, {})} for section, fields in sections.items()}
    training = given.get("training", {})
    if training.get("num_steps") is not None and "num_passes" not in training and "training" in chosen:
        merged["training"]["num_passes"] = None
    return merged
