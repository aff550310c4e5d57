"""Trains a model on a data directory into a model directory; the same call again resumes the run."""

import dataclasses
import functools
import math
import signal

import tensorflow as tf

from bert4rec_tf.evaluation.evaluate import Ranker, UserRanks, batches_to_rank, make_ranker, rank_batches
from bert4rec_tf.inputs.objectives import training_instances, windows_of_one_item
from bert4rec_tf.inputs.training_batches import training_batches
from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.model_store import working_directory
from bert4rec_tf.training.curves import MakeTracker, Status
from bert4rec_tf.training.interruption import StopSignals
from bert4rec_tf.training.monitor import TrainingMonitor
from bert4rec_tf.training.prepare import prepare
from bert4rec_tf.training.run_context import RunContext
from bert4rec_tf.training.steps import ParameterServerSteps, SynchronousSteps
from bert4rec_tf.training.strategy import on_parameter_servers
from bert4rec_tf.training.tensorboard import write_projector
from tfrecords.errors import InputError, PeerLost, Stopped, full_disk, writing
from tfrecords.record_store import local_records
from tfrecords.store_cache import showing
from tfrecords.stores import check_path, is_url


def train(
    data_dir: str,
    model_dir: str,
    settings: dict[str, dict],
    strategy: tf.distribute.Strategy,
    time_limit_minutes: float | None = None,
    warm_start_from: str | None = None,
    profile: bool = False,
    make_tracker: MakeTracker | None = None,
) -> TrainedModel | None:
    """Trains until `training.num_steps`, the time limit or early stopping, whichever comes first.

    Args:
        data_dir: made by pipelines/make_tfrecords.py, on this machine or in an object store.
        model_dir: a new directory, or that of an earlier call with the same settings and records, which is resumed. In
            an object store, see `model_store`.
        settings: from `config.read_settings`. Settings of `data` and `masking` must match the records; those that
            are left out are taken from the records.
        strategy: from `strategy.make_strategy`.
        time_limit_minutes: for the whole run, earlier calls included; the learning-rate schedule is fitted to it.
        warm_start_from: a model directory to start from, see `warm_start`; a resumed run does not read it.
        profile: writes a trace of ten steps for TensorBoard.
        make_tracker: makes a tracker that receives the curves too, from the model directory, the settings and the
            sha256 of the records' manifest; only the chief calls it. None: TensorBoard only.

    Returns:
        The model with the weights of its best validation; None in a process that is not the chief.

    Raises:
        InputError: settings that do not fit the records, the model directory or the model to start from, damaged
            records, records that change during the training, or a loss that is not finite.
        Stopped: by Ctrl-C or SIGTERM, after a checkpoint was saved.
        PeerLost: another process of the cluster has ended.
    """
    if time_limit_minutes is not None and time_limit_minutes <= 0:
        raise InputError(f"--time_limit_minutes must be above 0. Received: {time_limit_minutes}")
    for name, path in (("data_dir", data_dir), ("model_dir", model_dir), ("warm_start_from", warm_start_from)):
        check_path(name, path)
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy | tf.distribute.ParameterServerStrategy)
    if several and is_url(model_dir):
        raise needs_mounted_folder(model_dir)
    limit = None if time_limit_minutes is None else 60.0 * time_limit_minutes
    try:
        records = local_records(data_dir)
        with showing(str(data_dir), records), working_directory(model_dir) as work:
            with writing(work.name):
                context = prepare(str(records), work, settings, strategy, limit, warm_start_from, profile)
                _train(context, make_tracker)
            return load_model(work.directory) if context.is_chief else None
    except tf.errors.ResourceExhaustedError as error:  # TensorBoard's disk is full, or memory ran out
        raise full_disk(error) or error from None
    # TensorFlow raises any of these when another process has ended.
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError):
        if not several:
            raise
        raise PeerLost from None


def needs_mounted_folder(model_dir: str) -> InputError:
    """The error for a cluster with a model directory in an object store."""
    return InputError(
        f"A cluster needs a --model_dir that is mounted. Received: {model_dir}. Fix: mount the bucket or file system "
        "and name the folder, or train on one machine"
    )


@dataclasses.dataclass(frozen=True)
class Round:
    """What all workers do next, by the chief's decision.

    Attributes:
        steps: updates to make; 0 ends the run.
        total_steps: last step of the learning-rate schedule.
        last_stage_start: first step of the last stage; -1 before that stage.
        stop: how many workers received a stop signal. Above 0, the workers stop instead of making the steps.
    """

    steps: int
    total_steps: int
    last_stage_start: int
    stop: int


def _train(context: RunContext, make_tracker: MakeTracker | None) -> None:
    """Makes the steps that are left; the chief also validates, saves and reports."""
    monitor, tracker, signals = None, None, StopSignals()
    status: Status = "FAILED"
    if context.is_chief:
        _print_sizes(context)
        if make_tracker is not None:
            tracker = make_tracker(context.model_dir, context.config, context.manifest.sha256())
            tracker.start()
        drop_seen, times = context.config.evaluation.drop_seen, context.ranked_times
        ranker = make_ranker(context.model.score_next_item, drop_seen=drop_seen, times=times)
        min_steps = _steps_class(context).min_steps()
        max_users, max_items = context.config.training.validation_users, context.config.data.max_seq_length - 1
        batches = batches_to_rank(context.data_dir, context.manifest, "validation", max_users, max_items)
        rank_users = functools.partial(_rank_validation_users, context, ranker, batches, signals)
        monitor = TrainingMonitor(context, rank_users, min_steps, tracker)
    try:
        with signals:
            _make_steps(context, monitor, signals)
        status = "FINISHED"
    except Stopped:
        status = "KILLED"
        raise
    finally:
        if monitor is not None:
            monitor.close()
        if tracker is not None:
            tracker.end(status)
    if context.is_chief and not context.is_finished:
        vectors = tf.convert_to_tensor(context.model.embedding.all_vectors()).numpy()
        write_projector(context.model_dir / "tensorboard", vectors, context.vocabulary)


def _steps_class(context: RunContext) -> type[ParameterServerSteps] | type[SynchronousSteps]:
    return ParameterServerSteps if on_parameter_servers(context.strategy) else SynchronousSteps


def _print_sizes(context: RunContext) -> None:
    buckets = context.buckets(context.first_objective)
    shapes = "/".join(str(bucket.length) for bucket in buckets)
    print(
        f"{sum(bucket.instances for bucket in buckets):,} instances, {context.manifest.counts['items']:,} items, "
        f"{context.model.count_params():,} weights; batches of lengths {shapes}; "
        f"validation every {context.steps_per_epoch:,} steps"
    )
    if context.config.model.predicts_next_items and (lone := windows_of_one_item(context.manifest)):
        print(f"{lone:,} of these are windows of one item, which have nothing to predict")


def _rank_validation_users(
    context: RunContext, ranker: Ranker, batches: tf.data.Dataset, signals: StopSignals
) -> UserRanks:
    """Ranks the validation users with the current weights.

    Raises:
        Stopped: a signal was received; the validation is not complete.
    """

    def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        signals.stop_if_received()
        return ranker(batch)

    with context.records.unchanged():
        return rank_batches(rank, batches, context.manifest)


def _make_steps(context: RunContext, monitor: TrainingMonitor | None, signals: StopSignals) -> None:
    """Runs rounds of steps. The chief sets each round's size; 0 ends the run.

    The step function and its batches are rebuilt when the last stage starts.

    Raises:
        InputError: the loss is not finite, or the records changed.
        Stopped: a worker received a stop signal.
    """
    progress, make_steps, in_last_stage = context.progress, None, context.progress.in_last_stage
    while True:
        proposed = Round(0, 0, 0, 0) if monitor is None else _next_round(context, monitor)
        proposed = dataclasses.replace(proposed, stop=int(signals.received is not None))
        agreed = Round(*context.coordinator.sum_over_workers(list(dataclasses.astuple(proposed))))
        if not agreed.steps:
            return
        if agreed.stop:
            signals.acknowledge()
            if monitor is not None:
                monitor.save()
            raise Stopped(signals.received or signal.SIGTERM)
        progress.total_steps.assign(agreed.total_steps)
        progress.last_stage_from.assign(agreed.last_stage_start)
        with context.records.unchanged():  # checked before these steps count, so before a checkpoint holds them
            if make_steps is None or in_last_stage != progress.in_last_stage:
                in_last_stage = progress.in_last_stage
                make_steps = _steps_class(context)(
                    context.model, context.strategy, functools.partial(_batches, context)
                )
            sums = make_steps(agreed.steps)
        progress.step.assign_add(agreed.steps)
        if not math.isfinite(sums.loss):
            raise InputError(
                f"The loss must be finite. Received: {sums.loss} by step {int(progress.step.numpy()):,}; the "
                "last good checkpoint is kept. Fix: lower training.learning_rate, or raise training.warmup_steps"
            )
        if monitor is not None:
            monitor.after_steps(sums)


def _next_round(context: RunContext, monitor: TrainingMonitor) -> Round:
    """What the chief proposes, after the validation and the checkpoint that are due.

    A signal may interrupt the validation. The resumed run then repeats it, so until then no step may be made and no
    stage may start.
    """
    try:
        monitor.catch_up()
        steps = monitor.next_steps()  # may start the last stage, so before `progress` is read
    except Stopped:
        steps = 1  # not made: this process has received a stop signal
    progress = context.progress
    return Round(steps, int(progress.total_steps.numpy()), int(progress.last_stage_from.numpy()), stop=0)


def _batches(context: RunContext, process: int, processes: int) -> tf.data.Dataset:
    """One process's rows of the batches of the current stage, from the current step on."""
    training, progress = context.config.training, context.progress
    instances = training_instances(
        context.manifest,
        context.objective,
        context.vocabulary.size if training.masking == "resample" else None,
        context.causal_rows,
        context.config.model.uses_times,
    )
    return training_batches(
        context.data_dir,
        instances,
        context.buckets(context.objective),
        training.batch_size,
        training.seed,
        int(progress.step.numpy()) - progress.stage_start,
        process,
        processes,
    )
