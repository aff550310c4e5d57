"""The versions in an export directory, which TF Serving watches: their order, labels, withdrawal and deletion.

exports/ml-1m/1764000000/       a version; each new one has a larger integer as its name
exports/ml-1m/models.config     for --model_config_file; the labels `stable` (the newest version) and `previous`
exports/ml-1m/.withdrawn-…/     a version that `rollback` withdrew

TF Serving unloads a version before it loads the next one, and refuses a models.config that moves a label to a version
that is not loaded. A label must always name a loaded version. Therefore three versions are loaded although two have
labels, and before a version is removed, the labels move to one that stays.
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
    """Withdraws the newest version, so that TF Serving returns to the one before.

    The version is kept as `.withdrawn-VERSION`, and its number is never used again.

    Args:
        export_dir: the directory of the versions.
        poll_seconds: how often the server reads models.config. The version is withdrawn after twice this time, when no
            label names it any more.

    Returns:
        The numbers of the withdrawn version and of the one that is served now.

    Raises:
        InputError: there is no version to return to.
    """
    check_poll_seconds(poll_seconds)
    check_local("export_dir", export_dir)
    root = pathlib.Path(export_dir)
    if not root.is_dir():
        raise InputError(
            f"--export_dir must hold versions written by export.py. Received: {root}, which is not a directory. "
            "Fix: name the --export_dir of an export"
        )
    with publishing_lock(root):
        served = list_versions(root)
        if len(served) < 2:
            raise InputError(
                f"A rollback needs at least two versions. Received: {root}, which holds {len(served)}. "
                "Fix: export another model"
            )
        move_labels(root, served[-2], poll_seconds)
        served[-1].rename(root / f"{WITHDRAWN_PREFIX}{served[-1].name}")
        write_models_config(root, served[:-1])
    return served[-1].name, served[-2].name


def move_labels(root: pathlib.Path, version: pathlib.Path, poll_seconds: float) -> None:
    """Moves both labels to one version, and waits until a server has read the file.

    The version must have a label already: then the server has loaded it and accepts the file.
    """
    if (root / MODELS_CONFIG).is_file():
        write_models_config(root, [version])
        time.sleep(2 * poll_seconds)


def check_poll_seconds(poll_seconds: float) -> None:
    """Checks --poll_seconds.

    Raises:
        InputError: a number that is negative or not finite.
    """
    if not 0 <= poll_seconds < math.inf:
        raise InputError(f"--poll_seconds must be a number of seconds, at least 0. Received: {poll_seconds}")


def list_versions(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions of an export directory, oldest first."""
    found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def list_withdrawn(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions that `rollback` withdrew."""
    return list(root.glob(f"{WITHDRAWN_PREFIX}*"))


def next_version(root: pathlib.Path) -> pathlib.Path:
    """The path of a new version: its number is the time, and larger than every number used before."""
    used = [int(path.name.removeprefix(WITHDRAWN_PREFIX)) for path in [*list_versions(root), *list_withdrawn(root)]]
    return root / str(max([int(time.time()), *(number + 1 for number in used)]))


def publish(building: pathlib.Path, version: pathlib.Path, keep_versions: int | None, poll_seconds: float) -> None:
    """Renames a finished version, writes models.config, and deletes old versions.

    Args:
        building: the directory of the finished version.
        version: its path as a version, from `next_version`.
        keep_versions: how many versions stay, including the new one; None: all.
        poll_seconds: see `move_labels`.
    """
    root = version.parent
    served, withdrawn = list_versions(root), list_withdrawn(root)
    expired = [] if keep_versions is None else served[: max(0, len(served) + 1 - keep_versions)]
    if any(path in expired for path in served[-2:]):
        move_labels(root, served[-1], poll_seconds)
    building.rename(version)
    write_models_config(root, [path for path in [*served, version] if path not in expired])
    for old in [*expired, *(withdrawn if keep_versions is not None else [])]:
        remove_version(old)


def publishing_lock(root: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Refuses a second export or rollback of a directory at the same time.

    Raises:
        InputError: another one is running (on entering the block).
    """
    in_use = (
        f"Only one command may publish to a directory at a time. Received: {root}, which is in use. "
        "Fix: wait for the other command to end"
    )
    return locked(root / ".lock", in_use)


def write_models_config(root: pathlib.Path, served: list[pathlib.Path]) -> None:
    """Writes the model, the number of loaded versions and the two labels as TF Serving's text protobuf.

    Three versions are loaded although two have labels, since the server unloads the oldest before it loads a new one.
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
    """Deletes a version that TF Serving may be watching."""
    # Renames it first: TF Serving would load a partly deleted version.
    shutil.rmtree(version.rename(version.with_name(f".tmp-removed-{version.name.removeprefix(WITHDRAWN_PREFIX)}")))
