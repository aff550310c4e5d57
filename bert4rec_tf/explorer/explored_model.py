"""A model that the page asks: in this process, or at a TF Serving over gRPC."""

import abc
import functools
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis.predict_pb2 import PredictRequest
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from bert4rec_tf.serving.nearest_items import NearestItems, read_item_vectors
from bert4rec_tf.serving.recommender import DEFAULT_MAX_K
from bert4rec_tf.serving.served_model import ServedModel
from bert4rec_tf.serving.versions import list_versions
from tfrecords.errors import InputError
from tfrecords.vocabulary import Vocabulary

_UNKNOWN_TIME = -1
_TIMEOUT_SECONDS = 20
_CANDIDATES_AT_ONCE = 20_000  # so that a request stays far below the 4 MB that gRPC takes
_DTYPES = {"k": tf.int32, "drop_seen": tf.bool, "timestamps": tf.int64, "request_time": tf.int64}


class ModelError(Exception):
    """The model gave no answer; the message is the reason."""


class NoSuchSignature(ModelError):  # noqa: N818, the name of what is missing
    """The model was exported without this signature."""


class ExploredModel(abc.ABC):
    """A model, as the page needs it. All methods may be called from several threads.

    Attributes:
        name: what the page calls the model.
        max_k: the largest number of recommendations.
        nearest_items: the search over the items' vectors, in the order of `vocabulary`; None: the vectors are unknown.
        vocabulary: of the model; None: it is unknown.
    """

    name: str
    max_k: int
    nearest_items: NearestItems | None
    vocabulary: Vocabulary | None

    @property
    @abc.abstractmethod
    def version(self) -> str:
        """The version that answers."""

    @functools.cached_property
    def indices(self) -> dict[str, int]:
        """The index in `vocabulary` by item id; empty if the vocabulary is unknown."""
        return {} if self.vocabulary is None else {name: at for at, name in enumerate(self.vocabulary.item_ids)}

    @abc.abstractmethod
    def _call(self, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        """Calls a signature of `serving.recommender.Recommender`.

        Raises:
            ModelError: no answer.
        """

    def recommend(
        self, history: Sequence[str], k: int, keep_seen: bool = False, excluded: Sequence[str] = ()
    ) -> list[tuple[str, float]]:
        """The best items after a history and their scores, best first; at most `k`.

        Raises:
            ModelError: no answer.
        """
        inputs = {
            "item_ids": [list(history)],
            "k": [min(k, self.max_k)],
            "drop_seen": [not keep_seen],
            "excluded_item_ids": [list(excluded)],
        }
        answer = self._call("recommend", inputs)
        rows = zip(answer["item_ids"][0].tolist(), answer["scores"][0].tolist(), strict=True)
        return [(item_id.decode("utf-8", "replace"), score) for item_id, score in rows if item_id]

    def rank(self, histories: Sequence[Sequence[str]], item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The scores of items after each history, float32 [B, C], and whether the model knows them, bool [C].

        Raises:
            ModelError: no answer.
        """
        length = max(map(len, histories))
        rows = [[*history, *[""] * (length - len(history))] for history in histories]
        scores, known = [np.zeros([len(rows), 0], np.float32)], [np.zeros(0, bool)]
        for first in range(0, len(item_ids), _CANDIDATES_AT_ONCE):
            candidates = [list(item_ids[first : first + _CANDIDATES_AT_ONCE])]
            answer = self._call("rank", {"item_ids": rows, "candidate_item_ids": candidates})
            scores.append(answer["scores"])
            known.append(answer["known"][0])
        return np.concatenate(scores, axis=1), np.concatenate(known)

    def attention(self, history: Sequence[str]) -> np.ndarray | None:
        """How much the answer attends to each item of a history, by the mean over the heads of the last layer.

        Returns:
            float [L], 0 for items that the model does not use; None if the model was exported without attention.

        Raises:
            ModelError: no answer.
        """
        try:
            answer = self._call("attention", {"item_ids": [list(history)]})
        except NoSuchSignature:
            return None
        return answer["weights"][0, -1].mean(axis=0)


class LocalModel(ExploredModel):
    """A model directory, an export directory (its newest version), or one version of it.

    Args:
        directory: of the model.
    """

    def __init__(self, directory: str | pathlib.Path):
        self._served = ServedModel.load(directory)
        path = pathlib.Path(directory).resolve()
        self.name = path.parent.name if path.name == self._served.version else path.name
        self.max_k, self.vocabulary = self._served.max_k, self._served.vocabulary
        self.nearest_items = self._served.nearest_items

    @property
    def version(self) -> str:
        """The version that answers."""
        return self._served.version

    def _call(self, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        if signature not in self._served.signatures:
            raise NoSuchSignature(signature)
        rows = len(inputs["item_ids"])
        defaults: dict[str, Any] = {}
        if signature == "recommend":
            names = ("allowed_item_ids", *(("allowed_values", "excluded_values") if self._served.categorical else ()))
            defaults |= {name: [[]] for name in names}
        if self._served.takes_times:
            defaults |= {
                "timestamps": np.full([rows, len(inputs["item_ids"][0])], _UNKNOWN_TIME),
                "request_time": [_UNKNOWN_TIME],
            }
        tensors = {name: tf.constant(value, _dtype(name)) for name, value in (defaults | inputs).items()}
        try:
            answer = self._served.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            raise ModelError(error.message.split(" [Op:")[0]) from None
        return {name: value.numpy() for name, value in answer.items()}


class RemoteModel(ExploredModel):
    """A model at a TF Serving, over gRPC.

    Args:
        server: host:port.
        model: its name at the server.
        which: label or number of the version; "": the newest one.
        export_dir: where the versions lie, or one of them, to read items and vectors from; None: they are unknown.

    Raises:
        InputError: the server does not answer, or has no such model or version.
    """

    def __init__(self, server: str, model: str, which: str = "", export_dir: str | None = None):
        self._server, self._model, self._which = server, model, which
        # Without the option, gRPC refuses answers larger than 4 MB.
        self._stub = PredictionServiceStub(grpc.insecure_channel(server, [("grpc.max_receive_message_length", -1)]))
        self._version = ""
        self.name, self.max_k = model, DEFAULT_MAX_K
        self.nearest_items = self.vocabulary = None
        try:
            self._call("recommend", {"item_ids": [[]], "k": [1]})
        except ModelError as error:
            raise InputError(
                f"--server must answer for --model={model}{f', version {which}' if which else ''}. Received: {server}: "
                f"{error}. Fix: correct --server=host:port (gRPC), --model or the version, or start the server"
            ) from None
        if export_dir is not None:
            self._read_items(pathlib.Path(export_dir))

    @property
    def version(self) -> str:
        """The version that gave the last answer."""
        return self._version

    def _read_items(self, root: pathlib.Path) -> None:
        """Reads titles, popularity and vectors of the version that answers; without it, those of the newest one."""
        versions = {path.name: path for path in (list_versions(root) if root.is_dir() else [])}
        if (root / "saved_model.pb").is_file():
            versions = {root.resolve().name: root}
        if not versions:
            raise InputError(
                f"--export_dir must hold versions that export.py wrote. Received: {root}. "
                "Fix: correct the path, or leave it out and add items by their id"
            )
        if self._version in versions:
            version = versions[self._version]
            self.nearest_items = NearestItems(read_item_vectors(version))
        else:
            version = list(versions.values())[-1]
            print(
                f"warning: {root} does not hold version {self._version}, which answers: titles and popularity are "
                f"those of {version.name}, and nearest items are left out",
                file=sys.stderr,
            )
        self.vocabulary = Vocabulary.load(version / "assets.extra")

    def _call(self, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        message = PredictRequest()
        message.model_spec.name, message.model_spec.signature_name = self._model, signature
        if self._which.isdecimal():
            message.model_spec.version.value = int(self._which)
        elif self._which:
            message.model_spec.version_label = self._which
        for name, value in inputs.items():
            shape = [len(value), *([len(value[0])] if isinstance(value[0], list) else [])]
            message.inputs[name].CopyFrom(tf.make_tensor_proto(value, _dtype(name), shape))
        try:
            response = self._stub.Predict(message, timeout=_TIMEOUT_SECONDS)
        except grpc.RpcError as error:
            code, details = error.code().name, str(error.details())
            if f'"{signature}" not found' in details or f"{signature} not found" in details:
                raise NoSuchSignature(signature) from None
            raise ModelError(f"{code}: {details}") from None
        self._version = str(response.model_spec.version.value)
        return {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def _dtype(name: str) -> tf.DType:
    return _DTYPES.get(name, tf.string)
