"""Requests recommendations from TF Serving, over gRPC or REST, or from an exported SavedModel without a server.

The file imports nothing of the project.

python deploy/client.py --server=localhost:8500 --model=ml-1m --item_id=161 --item_id=378           gRPC
python deploy/client.py --server=http://localhost:8501 --model=ml-1m --item_id=161 --item_id=378    REST
python deploy/client.py --export_dir=exports/ml-1m --item_id=161 --item_id=378                      no server

TLS: --tls for gRPC, https:// for REST, and --ca_cert, --client_cert, --client_key if the server needs them. --metadata
sends what a proxy requires, such as a token: --metadata=authorization:'Bearer …'.
"""

import dataclasses
import json
import os
import pathlib
import re
import sys
import unicodedata
import urllib.parse
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import grpc
import requests
from absl import app, flags
from urllib3.util.retry import Retry

_SERVER = flags.DEFINE_string(
    "server",
    None,
    "address of the server: host:port for gRPC, http://host:port or https://host:port for REST; default: load the "
    "model of --export_dir without a server",
)
_MODEL = flags.DEFINE_string("model", None, "name of the model at the server")
_LABEL = flags.DEFINE_string(
    "label", None, "label of the version that answers: stable or previous; default: the newest version"
)
_EXPORT = flags.DEFINE_string(
    "export_dir", None, "directory written by export.py, to read item titles from and, without --server, the model"
)
_ITEMS = flags.DEFINE_multi_string("item_id", [], "item of the user's history, newest last; repeatable")
_EXCLUDED = flags.DEFINE_multi_string("excluded_item_id", [], "item that the answer must not hold; repeatable")
_ALLOWED = flags.DEFINE_multi_string(
    "allowed_item_id", [], "item that the answer may hold; repeatable; default: all items"
)
_ALLOWED_VALUES = flags.DEFINE_multi_string(
    "allowed_value", None, "feature=category that items of the answer must have, if the model has features; repeatable"
)
_EXCLUDED_VALUES = flags.DEFINE_multi_string(
    "excluded_value", None, "feature=category that no item of the answer has, if the model has features; repeatable"
)
_TIMES = flags.DEFINE_multi_integer(
    "timestamp", None, "time of an event, in seconds since 1970, once for each --item_id, if the model takes times"
)
_REQUEST_TIME = flags.DEFINE_integer(
    "request_time", None, "when the items will be shown, in seconds since 1970, if the model takes times"
)
_K = flags.DEFINE_integer("k", 10, "number of items in the answer")
_KEEP_SEEN = flags.DEFINE_bool("keep_seen", False, "whether the answer may hold items of the history")
_TIMEOUT = flags.DEFINE_float("timeout_seconds", 1.0, "seconds to wait for an answer; over gRPC, retries included")
_RETRIES = flags.DEFINE_integer(
    "retries", 3, "number of further tries if the server cannot be reached", lower_bound=0, upper_bound=4
)
_TLS = flags.DEFINE_bool("tls", False, "use TLS over gRPC; for REST, write https:// in --server instead")
_CA_CERT = flags.DEFINE_string(
    "ca_cert", None, "PEM file of the authorities to check the server's certificate with; default: the system's"
)
_CLIENT_CERT = flags.DEFINE_string("client_cert", None, "PEM file of this client's certificate; needs --client_key")
_CLIENT_KEY = flags.DEFINE_string("client_key", None, "PEM file of the private key of --client_cert")
_METADATA = flags.DEFINE_multi_string(
    "metadata", [], "key:value to send with the request, over REST as a header; repeatable"
)
_SHOWN_ITEMS = 5


@dataclasses.dataclass(frozen=True)
class Answer:
    """Items, best first, with their scores.

    Attributes:
        version: the version that answered; None over REST, which does not tell it.
        item_ids: without empty entries.
        scores: the score of each item.
    """

    version: str | None
    item_ids: list[str]
    scores: list[float]

    @classmethod
    def without_empty_entries(cls, version: str | None, item_ids: list[str], scores: list[float]) -> "Answer":
        """Drops the entries of a server's answer whose item id is ""."""
        entries = [(item_id, score) for item_id, score in zip(item_ids, scores, strict=True) if item_id]
        return cls(version, [item_id for item_id, _ in entries], [score for _, score in entries])


class ServingError(Exception):
    """The server refused the request, or could not be reached in time."""


@dataclasses.dataclass(frozen=True)
class Connection:
    """TLS and metadata of a connection.

    Attributes:
        tls: whether gRPC uses TLS; over REST, the scheme https:// decides.
        ca_cert: PEM file of the authorities to check the server's certificate with; None: those of the system.
        client_cert, client_key: PEM files, for a server that requires a client certificate.
        metadata: names and values to send, over REST as headers.

    Raises:
        ValueError: a missing file or option, or a name or value that cannot be sent.
    """

    tls: bool = False
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    metadata: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if (self.client_cert is None) != (self.client_key is None):
            raise ValueError("--client_cert and --client_key need each other. Received: one of them")
        for path in (self.ca_cert, self.client_cert, self.client_key):
            if path is not None and not pathlib.Path(path).is_file():
                raise ValueError(f"--ca_cert, --client_cert and --client_key must be files. Received: {path}")
        for name, value in self.metadata:
            # The names that gRPC takes, without its own and binary ones.
            is_name = re.fullmatch(r"(?!grpc-)[0-9a-z_.-]+(?<!-bin)", name)
            if not is_name or not re.fullmatch(r"[\x20-\x7e]*", value):
                raise ValueError(
                    "--metadata must be a name of letters, digits and _ . -, a colon and a value of printable ASCII. "
                    f"Received: {name!r}"
                )

    def check(self, server: str) -> None:
        """Checks that the settings fit the address of the server.

        Raises:
            ValueError: an option of TLS for an address without TLS.
        """
        needs_tls = self.tls or self.ca_cert is not None or self.client_cert is not None
        has_tls = server.startswith("https://") if "://" in server else self.tls
        if needs_tls and not has_tls:
            fix = "https:// in --server" if "://" in server else "--tls"
            raise ValueError(f"--tls, --ca_cert and --client_cert need TLS. Received: {server}. Fix: {fix}")


@dataclasses.dataclass(frozen=True)
class Request:
    """A request to the `recommend` signature for one history.

    Attributes:
        server: "host:port" for gRPC, "http://host:port" or "https://host:port" for REST.
        model: the model's name at the server.
        inputs: all inputs of the signature, from `recommend_inputs`.
        label: the label of the version; None: the newest version.
        timeout: seconds.
        retries: further tries if no answer came, at most 4.
        connection: TLS and metadata.

    Raises:
        ValueError: `connection` does not fit `server`.
    """

    server: str
    model: str
    inputs: dict[str, Any]
    label: str | None = None
    timeout: float = 1.0
    retries: int = 3
    connection: Connection = dataclasses.field(default_factory=Connection)

    def __post_init__(self) -> None:
        self.connection.check(self.server)


def recommend(request: Request) -> Answer:
    """Sends a request over gRPC or REST.

    Raises:
        ServingError: no answer; the message tells the reason.
    """
    return _over_rest(request) if "://" in request.server else _over_grpc(request)


def recommend_inputs(
    item_ids: list[str],
    k: int,
    drop_seen: bool = True,
    excluded: list[str] | None = None,
    allowed: list[str] | None = None,
    allowed_values: list[str] | None = None,
    excluded_values: list[str] | None = None,
    timestamps: list[int] | None = None,
    request_time: int | None = None,
) -> dict[str, Any]:
    """The inputs of the `recommend` signature for one history.

    The last four are left out if they are None, since only some models take them: those with categories of items the
    two lists of values, those with times the two times. REST requires all that a model takes.
    """
    lists = {"item_ids": [item_ids], "excluded_item_ids": [excluded or []], "allowed_item_ids": [allowed or []]}
    rows = {"allowed_values": allowed_values, "excluded_values": excluded_values, "timestamps": timestamps}
    optional: dict[str, Any] = {name: [row] for name, row in rows.items() if row is not None}
    if request_time is not None:
        optional["request_time"] = [request_time]
    return {**lists, **optional, "k": [k], "drop_seen": [drop_seen]}


def _over_grpc(request: Request) -> Answer:
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    message = PredictRequest()
    message.model_spec.name, message.model_spec.signature_name = request.model, "recommend"
    if request.label:
        message.model_spec.version_label = request.label
    dtypes = {"k": tf.int32, "drop_seen": tf.bool, "timestamps": tf.int64, "request_time": tf.int64}
    for name, value in request.inputs.items():
        shape = [len(value), *([len(value[0])] if isinstance(value[0], list) else [])]
        proto = tf.make_tensor_proto(value, dtypes.get(name, tf.string), shape)
        message.inputs[name].CopyFrom(proto)
    retry_policy = {"maxAttempts": request.retries + 1, "initialBackoff": "0.1s", "maxBackoff": "1s",
                    "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]}  # fmt: skip
    config = {"methodConfig": [{"name": [{}], "retryPolicy": retry_policy}]} if request.retries else {}
    # Without the second option, gRPC refuses answers larger than 4 MB.
    options = [("grpc.service_config", json.dumps(config)), ("grpc.max_receive_message_length", -1)]
    with _channel(request.server, options, request.connection) as channel:
        try:
            response = PredictionServiceStub(channel).Predict(
                message, timeout=request.timeout, metadata=request.connection.metadata
            )
        except grpc.RpcError as error:
            raise ServingError(f"{error.code().name}: {error.details()}") from None
    found = {name: tf.make_ndarray(value)[0].tolist() for name, value in response.outputs.items()}
    item_ids = [item_id.decode("utf-8") for item_id in found["item_ids"]]
    return Answer.without_empty_entries(str(response.model_spec.version.value), item_ids, found["scores"])


def _channel(server: str, options: list[tuple[str, Any]], connection: Connection) -> grpc.Channel:
    if not connection.tls:
        return grpc.insecure_channel(server, options)
    paths = (connection.ca_cert, connection.client_key, connection.client_cert)
    credentials = grpc.ssl_channel_credentials(*(pathlib.Path(path).read_bytes() if path else None for path in paths))
    return grpc.secure_channel(server, credentials, options)


def _over_rest(request: Request) -> Answer:
    server, connection = request.server, request.connection
    version = f"/labels/{urllib.parse.quote(request.label, safe='')}" if request.label else ""
    url = f"{server.rstrip('/')}/v1/models/{urllib.parse.quote(request.model, safe='')}{version}:predict"
    retry_policy = Retry(
        total=request.retries,
        backoff_factor=0.1,
        status_forcelist=[503],
        allowed_methods=["POST"],
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.mount(server, requests.adapters.HTTPAdapter(max_retries=retry_policy))
        session.headers.update(connection.metadata)
        cert = None
        if connection.client_cert and connection.client_key:
            cert = (connection.client_cert, connection.client_key)
        body: dict[str, Any] = {"signature_name": "recommend", "inputs": request.inputs}
        try:
            # `verify` is an argument, since REQUESTS_CA_BUNDLE overrides the session's attribute. Redirects are off,
            # since the metadata is for this server only.
            response = session.post(
                url, json=body, timeout=request.timeout, allow_redirects=False, verify=connection.ca_cert, cert=cert
            )
        except OSError as error:  # includes a file that is not PEM
            raise ServingError(str(error)) from None
    try:
        content = response.json()
    except ValueError:
        raise ServingError(f"{response.status_code}: the answer is not JSON: {response.text[:200]!r}") from None
    if response.status_code != 200:
        raise ServingError(f"{response.status_code}: {content.get('error', content)}")
    outputs = content["outputs"]
    return Answer.without_empty_entries(None, outputs["item_ids"][0], outputs["scores"][0])


def _without_server(export_dir: str, inputs: dict[str, Any]) -> Answer:
    import tensorflow as tf

    version = _newest(export_dir)
    signature = tf.saved_model.load(str(version)).signatures["recommend"]
    _, specs = signature.structured_input_signature
    if unknown := sorted(inputs.keys() - specs.keys()):
        raise ServingError(f"this model takes no {' or '.join(unknown)}; it has no such features or takes no times")
    given = {name: [[]] for name in specs} | {"request_time": [-1]} | inputs  # as the server's defaults
    tensors = {
        name: tf.reshape(tf.constant(given[name], spec.dtype), [-1] if spec.shape.rank in (None, 1) else [1, -1])
        for name, spec in specs.items()
    }
    try:
        found = {name: value[0].numpy().tolist() for name, value in signature(**tensors).items()}
    except tf.errors.InvalidArgumentError as error:
        raise ServingError(error.message.split(" [Op:")[0]) from None
    item_ids = [item_id.decode("utf-8") for item_id in found["item_ids"]]
    return Answer.without_empty_entries(version.name, item_ids, found["scores"])


def main(argv: list[str]) -> None:
    """Sends the request and prints the answer, with the titles that are known."""
    if argv[1:]:
        sys.exit(f"error: Only flags are taken, --item_id once for each item. Received: {' '.join(argv[1:])}")
    if _EXPORT.value and "://" in _EXPORT.value:
        sys.exit(
            f"error: --export_dir must be a path on this machine. Received: {_EXPORT.value}. "
            "Fix: mount the bucket or file system and name the folder where it is mounted, or copy the files"
        )
    if _TIMES.value is not None and len(_TIMES.value) != len(_ITEMS.value):
        sys.exit(
            f"error: --timestamp must be given once for each --item_id. Received: {len(_TIMES.value)} times for "
            f"{len(_ITEMS.value)} items"
        )
    filters_and_times = _ALLOWED_VALUES.value, _EXCLUDED_VALUES.value, _TIMES.value, _REQUEST_TIME.value
    inputs = recommend_inputs(
        _ITEMS.value, _K.value, not _KEEP_SEEN.value, _EXCLUDED.value, _ALLOWED.value, *filters_and_times
    )
    titles = _titles(_EXPORT.value) if _EXPORT.value else {}
    try:
        if _SERVER.value and _MODEL.value:
            connection = Connection(_TLS.value, _CA_CERT.value, _CLIENT_CERT.value, _CLIENT_KEY.value, _metadata())
            answer = recommend(
                Request(_SERVER.value, _MODEL.value, inputs, _LABEL.value, _TIMEOUT.value, _RETRIES.value, connection)
            )
        elif _EXPORT.value and not _SERVER.value:
            answer = _without_server(_EXPORT.value, inputs)
        else:
            sys.exit(f"error: Give --server with --model, or --export_dir. Received: {_SERVER.value}, {_MODEL.value}")
    except ValueError as error:
        sys.exit(f"error: {printable(str(error))}")
    except ServingError as error:
        sys.exit(f"error: {_SERVER.value or _EXPORT.value} gave no answer. {printable(str(error))}")
    print(f"version {answer.version or 'unknown'}; a history of {len(_ITEMS.value)} items, the newest last:")
    if len(_ITEMS.value) > _SHOWN_ITEMS:
        print("              ...")
    for item_id in _ITEMS.value[-_SHOWN_ITEMS:]:
        print(f"              {printable(titles.get(item_id, item_id))}")
    print(f"top {len(answer.item_ids)}:")
    for rank, (item_id, score) in enumerate(zip(answer.item_ids, answer.scores, strict=True), 1):
        print(f"{rank:>4} {score:>8.3f} {printable(titles.get(item_id, item_id))}")


def printable(text: str) -> str:
    """Text for a terminal: escapes the characters that move its cursor or change the direction of writing."""
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char)[0] == "C" or unicodedata.category(char) in ("Zl", "Zp")
        else char
        for char in text
    )


def _metadata() -> tuple[tuple[str, str], ...]:
    pairs = [text.partition(":") for text in _METADATA.value]
    return tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)


def _titles(export_dir: str) -> dict[str, str]:
    lines = (_newest(export_dir) / "assets.extra" / "vocabulary.jsonl").read_bytes().split(b"\n")[:-1]
    entries = [json.loads(line) for line in lines]
    return {entry["item_id"]: f"{entry['item_id']}  {entry.get('title', '')}".rstrip() for entry in entries}


def _newest(export_dir: str) -> pathlib.Path:
    root = pathlib.Path(export_dir)
    versions = sorted((path for path in root.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name))
    if not versions:
        sys.exit(f"error: --export_dir must hold a version written by export.py. Received: {root}")
    return versions[-1]


if __name__ == "__main__":
    app.run(main)
