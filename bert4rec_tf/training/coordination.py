"""Keeps the processes of a distributed run in step."""

import tensorflow as tf


class Coordinator:
    """Exchanges values between the workers of a run. Does nothing unless the strategy has several workers.

    Args:
        strategy: the run's strategy.
        chief: whether this process is the chief.
    """

    def __init__(self, strategy: tf.distribute.Strategy, chief: bool):
        self._strategy, self._chief = strategy, chief
        self._is_alone = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def sum_over_workers(self, values: list[int]) -> list[int]:
        """Adds the values of all processes, element by element."""
        return values if self._is_alone else self._sum(tf.constant(values, tf.int64)).numpy().tolist()

    def broadcast_from_chief(self, variables: list[tf.Variable]) -> None:
        """Sets variables to the chief's values in every process."""
        for variable in [] if self._is_alone else variables:
            value = tf.convert_to_tensor(variable)
            variable.assign(self._sum(value if self._chief else tf.zeros_like(value)))

    @tf.function(reduce_retracing=True, autograph=False)
    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        def summed() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            is_first_replica = context.replica_id_in_sync_group % len(self._strategy.extended.worker_devices) == 0
            local_value = tf.where(is_first_replica, value, tf.zeros_like(value))  # each process counts once
            return context.all_reduce(tf.distribute.ReduceOp.SUM, local_value)

        return self._strategy.experimental_local_results(self._strategy.run(summed))[0]


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process validates, saves and reports. Always true for a single process."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )
