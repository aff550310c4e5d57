"""Requests that TF Serving replays before it serves a version: of every signature, at every batch size."""

import pathlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

from bert4rec_tf.vocabulary import Vocabulary

WARM_UP_FILE = "assets.extra/tf_serving_warmup_requests"
# Those of serving/batching_parameters.txt.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


def warm_up_requests(vocabulary: Vocabulary, max_seq_length: int) -> Iterator[tuple[str, dict[str, tf.Tensor]]]:
    """Signatures and inputs: histories of 0 to N - 1 of the most popular items, padded to N - 1."""
    popular = vocabulary.item_ids[: max_seq_length - 1]
    for size in BATCH_SIZES:
        histories = [list(popular[: len(popular) * (row + 1) // size]) for row in range(size)]
        histories[0] = list(popular) if size == 1 else []
        rows = tf.constant([row + [""] * (max_seq_length - 1 - len(row)) for row in histories])
        one = tf.constant([vocabulary.item_ids[-1:]])
        yield "serving_default", {"item_ids": rows}
        yield "recommend", {"item_ids": rows}
        yield "recommend", {"item_ids": rows, "excluded_item_ids": one, "allowed_item_ids": one}
        yield "rank", {"item_ids": rows, "candidate_item_ids": tf.tile(one, [size, 1])}
        yield "examples", {"examples": tf.constant([example(row) for row in histories])}
        yield "encode", {"item_ids": rows}


def example(item_ids: list[str]) -> bytes:
    """A history as the `examples` signature takes it."""
    values = tf.train.BytesList(value=[item_id.encode("utf-8") for item_id in item_ids])
    feature = {"item_ids": tf.train.Feature(bytes_list=values)}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def write_warm_up(version_dir: pathlib.Path, vocabulary: Vocabulary, max_seq_length: int) -> None:
    """Writes `assets.extra/tf_serving_warmup_requests`, which TF Serving looks for.

    A version that cannot answer one of them is not served: the server keeps the one before.
    """
    with tf.io.TFRecordWriter(str(version_dir / WARM_UP_FILE)) as writer:
        for signature, inputs in warm_up_requests(vocabulary, max_seq_length):
            request = PredictRequest()
            request.model_spec.signature_name = signature
            for name, value in inputs.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            writer.write(PredictionLog(predict_log=PredictLog(request=request)).SerializeToString())


def replay_warm_up(version_dir: pathlib.Path) -> None:
    """Answers every warm-up request of a version, as TF Serving will.

    Raises:
        tf.errors.OpError, ValueError: one has no answer.
    """
    records = [record.numpy() for record in tf.data.TFRecordDataset(str(version_dir / WARM_UP_FILE))]
    tf.get_logger().setLevel("ERROR")  # TensorFlow would advise against this loader, which is TF Serving's
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        loaded = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], str(version_dir))
        for record in records:
            request = PredictionLog.FromString(record).predict_log.request
            signature = loaded.signature_def[request.model_spec.signature_name]
            inputs = {signature.inputs[name].name: tf.make_ndarray(value) for name, value in request.inputs.items()}
            session.run([output.name for output in signature.outputs.values()], inputs)
