"""One training run: what it reads, what it trains, and how far it has come."""

import dataclasses
import functools
import pathlib

import tensorflow as tf

from bert4rec_tf.checkpoints import Checkpoints, Progress
from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.evaluate import Times
from bert4rec_tf.inputs.length_buckets import Bucket, steps_per_pass
from bert4rec_tf.inputs.objectives import Objective
from bert4rec_tf.inputs.training_batches import objective_buckets
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.training.coordination import Coordinator
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Everything that the parts of a run share. `prepare.prepare` makes it; one process has one.

    Attributes:
        data_dir: the data directory.
        model_dir: the model directory; only the chief writes to it.
        config: the settings, as written to the model directory.
        manifest: the manifest of `data_dir`.
        records: the verified records of `data_dir`.
        vocabulary: the vocabulary of `data_dir`.
        strategy: how steps are distributed.
        is_chief: whether this process validates, saves and reports.
        coordinator: keeps the workers in step with the chief.
        model: compiled, in the strategy's scope.
        optimizer: the optimizer of `model`.
        progress: step, schedule and best validation so far; saved in every checkpoint.
        checkpoints: where model, optimizer and progress are saved.
        first_objective: what the model learns before the last stage.
        ranked_times: the times that validation ranks with.
        time_limit_seconds: for the whole run, earlier calls included; None: no limit.
        steps_are_done: no step is left. Always false in a process that is not the chief.
        is_finished: neither a step nor a validation is left. Always false in a process that is not the chief.
        profile: whether to write a trace for TensorBoard.
    """

    data_dir: str
    model_dir: pathlib.Path
    config: Config
    manifest: Manifest
    records: VerifiedRecords
    vocabulary: Vocabulary
    strategy: tf.distribute.Strategy
    is_chief: bool
    coordinator: Coordinator
    model: Bert4Rec
    optimizer: tf.keras.optimizers.Optimizer
    progress: Progress
    checkpoints: Checkpoints
    first_objective: Objective
    ranked_times: Times
    time_limit_seconds: float | None
    steps_are_done: bool
    is_finished: bool
    profile: bool

    @property
    def last_stage_share(self) -> float:
        """The share of the steps, or of the time, that the last stage has; 0: there is only one stage."""
        training, attention = self.config.training, self.config.model.attention
        if attention == "prefix":
            return training.prefix_share if training.prefix_share < 1 else 0.0
        return training.last_item_share if attention == "bidirectional" else 0.0

    @property
    def is_before_last_stage(self) -> bool:
        """Whether the run has a last stage that is still to come."""
        return self.last_stage_share > 0 and not self.progress.in_last_stage

    @property
    def causal_rows(self) -> float:
        """The share of rows with an empty prefix in the stage that the run is in."""
        return 1.0 if self.is_before_last_stage else self.config.training.causal_rows

    @property
    def objective(self) -> Objective:
        """What the model learns in the stage that the run is in."""
        is_cloze = self.first_objective == "masked_item"
        return "last_item" if is_cloze and self.progress.in_last_stage else self.first_objective

    def buckets(self, objective: Objective) -> list[Bucket]:
        """The batch shapes of an objective."""
        return objective_buckets(self.manifest, objective, self.config.training.num_length_buckets)

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Steps from one validation to the next, in all stages."""
        training = self.config.training
        return training.steps_per_epoch or steps_per_pass(self.buckets(self.first_objective), training.batch_size)

    def learning_rate(self) -> float:
        """The learning rate of the next update."""
        return float(self.optimizer.learning_rate.numpy())
