"""deploy/client.py: TLS, metadata, large answers, and what it refuses."""

import contextlib
import pathlib
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from deploy import client
from tests.support import serving_double
from tests.support.client_command import run_client
from tests.support.serving_double import ServingDouble


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Keys and self-signed certificates of a server named localhost, of a client, and of a stranger."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("authority")
    for name in ("server", "client", "stranger"):
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", f"{name}.key", "-out", f"{name}.crt", "-days", "2", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(command, cwd=directory, capture_output=True, check=True)
    return directory


@pytest.fixture
def quick_double(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> Callable[..., ServingDouble]:
    """Starts doubles that answer three items at once, without a model."""
    monkeypatch.setattr(serving_double, "Version", Answering)
    started: list[ServingDouble] = []
    (tmp_path / "shop" / "1").mkdir(parents=True)

    def start_one(**settings: Any) -> ServingDouble:
        started.append(ServingDouble(tmp_path / "shop", "shop", **settings))
        return started[-1]

    yield start_one
    for server in started:
        server.stop()


class Answering:
    """A version without a model. It answers with the class attribute `item_ids`, which a test may replace."""

    item_ids: ClassVar[list[bytes]] = [b"a1", b"a2", b""]

    def __init__(self, path: pathlib.Path, batching: object):
        self.number = int(path.name)
        self.signatures = {"recommend": meta_graph_pb2.SignatureDef()}
        for name, value in client.recommend_inputs(["a3"], k=3).items():
            dtype = {"k": tf.int32, "drop_seen": tf.bool}.get(name, tf.string)
            self.signatures["recommend"].inputs[name].dtype = dtype.as_datatype_enum
            assert value

    def predict(self, *_: object) -> dict[str, np.ndarray]:
        scores = -np.arange(len(self.item_ids), dtype=np.float32)
        return {"item_ids": np.array([self.item_ids], object), "scores": scores[None, :]}

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def unload(self) -> None:
        pass


INPUTS = client.recommend_inputs(["a3"], k=3)


@pytest.mark.parametrize("over", ["grpc_address", "rest_address"])
def test_the_client_uses_tls(quick_double: Callable[..., ServingDouble], authority: pathlib.Path, over: str) -> None:
    files = {path.name: str(path) for path in authority.iterdir()}
    server = quick_double(tls=(authority / "server.key", authority / "server.crt", None))
    address = getattr(server, over)

    def request(address: str, **settings: str) -> client.Answer:
        connection = client.Connection(tls=True, **settings)
        return client.recommend(client.Request(address, "shop", INPUTS, timeout=5, retries=0, connection=connection))

    assert request(address, ca_cert=files["server.crt"]).item_ids == ["a1", "a2"]
    for ca_cert in ({}, {"ca_cert": files["stranger.crt"]}, {"ca_cert": files["stranger.key"]}):
        with pytest.raises(client.ServingError):
            request(address, **ca_cert)
    plain = address.replace("https://", "http://")
    with pytest.raises(client.ServingError):  # without TLS, to a port with TLS
        client.recommend(client.Request(plain, "shop", INPUTS, timeout=5, retries=0))
    mutual = quick_double(tls=(authority / "server.key", authority / "server.crt", authority / "client.crt"))
    address = getattr(mutual, over)
    keys = {"client_cert": files["client.crt"], "client_key": files["client.key"]}
    assert request(address, ca_cert=files["server.crt"], **keys).item_ids == ["a1", "a2"]
    with pytest.raises(client.ServingError):
        request(address, ca_cert=files["server.crt"])
    strangers = {"client_cert": files["stranger.crt"], "client_key": files["stranger.key"]}
    with pytest.raises(client.ServingError):
        request(address, ca_cert=files["server.crt"], **strangers)


@pytest.mark.parametrize("over", ["grpc_address", "rest_address"])
def test_the_client_sends_metadata(quick_double: Callable[..., ServingDouble], over: str) -> None:
    server = quick_double()
    connection = client.Connection(metadata=(("authorization", "Bearer a:b"), ("x-tenant", "shop 1")))
    client.recommend(client.Request(getattr(server, over), "shop", INPUTS, timeout=20, connection=connection))
    assert server.metadata["authorization"] == "Bearer a:b"
    assert server.metadata["x-tenant"] == "shop 1"


def test_the_client_takes_answers_larger_than_4_mb(
    quick_double: Callable[..., ServingDouble], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "item_ids", [b"a" * 3_000_000, b"b" * 3_000_000])
    answer = client.recommend(client.Request(quick_double().grpc_address, "shop", INPUTS, timeout=20))
    assert [len(item_id) for item_id in answer.item_ids] == [3_000_000] * 2


@pytest.mark.parametrize(
    ("settings", "server", "message"),
    [
        ({"client_cert": __file__}, "localhost:1", "need each other"),
        ({"client_cert": __file__, "client_key": "/no/such.key"}, "localhost:1", "Received: /no/such.key"),
        ({"ca_cert": "/no/such.crt"}, "localhost:1", "Received: /no/such.crt"),
        ({"ca_cert": __file__}, "localhost:1", "Fix: --tls"),
        ({"tls": True}, "http://localhost:1", "Fix: https://"),
        ({"ca_cert": __file__}, "http://localhost:1", "Fix: https://"),
        ({"metadata": (("", "a"),)}, "localhost:1", "--metadata must be"),
        ({"metadata": (("a b", "a"),)}, "localhost:1", "--metadata must be"),
        ({"metadata": (("a-bin", "a"),)}, "localhost:1", "--metadata must be"),
        ({"metadata": (("grpc-timeout", "a"),)}, "localhost:1", "--metadata must be"),
        ({"metadata": (("a", "b\r\nc: d"),)}, "localhost:1", "--metadata must be"),
        ({"metadata": (("a", "\u00e9"),)}, "localhost:1", "--metadata must be"),
    ],
)
def test_impossible_connections_are_refused(settings: dict[str, Any], server: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        client.recommend(client.Request(server, "shop", INPUTS, connection=client.Connection(**settings)))


def test_control_characters_of_titles_are_escaped() -> None:
    printed = {
        "Se7en (1995)": "Se7en (1995)",
        "Amélie 天空の城 😀": "Amélie 天空の城 😀",
        "a\x1b[2Jb\x07": "a\\x1b[2Jb\\x07",
        "a\r\nb\tc": "a\\r\\nb\\tc",
        "a\x9b31mb\x7f": "a\\x9b31mb\\x7f",
        "a\u202eb\u2028c\u200f": "a\\u202eb\\u2028c\\u200f",
        "a\ud800b": "a\\ud800b",
    }
    assert {title: client.printable(title) for title in printed} == printed


def test_the_client_prints_no_control_characters(
    quick_double: Callable[..., ServingDouble], tmp_path: pathlib.Path
) -> None:
    server = quick_double()
    vocabulary = tmp_path / "shop" / "1" / "assets.extra" / "vocabulary.jsonl"
    vocabulary.parent.mkdir()
    vocabulary.write_text('{"item_id": "a1", "title": "A \\u001b[31mtitle"}\n')
    address = [f"--server={server.rest_address}", "--model=shop", f"--export_dir={tmp_path / 'shop'}"]
    printed = run_client(*address, "--item_id=a\x1b[2J", "--k=2")
    assert "\x1b" not in printed
    assert "a1  A \\x1b[31mtitle" in printed
    assert "a\\x1b[2J" in printed


def test_the_client_refuses_impossible_flags() -> None:
    assert "--metadata must be" in run_client("--server=localhost:1", "--model=shop", "--metadata=a b:c", code=1)
    assert "Fix: https://" in run_client("--server=http://localhost:1", "--model=shop", "--tls", code=1)
