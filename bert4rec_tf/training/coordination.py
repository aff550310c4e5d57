"""What the processes of a run agree on."""

import tensorflow as tf


class Agreement:
    """Has all processes of a run do what the chief says; elsewhere than on many workers, there is no other.

    Args:
        strategy: of the run.
        chief: whether this is its process.
    """

    def __init__(self, strategy: tf.distribute.Strategy, chief: bool):
        self._strategy, self._chief = strategy, chief
        self._alone = not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)

    def sum(self, values: list[int]) -> list[int]:
        """The sum of what each process gives."""
        return values if self._alone else self._sum(tf.constant(values, tf.int64)).numpy().tolist()

    def take_chiefs(self, variables: list[tf.Variable]) -> None:
        """Gives variables the chief's values everywhere."""
        for variable in [] if self._alone else variables:
            value = tf.convert_to_tensor(variable)
            variable.assign(self._sum(value if self._chief else tf.zeros_like(value)))

    @tf.function(reduce_retracing=True)
    def _sum(self, value: tf.Tensor) -> tf.Tensor:
        def summed() -> tf.Tensor:
            context = tf.distribute.get_replica_context()
            speaks = context.replica_id_in_sync_group % len(self._strategy.extended.worker_devices) == 0
            mine = tf.where(speaks, value, tf.zeros_like(value))  # one replica for each process
            return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

        return self._strategy.experimental_local_results(self._strategy.run(summed))[0]


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process validates, saves and reports; of one process, always."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )
