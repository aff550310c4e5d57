"""Which versions a server holds and what its labels name, while versions come, break, go and are taken back.

The server is the double, over versions that take no time to load: `models.config`, `export` and `rollback` are ours.
"""

import contextlib
import pathlib
import re
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import serving_double
from serving_double import ServingDouble

from bert4rec_tf.serving.export import Publishing, export
from bert4rec_tf.serving.versions import rollback, versions, write_models_config
from tfrecords.errors import InputError

POLL_SECONDS = 0.05


class Stub:
    """A version that takes no time to load, or cannot be loaded: what the double does with versions, seen apart."""

    def __init__(self, path: pathlib.Path, batching: object):
        self.number = int(path.name)
        if (path / "broken").exists():
            raise RuntimeError("broken")

    def in_use(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def unload(self) -> None:
        pass


def stubs(root: pathlib.Path, *numbers: int) -> pathlib.Path:
    for number in numbers:
        (root / str(number)).mkdir(parents=True)
    return root


@pytest.fixture(autouse=True)
def quick_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither server nor export touches a model."""

    def write(_: None, building: pathlib.Path, __: Publishing) -> dict[str, Any]:
        (building / "assets.extra").mkdir(parents=True)
        return {}

    monkeypatch.setattr(serving_double, "Version", Stub)
    monkeypatch.setattr("bert4rec_tf.serving.export.load_model", lambda _: None)
    monkeypatch.setattr("bert4rec_tf.serving.export._write", write)
    monkeypatch.setattr("bert4rec_tf.serving.export.provenance", lambda *_: {})


class Callers:
    """Ask by label without a pause, and count what they are told."""

    def __init__(self, server: ServingDouble):
        self._server, self._stopping = server, threading.Event()
        self.answers, self.errors = 0, list[str]()
        self._threads = [threading.Thread(target=self._ask, args=[label]) for label in ("stable", "previous")]
        for thread in self._threads:
            thread.start()

    def _ask(self, label: str) -> None:
        while not self._stopping.wait(0.001):
            try:
                with self._server.version("shop", None, label):
                    self.answers += 1
            except serving_double.RequestError as error:
                self.errors.append(f"{label}: {error}")

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()


@contextlib.contextmanager
def serving(root: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ServingDouble, Callers]]:
    """A server whose loads take six of its polls, and callers by label.

    Waiting for two polls is waiting for two polls of this server, however slow the machine is.
    """
    config = root / "models.config"
    server = ServingDouble(root, "shop", POLL_SECONDS, config, max_num_load_retries=0, load_seconds=0.3)

    def sleep(seconds: float) -> None:
        assert seconds == 2 * POLL_SECONDS
        enough = server.config_reads + 2
        wait_until(lambda: server.config_reads >= enough)

    monkeypatch.setattr("bert4rec_tf.serving.versions.time", types.SimpleNamespace(time=time.time, sleep=sleep))
    callers = Callers(server)
    try:
        yield server, callers
    finally:
        callers.stop()
        server.stop()


def settle(server: ServingDouble, root: pathlib.Path) -> None:
    """Until the labels are those of the file, and the versions that it wants are loaded."""
    newest = versions(root)
    stable, previous = int(newest[-1].name), int(newest[-2:][0].name)
    wait_until(lambda: server.labels() == {"stable": stable, "previous": previous})
    wait_until(lambda: all(server.states().get(int(path.name), ("", ""))[0] == "AVAILABLE" for path in newest[-3:]))


def test_callers_by_label_are_answered_through_exports_and_rollbacks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stubs(tmp_path / "shop", 1, 2)
    write_models_config(root, versions(root))
    with serving(root, monkeypatch) as (server, callers):
        for keep in (None, None, 3, 2):
            export("model", str(root), Publishing(keep_versions=keep, poll_seconds=POLL_SECONDS))
            settle(server, root)
        for _ in range(3):
            export("model", str(root), Publishing(poll_seconds=POLL_SECONDS))
            settle(server, root)
        for _ in range(3):
            rollback(str(root), POLL_SECONDS)
            settle(server, root)
    assert callers.errors == []
    assert callers.answers > 100


def test_two_rollbacks_at_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one while the server still loads what the first one left."""
    root = stubs(tmp_path / "shop", 1, 2, 3, 4, 5)
    write_models_config(root, versions(root))
    with serving(root, monkeypatch) as (server, callers):
        rollback(str(root), POLL_SECONDS)
        rollback(str(root), POLL_SECONDS)
        settle(server, root)
        assert server.labels() == {"stable": 3, "previous": 2}
    assert callers.errors == []


def test_a_configuration_of_two_versions_is_left_without_errors_by_a_rollback(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stubs(tmp_path / "shop", 1, 2, 3)
    write_labels(root, num_versions=2)
    with serving(root, monkeypatch) as (server, callers):
        rollback(str(root), POLL_SECONDS)
        settle(server, root)
    assert callers.errors == []


def test_two_loaded_versions_leave_callers_by_label_without_an_answer(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is why three are loaded, and why the labels move before a version goes."""
    root = stubs(tmp_path / "shop", 1, 2)
    write_labels(root, num_versions=2)
    with serving(root, monkeypatch) as (server, callers):
        stubs(root, 3)
        write_labels(root, num_versions=2)
        settle_labels = {"stable": 3, "previous": 2}
        wait_until(lambda: server.labels() == settle_labels)
        published = list(callers.errors)
        callers.errors.clear()
        write_labels(root, num_versions=2, stable=2, previous=1)
        (root / "3").rename(root / ".withdrawn-3")
        wait_until(lambda: server.labels() == {"stable": 2, "previous": 1})
        rolled_back = list(callers.errors)
    assert any("previous: Servable not found for request: Specific(shop, 1)" in error for error in published)
    assert any("stable: Servable not found for request: Specific(shop, 3)" in error for error in rolled_back)


def test_only_a_version_with_a_label_is_waited_for(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    root = stubs(tmp_path / "shop", 1, 2, 3, 4)
    monkeypatch.setattr("bert4rec_tf.serving.versions.time", types.SimpleNamespace(time=time.time, sleep=waited.append))
    export("model", str(root), Publishing(keep_versions=2))  # no models.config before: no server reads labels
    export("model", str(root), Publishing())
    export("model", str(root), Publishing(keep_versions=3))
    assert waited == []
    export("model", str(root), Publishing(keep_versions=2))
    rollback(str(root), poll_seconds=30)
    assert waited == [2.0, 60.0]


@pytest.mark.parametrize("poll_seconds", [-1.0, float("nan"), float("inf")])
def test_poll_seconds_must_be_a_time(tmp_path: pathlib.Path, poll_seconds: float) -> None:
    with pytest.raises(InputError, match="--poll_seconds must be a number of seconds, at least 0"):
        Publishing(poll_seconds=poll_seconds)
    with pytest.raises(InputError, match="--poll_seconds must be a number of seconds, at least 0"):
        rollback(str(tmp_path), poll_seconds)


def test_the_double_unloads_before_it_loads_and_refuses_labels_of_what_is_not_loaded(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 1, 2)
    write_labels(root, num_versions=2, stable=2, previous=1)
    server = ServingDouble(root, "shop", 0.02, root / "models.config", max_num_load_retries=0, load_seconds=0.5)
    try:
        stubs(root, 3)
        write_labels(root, num_versions=2, stable=3, previous=2)
        wait_until(lambda: server.states()[1] == ("END", ""))
        assert server.states().get(3, ("NEW", ""))[0] in ("NEW", "LOADING")
        wait_until(lambda: server.refused_configs > 0)
        assert server.labels() == {"stable": 2, "previous": 1}
        with (
            pytest.raises(serving_double.RequestError, match="Servable not found"),
            server.version("shop", None, "previous"),
        ):
            pass
        wait_until(lambda: server.labels() == {"stable": 3, "previous": 2})
        with server.version("shop", None, "stable") as version:
            assert version.number == 3
    finally:
        server.stop()


def test_a_broken_version_delays_the_next_one_by_its_retries(tmp_path: pathlib.Path) -> None:
    """Which is why the server is told --max_num_load_retries=0: its default is 5, a minute apart."""
    delays = {}
    for retries in (0, 5):
        root = stubs(tmp_path / str(retries), 1)
        server = ServingDouble(root, "shop", 0.02, max_num_load_retries=retries, load_retry_seconds=0.2)
        try:
            (root / ".tmp-2").mkdir()
            (root / ".tmp-2" / "broken").touch()
            (root / ".tmp-2").rename(root / "2")
            wait_until(lambda server=server: 2 in server.states())
            started = time.monotonic()
            stubs(root, 3)
            server.wait_for(3)
            delays[retries] = time.monotonic() - started
            assert server.states()[2] == ("END", "broken")
        finally:
            server.stop()
    assert delays[5] >= 5 * 0.2 - 0.1 > delays[0]


def test_a_server_none_of_whose_versions_loads_does_not_start(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 1)
    (root / "1" / "broken").touch()
    with pytest.raises(RuntimeError, match=r"name: shop version: 1\} due to error: broken"):
        ServingDouble(root, "shop", max_num_load_retries=0)


def write_labels(root: pathlib.Path, num_versions: int, **labels: int) -> None:
    """A `models.config` of this policy and these labels."""
    beside = root.parent / "beside" / root.name
    beside.mkdir(parents=True, exist_ok=True)
    write_models_config(beside, versions(root))
    text = (beside / "models.config").read_text()
    text = re.sub(r"num_versions: \d+", f"num_versions: {num_versions}", text)
    for label, number in labels.items():
        text = re.sub(rf'"{label}" value: \d+', f'"{label}" value: {number}', text)
    (beside / "models.config").write_text(text)
    (beside / "models.config").rename(root / "models.config")  # whole: the server may be reading it


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
