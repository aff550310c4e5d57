"""Optimizer steps under a tf.distribute strategy: several steps per call, each batch divided among the replicas."""

import dataclasses
import time
from collections.abc import Callable

import tensorflow as tf

from bert4rec_tf.model.batch import Batch
from bert4rec_tf.model.bert4rec import Bert4Rec

BatchesOf = Callable[[int, int], tf.data.Dataset]  # a process's number and how many there are -> its rows of each batch


@dataclasses.dataclass(frozen=True)
class StepSums:
    """The sums of one call.

    Attributes:
        steps: updates made.
        loss: in nats, summed over the masked items.
        masked_items: masked items, padding excluded.
        items: items, padding excluded.
        input_seconds: the part of `seconds` spent waiting for batches.
        seconds: duration of the call.
    """

    steps: int
    loss: float
    masked_items: float
    items: float
    input_seconds: float
    seconds: float


class SynchronousSteps:
    """Steps in which all replicas make one update together, each on its share of one batch.

    Every process reads all records, and masks only its own rows of each batch. The batch of a step does not depend on
    the number of replicas.

    Args:
        model: compiled, made in the strategy's scope.
        strategy: any strategy without parameter servers.
        batches_of: gives the batches, see `bert4rec_tf.inputs.training_batches.training_batches`.
    """

    def __init__(self, model: Bert4Rec, strategy: tf.distribute.Strategy, batches_of: BatchesOf):
        self._model, self._strategy = model, strategy
        self._shares = iter(strategy.distribute_datasets_from_function(lambda context: _shares(batches_of, context)))
        self._run = tf.function(self._steps, autograph=False)

    @staticmethod
    def min_steps() -> int:
        """The fewest steps in one call."""
        return 1

    def __call__(self, number: int) -> StepSums:
        """Makes `number` updates."""
        started = time.monotonic()
        loss, masked_items, items, waited = self._run(tf.constant(number)).numpy().tolist()
        return StepSums(number, loss, masked_items, items, waited, time.monotonic() - started)

    def _steps(self, number: tf.Tensor) -> tf.Tensor:
        def step(sums: tf.Tensor) -> tf.Tensor:
            with tf.control_dependencies([sums]):  # wait for the previous step
                requested = tf.timestamp()
            with tf.control_dependencies([requested]):
                batch = next(self._shares)
            with tf.control_dependencies(tf.nest.flatten(batch, expand_composites=True)):
                waited = tf.timestamp() - requested
            logs = self._strategy.run(self._model.update_weights, (batch,))
            # Equal on all replicas: each value is a sum over all of them.
            loss, masked_items, items = (
                tf.cast(self._strategy.experimental_local_results(logs[name])[0], tf.float64)
                for name in ("loss", "masked_items", "items")
            )
            return sums + tf.stack([loss * masked_items, masked_items, items, waited])

        _, sums = tf.while_loop(
            lambda done, _: done < number, lambda done, sums: (done + 1, step(sums)), (0, tf.zeros([4], tf.float64))
        )
        return sums


class ParameterServerSteps:
    """Asynchronous steps: each worker of a cluster makes its own, on weights that parameter servers hold.

    The chief reads the batches and sends them to the workers. Each batch is trained on once, even if a worker is lost,
    and the workers need no records. The order of the updates depends on timing, and so do the result's last digits.

    Args:
        model: compiled, made in the strategy's scope.
        strategy: a parameter-server strategy.
        batches_of: gives the batches, one a step.
    """

    def __init__(self, model: Bert4Rec, strategy: tf.distribute.Strategy, batches_of: BatchesOf):
        self._coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
        self._batches = iter(batches_of(0, 1))

        @tf.function(reduce_retracing=True, autograph=False)
        def step(batch: Batch) -> Batch:
            return strategy.run(model.update_weights, (batch,))

        self._step = step

    @staticmethod
    def min_steps() -> int:
        """The fewest steps in one call: enough that all workers stay busy."""
        return 8 * tf.distribute.cluster_resolver.TFConfigClusterResolver().cluster_spec().num_tasks("worker")

    def __call__(self, number: int) -> StepSums:
        """Makes `number` updates, and waits for the last one."""
        started, waited, results = time.monotonic(), 0.0, []
        for _ in range(number):
            requested = time.monotonic()
            batch = next(self._batches)
            waited += time.monotonic() - requested
            results.append(self._coordinator.schedule(self._step, args=(batch,)))
        self._coordinator.join()
        logs = [{name: float(value) for name, value in result.fetch().items()} for result in results]
        loss = sum(log["loss"] * log["masked_items"] for log in logs)
        masked_items, items = (sum(log[name] for log in logs) for name in ("masked_items", "items"))
        return StepSums(number, loss, masked_items, items, waited, time.monotonic() - started)


@tf.autograph.experimental.do_not_convert
def _shares(batches_of: BatchesOf, context: tf.distribute.InputContext) -> tf.data.Dataset:
    """The rows of each batch for the replicas of one process: one element per replica."""
    batches = batches_of(context.input_pipeline_id, context.num_input_pipelines)
    num_local = context.num_replicas_in_sync // context.num_input_pipelines
    if num_local == 1:
        return batches

    def rows_of_replicas(batch: Batch) -> tf.data.Dataset:
        parts = {
            name: tf.reshape(value, [num_local, value.shape[0] // num_local, tf.shape(value)[1]])
            for name, value in batch.items()
        }
        return tf.data.Dataset.from_tensor_slices(parts)

    return batches.flat_map(rows_of_replicas).prefetch(2 * num_local)
