"""The commit of the running code."""

import pathlib
import subprocess

from bert4rec_tf.code_version import git_state


def test_the_commit_is_that_of_the_checkout_itself(tmp_path: pathlib.Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / "file").write_text("1")
    assert git_state(checkout) == {}

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(checkout), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    git("init")
    assert git_state(checkout) == {}  # no commit yet
    git("add", "file")
    git("commit", "-m", "one")
    assert git_state(checkout) == {"git_commit": git("rev-parse", "HEAD"), "git_changed": False}
    (checkout / "file").write_text("2")
    assert git_state(checkout)["git_changed"] is True
    (checkout / "installed").mkdir()
    assert git_state(checkout / "installed") == {}
