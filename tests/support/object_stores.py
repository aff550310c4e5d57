"""Object stores for tests: one in memory, and moto's S3 server, whose requests fail where a test wants it."""

import logging
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from tfrecords import stores

# In a process of its own, where its single thread would keep a client waiting that keeps its first connection.
_EMULATOR = """
import http.server, threading
from gcp_storage_emulator import server
server.server.HTTPServer = http.server.ThreadingHTTPServer
emulator = server.create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
emulator.start()
print(emulator._api._httpd.server_port, flush=True)
threading.Event().wait()
"""
Fault = Callable[[str, str], str | None]  # of a request's method and path: "500", "503", "cut" or None


class FlakyMemory(MemoryFileSystem):
    """A store in memory.

    Attributes:
        refuse: called with each path that is opened to be written; may raise an OSError.
        written: the paths that were written, in order.
    """

    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    cachable = False
    refuse: Callable[[str], None]
    written: list[str]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode:
            self.refuse(path)
            self.written.append(path)
        return super()._open(path, mode, **options)


@pytest.fixture(name="memory")
def memory_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> FlakyMemory:
    """In the test, every store is this one."""
    found = FlakyMemory()
    found.store.clear()
    found.pseudo_dirs[:] = [""]
    found.refuse, found.written = lambda _: None, []
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(found))
    monkeypatch.setattr(stores, "_filesystem", lambda *address: (filesystem, f"/{address[1]}"))
    monkeypatch.setattr(stores, "_WAITS", (0.0, 0.0))
    monkeypatch.setenv("BERT4REC_TF_STORE_CACHE", str(tmp_path / "cache"))
    return found


class S3Server:
    """moto's S3 server on this machine, with the bucket `bucket`.

    Attributes:
        url: of the server.
        fault: called with each request before it is answered; a test may replace it.
        requests: method and path of each request.
    """

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = DomainDispatcherApplication(create_backend_app)
        self.fault: Fault = lambda *_: None
        self.requests: list[tuple[str, str]] = []
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        urllib.request.urlopen(urllib.request.Request(f"{self.url}/bucket", method="PUT"))

    def close(self) -> None:
        self._server.shutdown()

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which commands find the server."""
        return {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path))
        fault = self.fault(method, path)
        if fault == "cut":
            environ["werkzeug.socket"].shutdown(2)
            start("200 OK", [])
            return [b""]
        if fault:
            start(f"{fault} Injected", [("Content-Type", "application/xml"), ("Connection", "close")])
            return [b"<Error><Code>SlowDown</Code><Message>Reduce your request rate</Message></Error>"]
        return self._moto(environ, start)


@pytest.fixture(name="s3", scope="module")
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="moto is in requirements-dev.txt, which `make test-slow` installs")
    server = S3Server()
    yield server
    server.close()


@pytest.fixture(name="gcs", scope="module")
def gcs_emulator() -> Iterator[str]:
    """The address of a GCS emulator with the bucket `bucket`."""
    reason = "gcp-storage-emulator is in requirements-dev.txt, which `make test-slow` installs"
    pytest.importorskip("gcp_storage_emulator", reason=reason)
    process = subprocess.Popen([sys.executable, "-c", _EMULATOR], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    process.kill()
    process.wait()


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process find the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    assert os.environ["AWS_ENDPOINT_URL"] == server.url
