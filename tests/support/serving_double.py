"""A double of TF Serving, for machines without its binary: its protocol, and how it manages versions.

It serves gRPC (PredictionService, ModelService) and REST, as tensorflow_model_server does. The rules come from the
sources of TF Serving (file names in brackets):

- A directory with an integer as its name is a version. The server aspires to the newest versions, as many as the policy
  `latest` or `models.config` sets. It reads `models.config` repeatedly [file_system_storage_path_source.cc, server.cc].
- One thread manages the versions and does one thing at a time. It unloads old versions before it loads new ones, but
  keeps the last old version until a new one serves [availability_preserving_policy.cc]. It retries a version that
  cannot be loaded, in the same thread [loader_harness.cc].
- A version serves after it has answered its warm-up requests. A version that cannot be loaded or warmed up never
  serves. If no version can be loaded, the server does not start [load_servables_fast.cc].
- A `models.config` that moves a label to a version that is not loaded is refused as a whole [server_core.cc].
- The checks of requests, and their messages, are those of predict_util.cc and json_tensor.cc.
- `--enable_batching` works as in batching_session.cc.

The double has another speed than TF Serving.
"""

import base64
import contextlib
import dataclasses
import http.server
import pathlib
import re
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format, text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from tests.support import rapid_json
from tests.support.batching_session import BatchingSession, RequestError, parse

_WARM_UP = "assets.extra/tf_serving_warmup_requests"
_MAX_WARM_UP_RECORDS = 1000
_HTTP_CODES = {
    "CANCELLED": 499, "INVALID_ARGUMENT": 400, "FAILED_PRECONDITION": 400, "OUT_OF_RANGE": 400, "NOT_FOUND": 404,
    "UNIMPLEMENTED": 501, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504, "RESOURCE_EXHAUSTED": 429,
    "PERMISSION_DENIED": 403, "UNAUTHENTICATED": 401, "ALREADY_EXISTS": 409, "ABORTED": 409,
}  # fmt: skip
_POST_PATH = re.compile(r"(?i)/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:(classify|regress|predict)")
_GET_PATH = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+)|/labels/([^/:]+))?(?:/(metadata))?")


class Version:
    """A loaded version: a session, its signatures, and the number of requests in progress.

    Args:
        path: its directory.
        batching: settings of `--batching_parameters_file`; None: no batching.
    """

    def __init__(self, path: pathlib.Path, batching: dict[str, Any] | None = None):
        self.number = int(path.name)
        self._in_progress, self._idle = 0, threading.Condition()
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            loaded = tf.compat.v1.saved_model.load(self._session, [tf.saved_model.SERVING], str(path))
        self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(loaded.signature_def)
        self.batching = BatchingSession(self._session.run, batching) if batching else None
        self._warm_up(path / _WARM_UP)

    def _warm_up(self, path: pathlib.Path) -> None:
        if not path.exists():
            return
        records = [record.numpy() for record in tf.data.TFRecordDataset(str(path))]
        if len(records) > _MAX_WARM_UP_RECORDS:
            raise RequestError("INVALID_ARGUMENT", f"Number of warmup records exceeds the maximum at {path}")
        for record in records:
            request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
            self.predict(request.model_spec.signature_name, dict(request.inputs))

    def predict(self, name: str, inputs: dict[str, Any], output_filter: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Checks a request as TF Serving does, and answers it.

        Raises:
            RequestError: the error with which TF Serving would answer.
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
            return self.batching.run(wanted, feeds) if self.batching else self._session.run(wanted, feeds)
        except tf.errors.OpError as error:
            code = next(code for code in grpc.StatusCode if code.value[0] == error.error_code)
            raise RequestError(code.name, error.message) from None
        except ValueError as error:  # a shape that does not fit a placeholder
            raise RequestError("INVALID_ARGUMENT", str(error)) from None

    def signature(self, name: str) -> meta_graph_pb2.SignatureDef:
        """The signature of this name; "" is the default one."""
        name = name or "serving_default"
        if name not in self.signatures:
            raise RequestError("FAILED_PRECONDITION", f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the version loaded during the block."""
        with self._idle:
            self._in_progress += 1
        try:
            yield
        finally:
            with self._idle:
                self._in_progress -= 1
                self._idle.notify_all()

    def unload(self) -> None:
        """Unloads the version after its requests have ended."""
        with self._idle:
            self._idle.wait_for(lambda: self._in_progress == 0)
        self._session.close()


@dataclasses.dataclass
class _Managed:
    """A managed version. Its state is NEW, LOADING, AVAILABLE, UNLOADING, END, or ERROR after a failure."""

    aspired: bool = True
    state: str = "NEW"


class ServingDouble:
    """A server of one model, on free ports.

    Args:
        base_path: the directory with the versions.
        name: of the model.
        poll_seconds: the time between two reads of the directory and of `models_config`. deploy/compose.yaml sets 1.
        models_config: the path of a `models.config`. Its policy and labels are used, its base_path is ignored.
        batching_parameters_file: of `--enable_batching`; None: no batching.
        max_num_load_retries: the number of retries after a first failure to load.
        load_retry_seconds: the wait before each retry.
        load_seconds: an additional wait before each load, to imitate large models.
        tls: the server's private key and certificate, and the authority of the clients it accepts (None: any client);
            PEM files.

    Raises:
        RuntimeError: there are versions, but none of them can be loaded.
    """

    def __init__(
        self,
        base_path: pathlib.Path,
        name: str,
        poll_seconds: float = 0.1,
        models_config: pathlib.Path | None = None,
        batching_parameters_file: pathlib.Path | None = None,
        max_num_load_retries: int = 5,
        load_retry_seconds: float = 60,
        load_seconds: float = 0,
        tls: tuple[pathlib.Path, pathlib.Path, pathlib.Path | None] | None = None,
    ):
        self.name, self._base_path, self._poll_seconds, self._config = name, base_path, poll_seconds, models_config
        self._batching = parse(batching_parameters_file.read_text()) if batching_parameters_file else None
        self._retries, self._retry_seconds, self._load_seconds = max_num_load_retries, load_retry_seconds, load_seconds
        self._serving: dict[int, Version] = {}
        self._managed: dict[int, _Managed] = {}
        self._states: dict[int, tuple[str, str]] = {}  # the answer of GetModelStatus; unloaded versions stay in it
        self._pending: list[int] | None = None
        self._num_versions, self._labels = 1, dict[str, int]()
        self.config_reads, self.refused_configs = 0, 0
        self.metadata: dict[str, str] = {}  # of the last request
        self._lock, self._stopping = threading.RLock(), threading.Event()
        self._read_config()
        self._load_at_start()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, seconds), daemon=True)
            for work, seconds in (
                (self._read_directory, poll_seconds),
                (self._read_config, poll_seconds),
                (self._manage, poll_seconds / 10),  # TF Serving: 0.1
            )
        ]
        for thread in self._threads:
            thread.start()
        unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self._grpc = grpc.server(futures.ThreadPoolExecutor(8), options=unlimited)
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(_PredictionService(self), self._grpc)
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(_ModelService(self), self._grpc)
        self._rest = http.server.ThreadingHTTPServer(("localhost", 0), _rest_handler(self))
        scheme, port = "http", 0
        if tls:
            scheme, port = "https", self._grpc.add_secure_port("localhost:0", _grpc_credentials(*tls))
            # The REST port of TF Serving has no TLS. This stands for a proxy with TLS in front of it.
            self._rest.socket = _tls_context(*tls).wrap_socket(self._rest.socket, server_side=True)
        else:
            port = self._grpc.add_insecure_port("localhost:0")
        self.grpc_address = f"localhost:{port}"
        self.rest_address = f"{scheme}://localhost:{self._rest.server_address[1]}"
        self._grpc.start()
        threading.Thread(target=self._rest.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Stops the server."""
        self._stopping.set()
        self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version: int, seconds: float = 60) -> None:
        """Waits until this version is the newest one that serves."""
        end = time.monotonic() + seconds
        while max(self._serving, default=None) != version:
            assert time.monotonic() < end, f"serving {sorted(self._serving)}, states {self._states}"
            time.sleep(0.02)

    def states(self) -> dict[int, tuple[str, str]]:
        """State and message of each version, as GetModelStatus answers."""
        with self._lock:
            return dict(self._states)

    def labels(self) -> dict[str, int]:
        """The version to which each label points now."""
        with self._lock:
            return dict(self._labels)

    @contextlib.contextmanager
    def version(self, name: str, number: int | None = None, label: str = "") -> Iterator[Version]:
        """The version that a request names; without a number or label, the newest one."""
        with self._lock:
            if not name:
                raise RequestError("INVALID_ARGUMENT", "ModelSpec has no name specified.")
            if label:
                number = self._labels.get(label) if name == self.name else None
                if number is None:
                    raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
            request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
            if number is None:
                number = max(self._serving, default=-1)
            if name != self.name or number not in self._serving:
                raise RequestError("NOT_FOUND", f"Servable not found for request: {request}")
            serving = self._serving[number]
            use = contextlib.ExitStack()
            use.enter_context(serving.in_use())
        with use:
            yield serving

    def _repeat(self, work: Any, seconds: float) -> None:
        while not self._stopping.wait(seconds):
            work()

    def _read_directory(self) -> None:
        numbers = sorted(int(path.name) for path in self._base_path.iterdir() if re.fullmatch(r"\d+", path.name))
        with self._lock:
            self._pending = numbers[-self._num_versions :]

    def _read_config(self) -> None:
        if self._config:
            self._take_config(self._config)
            self.config_reads += 1

    def _take_config(self, path: pathlib.Path) -> None:
        """Applies labels and policy, or neither of them."""
        parsed = text_format.Parse(path.read_text(), model_server_config_pb2.ModelServerConfig())
        (config,) = parsed.model_config_list.config
        assert config.name == self.name
        with self._lock:
            for label, number in config.version_labels.items():
                # --allow_version_labels_for_unavailable_models: holds for new labels only.
                if self._labels.get(label, number) != number and number not in self._serving:
                    self.refused_configs += 1
                    return
            self._labels = dict(config.version_labels)
            self._num_versions = max(1, config.model_version_policy.latest.num_versions)

    def _load_at_start(self) -> None:
        """Loads all versions at once, each in a thread. If none can be loaded, the server does not start."""
        self._read_directory()
        aspired = self._pending or []
        self._managed = {number: _Managed() for number in aspired}
        with futures.ThreadPoolExecutor() as pool:
            list(pool.map(self._load, aspired))
        if aspired and not self._serving:
            failed = [f"{{name: {self.name} version: {number}}} due to error: {self._states[number][1]}}}, "
                      for number in aspired]  # fmt: skip
            raise RuntimeError(f"1 servable(s) did not become available: {{{''.join(failed)}}}")

    def _manage(self) -> None:
        """One round: updates which versions are aspired to, then loads or unloads one version."""
        with self._lock:
            for number, managed in list(self._managed.items()):
                if not managed.aspired and managed.state in ("NEW", "END", "ERROR"):
                    del self._managed[number]
            self._take_over()
            states = {number: managed.state for number, managed in self._managed.items() if managed.aspired}
            old = [number for number, managed in self._managed.items() if number in self._serving]
            old = sorted(number for number in old if number not in states)
            new = [number for number, state in states.items() if state == "NEW"]
        if old and (not states or "AVAILABLE" in states.values() or len(old) > 1):
            self._unload(old[0])
        elif new:
            self._load(max(new))

    def _take_over(self) -> None:
        if self._pending is None:
            return
        # A version that comes back is loaded again only after it has been unloaded.
        if any(not self._managed[number].aspired for number in self._pending if number in self._managed):
            return
        for number, managed in self._managed.items():
            managed.aspired = number in self._pending
        for number in self._pending:
            self._managed.setdefault(number, _Managed())
        self._pending = None

    def _load(self, number: int) -> None:
        """Loads a version, with retries. The caller waits for all of them."""
        self._set_state(number, "LOADING")
        for attempt in range(1 + self._retries):
            if attempt and self._stopping.wait(self._retry_seconds):
                return
            self._stopping.wait(self._load_seconds)
            try:
                loaded = Version(self._base_path / str(number), self._batching)
            except Exception as error:
                message = str(error)
                continue
            with self._lock:
                self._serving[number] = loaded
                self._set_state(number, "AVAILABLE")
            return
        self._set_state(number, "END", message)
        self._managed[number].state = "ERROR"

    def _unload(self, number: int) -> None:
        with self._lock:
            version = self._serving.pop(number)
            self._set_state(number, "UNLOADING")
        version.unload()
        self._set_state(number, "END")

    def _set_state(self, number: int, state: str, message: str = "") -> None:
        with self._lock:
            self._managed[number].state = state
            self._states[number] = state, message


def _grpc_credentials(key: pathlib.Path, certificate: pathlib.Path, clients: pathlib.Path | None) -> Any:
    authority = clients.read_bytes() if clients else None
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())], authority, bool(clients))


def _tls_context(key: pathlib.Path, certificate: pathlib.Path, clients: pathlib.Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class _PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, server: ServingDouble):
        self._server = server

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802
        self._server.metadata = dict(context.invocation_metadata())
        spec = request.model_spec
        try:
            with self._server.version(*_wanted(spec)) as version:
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
            return _metadata(self._server, request.model_spec)
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], str(error))


class _ModelService(model_service_pb2_grpc.ModelServiceServicer):
    def __init__(self, server: ServingDouble):
        self._server = server

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        try:
            return _status(self._server, request.model_spec)
        except RequestError as error:
            context.abort(grpc.StatusCode[error.code], str(error))


def _wanted(spec: model_pb2.ModelSpec) -> tuple[str, int | None, str]:
    return spec.name, spec.version.value if spec.HasField("version") else None, spec.version_label


def _metadata(server: ServingDouble, spec: model_pb2.ModelSpec) -> Any:
    with server.version(*_wanted(spec)) as version:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in version.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version.number
        response.metadata["signature_def"].Pack(signatures)
        return response


def _status(server: ServingDouble, spec: model_pb2.ModelSpec) -> Any:
    response, states = get_model_status_pb2.GetModelStatusResponse(), server.states()
    if spec.name != server.name or not states:
        raise RequestError("NOT_FOUND", f"Could not find any versions of model {spec.name}")
    if spec.HasField("version"):
        number = spec.version.value
        if number not in states:
            raise RequestError("NOT_FOUND", f"Could not find version {number} of model {spec.name}")
        states = {number: states[number]}
    for number, (state, message) in sorted(states.items(), reverse=True):
        status = response.model_version_status.add(version=number, state=state)
        status.status.error_code, status.status.error_message = (2, message) if message else (0, "")
    return response


def _rest_handler(server: ServingDouble) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._handle(lambda path: _get(server, path))

        def do_POST(self) -> None:
            server.metadata = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self._handle(lambda path: _post(server, path, body))

        def _handle(self, work: Any) -> None:
            path = urllib.parse.urlsplit(self.path).path
            if not re.fullmatch("(?i)/v1/.*", path):
                return self._answer(404, b"<html>Not Found</html>", "text/html")
            try:
                return self._answer(200, work(path))
            except RequestError as error:
                message = rapid_json.Object([(b"error", str(error).encode("utf-8", "surrogateescape"))])
                return self._answer(_HTTP_CODES.get(error.code, 500), _written(message))

        def _answer(self, code: int, body: bytes, kind: str = "application/json") -> None:
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def _spec(method: str, path: str, pattern: re.Pattern) -> tuple[model_pb2.ModelSpec, str]:
    """The model that a path names, and the path's last part."""
    found = pattern.fullmatch(path)
    if not found:
        raise RequestError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
    spec = model_pb2.ModelSpec(name=urllib.parse.unquote(found[1] or ""))
    if found[2]:
        if int(found[2]) >= 2**63:
            raise RequestError("INVALID_ARGUMENT", f"Failed to convert version: {found[2]} to numeric.")
        spec.version.value = int(found[2])
    if found[3]:
        spec.version_label = urllib.parse.unquote(found[3])
    return spec, found[4] or ""


def _get(server: ServingDouble, path: str) -> bytes:
    spec, resource = _spec("GET", path, _GET_PATH)
    if not spec.name:
        raise RequestError("INVALID_ARGUMENT", "Missing model name in request.")
    show = {"preserving_proto_field_name": True, "always_print_fields_with_no_presence": True}
    if not resource:
        return json_format.MessageToJson(_status(server, spec), **show).encode()
    response, signatures = _metadata(server, spec), get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    described = [json_format.MessageToJson(part, **show) for part in (response.model_spec, signatures)]
    return f'{{\n"model_spec":{described[0]},\n"metadata": {{"signature_def": {described[1]}}}\n}}\n'.encode()


def _post(server: ServingDouble, path: str, body: bytes) -> bytes:
    spec, method = _spec("POST", path, _POST_PATH)
    request = _parsed(body)
    if request.has("signature_name"):
        name = request.find("signature_name")
        if not isinstance(name, bytes):
            raise _format_error(request, "not formatted correctly. 'signature_name' key must be a string value.")
        spec.signature_name = name.decode("utf-8", "surrogateescape")
    if method.lower() != "predict":
        raise RequestError("INVALID_ARGUMENT", "The double answers only predict")
    with server.version(*_wanted(spec)) as version:
        return _predict_json(version, spec.signature_name, request)


def _parsed(body: bytes) -> rapid_json.Object:
    if not body:
        raise RequestError("INVALID_ARGUMENT", "JSON Parse error: The document is empty")
    try:
        request = rapid_json.parse(body)
    except rapid_json.JsonError as error:
        raise RequestError("INVALID_ARGUMENT", f"JSON Parse error: {error} at offset: {error.offset}") from None
    if not isinstance(request, rapid_json.Object):
        raise _format_error(request, "Is not object")
    return request


def _predict_json(version: Version, name: str, request: rapid_json.Object) -> bytes:
    signame = name or "serving_default"
    if signame not in version.signatures:
        raise RequestError("INVALID_ARGUMENT", f'Serving signature name: "{signame}" not found in signature def')
    inputs = dict(version.signatures[signame].inputs)
    by_rows = request.has("instances")
    if by_rows and request.has("inputs"):
        raise _format_error(
            request, "Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist "
        )
    if by_rows:
        rows = request.find("instances")
        if not isinstance(rows, list):
            raise _format_error(request, "Expecting 'instances' to be an list/array")
        if not rows:
            raise _format_error(request, "No values in 'instances' array")
        tensors = _from_rows(rows, inputs)
    elif request.has("inputs"):
        tensors = _from_columns(request.find("inputs"), inputs)
    else:
        raise RequestError("INVALID_ARGUMENT", "Missing 'inputs' or 'instances' key")
    return (_rows_json if by_rows else _columns_json)(version.predict(name, tensors))


def _is_base64(value: Any) -> bool:
    return (
        isinstance(value, rapid_json.Object)
        and len(value.members) == 1
        and value.has("b64")
        and isinstance(value.find("b64"), bytes)
    )


def _is_object(value: Any) -> bool:
    return isinstance(value, rapid_json.Object) and not _is_base64(value)


def _from_columns(value: Any, inputs: dict[str, Any]) -> dict[str, tensor_pb2.TensorProto]:
    if not _is_object(value):
        if len(inputs) > 1:
            raise RequestError(
                "INVALID_ARGUMENT",
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map",
            )
        value = rapid_json.Object([(next(iter(inputs)).encode(), value)])
    tensors = {}
    for name, info in inputs.items():  # other names in the request are ignored
        if not value.has(name):
            raise RequestError("INVALID_ARGUMENT", f"Missing named input: {name} in 'inputs' object.")
        column = value.find(name)
        shape = _shape(column)
        tensors[name] = _tensor(_values(column, 0, shape, info.dtype), shape, info.dtype)
    return tensors


def _from_rows(rows: list, inputs: dict[str, Any]) -> dict[str, tensor_pb2.TensorProto]:
    if not isinstance(rows[0], rapid_json.Object) and len(inputs) > 1:
        raise RequestError(
            "INVALID_ARGUMENT",
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map",
        )
    objects = _is_object(rows[0])
    values: dict[str, list] = {}
    shapes: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if _is_object(row) != objects:
            other = "Expecting object but got list" if objects else "Expecting value/list but got object"
            raise RequestError("INVALID_ARGUMENT", f"{other} at item {number} of input list")
        members = row.members if objects else [(next(iter(inputs)).encode(), row)]
        for key, value in members:
            name = key.split(b"\0")[0].decode("utf-8", "surrogateescape")
            try:
                _add_item(value, name, inputs, values, shapes)
            except RequestError as error:
                at = f"{number} key: {name}" if objects else f"{number}"
                raise RequestError(
                    error.code,
                    f"Failed to process element: {at} of 'instances' list. Error: {error.code}: {error}",
                ) from None
        if objects and {key.decode("utf-8", "surrogateescape") for key, _ in members} != set(inputs):
            raise RequestError(
                "INVALID_ARGUMENT",
                f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(row)} keys must be "
                f"equal to: {','.join(sorted(inputs))}",
            )
    return {name: _tensor(values[name], [len(rows), *shapes[name]], inputs[name].dtype) for name in values}


def _add_item(
    item: Any, name: str, inputs: dict[str, Any], values: dict[str, list], shapes: dict[str, list[int]]
) -> None:
    """Adds a row of one input. If a name occurs twice, both values are added."""
    if name not in inputs:
        raise RequestError("INVALID_ARGUMENT", f"JSON object: does not have named input: {name}")
    shape = _shape(item)
    found = _values(item, 0, shape, inputs[name].dtype)
    expected = shapes.setdefault(name, shape)
    if np.prod(expected) != len(found):
        raise RequestError("INVALID_ARGUMENT", f"Expecting tensor size: {np.prod(expected):g} but got: {len(found)}")
    if expected != shape:
        raise RequestError("INVALID_ARGUMENT", f"Expecting shape {expected} but got: {shape}")
    values.setdefault(name, []).extend(found)


def _shape(value: Any) -> list[int]:
    shape: list[int] = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return shape


def _values(value: Any, level: int, shape: list[int], dtype: int) -> list:
    if isinstance(value, list):
        if level >= len(shape):
            raise RequestError(
                "INVALID_ARGUMENT", f"Encountered list at unexpected level: {level} expected < {len(shape)}"
            )
        if len(value) != shape[level]:
            raise RequestError(
                "INVALID_ARGUMENT",
                f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}",
            )
        return [leaf for part in value for leaf in _values(part, level + 1, shape, dtype)]
    if level != len(shape):
        raise _format_error(
            value, f"found at incorrect level: {level + 1} in the JSON DOM. Expected at level: {len(shape)}"
        )
    return [_leaf(value, tf.as_dtype(dtype))]


def _leaf(value: Any, dtype: tf.DType) -> Any:
    if isinstance(value, rapid_json.Object) and dtype == tf.string:
        if not _is_base64(value):
            raise _format_error(value, "not formatted correctly for base64 data")
        return _base64(value.find("b64"))
    fits = {
        tf.string: isinstance(value, bytes),
        tf.bool: isinstance(value, bool),
        tf.int32: isinstance(value, int) and not isinstance(value, bool) and -(2**31) <= value < 2**31,
        tf.int64: isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63,
    }[dtype]
    if not fits:
        kind = _json_type(value)
        raise _format_error(value, f"Type: {kind} is not of expected type: {dtype.name}")
    return value


def _json_type(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "Null", True: "True", False: "False"}[value]
    kinds = {rapid_json.Object: "Object", list: "Array", bytes: "String"}
    return kinds.get(type(value), "Number")


def _base64(text: bytes) -> bytes:
    """As absl::Base64Unescape: white space is skipped, and padding is optional; anything else is an error."""
    digits = re.sub(rb"[ \t\n\v\f\r]", b"", text)
    data, padding = re.fullmatch(rb"(.*?)([=.]*)", digits, re.DOTALL).groups()  # type: ignore[union-attr]
    missing = -len(data) % 4
    if not re.fullmatch(rb"[A-Za-z0-9+/]*", data) or missing == 3 or len(padding) not in (0, missing):
        raise RequestError("INVALID_ARGUMENT", "Unable to base64 decode")
    return base64.b64decode(data + b"=" * missing)


def _tensor(values: list, shape: list[int], dtype: int) -> tensor_pb2.TensorProto:
    """A tensor of the first values that fill the shape. Names that occur twice have more values than that."""
    return tf.make_tensor_proto(values[: int(np.prod(shape))], tf.as_dtype(dtype), shape)


def _rows_json(found: dict[str, np.ndarray]) -> bytes:
    sizes = {value.shape[0] if value.ndim else None for value in found.values()}
    if None in sizes or len(sizes) > 1:
        raise RequestError("INVALID_ARGUMENT", f"Tensor name: {next(iter(found))} has inconsistent batch size")
    writer = rapid_json.Writer()
    writer.open("{")
    writer.value(b"predictions")
    writer.open("[")
    for row in range(sizes.pop() or 0):
        if len(found) > 1:
            writer.open("{")
        writer.one_line = True
        for alias, value in found.items():
            if len(found) > 1:
                writer.value(alias.encode())
            writer.value(_plain(value[row]))
        writer.one_line = False
        if len(found) > 1:
            writer.close("}")
    writer.close("]")
    writer.close("}")
    return bytes(writer.text)


def _columns_json(found: dict[str, np.ndarray]) -> bytes:
    columns = [(alias.encode(), _plain(value)) for alias, value in found.items()]
    return _written(
        rapid_json.Object([(b"outputs", rapid_json.Object(columns) if len(columns) > 1 else columns[0][1])])
    )


def _plain(value: Any) -> Any:
    """Lists of bytes, bools, ints and float32."""
    if isinstance(value, np.ndarray):
        return [_plain(part) for part in value]
    return value if isinstance(value, (bytes, np.float32)) else value.item()


def _format_error(value: Any, message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", f"JSON Value: {_shown(value)} {message}")


def _shown(value: Any) -> str:
    writer = rapid_json.Writer()
    writer.one_line = True
    writer.value(value)
    return writer.text[:256].decode("utf-8", "surrogateescape")


def _written(value: Any) -> bytes:
    writer = rapid_json.Writer()
    writer.value(value)
    return bytes(writer.text)
