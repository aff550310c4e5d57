"""Stands in for TF Serving where its binary is not to be had: its protocol, and how it looks after versions.

gRPC (PredictionService, ModelService) and REST over what a SavedModel's graph-session loader gives, as
tensorflow_model_server has it:

- any directory with an integer for a name is a version; the newest ones are aspired to, as `latest` says, or by the
  `models.config`, which is read again;
- a version serves after its warm-up requests were answered; one that cannot be loaded or warmed up never serves;
- an old version goes when a newer one serves, and not before; requests under way end first;
- the checks of a request, and their messages, are those of predict_util.cc and json_tensor.cc.

It says nothing about the speed of TF Serving, and batches nothing.
"""

import base64
import contextlib
import http.server
import json
import pathlib
import re
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

_WARM_UP = "assets.extra/tf_serving_warmup_requests"
_MOST_WARM_UP_RECORDS = 1000
_HTTP_CODES = {
    "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404, "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 429,
}  # fmt: skip


class RequestError(Exception):
    """A status that is not OK, by gRPC's name, and its message."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Version:
    """A loaded version: a session, its signatures, and how many requests are under way."""

    def __init__(self, path: pathlib.Path):
        self.number = int(path.name)
        self._under_way, self._idle = 0, threading.Condition()
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(loaded.signature_def)
        self._warm_up(path / _WARM_UP)

    def _warm_up(self, path: pathlib.Path) -> None:
        if not path.exists():
            return
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        if len(records) > _MOST_WARM_UP_RECORDS:
            raise RequestError("INVALID_ARGUMENT", f"Number of warmup records exceeds the maximum at {path}")
        for record in records:
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            self.predict(request.model_spec.signature_name, dict(request.inputs))

    def predict(self, name: str, inputs: dict[str, Any], output_filter: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Checks a request as TF Serving does, and answers it.

        Raises:
            RequestError: what TF Serving would answer instead.
        """
        signature = self.signature(name)
        names, given = set(signature.inputs), set(inputs)
        if len(given) > len(names) or (len(given) < len(names) and not signature.defaults):
            raise RequestError(
                "INVALID_ARGUMENT",
                f"input size does not match signature: {len(given)}!={len(names)} len({{{','.join(sorted(given))}}}) "
                f"!= len({{{','.join(sorted(names))}}}). Sent extra: {{{','.join(sorted(given - names))}}}. "
                f"Missing but required: {{{','.join(sorted(names - given))}}}.",
            )
        feeds = {}
        for alias, info in signature.inputs.items():
            proto = inputs.get(alias, signature.defaults.get(alias))
            if proto is None:
                raise RequestError("INVALID_ARGUMENT", f"Missing input tensor: {alias}")
            if proto.dtype != info.dtype:
                expected, received = tf.as_dtype(info.dtype).name, tf.as_dtype(proto.dtype).name
                raise RequestError("INVALID_ARGUMENT", f"{alias}: expects {expected} but {received} is provided")
            feeds[info.name] = tf.make_ndarray(proto)
        if given - names:
            raise RequestError("INVALID_ARGUMENT", f"unexpected inputs: {sorted(given - names)}")
        for alias in output_filter:
            if alias not in signature.outputs:
                raise RequestError("INVALID_ARGUMENT", f"output tensor alias not found in signature: {alias}")
        wanted = {alias: signature.outputs[alias].name for alias in output_filter or signature.outputs}
        try:
            return self._session.run(wanted, feeds)
        except tf.errors.OpError as error:
            code = next(code for code in grpc.StatusCode if code.value[0] == error.error_code)
            raise RequestError(code.name, error.message) from None
        except ValueError as error:  # a shape that does not fit a placeholder
            raise RequestError("INVALID_ARGUMENT", str(error)) from None

    def signature(self, name: str) -> meta_graph_pb2.SignatureDef:
        """By name, "" being the default one."""
        name = name or "serving_default"
        if name not in self.signatures:
            raise RequestError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps it loaded as long as the block runs."""
        with self._idle:
            self._under_way += 1
        try:
            yield
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def unload(self) -> None:
        """When its requests have ended."""
        with self._idle:
            self._idle.wait_for(lambda: self._under_way == 0)
        self._session.close()


class ServingDouble:
    """A server of one model, on ports of its own.

    Args:
        base_path: the directory with the versions.
        name: of the model.
        poll_seconds: between two looks at the directory (TF Serving: 1).
        models_config: path of a `models.config` whose policy and labels hold; its base_path is not looked at.
    """

    def __init__(
        self, base_path: pathlib.Path, name: str, poll_seconds: float = 0.1, models_config: pathlib.Path | None = None
    ):
        self.name, self._base_path, self._poll_seconds, self._config = name, base_path, poll_seconds, models_config
        self._serving: dict[int, Version] = {}
        self._failed: dict[int, str] = {}
        self._labels: dict[str, int] = {}
        self._lock, self._stopping = threading.Lock(), threading.Event()
        self._look()
        self._poller = threading.Thread(target=self._poll, daemon=True)
        self._poller.start()
        self._grpc = grpc.server(futures.ThreadPoolExecutor(8))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(self), self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(self), self._grpc)
        self.grpc_address = f"localhost:{self._grpc.add_insecure_port('localhost:0')}"
        self._grpc.start()
        self._rest = http.server.ThreadingHTTPServer(("localhost", 0), _rest_handler(self))
        self.rest_address = f"http://localhost:{self._rest.server_address[1]}"
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Ends serving."""
        self._stopping.set()
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._poller.join()

    def wait_for(self, version: int, seconds: float = 60) -> None:
        """Until the newest version that serves is this one."""
        end = time.monotonic() + seconds
        while max(self._serving, default=None) != version:
            assert time.monotonic() < end, f"serving {sorted(self._serving)}, failed {self._failed}"
            time.sleep(0.02)

    def states(self) -> dict[int, tuple[str, str]]:
        """State and message of each version, as GetModelStatus has them."""
        with self._lock:
            failed = {version: ("END", message) for version, message in self._failed.items()}
            return failed | dict.fromkeys(self._serving, ("AVAILABLE", ""))

    @contextlib.contextmanager
    def version(self, name: str, number: int | None = None, label: str = "") -> Iterator[Version]:
        """The version that a request is for, the newest one if it does not say."""
        with self._lock:
            if label:
                number = self._labels.get(label)
                if number is None:
                    raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            if number is None:
                number = max(self._serving, default=-1)
            if name != self.name or number not in self._serving:
                raise RequestError("NOT_FOUND", f"Servable not found for request: {name} {number}")
            serving = self._serving[number]
            use = contextlib.ExitStack()
            use.enter_context(serving.in_use())
        with use:
            yield serving

    def _poll(self) -> None:
        while not self._stopping.wait(self._poll_seconds):
            self._look()

    def _look(self) -> None:
        wanted, labels = 1, {}
        if self._config:
            parsed = text_format.Parse(self._config.read_text(), model_server_config_pb2.ModelServerConfig())
            (config,) = parsed.model_config_list.config
            assert config.name == self.name
            wanted, labels = config.model_version_policy.latest.num_versions, dict(config.version_labels)
        numbers = sorted(int(path.name) for path in self._base_path.iterdir() if re.fullmatch(r"\d+", path.name))
        aspired = numbers[-wanted:]
        for number in set(aspired) - set(self._serving) - set(self._failed):
            try:
                loaded = Version(self._base_path / str(number))
            except Exception as error:
                self._failed[number] = str(error)
                continue
            with self._lock:
                self._serving[number] = loaded
        for number in set(self._failed) - set(numbers):
            del self._failed[number]
        with self._lock:
            self._labels = labels
            # Availability-preserving: the old ones stay until one of the aspired ones serves.
            old = set(self._serving) - set(aspired) if set(self._serving) & set(aspired) else set()
            gone = [self._serving.pop(number) for number in old]
        for version in gone:
            version.unload()


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: ServingDouble):
        self._server = server

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        spec = request.model_spec
        number = spec.version.value if spec.HasField("version") else None
        try:
            with self._server.version(spec.name, number, spec.version_label) as version:
                found = version.predict(spec.signature_name, dict(request.inputs), tuple(request.output_filter))
                response = predict_pb2.PredictResponse()
                response.model_spec.name = spec.name
                response.model_spec.version.value = version.number
                response.model_spec.signature_name = spec.signature_name or "serving_default"
                for alias, value in found.items():
                    response.outputs[alias].CopyFrom(tf.make_tensor_proto(value))
                return response
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], str(error))

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            with self._server.version(request.model_spec.name) as version:
                signatures = get_model_metadata_pb2.SignatureDefMap()
                for name, signature in version.signatures.items():
                    signatures.signature_def[name].CopyFrom(signature)
                response = get_model_metadata_pb2.GetModelMetadataResponse()
                response.model_spec.version.value = version.number
                response.metadata["signature_def"].Pack(signatures)
                return response
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], str(error))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server: ServingDouble):
        self._server = server

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.model_spec.name != self._server.name:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        return _status(self._server)


def _status(server: ServingDouble) -> Any:
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, (state, message) in sorted(server.states().items(), reverse=True):
        status = response.model_version_status.add(version=number, state=state)
        status.status.error_code, status.status.error_message = (2, message) if message else (0, "")
    return response


def _rest_handler(server: ServingDouble) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != f"/v1/models/{server.name}":
                return self._answer(404, {"error": f"Malformed request: GET {self.path}"})
            return self._answer(200, json_format.MessageToDict(_status(server), preserving_proto_field_name=True))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            path = re.fullmatch(r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict", self.path)
            if not path:
                return self._answer(404, {"error": f"Malformed request: POST {self.path}"})
            try:
                name, number, label = path[1], int(path[2]) if path[2] else None, path[3] or ""
                with server.version(name, number, label) as version:
                    return self._answer(200, _predict_json(version, body))
            except RequestError as error:
                return self._answer(_HTTP_CODES.get(error.code, 500), {"error": str(error)})

        def _answer(self, code: int, content: dict[str, Any]) -> None:
            body = json.dumps(content, ensure_ascii=False).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _predict_json(version: Version, body: bytes) -> dict[str, Any]:
    try:
        request = json.loads(body)
    except ValueError as error:
        raise RequestError("INVALID_ARGUMENT", f"JSON Parse error: {error}") from None
    if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
        raise RequestError("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")
    signature_name = request.get("signature_name", "")
    signature = version.signature(signature_name)
    rows = request.get("instances")
    if rows is None:
        values = request["inputs"]
        values = values if isinstance(values, dict) and "b64" not in values else {next(iter(signature.inputs)): values}
    else:
        values = _columns(rows, set(signature.inputs))
    if set(values) != set(signature.inputs):  # REST knows no defaults
        raise RequestError("INVALID_ARGUMENT", f"Missing named inputs: {sorted(set(signature.inputs) - set(values))}")
    protos = {alias: _from_json(value, signature.inputs[alias].dtype) for alias, value in values.items()}
    found = {alias: _to_json(value) for alias, value in version.predict(signature_name, protos).items()}
    if rows is None:
        return {"outputs": found if len(found) > 1 else next(iter(found.values()))}
    if any(not isinstance(value, list) or len(value) != len(rows) for value in found.values()):
        raise RequestError("INVALID_ARGUMENT", "Tensors of the answer have another number of rows than the request")
    if len(found) == 1:
        return {"predictions": next(iter(found.values()))}
    return {"predictions": [{alias: value[row] for alias, value in found.items()} for row in range(len(rows))]}


def _columns(rows: Any, names: set[str]) -> dict[str, list]:
    if not isinstance(rows, list) or not rows:
        raise RequestError("INVALID_ARGUMENT", "'instances' must be a list that is not empty")
    if len(names) == 1 and not (isinstance(rows[0], dict) and "b64" not in rows[0]):
        return {next(iter(names)): rows}
    for row in rows:
        if not isinstance(row, dict) or set(row) != names:
            raise RequestError("INVALID_ARGUMENT", f"each instance must have exactly the inputs {sorted(names)}: {row}")
    return {name: [row[name] for row in rows] for name in names}


def _from_json(value: Any, dtype: int) -> Any:
    shape, level = [], value
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    kinds = {tf.string: (str, dict), tf.int32: (int,), tf.bool: (bool,)}[tf.as_dtype(dtype)]
    flat: list[Any] = []

    def collect(part: Any, depth: int) -> None:
        if isinstance(part, list):
            if depth >= len(shape) or len(part) != shape[depth]:
                raise RequestError("INVALID_ARGUMENT", f"Encountered list at unexpected size: {len(part)}")
            for inner in part:
                collect(inner, depth + 1)
        elif depth != len(shape) or not isinstance(part, kinds) or (isinstance(part, bool) and bool not in kinds):
            raise RequestError("INVALID_ARGUMENT", f"JSON Value: {json.dumps(part)} is not of expected type or level")
        elif isinstance(part, dict):
            flat.append(base64.b64decode(part["b64"]))
        else:
            flat.append(part.encode() if isinstance(part, str) else part)

    collect(value, 0)
    return tf.make_tensor_proto(flat, tf.as_dtype(dtype), shape)


def _to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_to_json(part) for part in value.tolist()]
    if isinstance(value, list):
        return [_to_json(part) for part in value]
    return value.decode() if isinstance(value, bytes) else value
