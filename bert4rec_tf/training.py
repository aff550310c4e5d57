"""Trains a model on a data directory into a model directory; the same call again goes on where it stopped."""

import pathlib

import tensorflow as tf

from bert4rec_tf.callbacks import Profiler, ProgressBar, RunClock, Validation
from bert4rec_tf.config import Config, check_settings_match
from bert4rec_tf.errors import InputError, Stopped
from bert4rec_tf.evaluation import evaluate, make_ranker
from bert4rec_tf.model import build_model
from bert4rec_tf.model_dir import Checkpoints, Progress, TrainedModel, has_checkpoint, load_model, open_model_dir
from bert4rec_tf.optimizer import make_optimizer
from bert4rec_tf.projector import write_projector
from bert4rec_tf.stop_signals import StopSignals
from bert4rec_tf.vocabulary import Vocabulary
from bert4rec_tf.warm_start import check_alike, warm_start
from tfrecords.manifest import Manifest, verify
from tfrecords.reader import choose_buckets, steps_per_pass, training_batches

_ENDLESS = 1 << 60  # steps: the clock ends the run


def train(
    data_dir: str,
    model_dir: str,
    settings: dict[str, dict],
    strategy: tf.distribute.Strategy,
    time_limit_minutes: float | None = None,
    warm_start_from: str | None = None,
    profile: bool = False,
) -> TrainedModel:
    """Trains until `training.num_steps`, the time limit or early stopping, whichever comes first.

    Args:
        data_dir: made by pipelines/make_tfrecords.py.
        model_dir: new, or of an earlier call with the same settings and records, which then goes on.
        settings: from `config.read_settings`. What it says of `data` and `masking` must be what the records were built
            with; those sections otherwise come from the records.
        strategy: from `strategy.make_strategy`.
        time_limit_minutes: of the whole run, earlier calls counted in; the schedule is fitted to it.
        warm_start_from: a model directory to start from, see `warm_start`; a run that goes on needs it no more.
        profile: writes a trace of ten steps for TensorBoard.

    Returns:
        The model with the weights of its best validation.

    Raises:
        InputError: settings that do not fit the records, the model directory or the model to start from, damaged
            records, or a loss that is not finite.
        Stopped: by Ctrl-C or SIGTERM; the run is saved.
    """
    if time_limit_minutes is not None and time_limit_minutes <= 0:
        raise InputError(f"--time_limit_minutes must be above 0. Received: {time_limit_minutes}")
    manifest = Manifest.load(data_dir)
    recorded = {section: fields for section, fields in settings.items() if section in ("data", "masking")}
    check_settings_match(
        recorded, manifest.config, "the records", f"Rebuild {data_dir} with pipelines/make_tfrecords.py"
    )
    config = Config.from_dict(settings | {name: manifest.config.to_dict()[name] for name in ("data", "masking")})
    if config.training.batch_size % strategy.num_replicas_in_sync:
        raise InputError(
            f"`training.batch_size` must be a multiple of the replicas. Received: {config.training.batch_size} "
            f"over {strategy.num_replicas_in_sync} replicas"
        )
    verify(data_dir, manifest)
    vocabulary = Vocabulary.load(data_dir)
    old = None
    if warm_start_from is not None and not has_checkpoint(model_dir):
        old = load_model(warm_start_from)
        check_alike(config, old.config)
    open_model_dir(model_dir, config, manifest, vocabulary)
    limit = None if time_limit_minutes is None else 60.0 * time_limit_minutes
    places = pathlib.Path(data_dir), pathlib.Path(model_dir)
    if not _fit(*places, config, manifest, vocabulary, strategy, limit, old, profile):
        print(f"{model_dir} is trained already. A larger training.num_steps or --time_limit_minutes goes on with it.")
    return load_model(model_dir)


def _fit(
    data_dir: pathlib.Path,
    model_dir: pathlib.Path,
    config: Config,
    manifest: Manifest,
    vocabulary: Vocabulary,
    strategy: tf.distribute.Strategy,
    time_limit_seconds: float | None,
    old: TrainedModel | None,
    profile: bool,
) -> bool:
    """Runs what is left of the training; False where nothing is."""
    training = config.training
    tf.keras.utils.set_random_seed(training.seed)
    with strategy.scope():
        progress = Progress(training.num_steps)
        model = build_model(
            config.model, vocabulary.size, config.data.max_seq_length, vocabulary.log_popularity(), training.seed
        )
        optimizer = make_optimizer(training, progress.total_steps)
        optimizer.build(model.trainable_variables)
        model.compile(optimizer, jit_compile=training.jit_compile)
    tracked = {"model": model, "optimizer": optimizer, "progress": progress}
    checkpoints = Checkpoints(model_dir, tracked, training.checkpoints_to_keep)
    if checkpoints.restore_latest():
        if time_limit_seconds is None:
            progress.total_steps.assign(training.num_steps)
        if _is_finished(config, progress, time_limit_seconds):
            return False
        print(f"going on with {model_dir} from step {int(progress.step.numpy()):,}")
    elif old is not None:
        carried = warm_start(model, vocabulary, old)
        print(
            f"starting from a trained model: {carried.shared_items:,} items carried over, {carried.new_items:,} new, "
            f"{carried.forgotten_items:,} no longer there"
        )
        checkpoints.save(best=False)  # from here on the other model is not needed
    buckets = choose_buckets(manifest.length_histogram, training.num_length_buckets)
    first_step = int(progress.step.numpy())
    batches = training_batches(
        data_dir,
        manifest,
        buckets,
        training.batch_size,
        training.seed,
        first_step,
        vocabulary.size if training.masking == "resample" else None,
    )
    steps_per_epoch = training.steps_per_epoch or steps_per_pass(buckets, training.batch_size)
    _introduce(manifest, model, [bucket.length for bucket in buckets], steps_per_epoch)

    tensorboard = tf.summary.create_file_writer(str(model_dir / "tensorboard"))
    signals = StopSignals()
    clock = RunClock(progress, training.num_steps, time_limit_seconds, signals)
    bar = ProgressBar(clock, progress, tensorboard)
    ranker = make_ranker(model.score_next_item)
    validation = Validation(
        lambda: evaluate(ranker, data_dir, manifest, "validation", training.validation_users),
        model_dir,
        checkpoints,
        progress,
        clock,
        bar,
        signals,
        training,
        steps_per_epoch,
        tensorboard,
    )
    try:
        with signals:
            callbacks = [clock, bar, validation, *([Profiler(model_dir / "tensorboard")] if profile else [])]
            model.fit(batches, steps_per_epoch=_ENDLESS, verbose=0, callbacks=callbacks)
    finally:
        bar.close()
        tensorboard.close()
    write_projector(model_dir / "tensorboard", model.embedding.item_table.numpy(), vocabulary)
    if signals.received:
        raise Stopped(signals.received)
    return True


def _is_finished(config: Config, progress: Progress, time_limit_seconds: float | None) -> bool:
    patience = config.training.early_stopping_epochs
    return (
        int(progress.step.numpy()) >= config.training.num_steps
        or (time_limit_seconds is not None and float(progress.elapsed_seconds.numpy()) >= time_limit_seconds)
        or (patience is not None and int(progress.epochs_since_best.numpy()) >= patience)
    )


def _introduce(manifest: Manifest, model: tf.keras.Model, lengths: list[int], steps_per_epoch: int) -> None:
    print(
        f"{manifest.instances():,} instances, {manifest.counts['items']:,} items, "
        f"{model.count_params():,} weights; "
        f"batches of lengths {'/'.join(map(str, lengths))}; validation every {steps_per_epoch:,} steps"
    )
