"""Versions of a model where TF Serving looks for them: they appear whole, replace each other, and are taken back.

exports/ml-1m/1764000000/       a version: an integer, larger for each new one
exports/ml-1m/models.config     for --model_config_file: labels `stable`, the newest version, and `previous`
exports/ml-1m/.withdrawn-…/     what `rollback` took back

TF Serving unloads a version before it loads the next one, and refuses a models.config that moves a label to a version
that is not loaded. So that a label always names a loaded version, three versions are loaded where two have labels, and
before a version goes the labels move to one that stays.
"""

import contextlib
import json
import math
import pathlib
import shutil
import time

from tfrecords.errors import InputError, check_local
from tfrecords.files import locked, write_whole

MODELS_CONFIG = "models.config"
WITHDRAWN_PREFIX = ".withdrawn-"


def rollback(export_dir: str, poll_seconds: float = 1.0) -> tuple[str, str]:
    """Takes the newest version back: TF Serving then returns to the one before.

    It is kept as `.withdrawn-VERSION`, and its number is never used again.

    Args:
        export_dir: with the versions.
        poll_seconds: between two times that the server reads models.config. Twice as long passes before the version
            goes, so that no label names it by then.

    Returns:
        The numbers of the version that was withdrawn and of the one that is served now.

    Raises:
        InputError: there is no version to return to.
    """
    check_poll_seconds(poll_seconds)
    check_local("export_dir", export_dir)
    root = pathlib.Path(export_dir)
    if not root.is_dir():
        raise InputError(f"--export_dir must hold versions written by export.py. Received: {root}, no directory")
    with only_publisher(root):
        served = versions(root)
        if len(served) < 2:
            raise InputError(
                f"A rollback needs a version to return to. Received: {root}, which holds {len(served)}. "
                "Fix: export another model"
            )
        move_labels(root, served[-2], poll_seconds)
        served[-1].rename(root / f"{WITHDRAWN_PREFIX}{served[-1].name}")
        write_models_config(root, served[:-1])
    return served[-1].name, served[-2].name


def move_labels(root: pathlib.Path, version: pathlib.Path, poll_seconds: float) -> None:
    """Moves both labels to one version, and gives a server the time to read that.

    The version is one that has a label now, so that the server has loaded it and takes the file.
    """
    if (root / MODELS_CONFIG).is_file():
        write_models_config(root, [version])
        time.sleep(2 * poll_seconds)


def check_poll_seconds(poll_seconds: float) -> None:
    """Refuses what is no time.

    Raises:
        InputError: negative or not finite.
    """
    if not 0 <= poll_seconds < math.inf:
        raise InputError(f"--poll_seconds must be a number of seconds, at least 0. Received: {poll_seconds}")


def versions(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions of an export directory, oldest first."""
    found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def withdrawn_versions(root: pathlib.Path) -> list[pathlib.Path]:
    """What `rollback` took back."""
    return list(root.glob(f"{WITHDRAWN_PREFIX}*"))


def only_publisher(root: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Refuses a second export or rollback of a directory at the same time.

    Raises:
        InputError: another one is running (on entering the block).
    """
    in_use = (
        f"One command at a time publishes to a directory. Received: {root}, which another one is using. "
        "Fix: wait for it to end"
    )
    return locked(root / ".lock", in_use)


def write_models_config(root: pathlib.Path, served: list[pathlib.Path]) -> None:
    """The model, how many versions are loaded, and the labels of the two newest, as TF Serving's text protobuf.

    One version more is loaded than has a label, since the oldest goes before a new one comes.
    """
    name = root.resolve().name
    labels = {"stable": served[-1].name, "previous": served[-2:][0].name}
    lines = [
        "# Written by export.py; in the image, the versions are below /models.",
        "model_config_list {",
        "  config {",
    ]
    lines += [f"    name: {json.dumps(name)}", f"    base_path: {json.dumps(f'/models/{name}')}"]
    lines += ['    model_platform: "tensorflow"', "    model_version_policy { latest { num_versions: 3 } }"]
    lines += [f'    version_labels {{ key: "{label}" value: {version} }}' for label, version in labels.items()]
    write_whole(root / MODELS_CONFIG, "\n".join([*lines, "  }", "}", ""]))


def remove_version(version: pathlib.Path) -> None:
    """Deletes a version, which TF Serving may be looking at."""
    # Not in place: TF Serving would look at what is left of it.
    shutil.rmtree(version.rename(version.with_name(f".tmp-removed-{version.name.removeprefix(WITHDRAWN_PREFIX)}")))
