"""Trains a model on a data directory into a model directory; the same call again goes on where it stopped."""

import dataclasses
import hashlib
import json
import math
import pathlib
import signal
from collections.abc import Callable

import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress, has_checkpoint
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.evaluate import Ranker, UserRanks, evaluate, make_ranker
from bert4rec_tf.inputs.length_buckets import Bucket, choose_buckets, steps_per_pass
from bert4rec_tf.inputs.objectives import Objective, training_instances, windows_of_one_item
from bert4rec_tf.inputs.training_batches import training_batches
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.model.sampled_loss import SampledLoss
from bert4rec_tf.model_dir import TrainedModel, load_model, open_model_dir
from bert4rec_tf.training.coordination import Coordinator, is_chief
from bert4rec_tf.training.interruption import StopSignals
from bert4rec_tf.training.monitor import TrainingMonitor
from bert4rec_tf.training.optimizer import make_optimizer
from bert4rec_tf.training.prepare import (
    check_something_to_predict,
    check_strategy,
    first_objective,
    is_finished,
    on_parameter_servers,
)
from bert4rec_tf.training.steps import ParameterServerSteps, SynchronousSteps
from bert4rec_tf.training.tensorboard import write_projector
from bert4rec_tf.training.validation import is_validated
from bert4rec_tf.training.warm_start import check_alike, warm_start
from tfrecords.errors import InputError, PeerLost, Stopped, check_local, full_disk, writing
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.settings import check_settings_match
from tfrecords.vocabulary import Vocabulary

_AFTER_A_CHANGE = (
    "the last checkpoint has seen the verified records alone; build these again (the same make_tfrecords.py command "
    "writes the same files) and run the same command to resume, or train on the new ones in another --model_dir"
)


def train(
    data_dir: str,
    model_dir: str,
    settings: dict[str, dict],
    strategy: tf.distribute.Strategy,
    time_limit_minutes: float | None = None,
    warm_start_from: str | None = None,
    profile: bool = False,
) -> TrainedModel | None:
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
        The model with the weights of its best validation; None in a process that is not the chief.

    Raises:
        InputError: settings that do not fit the records, the model directory or the model to start from, damaged
            records, records that change during the training, or a loss that is not finite.
        Stopped: by Ctrl-C or SIGTERM; the run is saved.
        PeerLost: another process of the cluster is gone.
    """
    if time_limit_minutes is not None and time_limit_minutes <= 0:
        raise InputError(f"--time_limit_minutes must be above 0. Received: {time_limit_minutes}")
    for name, path in (("data_dir", data_dir), ("model_dir", model_dir), ("warm_start_from", warm_start_from)):
        check_local(name, path)
    manifest = Manifest.load(data_dir)
    recorded = {section: fields for section, fields in settings.items() if section in ("data", "masking")}
    check_settings_match(
        recorded, manifest.config, "the records", f"Rebuild {data_dir} with pipelines/make_tfrecords.py"
    )
    built_with = {name: manifest.config.to_dict()[name] for name in ("data", "masking")}
    config = Config.from_dict(settings | built_with, "--config and flags")
    check_strategy(strategy, config)
    check_something_to_predict(data_dir, manifest, config)
    records = VerifiedRecords(data_dir, manifest, _AFTER_A_CHANGE)
    vocabulary = Vocabulary.load(data_dir)
    records.check()
    limit = None if time_limit_minutes is None else 60.0 * time_limit_minutes
    run = _Run(data_dir, model_dir, config, manifest, records, vocabulary, strategy, limit, profile)
    try:
        with writing(model_dir):
            run.prepare(warm_start_from)
            run.train()
    except tf.errors.ResourceExhaustedError as error:  # of TensorBoard's files; or out of memory
        raise full_disk(error) or error from None
    # What TensorFlow raises where another process has ended, by where it notices.
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError):
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy | tf.distribute.ParameterServerStrategy):
            raise
        raise PeerLost from None
    return load_model(model_dir) if run.chief else None


class _Run:
    """One training: a strategy, a model and where it stands."""

    def __init__(
        self,
        data_dir: str,
        model_dir: str,
        config: Config,
        manifest: Manifest,
        records: VerifiedRecords,
        vocabulary: Vocabulary,
        strategy: tf.distribute.Strategy,
        time_limit_seconds: float | None,
        profile: bool,
    ):
        self._data_dir, self._model_dir = pathlib.Path(data_dir), pathlib.Path(model_dir)
        self._config, self._manifest, self._records, self._vocabulary = config, manifest, records, vocabulary
        self._strategy, self._limit, self._profile = strategy, time_limit_seconds, profile
        self._first_objective = first_objective(config)
        self.chief = is_chief(strategy)

    def prepare(self, warm_start_from: str | None) -> None:
        """Makes the model, or takes up where an earlier call stopped; the chief alone needs the model directory."""
        old = None
        if self.chief:
            if warm_start_from is not None and not has_checkpoint(self._model_dir):
                old = load_model(warm_start_from)
                check_alike(self._config, old.config)
            open_model_dir(self._model_dir, self._config, self._manifest, self._vocabulary)
        training, log_popularity = self._config.training, self._vocabulary.log_popularity()
        tf.keras.utils.set_random_seed(training.seed)
        with self._strategy.scope():
            self._progress = Progress(training.num_steps)
            self._model = build_model(
                self._config.model,
                self._vocabulary.size,
                self._config.data.max_seq_length,
                log_popularity,
                training.seed,
            )
            # XLA cannot read weights that are on another machine.
            jit_compile = training.jit_compile and not on_parameter_servers(self._strategy)
            self._optimizer = make_optimizer(training, self._progress.total_steps)
            self._optimizer.build(self._model.trainable_variables)
            sampled_loss = None if training.loss == "softmax" else SampledLoss(training, log_popularity)
            self._model.compile(self._optimizer, jit_compile=jit_compile, sampled_loss=sampled_loss)
        tracked = {"model": self._model, "optimizer": self._optimizer, "progress": self._progress}
        self._checkpoints = Checkpoints(self._model_dir, tracked, training.checkpoints_to_keep)
        self._ended = self._finished = False
        if self.chief:
            self._take_up(old)
        self._coordinator = Coordinator(self._strategy, self.chief)
        self._check_same_run()
        self._coordinator.broadcast_from_chief(
            [*self._model.variables, *self._optimizer.variables, *self._progress.variables]
        )

    def _check_same_run(self) -> None:
        """Whether this process has the chief's records and settings.

        Raises:
            InputError: it has others, and joint batches would be of neither.
        """
        described = json.dumps([self._manifest.sha256(), self._config.to_dict()], sort_keys=True)
        digest = int(hashlib.sha256(described.encode()).hexdigest()[:15], 16)
        if self._coordinator.sum_over_workers([digest if self.chief else 0]) != [digest]:
            raise InputError(
                f"All workers need the same records and settings. Received: in {self._data_dir}, or in this one's "
                "flags, others than the chief's. Fix: copy the chief's --data_dir, and start all with the same command"
            )

    def _take_up(self, old: TrainedModel | None) -> None:
        """Resumes from the latest checkpoint, or starts from another model.

        Sets `_ended` where no step is left, and `_finished` where no validation is left either.
        """
        if self._checkpoints.restore_latest():
            if self._limit is None:
                self._progress.total_steps.assign(self._config.training.num_steps)
            self._ended = is_finished(self._config, self._progress, self._limit)
            self._finished = self._ended and is_validated(self._model_dir, self._progress)
            if self._finished:
                print(
                    f"{self._model_dir} is trained already. A larger num_steps or --time_limit_minutes goes on with "
                    "it, or a larger early_stopping_epochs where that ended it."
                )
            else:
                print(f"going on with {self._model_dir} from step {int(self._progress.step.numpy()):,}")
        elif old is not None:
            carried = warm_start(self._model, self._vocabulary, old)
            print(
                f"starting from a trained model: {carried.shared_items:,} items carried over, {carried.new_items:,} "
                f"new, {carried.forgotten_items:,} no longer there"
            )
            self._checkpoints.save(best=False)  # from here on the other model is not needed

    def train(self) -> None:
        """Makes the steps that are left."""
        training = self._config.training
        if self._first_objective == "next_item":
            training = dataclasses.replace(training, last_item_share=0.0)  # it asks for the last items all along
        buckets = self._buckets(self._first_objective)
        distribute = ParameterServerSteps if on_parameter_servers(self._strategy) else SynchronousSteps
        steps_per_epoch = training.steps_per_epoch or steps_per_pass(buckets, training.batch_size)
        books, signals = None, StopSignals()
        if self.chief:
            shapes = "/".join(str(bucket.length) for bucket in buckets)
            print(
                f"{sum(bucket.instances for bucket in buckets):,} instances, {self._manifest.counts['items']:,} items, "
                f"{self._model.count_params():,} weights; batches of lengths {shapes}; "
                f"validation every {steps_per_epoch:,} steps"
            )
            if self._first_objective == "next_item" and (lone := windows_of_one_item(self._manifest)):
                print(f"{lone:,} of these are windows of one item, which have nothing to predict")
            ranker = make_ranker(self._model.score_next_item, drop_seen=self._config.evaluation.drop_seen)
            books = TrainingMonitor(
                self._model_dir,
                training,
                self._progress,
                self._checkpoints,
                lambda: self._rank_validation_users(ranker, signals),
                lambda: float(self._optimizer.learning_rate.numpy()),
                steps_per_epoch,
                distribute.min_steps(),
                self._limit,
                self._ended,
                self._profile,
            )
        try:
            with signals:
                self._make_steps(lambda: distribute(self._model, self._strategy, self._batches()), books, signals)
        finally:
            if books is not None:
                books.close()
        if books is not None and not self._finished:
            write_projector(self._model_dir / "tensorboard", self._model.embedding.item_table.numpy(), self._vocabulary)

    def _rank_validation_users(self, ranker: Ranker, signals: StopSignals) -> UserRanks:
        def rank(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            signals.stop_if_received()
            return ranker(batch)

        max_users, max_items = self._config.training.validation_users, self._config.data.max_seq_length - 1
        with self._records.unchanged():
            return evaluate(rank, self._data_dir, self._manifest, "validation", max_users, max_items)

    def _objective(self) -> Objective:
        """What the current stage predicts."""
        return self._first_objective if int(self._progress.last_stage_from.numpy()) < 0 else "last_item"

    def _buckets(self, objective: Objective) -> list[Bucket]:
        histogram = training_instances(self._manifest, objective).length_histogram()
        return choose_buckets(histogram, self._config.training.num_length_buckets)

    def _batches(self) -> tf.data.Dataset:
        """Those of the stage that the run is in, from here on."""
        training = self._config.training
        return training_batches(
            self._data_dir,
            self._manifest,
            self._buckets(self._objective()),
            training.batch_size,
            training.seed,
            int(self._progress.step.numpy()) - max(int(self._progress.last_stage_from.numpy()), 0),
            self._vocabulary.size if training.masking == "resample" else None,
            self._objective(),
        )

    def _make_steps(
        self,
        make_steps: Callable[[], SynchronousSteps | ParameterServerSteps],
        books: TrainingMonitor | None,
        signals: StopSignals,
    ) -> None:
        """Rounds of steps, each as the chief says, until it says none; anew made where a stage begins."""
        progress, steps, objective = self._progress, None, self._objective()
        while True:
            plan = [0, 0, 0]
            if books is not None:
                plan = self._plan(books)
            plan.append(int(signals.received is not None))
            number, total_steps, last_stage_from, stopped = self._coordinator.sum_over_workers(plan)
            if number and stopped:
                signals.heeded()
                if books is not None:
                    books.save()
                raise Stopped(signals.received or signal.SIGTERM)
            if not number:
                return
            progress.total_steps.assign(total_steps)
            progress.last_stage_from.assign(last_stage_from)
            with self._records.unchanged():  # before these steps count, and so before a checkpoint of them
                if steps is None or objective != self._objective():
                    steps, objective = make_steps(), self._objective()
                sums = steps(number)
            progress.step.assign_add(number)
            if not math.isfinite(sums.loss):
                raise InputError(
                    f"The loss must be finite. Received: {sums.loss} by step {int(progress.step.numpy()):,}; the "
                    "last good checkpoint is kept. Fix: lower training.learning_rate, or raise training.warmup_steps"
                )
            if books is not None:
                books.after_steps(sums)

    def _plan(self, books: TrainingMonitor) -> list[int]:
        """What the chief tells all: how many steps come next, the schedule's last one, and where the last stage began.

        Validates and saves first, where that is due. A validation that is cut short by a signal is run again when the
        run resumes, so no step may follow, and no stage begin, before it.
        """
        try:
            books.catch_up()
            number = books.next_steps()  # before the rest, for this may begin the last stage
        except Stopped:
            number = 1
        return [number, int(self._progress.total_steps.numpy()), int(self._progress.last_stage_from.numpy())]
