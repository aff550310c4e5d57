"""Warm-up requests, which TF Serving replays before it serves a version: every signature at every batch size."""

import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from bert4rec_tf.model.event_times import UNKNOWN_TIME
from tfrecords.vocabulary import Vocabulary

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
# The batch sizes of a server with deploy/batching_parameters.txt.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def warm_up_requests(
    vocabulary: Vocabulary, max_seq_length: int, with_filters: bool = False, with_times: bool = False
) -> Iterator[tuple[str, dict[str, tf.Tensor]]]:
    """Signatures and inputs: histories of 0 to N - 1 of the most popular items, padded to N - 1.

    Each input has one row for each history, even if one row for all would be enough: with `--enable_batching` TF
    Serving sends warm-up requests through its batching session, which refuses inputs with different numbers of rows.

    Args:
        vocabulary: of the model.
        max_seq_length: N.
        with_filters: whether `recommend` takes filters by category.
        with_times: whether the model takes times.
    """
    popular = vocabulary.item_ids[: max_seq_length - 1]
    for size in BATCH_SIZES:
        histories = [list(popular[: len(popular) * (row + 1) // size]) for row in range(size)]
        histories[0] = list(popular) if size == 1 else []
        rows = tf.constant([row + [""] * (max_seq_length - 1 - len(row)) for row in histories])
        least_popular, nothing = tf.constant([vocabulary.item_ids[-1:]] * size), tf.constant([], tf.string, [size, 0])
        settings = {"k": tf.ones([size], tf.int32), "drop_seen": tf.fill([size], True)}
        if with_filters:
            settings |= {"allowed_values": nothing, "excluded_values": nothing}
        times = {}
        if with_times:
            hourly = 3600 * tf.range(rows.shape[1], dtype=tf.int64)[None] + tf.zeros([size, 1], tf.int64)
            times = {"timestamps": hourly, "request_time": tf.fill([size], tf.constant(UNKNOWN_TIME, tf.int64))}
        yield "serving_default", {"item_ids": rows}
        if size == 1:  # the other inputs take their defaults, which have one row
            yield "recommend", {"item_ids": rows}
        for items in (nothing, least_popular):
            lists = {"excluded_item_ids": items, "allowed_item_ids": items}
            yield "recommend", {"item_ids": rows, **settings, **lists, **times}
        yield "rank", {"item_ids": rows, "candidate_item_ids": least_popular, **times}
        yield "examples", {"examples": tf.constant([example(row) for row in histories])}
        yield "encode", {"item_ids": rows, **times}
        yield "attention", {"item_ids": rows, **times}


def example(item_ids: list[str]) -> bytes:
    """A history as a serialised tf.train.Example, for the `examples` signature."""
    values = tf.train.BytesList(value=[item_id.encode("utf-8") for item_id in item_ids])
    feature = {"item_ids": tf.train.Feature(bytes_list=values)}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_warm_up(
    version_dir: pathlib.Path,
    vocabulary: Vocabulary,
    max_seq_length: int,
    with_filters: bool = False,
    with_times: bool = False,
) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`, the file that TF Serving replays.

    If a version cannot answer one of its requests, the server keeps serving the version before.
    """
    with tf.io.TFRecordWriter(str(version_dir / WARM_UP_FILE)) as writer:
        for signature, inputs in warm_up_requests(vocabulary, max_seq_length, with_filters, with_times):
            request = PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())


def replay_warm_up(version_dir: pathlib.Path) -> None:
    """Runs every warm-up request of a version, as TF Serving will.

    Raises:
        tf.errors.OpError, ValueError: a request failed.
    """
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(version_dir / WARM_UP_FILE))]
    tf.get_logger().setLevel("ERROR")  # hides the warning against this loader, which is the one of TF Serving
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(version_dir))
        for record in records:
            request = PredictionLog.FromString(record).predict_log.request
            signature = loaded.signature_def[request.model_spec.signature_name]
            inputs = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            session.run([output.name for output in signature.outputs.values()], inputs)
