"""Model directories in object stores: whole checkpoints at every moment, and runs that go on from there."""

import contextlib
import pathlib
import shutil
import time
from collections.abc import Callable

import pytest

from bert4rec_tf.model_store import WorkingDirectory, fetch_model, working_directory
from tests.support.model_dirs import files_in
from tests.support.object_stores import FlakyMemory, memory_store  # noqa: F401, a fixture
from tfrecords.errors import InputError, Stopped
from tfrecords.stores import StoreError

URL = "s3://bucket/models/shop"


def begin(work: WorkingDirectory, seed: int = 1) -> None:
    """What a run writes before the first step."""
    work.directory.mkdir(exist_ok=True)
    for name in ("vocabulary.jsonl", "manifest.json", "config.json"):
        (work.directory / name).write_text(f"{name} of {seed}")
    work.check()


def save(work: WorkingDirectory, step: int, best: bool = False, content: str = "") -> None:
    """A checkpoint, as `Checkpoints` writes it: the last two are kept, and one best."""
    (work.directory / "history.jsonl").write_text(f"validated at {step}\n" * step)
    for kind, kept in (("best", 1), ("latest", 2)):
        if kind == "best" and not best:
            continue
        folder = work.directory / "checkpoints" / kind / f"ckpt-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("state.index", "state.data-00000-of-00001"):
            (folder / name).write_text(f"{name} {step} {content}")
        for old in sorted(folder.parent.iterdir(), key=lambda path: int(path.name.split("-")[1]))[:-kept]:
            shutil.rmtree(old)
    work.saved()


def checkpoints(memory: FlakyMemory) -> list[str]:
    """The checkpoints in the store, without their hashes; those without an index are marked."""
    folders: dict[str, set[str]] = {}
    for path in list(memory.store):
        folder, _, name = path.partition("/checkpoints/")[2].rpartition("/")
        if folder:
            folders.setdefault(folder, set()).add(name)
    return sorted(
        folder.rpartition(".")[0] + ("" if "state.index" in names else " incomplete")
        for folder, names in folders.items()
    )


def stop_after(*steps: int, best: int | None = None) -> WorkingDirectory:
    """A run that saves these checkpoints and is stopped."""
    with contextlib.suppress(Stopped), working_directory(URL) as work:
        begin(work)
        for step in steps:
            save(work, step, best=step == best)
        raise Stopped(15)
    return work


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("waited for 20 s")


def lose_machine(tmp_path: pathlib.Path) -> None:
    shutil.rmtree(tmp_path / "cache")


def test_a_local_directory_stays_as_it_is(tmp_path: pathlib.Path) -> None:
    with working_directory(str(tmp_path / "model")) as work:
        assert work == WorkingDirectory(tmp_path / "model", str(tmp_path / "model"), work.check, work.saved)
    assert fetch_model(tmp_path) == tmp_path
    assert not list(tmp_path.iterdir())


def test_a_run_is_in_the_store_when_it_ends_and_leaves_nothing_here(
    memory: FlakyMemory, tmp_path: pathlib.Path
) -> None:
    with working_directory(URL) as work:
        begin(work)
        for step in (10, 20, 30):
            save(work, step, best=step == 20)
        expected = files_in(work.directory)
    # The latest ckpt-20 is not sent if ckpt-30 comes before its turn.
    assert set(checkpoints(memory)) - {"latest/ckpt-20"} == {"best/ckpt-20", "latest/ckpt-30"}
    assert not work.directory.exists()
    found = files_in(fetch_model(URL))
    wanted = {name: content for name, content in expected.items() if not name.startswith("checkpoints/latest")}
    assert found == wanted


def test_the_index_of_a_checkpoint_comes_last_and_old_ones_go_after_it(memory: FlakyMemory) -> None:
    with working_directory(URL) as work:
        begin(work)
        save(work, 10, best=True)
        wait_until(lambda: "latest/ckpt-10" in checkpoints(memory))
        complete: list[bool] = []

        def watch(path: str) -> None:
            complete.append(any(f"latest/ckpt-{step}" in checkpoints(memory) for step in (10, 20, 30)))

        memory.refuse = watch
        save(work, 20, best=True)
        save(work, 30)
    assert complete
    assert all(complete)
    written = [path for path in memory.written if "latest/ckpt-30" in path]
    assert [path.rpartition("/")[2] for path in written] == ["state.data-00000-of-00001", "state.index"]


def test_a_lost_machine_goes_on_from_the_store(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    work = stop_after(10, 20, best=10)
    before = files_in(work.directory)
    assert work.directory.is_dir()
    lose_machine(tmp_path)
    with working_directory(URL) as work:
        found = files_in(work.directory)
        assert set(before) - set(found) <= {
            f"checkpoints/latest/ckpt-10/{name}" for name in ("state.index", "state.data-00000-of-00001")
        }
        assert all(before[name] == content for name, content in found.items())
        save(work, 30)
    assert "latest/ckpt-30" in checkpoints(memory)


def test_a_half_uploaded_checkpoint_is_not_read(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    stop_after(10, best=10)
    for path in list(memory.store):  # as if the machine had been lost while it uploaded step 20
        if "latest/ckpt-10" in path and path.endswith("0001"):
            memory.pipe_file(path.replace("ckpt-10.", "ckpt-20."), b"1")
    lose_machine(tmp_path)
    with working_directory(URL) as work:
        assert sorted(path.name for path in work.directory.glob("checkpoints/latest/*")) == ["ckpt-10"]
        save(work, 20)
    assert not [name for name in checkpoints(memory) if "incomplete" in name]


def test_a_run_that_the_store_missed_goes_on_from_this_machine(memory: FlakyMemory) -> None:
    def refuse(path: str) -> None:
        raise OSError("AWS Error SLOW_DOWN")

    def run() -> None:
        with working_directory(URL) as work:
            begin(work)
            memory.refuse = refuse
            save(work, 10)

    with pytest.raises(StoreError, match=r"SLOW_DOWN \(s3://bucket/models/shop/"):
        run()
    assert checkpoints(memory) == []
    memory.refuse = lambda _: None
    with working_directory(URL) as work:
        assert [path.name for path in work.directory.glob("checkpoints/latest/*")] == ["ckpt-10"]
    assert checkpoints(memory) == ["latest/ckpt-10"]


def test_an_upload_that_fails_is_reported_and_tried_again_with_the_next_one(
    memory: FlakyMemory, capfd: pytest.CaptureFixture[str]
) -> None:
    failed: list[str] = []

    def refuse(path: str) -> None:
        if "ckpt-10" in path:
            failed.append(path)
            raise OSError("AWS Error SLOW_DOWN")

    memory.refuse = refuse
    with working_directory(URL) as work:
        begin(work)
        save(work, 10)
        wait_until(lambda: len(failed) >= 3)
        save(work, 20)
    assert "warning: the checkpoint is not in the store: An object store must answer" in capfd.readouterr().err
    assert "latest/ckpt-20" in checkpoints(memory)


def test_a_run_that_was_removed_from_the_store_starts_anew(memory: FlakyMemory) -> None:
    stop_after(10)
    memory.store.clear()
    with working_directory(URL) as work:
        assert not work.directory.exists()


def test_another_run_in_the_store_replaces_the_local_one(memory: FlakyMemory) -> None:
    stop_after(10)
    for path in memory.store:
        if path.endswith("config.json"):
            memory.pipe_file(path, b"of another machine")
    with working_directory(URL) as work:
        assert (work.directory / "config.json").read_text() == "of another machine"


def test_what_is_no_model_directory_is_refused(memory: FlakyMemory) -> None:
    with pytest.raises(InputError, match=r"--model_dir must be made by train.py. Received: s3://bucket/models/shop"):
        fetch_model(URL)
    memory.pipe_file("/bucket/models/shop/precious.txt", b"1")
    with pytest.raises(InputError, match=r"holds precious.txt. Fix: name another directory"), working_directory(URL):
        pass


def test_two_runs_on_one_machine_are_refused(memory: FlakyMemory) -> None:
    with working_directory(URL), pytest.raises(InputError, match="One run at a time trains"), working_directory(URL):
        pass
