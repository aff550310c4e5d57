"""The served answer over integer ids, without a table of strings, and its computation by OpenVINO."""

import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import has_known_item, item_scores
from tfrecords.vocabulary import Vocabulary

# Histories int32 [B, L] -> scores float32 [B, k] and ids int32 [B, k]
Answer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class IntegerGraph(tf.Module):
    """The k best items that are not in a history, as `serving_default` finds them.

    Args:
        model: built, with its weights.
        vocabulary: the model's vocabulary.
        k: number of items.
    """

    def __init__(self, model: Bert4Rec, vocabulary: Vocabulary, k: int):
        super().__init__()
        self._weights = model.variables  # a tracked Keras model would save graphs of its own
        histories = tf.TensorSpec([None, None], tf.int32, "item_ids")
        encode = tf.function(model.encode_next_item, input_signature=[histories], autograph=False)
        self._index = index = ExactIndex(item_scores(model, vocabulary))

        def best(item_ids: tf.Tensor) -> dict[str, tf.Tensor]:
            known = has_known_item(item_ids)
            scores, ids = index.top(encode(item_ids), known, item_ids, tf.constant(k), None)
            return {"scores": scores, "ids": ids}

        self.best = tf.function(best, input_signature=[histories], autograph=False)

    def save(self, directory: pathlib.Path) -> None:
        """Writes it as a SavedModel."""
        tf.saved_model.save(self, str(directory), signatures=self.best)

    def answer(self, histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """TensorFlow's answer."""
        found = self.best(tf.constant(histories))
        return found["scores"].numpy(), found["ids"].numpy()


def openvino_answer(directory: pathlib.Path, threads: int | None = None) -> Answer:
    """OpenVINO's answer for a saved `IntegerGraph`, in float32, on `threads` threads; None: its default."""
    import openvino

    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32"}  # its default precision may be bfloat16
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino.Core().compile_model(openvino.convert_model(str(directory)), "CPU", settings)

    def answer(histories: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = compiled({"item_ids": histories})
        return found["scores"], found["ids"]

    return answer
