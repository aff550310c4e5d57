"""A data directory appears whole or not at all, whatever happens while it is built."""

import contextlib
import dataclasses
import hashlib
import pathlib

import pytest

from pipelines.staging import discarded, is_complete, spill_dir, staged, sweep, write_manifest
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.manifest import DRAWS_VERSION, MANIFEST_FILE, Manifest
from tfrecords.vocabulary import VOCABULARY_FILE

SOURCE = {"format": "synthetic", "seed": 1}


@pytest.fixture
def output_dir(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "data"


def build(output_dir: pathlib.Path, content: str, overwrite: bool = False) -> None:
    with staged(output_dir, overwrite) as building:
        (building / MANIFEST_FILE).write_text(content)


def on_disk(output_dir: pathlib.Path) -> dict[str, str]:
    """The files in the directory and beside it."""
    parent = output_dir.parent
    return {str(path.relative_to(parent)): path.read_text() for path in parent.rglob("*") if path.is_file()}


def test_a_finished_directory_is_complete_for_its_own_configuration_and_source(tmp_path: pathlib.Path) -> None:
    assert not is_complete(tmp_path, RecordsConfig(), SOURCE)
    (tmp_path / VOCABULARY_FILE).write_bytes(b"")
    write_manifest(tmp_path, Manifest(RecordsConfig(), SOURCE, {}, (), hashlib.sha256(b"").hexdigest(), {}))
    assert {path.name for path in tmp_path.iterdir()} == {MANIFEST_FILE, VOCABULARY_FILE}
    assert is_complete(tmp_path, RecordsConfig(), SOURCE)
    assert not is_complete(tmp_path, dataclasses.replace(RecordsConfig(), data=DataConfig(seed=2)), SOURCE)
    assert not is_complete(tmp_path, RecordsConfig(), SOURCE | {"seed": 2})
    older = Manifest(RecordsConfig(), SOURCE, {}, (), hashlib.sha256(b"").hexdigest(), {}, draws_version=1)
    assert b"draws_version" not in older.to_bytes()
    assert Manifest.from_bytes(older.to_bytes(), "older") == older
    write_manifest(tmp_path, older)
    assert not is_complete(tmp_path, RecordsConfig(), SOURCE), "another seed draws other records"
    write_manifest(tmp_path, dataclasses.replace(older, draws_version=DRAWS_VERSION))
    (tmp_path / VOCABULARY_FILE).unlink()
    with pytest.raises(InputError, match=f"{VOCABULARY_FILE} is missing"):
        is_complete(tmp_path, RecordsConfig(), SOURCE)


def test_the_directory_appears_when_the_block_ends(output_dir: pathlib.Path) -> None:
    with staged(output_dir, overwrite=False) as building:
        (building / MANIFEST_FILE).write_text("new")
        assert not output_dir.exists()
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_parents_are_created_and_an_empty_directory_is_accepted(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "a/b/data", "new")
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", "new")
    for name in ("a/b/data", "empty"):
        assert (tmp_path / name / MANIFEST_FILE).read_text() == "new"


def test_existing_records_are_refused_without_overwrite(output_dir: pathlib.Path) -> None:
    build(output_dir, "old")
    with pytest.raises(InputError, match=rf"{output_dir}.*--overwrite"):
        build(output_dir, "new")
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "old"}
    build(output_dir, "new", overwrite=True)
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_other_directories_are_never_replaced(output_dir: pathlib.Path) -> None:
    output_dir.mkdir()
    (output_dir / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match=rf"{MANIFEST_FILE}.*{output_dir}"):
        build(output_dir, "new", overwrite=True)
    assert on_disk(output_dir) == {"data/thesis.txt": "precious"}


def test_a_model_directory_is_never_replaced_although_it_has_a_manifest(output_dir: pathlib.Path) -> None:
    build(output_dir, "of the records that it was trained on")
    (output_dir / "config.json").write_text("{}")
    before = on_disk(output_dir)
    with pytest.raises(InputError, match="no model"):
        build(output_dir, "new", overwrite=True)
    assert on_disk(output_dir) == before


def test_a_dry_run_leaves_nothing_and_removes_leftovers_of_a_killed_one(output_dir: pathlib.Path) -> None:
    with discarded(output_dir / "deeper") as building, discarded(output_dir / "other" / "deeper") as other:
        assert building.parent == other.parent == output_dir.parent
    with discarded(output_dir) as left:
        pass
    for directory in (left, spill_dir(left)):
        directory.mkdir()
        (directory / "half").write_text("half")
    with discarded(output_dir) as building:
        assert not list(building.iterdir())
        spill_dir(building).mkdir()
        with pytest.raises(InputError, match="One run at a time"), discarded(output_dir):
            pass
        build(output_dir, "meanwhile")
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "meanwhile"}
    assert [path.name for path in output_dir.parent.iterdir()] == ["data"]


def test_a_file_of_the_same_name_is_refused(output_dir: pathlib.Path) -> None:
    output_dir.write_text("a file")
    with pytest.raises(InputError, match="a file"):
        build(output_dir, "new", overwrite=True)
    assert on_disk(output_dir) == {"data": "a file"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_a_failure_in_the_block_changes_nothing(
    output_dir: pathlib.Path, before: str | None, error: type[BaseException]
) -> None:
    if before:
        build(output_dir, before)
    with contextlib.suppress(error), staged(output_dir, overwrite=True) as building:
        (building / MANIFEST_FILE).write_text("half")
        raise error
    assert on_disk(output_dir) == ({f"data/{MANIFEST_FILE}": before} if before else {})
    assert [path.name for path in output_dir.parent.iterdir()] == (["data"] if before else [])


def test_leftovers_of_a_killed_run_are_removed(output_dir: pathlib.Path) -> None:
    left = output_dir.parent / ".data.building"
    left.mkdir()
    (left / "half").write_text("half")
    build(output_dir, "new")
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_a_kill_between_the_two_renames_keeps_the_old_records(output_dir: pathlib.Path) -> None:
    build(output_dir, "old")
    output_dir.rename(output_dir.parent / ".data.replaced")
    with pytest.raises(InputError, match="--overwrite"):
        build(output_dir, "new")
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "old"}
    output_dir.rename(output_dir.parent / ".data.replaced")
    build(output_dir, "new", overwrite=True)
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_after_a_kill_behind_the_two_renames_the_old_records_are_removed(output_dir: pathlib.Path) -> None:
    build(output_dir, "new")
    build(output_dir.parent / ".data.replaced", "old")
    build(output_dir, "newer", overwrite=True)
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "newer"}


def test_the_working_directory_can_be_the_output(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path / "data")
    build(pathlib.Path(), "new")
    assert on_disk(tmp_path / "data") == {f"data/{MANIFEST_FILE}": "new"}


def test_one_run_at_a_time(output_dir: pathlib.Path) -> None:
    with staged(output_dir, overwrite=False) as building:
        (building / MANIFEST_FILE).write_text("first")
        with pytest.raises(InputError, match="another run is building"):
            build(output_dir, "second", overwrite=True)
        build(output_dir.with_name("other"), "elsewhere")
        assert (building / MANIFEST_FILE).read_text() == "first"
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "first", f"other/{MANIFEST_FILE}": "elsewhere"}


def test_the_lock_of_a_killed_run_blocks_no_other_run(output_dir: pathlib.Path) -> None:
    output_dir.with_name(".data.lock").write_text("")
    build(output_dir, "new")
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_replaced_records_are_removed_after_a_kill_at_the_end(output_dir: pathlib.Path) -> None:
    build(output_dir, "new")
    replaced = output_dir.with_name(".data.replaced")
    replaced.mkdir()
    (replaced / MANIFEST_FILE).write_text("old")
    sweep(output_dir)
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_the_lock_of_a_run_killed_at_its_end_is_removed(output_dir: pathlib.Path) -> None:
    build(output_dir, "new")
    output_dir.with_name(".data.lock").write_text("")
    sweep(output_dir)
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "new"}


def test_files_of_another_run_are_kept(output_dir: pathlib.Path) -> None:
    build(output_dir, "new")
    with staged(output_dir, overwrite=True) as building:
        (building / MANIFEST_FILE).write_text("newer")
        sweep(output_dir)
        assert (building / MANIFEST_FILE).exists()
        assert output_dir.with_name(".data.lock").exists()
    assert on_disk(output_dir) == {f"data/{MANIFEST_FILE}": "newer"}
