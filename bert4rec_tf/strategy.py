"""tf.distribute strategies by name."""

import json
import os

import tensorflow as tf

from bert4rec_tf.errors import InputError

STRATEGIES = ("default", "mirrored", "multi_worker_mirrored", "parameter_server", "tpu")
CPU_REPLICAS = 2  # logical devices of a machine without a GPU: shows that a run distributes, not that it is faster
_JOBS = {"multi_worker_mirrored": {"chief", "worker"}, "parameter_server": {"chief", "worker", "ps"}}


def make_strategy(name: str) -> tf.distribute.Strategy:
    """The strategy of a `--strategy` value.

    "mirrored" takes every GPU, or, without one, two logical CPU devices. "multi_worker_mirrored" and
    "parameter_server" read the cluster from TF_CONFIG; a worker or parameter server of the latter serves its chief
    until it is stopped, and this does not return. "tpu" takes the TPU that TPU_NAME names, or the local one.

    Must be called before TensorFlow has used its devices.

    Raises:
        InputError: TF_CONFIG is not what the strategy needs, or there is no TPU.
    """
    if name == "mirrored":
        return _mirrored()
    if name == "multi_worker_mirrored":
        _check_cluster(name, least={"worker"})
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "parameter_server":
        _check_cluster(name, least={"chief", "worker", "ps"})
        return _parameter_server()
    if name == "tpu":
        return _tpu()
    return tf.distribute.get_strategy()


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process validates, saves and reports; of one process, always."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.cluster_spec():
        return True
    return resolver.task_type == "chief" or (
        resolver.task_type == "worker" and resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    )


def _mirrored() -> tf.distribute.Strategy:
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    if not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * CPU_REPLICAS)
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])


def _parameter_server() -> tf.distribute.Strategy:
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    if resolver.task_type in ("worker", "ps"):
        os.environ["GRPC_FAIL_FAST"] = "use_caller"  # a lost peer is an error, not a silence
        server = tf.distribute.Server(
            resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc"
        )
        server.join()
    return tf.distribute.ParameterServerStrategy(resolver)


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME", "local"))
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--strategy=tpu needs a TPU that TensorFlow finds. Received: {str(error).splitlines()[0]:.200}. "
            "Fix: set TPU_NAME, install TensorFlow's build for TPUs, or use another strategy"
        ) from None


def _check_cluster(name: str, least: set[str]) -> None:
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        address = jobs[task["type"]][task["index"]]
        complete = isinstance(address, str) and least <= set(jobs) <= _JOBS[name]
    except (ValueError, KeyError, TypeError, IndexError):
        complete = False
    if not complete:
        raise InputError(
            f"--strategy={name} needs TF_CONFIG with a cluster of {', '.join(sorted(least))} and this process's task. "
            f'Received: {text or "none"}. Fix: see "Many machines" in README.md'
        )
