"""Keeps what XLA compiled, so that the same shapes are compiled once and not in every run."""

import hashlib
import importlib.metadata
import os
import pathlib
import time

VARIABLE = "BERT4REC_TF_XLA_CACHE"
_OFF = "off"
_FLAGS, _DIRECTORY_FLAG = "TF_XLA_FLAGS", "--tf_xla_persistent_cache_directory"
_DAYS_KEPT = 30
_BYTES_KEPT = 1 << 30


def use_compilation_cache() -> pathlib.Path | None:
    """Makes XLA store compiled programs in a directory of the user and load them from there.

    Call this before TensorFlow is imported. A loaded program computes the same bits as a compiled one. The directory
    belongs to one version of TensorFlow and one kind of processor; TensorFlow writes its files by rename. Files older
    than 30 days are removed, and the oldest ones beyond 1 GB.

    The environment variable `BERT4REC_TF_XLA_CACHE` names another directory, or "off". A directory that is set in
    `TF_XLA_FLAGS` stays. Without a directory that can be written, nothing is kept.

    Returns:
        The directory; None if nothing is kept.
    """
    given, flags = os.environ.get(VARIABLE, ""), os.environ.get(_FLAGS, "")
    if given == _OFF or _DIRECTORY_FLAG in flags:
        return None
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    root = pathlib.Path(given) if given else pathlib.Path(cache) / "bert4rec_tf" / "xla"
    directory = root / f"tensorflow-{importlib.metadata.version('tensorflow')}-{_processor()}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # what lies there is executed
        _remove_old_files(directory)
    except OSError:
        return None
    if not os.access(directory, os.W_OK) or " " in str(directory):  # the flags are separated by spaces
        return None
    os.environ[_FLAGS] = f"{flags} {_DIRECTORY_FLAG}={directory}".strip()
    return directory


def _remove_old_files(directory: pathlib.Path) -> None:
    files = sorted(((file.stat(), file) for file in directory.iterdir()), key=lambda found: -found[0].st_mtime)
    kept = 0
    for state, file in files:
        kept += state.st_size
        if kept > _BYTES_KEPT or time.time() - state.st_mtime > 86_400 * _DAYS_KEPT:
            file.unlink(missing_ok=True)


def _processor() -> str:
    """A name for the kind of processor: programs are compiled for its instructions."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.sha256("\n".join(kind).encode()).hexdigest()[:12]
