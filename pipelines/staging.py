"""A data directory that appears complete: it is built in a directory beside its path and moved there by one rename."""

import contextlib
import hashlib
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError
from tfrecords.files import locked, replacing
from tfrecords.interruption import deferred, raise_if_stopped
from tfrecords.manifest import DRAWS_VERSION, MANIFEST_FILE, Manifest, verify


def is_complete(output_dir: pathlib.Path, config: RecordsConfig, source: dict[str, Any]) -> bool:
    """Whether `output_dir` already holds the finished records of this configuration and source.

    Raises:
        InputError: it does, but one of its files is damaged.
    """
    if not (output_dir / MANIFEST_FILE).is_file():
        return False
    manifest = Manifest.load(output_dir)
    if not is_of(manifest, config, source):
        return False
    verify(output_dir, manifest)
    return True


def is_of(manifest: Manifest, config: RecordsConfig, source: dict[str, Any]) -> bool:
    """Whether a manifest is that of this configuration and source, so that building again would give the same bytes."""
    return manifest.config == config and manifest.source == source and manifest.draws_version == DRAWS_VERSION


@contextlib.contextmanager
def staged(output_dir: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    """Yields a directory to build in, and moves it to `output_dir` after the block unless the block fails.

    The files that a killed run left behind are removed first.

    Raises:
        InputError: `output_dir` is not empty and `overwrite` is not set, it is no data directory, or another run is
            building it.
    """
    output_dir = output_dir.resolve()
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(output_dir):
        yield from _build_beside(output_dir, overwrite)


@contextlib.contextmanager
def discarded(output_dir: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a directory for a dry run and removes it after the block.

    It is created in the nearest existing parent of `output_dir`. The files that a killed dry run left behind are
    removed first.

    Raises:
        InputError: another dry run for `output_dir` is running.
    """
    output_dir = output_dir.resolve()
    nearest = next(parent for parent in output_dir.parents if parent.is_dir())
    path_hash = hashlib.sha256(bytes(output_dir)).hexdigest()[:8]  # another path may have the same name and parent
    building = nearest / f".{output_dir.name}.dry_run-{path_hash}"
    with _exclusive(building):
        _remove((building, spill_dir(building)))
        try:
            building.mkdir()
            yield building
        finally:
            with deferred():
                _remove((building, spill_dir(building)))


def sweep(output_dir: pathlib.Path) -> None:
    """Removes the files of a run that was killed after it moved its records. Files of a running one stay."""
    output_dir = output_dir.resolve()
    if any(path.exists() for path in (_lock(output_dir), *_leftovers(output_dir))):
        with contextlib.suppress(InputError), _exclusive(output_dir):
            _remove(_leftovers(output_dir))


def spill_dir(building: pathlib.Path) -> pathlib.Path:
    """The directory for data that does not fit in memory while a run builds in `building`."""
    return building.with_name(f"{building.name}.spill")


def _lock(output_dir: pathlib.Path) -> pathlib.Path:
    return output_dir.with_name(f".{output_dir.name}.lock")


def _leftovers(output_dir: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path]:
    building = output_dir.with_name(f".{output_dir.name}.building")
    return building, output_dir.with_name(f".{output_dir.name}.replaced"), spill_dir(building)


def _remove(directories: Iterable[pathlib.Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def _exclusive(output_dir: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Refuses a second run at the same time."""
    in_use = (
        f"One run at a time builds a directory. Received: {output_dir}, which another run is building. "
        "Fix: wait for it, or name another --output_dir"
    )
    return locked(_lock(output_dir), in_use, remove=True)


def _build_beside(output_dir: pathlib.Path, overwrite: bool) -> Iterator[pathlib.Path]:
    building, replaced, _ = _leftovers(output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output_dir must be a directory. Received: {output_dir}, a file")
    if replaced.exists() and not output_dir.exists():
        replaced.rename(output_dir)  # a run was killed between the two renames below: the old records are still valid
    filled = output_dir.exists() and any(output_dir.iterdir())
    if filled and not overwrite:
        raise InputError(
            f"--output_dir must be new, empty or made by the same command. Received: {output_dir}, which "
            "holds something else. Fix: name another directory, or pass --overwrite if it holds other records"
        )
    if filled and not _holds_records(output_dir):
        raise InputError(
            f"--overwrite replaces data directories, which have a {MANIFEST_FILE} and no model. "
            f"Received: {output_dir}, which holds something else. Fix: name another directory, or empty this one"
        )
    _remove(_leftovers(output_dir))
    try:
        building.mkdir()
        yield building
        raise_if_stopped()
        with deferred():
            if output_dir.exists():
                output_dir.rename(replaced)
            building.rename(output_dir)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        with deferred():
            _remove((building, spill_dir(building)))


def _holds_records(directory: pathlib.Path) -> bool:
    # A model directory also has a manifest: that of its training records.
    return (directory / MANIFEST_FILE).is_file() and not (directory / "config.json").exists()


def write_manifest(directory: pathlib.Path, manifest: Manifest) -> None:
    """Writes the manifest by rename. After that, the directory can be read."""
    with replacing(directory / MANIFEST_FILE) as stream:
        stream.write(manifest.to_bytes())
