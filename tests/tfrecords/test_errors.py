"""The messages for a full disk and for files that cannot be written."""

import errno
import pathlib

import pytest

from bert4rec_tf.command_line import command
from tfrecords.errors import InputError, disk_error, full_disk, writing


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_named_with_the_fix(tmp_path: pathlib.Path, number: int) -> None:
    path = tmp_path / "history.jsonl"
    with pytest.raises(InputError, match=rf": {path}\. Fix: free space on that disk"), writing(path):
        raise OSError(number, "No room")  # a write that fails names no file


def test_a_write_to_a_full_device_is_named() -> None:
    path = pathlib.Path("/dev/full")
    with pytest.raises(InputError, match=r"^No space left on device: /dev/full\. Fix: free space"), writing(path):
        path.write_text("text")


def test_the_file_that_the_system_names_comes_first(tmp_path: pathlib.Path) -> None:
    missing = tmp_path / "missing" / "file"
    with pytest.raises(InputError, match=rf"^No such file or directory: {missing}\. Fix: correct"), writing(tmp_path):
        missing.write_text("text")


def test_a_full_disk_is_recognised_in_the_message_of_a_library() -> None:
    error = OSError("Error writing bytes to file. Detail: [errno 28] No space left on device")
    assert "file: out/users.parquet. Fix: free space" not in str(disk_error(error, "out/users.parquet"))
    assert "No space left on device: out/users.parquet. Fix: free space" in str(disk_error(error, "out/users.parquet"))
    tensorflow = RuntimeError("{{function_node x}} /models/m/tensorboard/events.1; No space left on device\n\tFailed")
    assert str(full_disk(tensorflow)).startswith("No space left on device: /models/m/tensorboard/events.1. Fix: free")
    assert full_disk(RuntimeError("OOM when allocating tensor")) is None


def test_a_command_ends_with_the_file_and_the_fix(capsys: pytest.CaptureFixture[str]) -> None:
    @command
    def main() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "data/train/00000")

    with pytest.raises(SystemExit) as ended:
        main(["command"])
    assert ended.value.code == 2
    assert "error: No space left on device: data/train/00000. Fix: free space" in capsys.readouterr().err
