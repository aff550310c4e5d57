"""The versions of an export directory, and the versions and labels that a server has while these change.

The server is the test double; its versions load in no time. `models.config`, `export` and `rollback` are the real ones.
"""

import contextlib
import fcntl
import pathlib
import re
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.serving.versions import find_canary, list_versions, promote, rollback, withdraw, write_models_config
from tests.support import serving_double
from tests.support.serving_double import ServingDouble
from tfrecords.errors import InputError

POLL_SECONDS = 0.05


class Stub:
    """A version without a model: it loads in no time, or fails to load if it has a file `broken`."""

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
    """Server and export work without a model."""

    def write(_: None, building: pathlib.Path, __: ExportOptions) -> dict[str, Any]:
        (building / "assets.extra").mkdir(parents=True)
        return {}

    monkeypatch.setattr(serving_double, "Version", Stub)
    monkeypatch.setattr("bert4rec_tf.serving.export.load_model", lambda *_, **__: None)
    monkeypatch.setattr("bert4rec_tf.serving.export._write_version", write)
    monkeypatch.setattr("bert4rec_tf.serving.export.replay_warm_up", lambda _: None)
    monkeypatch.setattr("bert4rec_tf.serving.export.gc", types.SimpleNamespace(collect=int))
    monkeypatch.setattr("bert4rec_tf.serving.export.provenance", lambda *_: {})


class Callers:
    """Threads that request versions by label without a pause, and count answers and errors."""

    def __init__(self, server: ServingDouble):
        self._server, self._stopping = server, threading.Event()
        self.answers, self.errors = 0, list[str]()
        self._threads = [threading.Thread(target=self._request, args=[label]) for label in ("stable", "previous")]
        for thread in self._threads:
            thread.start()

    def _request(self, label: str) -> None:
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
    """A server whose loads take six polls, and callers by label.

    `time.sleep` of `versions` waits for two polls of this server, so the test does not depend on the machine's speed.
    """
    config = root / "models.config"
    server = ServingDouble(root, "shop", POLL_SECONDS, config, max_num_load_retries=0, load_seconds=0.3)

    def sleep(seconds: float) -> None:
        assert seconds == 2 * POLL_SECONDS
        target = server.config_reads + 2
        wait_until(lambda: server.config_reads >= target)

    monkeypatch.setattr("bert4rec_tf.serving.versions.time", types.SimpleNamespace(time=time.time, sleep=sleep))
    callers = Callers(server)
    try:
        yield server, callers
    finally:
        callers.stop()
        server.stop()


def settle(server: ServingDouble, root: pathlib.Path) -> None:
    """Waits until the server has the labels of the file, and has loaded the versions that it names."""
    newest = list_versions(root)
    stable, previous = int(newest[-1].name), int(newest[-2:][0].name)
    wait_until(lambda: server.labels() == {"stable": stable, "previous": previous})
    wait_until(lambda: all(server.states().get(int(path.name), ("", ""))[0] == "AVAILABLE" for path in newest[-3:]))


def test_callers_by_label_are_answered_through_exports_and_rollbacks(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stubs(tmp_path / "shop", 1, 2)
    write_models_config(root, list_versions(root))
    with serving(root, monkeypatch) as (server, callers):
        for keep in (None, None, 3, 2):
            export("model", str(root), ExportOptions(keep_versions=keep, poll_seconds=POLL_SECONDS))
            settle(server, root)
        for _ in range(3):
            export("model", str(root), ExportOptions(poll_seconds=POLL_SECONDS))
            settle(server, root)
        for _ in range(3):
            rollback(str(root), POLL_SECONDS)
            settle(server, root)
    assert callers.errors == []
    assert callers.answers > 100


def test_a_canary_answers_only_callers_of_its_label_until_it_is_promoted(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stubs(tmp_path / "shop", 10, 20, 30)
    write_models_config(root, list_versions(root))
    with serving(root, monkeypatch) as (server, callers):

        def answered(label: str) -> int:
            with server.version("shop", None, label) as version:
                return version.number

        canary = publish_canary(root)
        assert canary.name == "29"
        wait_until(lambda: server.labels() == {"stable": 30, "previous": 20, "canary": 29})
        wait_until(lambda: server.states().get(29, ("", ""))[0] == "AVAILABLE")
        assert [answered(label) for label in ("canary", "stable", "previous", "")] == [29, 30, 20, 30]

        assert withdraw(str(root), POLL_SECONDS) == "29"
        wait_until(lambda: server.labels() == {"stable": 30, "previous": 20})
        assert publish_canary(root).name == "28"
        assert publish_canary(root).name == "27", "replaces the one before"
        wait_until(lambda: server.labels().get("canary") == 27)
        promoted = promote(str(root), 3, POLL_SECONDS)
        settle(server, root)
        assert server.labels() == {"stable": int(promoted), "previous": 30}
        assert answered("") == int(promoted)

        publish_canary(root)
        assert rollback(str(root), POLL_SECONDS) == (promoted, "30")
        settle(server, root)
        assert server.labels() == {"stable": 30, "previous": 20}
        assert answered("") == 30
    assert callers.errors == []
    assert find_canary(root) is None
    assert [path.name for path in list_versions(root)] == ["20", "30"]


def test_two_rollbacks_in_a_row(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second rollback starts while the server still loads the versions of the first one."""
    root = stubs(tmp_path / "shop", 1, 2, 3, 4, 5)
    write_models_config(root, list_versions(root))
    with serving(root, monkeypatch) as (server, callers):
        rollback(str(root), POLL_SECONDS)
        rollback(str(root), POLL_SECONDS)
        settle(server, root)
        assert server.labels() == {"stable": 3, "previous": 2}
    assert callers.errors == []


def test_a_rollback_of_two_loaded_versions_causes_no_errors(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = stubs(tmp_path / "shop", 1, 2, 3)
    write_labels(root, num_versions=2)
    with serving(root, monkeypatch) as (server, callers):
        rollback(str(root), POLL_SECONDS)
        settle(server, root)
    assert callers.errors == []


def test_with_two_loaded_versions_callers_by_label_get_errors(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason why three versions are loaded, and why labels move before a version is removed."""
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


def test_removal_waits_only_for_labelled_versions(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    root = stubs(tmp_path / "shop", 1, 2, 3, 4)
    monkeypatch.setattr("bert4rec_tf.serving.versions.time", types.SimpleNamespace(time=time.time, sleep=waited.append))
    export("model", str(root), ExportOptions(keep_versions=2))  # no models.config before: no server reads labels
    export("model", str(root), ExportOptions())
    export("model", str(root), ExportOptions(keep_versions=3))
    assert waited == []
    export("model", str(root), ExportOptions(keep_versions=2))
    rollback(str(root), poll_seconds=30)
    assert waited == [2.0, 60.0]


@pytest.mark.parametrize("poll_seconds", [-1.0, float("nan"), float("inf")])
def test_poll_seconds_must_be_a_time(tmp_path: pathlib.Path, poll_seconds: float) -> None:
    with pytest.raises(InputError, match="--poll_seconds must be a number of seconds, at least 0"):
        ExportOptions(poll_seconds=poll_seconds)
    with pytest.raises(InputError, match="--poll_seconds must be a number of seconds, at least 0"):
        rollback(str(tmp_path), poll_seconds)


def test_the_double_unloads_before_it_loads_and_refuses_labels_of_unloaded_versions(tmp_path: pathlib.Path) -> None:
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
    """The reason for the server's flag --max_num_load_retries=0: its default is 5 retries, a minute apart."""
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


def test_a_server_without_a_loadable_version_does_not_start(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 1)
    (root / "1" / "broken").touch()
    with pytest.raises(RuntimeError, match=r"name: shop version: 1\} due to error: broken"):
        ServingDouble(root, "shop", max_num_load_retries=0)


def names(root: pathlib.Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.name not in (".lock", "models.config"))


def test_numbers_rise_and_leftovers_are_removed(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 99999999999)
    (root / ".tmp-99999999990").mkdir()
    (root / ".withdrawn-99999999999999").mkdir()
    assert export("model", str(root), ExportOptions()).name == "100000000000001"
    assert names(root) == [".withdrawn-99999999999999", "100000000000001", "99999999999"]


def test_old_versions_are_deleted_with_keep_versions(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 1, 2, 10)
    (root / ".withdrawn-3").mkdir()
    newest = export("model", str(root), ExportOptions(keep_versions=2, poll_seconds=0.0))
    assert names(root) == ["10", newest.name]


def test_labels_follow_the_versions(tmp_path: pathlib.Path) -> None:
    def labels() -> dict[str, int]:
        parsed = text_format.Parse((root / "models.config").read_text(), ModelServerConfig())
        (config,) = parsed.model_config_list.config
        assert (config.name, config.base_path, config.model_platform) == ("my shop", "/models/my shop", "tensorflow")
        assert config.model_version_policy.latest.num_versions == 3
        return dict(config.version_labels)

    root = tmp_path / "my shop"
    stubs(root, 5)
    write_models_config(root, list_versions(root))
    assert labels() == {"stable": 5, "previous": 5}
    stubs(root, 7)
    newest = export("model", str(root), ExportOptions())
    assert labels() == {"stable": int(newest.name), "previous": 7}
    assert rollback(str(root), poll_seconds=0.0) == (newest.name, "7")
    assert labels() == {"stable": 7, "previous": 5}
    assert names(root) == [f".withdrawn-{newest.name}", "5", "7"]


def test_labels_never_name_a_removed_version(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while old versions are deleted, or before a version is withdrawn."""

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    root = stubs(tmp_path / "shop", 5, 6)
    with monkeypatch.context() as killed:
        killed.setattr("bert4rec_tf.serving.versions.remove_version", die)
        with pytest.raises(KeyboardInterrupt):
            export("model", str(root), ExportOptions(keep_versions=1, poll_seconds=0.0))
    newest = list_versions(root)[-1].name
    text = (root / "models.config").read_text()
    assert text.count(f"value: {newest}") == 2
    with monkeypatch.context() as killed:
        killed.setattr(pathlib.Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            rollback(str(root), poll_seconds=0.0)
    assert f'"stable" value: {6}' in (root / "models.config").read_text()
    assert rollback(str(root), poll_seconds=0.0) == (newest, "6")


def labels_of(root: pathlib.Path) -> dict[str, int]:
    parsed = text_format.Parse((root / "models.config").read_text(), ModelServerConfig())
    return dict(parsed.model_config_list.config[0].version_labels)


def publish_canary(root: pathlib.Path) -> pathlib.Path:
    return export("model", str(root), ExportOptions(label="canary", poll_seconds=POLL_SECONDS))


@pytest.mark.parametrize("command", ["canary", "promote", "withdraw", "rollback"])
def test_a_killed_command_leaves_labels_of_versions_that_are_there_and_can_be_run_again(
    command: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each change of the directory, with three versions and a canary."""
    commands: dict[str, Callable[[pathlib.Path], object]] = {
        "canary": publish_canary,
        "promote": lambda root: promote(str(root), 2, POLL_SECONDS),
        "withdraw": lambda root: withdraw(str(root), POLL_SECONDS),
        "rollback": lambda root: rollback(str(root), POLL_SECONDS),
    }
    monkeypatch.setattr("bert4rec_tf.serving.versions.time", types.SimpleNamespace(time=lambda: 40, sleep=float))
    kills = 0
    while True:
        root = stubs(tmp_path / str(kills) / "shop", 10, 20, 30)
        write_models_config(root, list_versions(root))
        publish_canary(root)
        with monkeypatch.context() as killed:
            left = [kills]

            def die_later(change: Callable[..., Any], left: list[int] = left) -> Callable[..., Any]:
                def changed(*arguments: Any) -> Any:
                    left[0] -= 1
                    if left[0] < 0:
                        raise KeyboardInterrupt
                    return change(*arguments)

                return changed

            for name in ("rename", "replace"):
                killed.setattr(pathlib.Path, name, die_later(getattr(pathlib.Path, name)))
            try:
                commands[command](root)
                break
            except KeyboardInterrupt:
                kills += 1
        numbers = {int(path.name) for path in list_versions(root)}
        found = labels_of(root)
        assert set(found.values()) <= numbers
        assert found["stable"] == max(numbers) or (command, found["stable"]) in (("promote", 30), ("rollback", 20))
        if command != "rollback" or max(numbers) == 30:  # another rollback would withdraw another version
            commands[command](root)
        found = labels_of(root)
        assert set(found.values()) <= {int(path.name) for path in list_versions(root)}
        # A second promotion may take a new number. A rollback killed at its end has both labels on one version.
        assert found["stable"] in {"promote": (40, 42), "rollback": (20,)}.get(command, (30,))
        assert found["previous"] in {"promote": (30,), "rollback": (10, 20)}.get(command, (20,))
        assert ("canary" in found) == (command == "canary")
    assert kills >= 2


def test_a_promotion_is_safe_to_run_twice_and_needs_a_canary(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 10, 20)
    with pytest.raises(InputError, match=r"A promotion needs a canary. Received: .*shop, which has none"):
        promote(str(root), poll_seconds=0.0)
    publish_canary(root)
    promoted = promote(str(root), keep_versions=1, poll_seconds=0.0)
    assert promote(str(root), keep_versions=1, poll_seconds=0.0) == promoted
    assert names(root) == [".canary", promoted]
    assert labels_of(root) == {"stable": int(promoted), "previous": int(promoted)}
    assert withdraw(str(root), poll_seconds=0.0) is None
    assert publish_canary(root).name == str(int(promoted) - 1), "one served version is enough"
    promote(str(root), poll_seconds=0.0)
    rollback(str(root), poll_seconds=0.0)
    with pytest.raises(InputError, match="A promotion needs a canary"):
        promote(str(root), poll_seconds=0.0)
    with pytest.raises(InputError, match="--keep_versions must be at least 1"):
        promote(str(root), keep_versions=0)
    with pytest.raises(InputError, match="not a directory"):
        withdraw(str(root / "absent"))


def test_a_canary_needs_a_served_version_and_a_number_below_it(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="A canary needs a served version beside it"):
        publish_canary(tmp_path / "empty")
    root = stubs(tmp_path / "shop", 5, 6)
    with pytest.raises(InputError, match=r"A canary needs an unused number .* Received: 5 and 6"):
        publish_canary(root)
    with pytest.raises(InputError, match=r"Fix: give --keep_versions to export.py promote"):
        ExportOptions(label="canary", keep_versions=3)
    with pytest.raises(InputError, match=r"--label must be stable or canary. Received: 'blue'"):
        ExportOptions(label="blue")
    export("model", str(root), ExportOptions())
    canary = publish_canary(root)
    with pytest.raises(InputError, match=f"while a canary waits. Received: .* with canary {canary.name}"):
        export("model", str(root), ExportOptions(keep_versions=1))
    assert labels_of(root)["canary"] == int(canary.name)


def test_rollback_needs_two_versions(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="not a directory"):
        rollback(str(tmp_path / "shop"))
    root = stubs(tmp_path / "shop", 5)
    with pytest.raises(InputError, match="which holds 1"):
        rollback(str(root), poll_seconds=0.0)
    assert names(root) == ["5"]


def test_only_one_command_may_publish(tmp_path: pathlib.Path) -> None:
    root = stubs(tmp_path / "shop", 5, 6)
    with (root / ".lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="Only one command may publish"):
            export("model", str(root), ExportOptions())
        with pytest.raises(InputError, match="Only one command may publish"):
            rollback(str(root), poll_seconds=0.0)
        with pytest.raises(InputError, match="Only one command may publish"):
            promote(str(root), poll_seconds=0.0)
    assert names(root) == ["5", "6"]


def write_labels(root: pathlib.Path, num_versions: int, **labels: int) -> None:
    """Writes a `models.config` with this number of loaded versions and these labels."""
    staging = root.parent / "staging" / root.name
    staging.mkdir(parents=True, exist_ok=True)
    write_models_config(staging, list_versions(root))
    text = (staging / "models.config").read_text()
    text = re.sub(r"num_versions: \d+", f"num_versions: {num_versions}", text)
    for label, number in labels.items():
        text = re.sub(rf'"{label}" value: \d+', f'"{label}" value: {number}', text)
    (staging / "models.config").write_text(text)
    (staging / "models.config").rename(root / "models.config")  # a rename, since the server may be reading the file


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
