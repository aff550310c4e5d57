"""What a run checks before its first step."""

import tensorflow as tf

from bert4rec_tf.checkpoints import Progress
from bert4rec_tf.config import Config
from bert4rec_tf.inputs.objectives import Objective, training_instances
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest


def check_strategy(strategy: tf.distribute.Strategy, config: Config) -> None:
    """Refuses a batch size or batch shapes that the strategy cannot distribute.

    Raises:
        InputError: names the setting.
    """
    batch_size, buckets = config.training.batch_size, config.training.num_length_buckets
    if batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"`training.batch_size` must be a multiple of the replicas. Received: {batch_size} "
            f"over {strategy.num_replicas_in_sync} replicas"
        )
    if isinstance(strategy, tf.distribute.TPUStrategy) and buckets != 1:
        raise InputError(
            f"`training.num_length_buckets` must be 1 on a TPU, which takes batches of one shape. Received: {buckets}"
        )


def first_objective(config: Config) -> Objective:
    """What a run learns before its last stage."""
    return "next_item" if config.model.attention == "causal" else "masked_item"


def check_something_to_predict(data_dir: str, manifest: Manifest, config: Config) -> None:
    """A pass without a slot to predict would train on nothing, and report a loss of 0.

    Raises:
        InputError: no window has a slot to predict, or there is only one item, which every slot would predict.
    """
    items, windows = manifest.counts["items"], manifest.records("train")
    if items < 2:
        raise InputError(
            f"A model needs at least two items to choose from. Received: {items} in {data_dir}. "
            "Fix: build the records from a log with more items"
        )
    objective = first_objective(config)
    if training_instances(manifest, objective).predicted_slots():
        return
    if objective == "next_item" and windows:
        raise InputError(
            "A causal model predicts the items after a window's first one, so it needs a window of at least two items. "
            f"Received: {windows:,} training windows in {data_dir}, all of one item. Fix: build the records from a log "
            "with longer histories (leave_one_out holds the last two items of a user out), or set "
            "model.attention=bidirectional"
        )
    raise InputError(
        f"Training needs at least one slot to predict. Received: {windows:,} training windows in {data_dir}, none with "
        "a masked slot. Fix: rebuild the records with pipelines/make_tfrecords.py"
    )


def on_parameter_servers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the weights are on parameter servers."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def is_finished(config: Config, progress: Progress, time_limit_seconds: float | None) -> bool:
    """Whether no step is left: the last one is done, the time is up, or validation stopped getting better."""
    patience = config.training.early_stopping_epochs
    return (
        int(progress.step.numpy()) >= config.training.num_steps
        or (time_limit_seconds is not None and float(progress.elapsed_seconds.numpy()) >= time_limit_seconds)
        or (patience is not None and int(progress.epochs_since_best.numpy()) >= patience)
    )
