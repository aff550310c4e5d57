"""Addresses, locks and new files: nothing is created, followed or emptied by mistake."""

import pathlib
import stat
import subprocess
import sys

import pytest

from bert4rec_tf.config import Config, read_settings
from bert4rec_tf.model_dir import load_model
from bert4rec_tf.serving.export import ExportOptions, export
from bert4rec_tf.serving.versions import rollback
from pipelines.build import build_records
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.titles import read_titles
from pipelines.staging import staged
from tests.support.command_line import ROOT
from tests.support.model_dirs import files_in
from tfrecords.errors import InputError, check_local
from tfrecords.files import open_lock, open_new, write_whole
from tfrecords.manifest import Manifest

ADDRESSES = ["s3://bucket/folder", "gs://b/x", "hdfs://host:9000/x", "file:///tmp/x", "abfss://a@b/x", "S3A://b"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="--work_dir must be a path on this machine"):
        check_local("work_dir", address)
    with pytest.raises(InputError, match="on this machine"):
        check_local("work_dir", ["here", pathlib.Path(address)])


@pytest.mark.parametrize("path", ["a", "/a/b", "./s3:", "a:b", "C:x", "a//b", pathlib.Path("/a:/b"), None, [], ""])
def test_local_paths_are_accepted(path: object) -> None:
    check_local("work_dir", path)  # type: ignore[arg-type]


CALLS = {
    "build_records": lambda: build_records(MarkovLog(num_users=3), {}, Config(), "ftp://b/data"),
    "input": lambda: LogSource(["http://b/*.csv"]).files,
    "read_titles": lambda: read_titles("gs://b/titles.csv"),
    "read_settings": lambda: read_settings("file:///settings.json"),
    "load_model": lambda: load_model("S3A://b/model"),
    "Manifest.load": lambda: Manifest.load("file:///data"),
    "export": lambda: export("model", "wasb://b/exports", ExportOptions()),
    "rollback": lambda: rollback("gs://b/exports"),
}


@pytest.mark.parametrize("name", CALLS)
def test_functions_refuse_addresses_and_make_nothing(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="must be a path on this machine"):
        CALLS[name]()
    assert not list(tmp_path.iterdir())


FLAGS = [
    ("pipelines/make_tfrecords.py", ["--dataset=synthetic", "--output_dir=ftp://b/d"], "output_dir"),
    ("pipelines/make_tfrecords.py", ["--input=http://b/x.csv", "--output_dir=d"], "input"),
    ("train.py", ["--data_dir=d", "--model_dir=ftp://b/m"], "model_dir"),
    ("train.py", ["--data_dir=d", "--model_dir=m", "--export_dir=ftp://b/e"], "export_dir"),
    ("evaluate.py", ["--data_dir=d", "--baseline=popularity", "--output=ftp://b/metrics.json"], "output"),
    ("evaluate.py", ["--compare=a.json,s3://b/b.json"], "compare"),
    ("export.py", ["--model_dir=m", "--export_dir=ftp://b/e"], "export_dir"),
    ("export.py", ["rollback", "--export_dir=ftp://b/e"], "export_dir"),
    ("deploy/client.py", ["--export_dir=gs://b/e", "--item_id=1"], "export_dir"),
]


def refuse(tmp_path: pathlib.Path, script: str, flags: list[str], name: str) -> None:
    command = [sys.executable, str(ROOT / script), *flags]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert f"error: --{name} must be a path on this machine" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_script_refuses_addresses_and_makes_nothing(tmp_path: pathlib.Path) -> None:
    refuse(tmp_path, *FLAGS[0])


@pytest.mark.slow
@pytest.mark.parametrize(("script", "flags", "name"), FLAGS[1:])
def test_scripts_refuse_addresses_and_make_nothing(
    tmp_path: pathlib.Path, script: str, flags: list[str], name: str
) -> None:
    refuse(tmp_path, script, flags, name)


def test_a_lock_follows_no_link_and_empties_nothing(tmp_path: pathlib.Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "lock").symlink_to(precious)
    with pytest.raises(InputError, match=r"A lock must be a file. Received: .*lock, a symbolic link. Fix: "):
        open_lock(tmp_path / "lock")
    open_lock(precious).close()
    assert precious.read_text() == "kept"
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    with pytest.raises(InputError, match="a symbolic link"):
        open_lock(tmp_path / "dangling")
    assert not (tmp_path / "absent").exists()


def test_builds_and_exports_follow_no_link_for_their_lock(tmp_path: pathlib.Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / ".data.lock").symlink_to(precious)
    with pytest.raises(InputError, match="a symbolic link"), staged(tmp_path / "data", overwrite=False):
        pass
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / ".lock").symlink_to(precious)
    with pytest.raises(InputError, match="a symbolic link"):
        rollback(str(tmp_path / "exports"))
    assert precious.read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".data.lock", "exports", "precious"]


def test_a_new_file_replaces_a_link_instead_of_writing_through_it(tmp_path: pathlib.Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / ".whole.tmp").symlink_to(precious)
    write_whole(tmp_path / "whole", "new")
    assert (precious.read_text(), (tmp_path / "whole").read_text()) == ("kept", "new")
    (tmp_path / "left").write_text("of a killed run")
    with open_new(tmp_path / "left") as stream:
        stream.write(b"new")
    assert (tmp_path / "left").read_bytes() == b"new"
    assert stat.S_ISREG((tmp_path / "left").lstat().st_mode)


def test_write_whole_replaces_a_file_or_leaves_it(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old: é\n")
    write_whole(path, "new: é\n")
    assert files_in(tmp_path) == {"file": "new: é\n".encode()}
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "half \ud800")
    assert path.read_text(encoding="utf-8") == "new: é\n"
