"""Prepares a run: checks records and settings, makes the model, and resumes or warm-starts it."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator

import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress, has_checkpoint
from bert4rec_tf.config import Config, TrainingConfig
from bert4rec_tf.evaluation.evaluate import choose_times
from bert4rec_tf.inputs.length_buckets import steps_per_pass
from bert4rec_tf.inputs.objectives import Objective, training_instances
from bert4rec_tf.inputs.training_batches import objective_buckets
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.item_features import FeatureArrays
from bert4rec_tf.model.sampled_loss import SampledLoss
from bert4rec_tf.model_dir import TrainedModel, load_model, open_model_dir
from bert4rec_tf.model_store import WorkingDirectory
from bert4rec_tf.training.coordination import Coordinator, is_chief
from bert4rec_tf.training.optimizer import make_optimizer, variables_of
from bert4rec_tf.training.run_context import RunContext
from bert4rec_tf.training.strategy import on_parameter_servers
from bert4rec_tf.training.validation import is_validated
from bert4rec_tf.training.warm_start import check_compatible, check_same_features, warm_start
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.settings import check_settings_match
from tfrecords.vocabulary import Vocabulary

_FIRST_OBJECTIVES: dict[str, Objective] = {
    "bidirectional": "masked_item",
    "prefix": "random_prefix",
    "causal": "next_item",
}
_FIX_CHANGED_RECORDS = (
    "the last checkpoint has seen only the verified records; rebuild these (the same make_tfrecords.py command "
    "writes the same files) and run the same command to resume, or train on the new ones in another --model_dir"
)


def prepare(
    data_dir: str,
    work: WorkingDirectory,
    settings: dict[str, dict],
    strategy: tf.distribute.Strategy,
    time_limit_seconds: float | None,
    warm_start_from: str | None,
    profile: bool,
) -> RunContext:
    """Makes a new run, or restores an earlier one. Only the chief reads and writes the model directory.

    Args:
        data_dir: as in `trainer.train`, like all other arguments.
        work: the model directory.
        settings: what the user set.
        strategy: how steps are distributed.
        time_limit_seconds: for the whole run.
        warm_start_from: the directory of a trained model, or None.
        profile: whether to write a trace.

    Raises:
        InputError: the records are damaged; the settings do not fit the records, the strategy, the model directory or
            the model to start from; or this worker's records or settings differ from the chief's.
    """
    manifest, model_dir = Manifest.load(data_dir), work.directory
    config = _config_with_records(settings, manifest, data_dir)
    _check_strategy(strategy, config)
    takes = config.model.uses_times, config.model.request_time > 0
    ranked_times = choose_times(*takes, manifest.has_times, config.evaluation.target_time)
    first_objective = _FIRST_OBJECTIVES[config.model.attention]
    _check_something_to_predict(data_dir, manifest, first_objective)
    records = VerifiedRecords(data_dir, manifest, _FIX_CHANGED_RECORDS)
    vocabulary, features = Vocabulary.load(data_dir), _item_features(config, data_dir)
    records.check()

    chief, old_model = is_chief(strategy), None
    if chief:
        print(f"training {config.model.model_name}")
        if warm_start_from is not None and not has_checkpoint(model_dir):
            old_model = load_model(warm_start_from, fold=False)
            check_compatible(config, old_model.config)
            check_same_features(features, old_model.item_features)
        open_model_dir(model_dir, config, manifest, vocabulary, features)
        work.check()
    model, optimizer, progress = _make_model(config, vocabulary, features, strategy)
    tracked = {"model": model, "optimizer": optimizer, "progress": progress}
    checkpoints = Checkpoints(model_dir, tracked, config.training.checkpoints_to_keep, work.saved)
    steps_are_done = finished = False
    if chief and checkpoints.restore_latest():
        if time_limit_seconds is None:
            progress.total_steps.assign(config.training.num_steps)
        steps_are_done = _steps_are_done(config, progress, time_limit_seconds)
        finished = steps_are_done and is_validated(model_dir, progress)
        _report_resumed(work.name, progress, finished)
    elif chief and old_model is not None:
        _start_warm(model, vocabulary, features, old_model)
        checkpoints.save(best=False)  # from here on the other model is not needed

    coordinator = Coordinator(strategy, chief)
    _check_same_run(coordinator, chief, data_dir, manifest, config)
    coordinator.broadcast_from_chief([*model.variables, *variables_of(optimizer), *progress.variables])
    return RunContext(
        data_dir=data_dir,
        model_dir=model_dir,
        config=config,
        manifest=manifest,
        records=records,
        vocabulary=vocabulary,
        strategy=strategy,
        is_chief=chief,
        coordinator=coordinator,
        model=model,
        optimizer=optimizer,
        progress=progress,
        checkpoints=checkpoints,
        first_objective=first_objective,
        ranked_times=ranked_times,
        time_limit_seconds=time_limit_seconds,
        steps_are_done=steps_are_done,
        is_finished=finished,
        profile=profile,
    )


def _config_with_records(settings: dict[str, dict], manifest: Manifest, data_dir: str) -> Config:
    """The user's settings, completed by the sections that the records were built with.

    Raises:
        InputError: a setting of `data` or `masking` differs from the records, or the length of the run is set twice.
    """
    received = {section: fields for section, fields in settings.items() if section in ("data", "masking")}
    fix = f"Rebuild {data_dir} with pipelines/make_tfrecords.py"
    check_settings_match(received, manifest.config, "the records", fix)
    built_with = {section: manifest.config.to_dict()[section] for section in ("data", "masking")}
    config = Config.from_dict(settings | built_with, "--config and flags")
    passes = config.training.num_passes
    if passes is None:
        return config
    buckets = objective_buckets(manifest, _FIRST_OBJECTIVES[config.model.attention], config.training.num_length_buckets)
    # Records without a window are refused later, with a message of their own.
    steps = max(passes * steps_per_pass(buckets, config.training.batch_size), 1)
    # A `Config` always has the default, and the config.json of a run has the steps of its passes.
    if config.training.num_steps not in (TrainingConfig().num_steps, steps):
        raise InputError(
            f"A run takes training.num_steps or training.num_passes. Received: num_steps={config.training.num_steps} "
            f"and num_passes={passes}. Fix: leave one out, or set training.num_passes=null"
        )
    return dataclasses.replace(config, training=dataclasses.replace(config.training, num_steps=steps))


def _check_strategy(strategy: tf.distribute.Strategy, config: Config) -> None:
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
    unscaled = isinstance(strategy, tf.distribute.TPUStrategy) or on_parameter_servers(strategy)
    if config.training.precision == "mixed_float16" and unscaled:
        raise InputError(
            "`training.precision` must be float32 or mixed_bfloat16 on TPUs and with parameter servers, where Keras "
            "does not scale the loss. Received: mixed_float16"
        )


def _check_something_to_predict(data_dir: str, manifest: Manifest, objective: Objective) -> None:
    """Refuses records without a slot to predict: training on them would change nothing and report a loss of 0.

    Raises:
        InputError: no window has a slot to predict, or there is only one item, which every slot would predict.
    """
    items, windows = manifest.counts["items"], manifest.records("train")
    if items < 2:
        raise InputError(
            f"A model needs at least two items to choose from. Received: {items} in {data_dir}. "
            "Fix: build the records from a log with more items"
        )
    if training_instances(manifest, objective).predicted_slots():
        return
    if objective != "masked_item" and windows:
        raise InputError(
            "With model.attention=prefix or causal a model predicts the items after a window's first one, so it needs "
            f"a window of at least two items. Received: {windows:,} training windows in {data_dir}, all of one item. "
            "Fix: build the records from a log "
            "with longer histories (leave_one_out holds the last two items of a user out), or set "
            "model.attention=bidirectional"
        )
    raise InputError(
        f"Training needs at least one slot to predict. Received: {windows:,} training windows in {data_dir}, none with "
        "a masked slot. Fix: rebuild the records with pipelines/make_tfrecords.py"
    )


def _item_features(config: Config, data_dir: str) -> ItemFeatures | None:
    """The features of the records' items, if the model uses any.

    Raises:
        InputError: the records have none.
    """
    if config.model.item_features == "none":
        return None
    features = ItemFeatures.load(data_dir)
    if features is None:
        raise InputError(
            f"model.item_features={config.model.item_features} needs items with features. Received: {data_dir}, whose "
            "items have none. Fix: build the records with --item_features, or set model.item_features=none"
        )
    return features


def _make_model(
    config: Config, vocabulary: Vocabulary, features: ItemFeatures | None, strategy: tf.distribute.Strategy
) -> tuple[Bert4Rec, tf.keras.optimizers.Optimizer, Progress]:
    """A compiled model with fresh weights, its optimizer, and a progress of zero steps."""
    training, log_popularity = config.training, vocabulary.log_popularity()
    tf.keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        progress = Progress(training.num_steps)
        arrays = None if features is None else FeatureArrays.of(features, vocabulary.counts)
        sizes = vocabulary.size, config.data.max_seq_length
        with _precision(training.precision):
            model = build_model(config.model, *sizes, log_popularity, training.seed, arrays)
        # XLA cannot read weights that are on another machine.
        jit_compile = training.jit_compile and not on_parameter_servers(strategy)
        optimizer = make_optimizer(training, progress.total_steps)
        optimizer.build(model.trainable_variables)
        sampled_loss = None if training.loss == "softmax" else SampledLoss(training, log_popularity)
        model.compile(optimizer, jit_compile=jit_compile, sampled_loss=sampled_loss)
    return model, optimizer, progress


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Layers that are made in the block have this policy of Keras."""
    before = tf.keras.mixed_precision.global_policy()
    tf.keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        tf.keras.mixed_precision.set_global_policy(before)


def _steps_are_done(config: Config, progress: Progress, time_limit_seconds: float | None) -> bool:
    """Whether no step is left: the last one is done, the time is up, or early stopping ended the run."""
    patience = config.training.early_stopping_epochs
    return (
        int(progress.step.numpy()) >= config.training.num_steps
        or (time_limit_seconds is not None and float(progress.elapsed_seconds.numpy()) >= time_limit_seconds)
        or (patience is not None and int(progress.epochs_since_best.numpy()) >= patience)
    )


def _report_resumed(model_dir: str, progress: Progress, finished: bool) -> None:
    if finished:
        print(
            f"{model_dir} is trained already. To train it further, raise num_steps, num_passes or "
            "--time_limit_minutes, or early_stopping_epochs if early stopping ended the run."
        )
    else:
        print(f"resuming {model_dir} from step {int(progress.step.numpy()):,}")


def _start_warm(
    model: Bert4Rec, vocabulary: Vocabulary, features: ItemFeatures | None, old_model: TrainedModel
) -> None:
    carried = warm_start(model, vocabulary, old_model, features)
    print(
        f"starting from a trained model: {carried.shared_items:,} items carried over, {carried.new_items:,} "
        f"new, {carried.forgotten_items:,} no longer there"
    )


def _check_same_run(coordinator: Coordinator, chief: bool, data_dir: str, manifest: Manifest, config: Config) -> None:
    """Compares this worker's records and settings with the chief's.

    Raises:
        InputError: they differ, so the workers' shares of a batch would not fit together.
    """
    described = json.dumps([manifest.sha256(), config.to_dict()], sort_keys=True)
    digest = int(hashlib.sha256(described.encode()).hexdigest()[:15], 16)
    if coordinator.sum_over_workers([digest if chief else 0]) != [digest]:
        raise InputError(
            "All workers need the same records and settings. Received: this worker's records or settings differ from "
            f"the chief's (--data_dir={data_dir}). Fix: copy the chief's --data_dir, and start all workers with the "
            "same command"
        )
