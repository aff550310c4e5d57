"""Where XLA keeps what it compiled."""

import os
import pathlib
import time

import pytest

from bert4rec_tf.training.compilation_cache import VARIABLE, use_compilation_cache


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> pytest.MonkeyPatch:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TF_XLA_FLAGS", "")  # so that what the function sets is undone
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return monkeypatch


def test_the_users_cache_is_used_and_old_files_are_removed(
    environment: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    directory = use_compilation_cache()
    assert directory is not None
    assert directory.parent == tmp_path / "cache/bert4rec_tf/xla"
    assert directory.stat().st_mode & 0o077 == 0, "only the user may write what is executed"
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_persistent_cache_directory={directory}"
    for name, days in (("new", 29), ("old", 31)):
        (directory / name).write_text("")
        then = time.time() - 86_400 * days
        os.utime(directory / name, (then, then))
    environment.setenv("TF_XLA_FLAGS", "--tf_xla_auto_jit=0")
    assert use_compilation_cache() == directory
    assert [file.name for file in directory.iterdir()] == ["new"]
    assert os.environ["TF_XLA_FLAGS"] == f"--tf_xla_auto_jit=0 --tf_xla_persistent_cache_directory={directory}"


def test_the_oldest_files_beyond_a_gigabyte_are_removed(environment: pytest.MonkeyPatch) -> None:
    directory = use_compilation_cache()
    assert directory is not None
    for name, age, size in (("newest", 10, 1 << 29), ("older", 20, 1 << 29), ("oldest", 30, 1)):
        with (directory / name).open("wb") as stream:
            stream.truncate(size)  # no byte is stored
        os.utime(directory / name, (time.time() - age,) * 2)
    environment.setenv("TF_XLA_FLAGS", "")
    use_compilation_cache()
    assert sorted(file.name for file in directory.iterdir()) == ["newest", "older"]


def test_another_directory_or_none(environment: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    environment.setenv(VARIABLE, str(tmp_path / "mine"))
    directory = use_compilation_cache()
    assert directory is not None
    assert directory.parent == tmp_path / "mine"
    assert use_compilation_cache() is None, "a directory that is set already stays"
    environment.setenv("TF_XLA_FLAGS", "")
    for value in ("off", str(tmp_path / "with space"), "/proc/nowhere"):
        environment.setenv(VARIABLE, value)
        assert use_compilation_cache() is None
        assert os.environ["TF_XLA_FLAGS"] == ""
