"""Optimizer steps under a tf.distribute strategy: several to a call, each batch shared out to the replicas."""

import dataclasses
import time

import tensorflow as tf

from bert4rec_tf.model.batch import Batch
from bert4rec_tf.model.bert4rec import Bert4Rec


@dataclasses.dataclass(frozen=True)
class StepSums:
    """What one call came to.

    Attributes:
        steps: updates made.
        loss: nats, summed over the masked items.
        masked_items, items: real ones, padding not counted.
        input_seconds: of `seconds`, those spent waiting for batches.
        seconds: of the call.
    """

    steps: int
    loss: float
    masked_items: float
    items: float
    input_seconds: float
    seconds: float


class SynchronousSteps:
    """Steps in which all replicas make one update together, on their shares of one batch.

    Every process reads all batches and takes its own rows of each, so that the joint batch of a step is the same
    whatever the number of replicas.

    Args:
        model: compiled, made in the strategy's scope.
        strategy: any but a parameter server's.
        batches: of all replicas together, see `bert4rec_tf.inputs.training_batches.training_batches`.
    """

    def __init__(self, model: Bert4Rec, strategy: tf.distribute.Strategy, batches: tf.data.Dataset):
        self._model, self._strategy = model, strategy
        self._shares = iter(strategy.distribute_datasets_from_function(lambda context: _shares(batches, context)))
        self._run = tf.function(self._steps)

    @staticmethod
    def min_steps() -> int:
        """Steps to a call."""
        return 1

    def __call__(self, number: int) -> StepSums:
        """Makes so many updates."""
        started = time.monotonic()
        loss, masked_items, items, waited = self._run(tf.constant(number)).numpy().tolist()
        return StepSums(number, loss, masked_items, items, waited, time.monotonic() - started)

    def _steps(self, number: tf.Tensor) -> tf.Tensor:
        sums = tf.zeros([4], tf.float64)
        for _ in tf.range(number):
            with tf.control_dependencies([sums]):  # the step before has ended
                asked = tf.timestamp()
            with tf.control_dependencies([asked]):
                batch = next(self._shares)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited = tf.timestamp() - asked
            logs = self._strategy.run(self._model.update_weights, (batch,))
            # All replicas have the same, for they are sums over all.
            loss, masked_items, items = (
                tf.cast(self._strategy.experimental_local_results(logs[name])[0], tf.float64)
                for name in ("loss", "masked_items", "items")
            )
            sums += tf.stack([loss * masked_items, masked_items, items, waited])
        return sums


class ParameterServerSteps:
    """Steps that the workers of a cluster make each on its own, on weights that parameter servers hold.

    The chief reads the batches and sends them along: each is trained on once, whichever worker is lost, and the workers
    need no records. Updates are asynchronous, so their order, and the result in its last digits, depends on timing.

    Args:
        model: compiled, made in the strategy's scope.
        strategy: of the parameter servers.
        batches: one for each step.
    """

    def __init__(self, model: Bert4Rec, strategy: tf.distribute.Strategy, batches: tf.data.Dataset):
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        self._batches = iter(batches)

        @tf.function(reduce_retracing=True)
        def step(batch: Batch) -> Batch:
            return strategy.run(model.update_weights, (batch,))

        self._step = step

    @staticmethod
    def min_steps() -> int:
        """Steps to a call: every worker has some to do until the last ones."""
        return 8 * tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().num_tasks("worker")

    def __call__(self, number: int) -> StepSums:
        """Makes so many updates, and waits for the last."""
        started, waited, results = time.monotonic(), 0.0, []
        for _ in range(number):
            asked = time.monotonic()
            batch = next(self._batches)
            waited += time.monotonic() - asked
            results.append(self._coordinator.schedule(self._step, args=(batch,)))
        self._coordinator.join()
        logs = [{name: float(value) for name, value in result.fetch().items()} for result in results]
        loss = sum(log["loss"] * log["masked_items"] for log in logs)
        masked_items, items = (sum(log[name] for log in logs) for name in ("masked_items", "items"))
        return StepSums(number, loss, masked_items, items, waited, time.monotonic() - started)


def _shares(batches: tf.data.Dataset, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """The rows of each batch that go to the replicas of one process, one element a replica."""
    replicas, processes = context.num_replicas_in_sync, context.num_input_pipelines
    if replicas == 1:
        return batches
    here = replicas // processes
    first = context.input_pipeline_id * here

    def of_this_process(batch: Batch) -> tf.data.Dataset:
        parts = {
            name: tf.reshape(value, [replicas, value.shape[0] // replicas, tf.shape(value)[1]])[first : first + here]
            for name, value in batch.items()
        }
        return tf.data.Dataset.from_tensor_slices(parts)

    return batches.flat_map(of_this_process).prefetch(2 * here)
