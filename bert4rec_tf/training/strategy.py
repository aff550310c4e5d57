"""tf.distribute strategies by name."""

import os
import time
from typing import NoReturn

import tensorflow as tf

from bert4rec_tf.training.cluster import (
    DEFAULT_TIMEOUT_MINUTES,
    Cluster,
    log,
    read_cluster,
    wait_for_peers,
    watched_start,
)
from tfrecords.errors import InputError
from tfrecords.interruption import stopped_at_once

STRATEGIES = ("default", "mirrored", "multi_worker_mirrored", "parameter_server", "tpu")
CPU_REPLICAS = 2  # logical devices of a machine without a GPU: to try out distribution, not for speed


def make_strategy(name: str, cluster_timeout_minutes: float = DEFAULT_TIMEOUT_MINUTES) -> tf.distribute.Strategy:
    """Makes the strategy that a `--strategy` value names.

    "mirrored" uses every GPU, or two logical CPU devices if there is no GPU. "multi_worker_mirrored" and
    "parameter_server" read the cluster from TF_CONFIG. In a worker or parameter server of the latter this does not
    return: the process serves its chief until it is stopped. "tpu" uses the TPU that TPU_NAME names, or the local one.

    Must be called before TensorFlow has used its devices.

    Args:
        name: one of `STRATEGIES`.
        cluster_timeout_minutes: the longest wait for the other processes of a cluster.

    Raises:
        InputError: TF_CONFIG does not fit the strategy, or there is no TPU.
        PeerLost: a process of the cluster is missing when the time is up.
        Stopped: by Ctrl-C or SIGTERM, while this process waited for the others or served its chief.
    """
    if not cluster_timeout_minutes > 0:
        raise InputError(f"--cluster_timeout_minutes must be above 0. Received: {cluster_timeout_minutes}")
    if name == "mirrored":
        return _mirrored()
    if name in ("multi_worker_mirrored", "parameter_server"):
        return _cluster_strategy(name, cluster_timeout_minutes)
    if name == "tpu":
        return _tpu()
    return tf.distribute.get_strategy()


def on_parameter_servers(strategy: tf.distribute.Strategy) -> bool:
    """Whether the weights are on parameter servers."""
    return isinstance(strategy, tf.distribute.ParameterServerStrategy)


def _mirrored() -> tf.distribute.Strategy:
    if tf.config.list_physical_devices("GPU"):
        return tf.distribute.MirroredStrategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    if not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * CPU_REPLICAS)
    return tf.distribute.MirroredStrategy([device.name for device in tf.config.list_logical_devices("CPU")])


def _cluster_strategy(name: str, timeout_minutes: float) -> tf.distribute.Strategy:
    cluster = read_cluster(name, os.environ.get("TF_CONFIG", ""))
    with stopped_at_once("while it waited for the cluster; run the same command again"):
        wait_for_peers(cluster, timeout_minutes)
    if name == "parameter_server" and cluster.own.job != "chief":
        _serve(cluster)
    with watched_start(cluster, timeout_minutes):
        if name == "multi_worker_mirrored":
            return tf.distribute.MultiWorkerMirroredStrategy()
        return tf.distribute.ParameterServerStrategy(tf.distribute.cluster_resolver.TFConfigClusterResolver())


def _serve(cluster: Cluster) -> NoReturn:
    """Serves the chief until this process is stopped."""
    os.environ["GRPC_FAIL_FAST"] = "use_caller"  # a lost peer raises an error; by default the process waits
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    server = tf.distribute.Server(
        resolver.cluster_spec(), job_name=resolver.task_type, task_index=resolver.task_id, protocol="grpc"
    )
    with stopped_at_once("while it served; the chief saves the training progress"):
        log(f"serving as {cluster.own} ({server.target}) until this process is stopped")
        while True:  # `Server.join` would wait inside TensorFlow, where no signal is handled
            time.sleep(1)  # short: a signal that arrives just before the call is handled only after it


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(os.environ.get("TPU_NAME", "local"))
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--strategy=tpu needs a TPU that TensorFlow finds. Received: {str(error).splitlines()[0]:.200}. "
            "Fix: set TPU_NAME, install TensorFlow's build for TPUs, or use another strategy"
        ) from None
