"""The version of the running code: the commit of its checkout."""

import pathlib
import subprocess
from typing import Any

_CHECKOUT = pathlib.Path(__file__).resolve().parents[1]


def git_state(checkout: pathlib.Path = _CHECKOUT) -> dict[str, Any]:
    """The commit of a checkout and whether its files differ; empty if it is not a checkout, or git is missing.

    Args:
        checkout: the folder with `.git`; default: the checkout of this package.

    Returns:
        "git_commit", the sha, and "git_changed", whether tracked files differ from it.
    """
    if not (checkout / ".git").exists():  # an installed package; a folder above may be another project's checkout
        return {}
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(checkout), *command], capture_output=True, text=True, timeout=30, check=True
            ).stdout
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit.strip(), "git_changed": bool(changes.strip())}
