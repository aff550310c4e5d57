"""The versions in an export directory, which TF Serving watches: their order, labels, withdrawal and deletion.

exports/ml-1m/1764000000/       a version; each new one has a larger integer as its name
exports/ml-1m/models.config     for --model_config_file; labels `stable` (the newest version), `previous` and `canary`
exports/ml-1m/.canary           the number of the canary, and the one under which `promote` serves it
exports/ml-1m/.withdrawn-…/     a version that `rollback` or `withdraw` withdrew

TF Serving unloads a version before it loads the next one, and refuses a models.config that moves a label to a version
that is not loaded. A label must always name a loaded version. Therefore three versions are loaded although two have
labels, and before a version is removed, the labels move to one that stays.

TF Serving answers requests without a label from the version with the largest number. A canary must not answer them.
Therefore its number lies between those of `previous` and `stable`, and `promote` renames it to the largest one.
"""

import contextlib
import json
import math
import pathlib
import shutil
import time
from collections.abc import Iterator

from tfrecords.errors import InputError, check_local
from tfrecords.files import locked, write_whole

MODELS_CONFIG = "models.config"
CANARY_FILE = ".canary"
WITHDRAWN_PREFIX = ".withdrawn-"


def rollback(export_dir: str, poll_seconds: float = 1.0) -> tuple[str, str]:
    """Withdraws the newest version, so that TF Serving returns to the one before. A canary is withdrawn too.

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
    with _publishing(export_dir, poll_seconds) as root:
        served = served_versions(root)
        if len(served) < 2:
            raise InputError(
                f"A rollback needs at least two versions. Received: {root}, which holds {len(served)}. "
                "Fix: export another model"
            )
        move_labels(root, [served[-2]], poll_seconds)
        # The canary goes first: without the newest version, it would have the largest number.
        for path in [*filter(None, [find_canary(root)]), served[-1]]:
            path.rename(root / f"{WITHDRAWN_PREFIX}{path.name}")
        write_models_config(root, served[:-1])
    return served[-1].name, served[-2].name


def promote(export_dir: str, keep_versions: int | None = None, poll_seconds: float = 1.0) -> str:
    """Makes the canary the served version, under a new number. A second call does nothing.

    Args:
        export_dir: the directory of the versions.
        keep_versions: how many versions stay, including the promoted one; None: all.
        poll_seconds: how often the server reads models.config. The canary gets its new number after twice this time,
            when no label names the old one any more.

    Returns:
        The number of the version that is served now.

    Raises:
        InputError: there is no canary, and the newest version was none.
    """
    check_keep_versions(keep_versions)
    with _publishing(export_dir, poll_seconds) as root:
        canary, served = find_canary(root), served_versions(root)
        if canary is None:
            promoted = _canary_numbers(root)[1:]
            if not served or promoted != [served[-1].name]:
                raise InputError(
                    f"A promotion needs a canary. Received: {root}, which has none. "
                    "Fix: publish one with export.py --label=canary"
                )
            write_models_config(root, served)  # a promotion may have been killed before this
            return served[-1].name
        version = next_version(root)
        move_labels(root, served, poll_seconds)
        write_whole(root / CANARY_FILE, f"{canary.name} {version.name}\n")
        publish(canary, version, keep_versions, poll_seconds)
    return version.name


def withdraw(export_dir: str, poll_seconds: float = 1.0) -> str | None:
    """Withdraws the canary; the served version stays. Without a canary, it does nothing.

    Args:
        export_dir: the directory of the versions.
        poll_seconds: how often the server reads models.config. The canary is withdrawn after twice this time.

    Returns:
        The number of the withdrawn version; None: there was no canary.

    Raises:
        InputError: no such directory, or another command is publishing to it.
    """
    with _publishing(export_dir, poll_seconds) as root:
        canary = find_canary(root)
        if canary is not None:
            _withdraw_canary(root, canary, poll_seconds)
    return None if canary is None else canary.name


@contextlib.contextmanager
def _publishing(export_dir: str, poll_seconds: float) -> Iterator[pathlib.Path]:
    """Checks the arguments, and holds the lock of the directory in the block."""
    check_poll_seconds(poll_seconds)
    check_local("export_dir", export_dir)
    root = pathlib.Path(export_dir)
    if not root.is_dir():
        raise InputError(
            f"--export_dir must hold versions written by export.py. Received: {root}, which is not a directory. "
            "Fix: name the --export_dir of an export"
        )
    with publishing_lock(root):
        yield root


def _withdraw_canary(root: pathlib.Path, canary: pathlib.Path, poll_seconds: float) -> None:
    move_labels(root, served_versions(root), poll_seconds)
    canary.rename(root / f"{WITHDRAWN_PREFIX}{canary.name}")


def move_labels(root: pathlib.Path, served: list[pathlib.Path], poll_seconds: float) -> None:
    """Moves `stable` and `previous` to the newest of these versions, drops `canary`, and waits until a server knows.

    The versions must have labels already: then the server has loaded them and accepts the file.
    """
    if (root / MODELS_CONFIG).is_file():
        write_models_config(root, served)
        time.sleep(2 * poll_seconds)


def check_poll_seconds(poll_seconds: float) -> None:
    """Checks --poll_seconds.

    Raises:
        InputError: a number that is negative or not finite.
    """
    if not 0 <= poll_seconds < math.inf:
        raise InputError(f"--poll_seconds must be a number of seconds, at least 0. Received: {poll_seconds}")


def check_keep_versions(keep_versions: int | None) -> None:
    """Checks --keep_versions.

    Raises:
        InputError: a number below 1.
    """
    if keep_versions is not None and keep_versions < 1:
        raise InputError(f"--keep_versions must be at least 1. Received: {keep_versions}")


def list_versions(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions of an export directory, by their numbers. The last one is served; a canary is never the last one."""
    found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def served_versions(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions that are or were served, oldest first: all but the canary."""
    canary = find_canary(root)
    return [path for path in list_versions(root) if path != canary]


def find_canary(root: pathlib.Path) -> pathlib.Path | None:
    """The version that waits for its promotion; None: there is none."""
    return next((root / number for number in _canary_numbers(root)[:1] if (root / number).is_dir()), None)


def _canary_numbers(root: pathlib.Path) -> list[str]:
    """The number of the last canary and, if it was promoted, its new one. Both may be withdrawn since."""
    file = root / CANARY_FILE
    return [text for text in file.read_text(encoding="utf-8").split() if text.isdecimal()] if file.is_file() else []


def list_withdrawn(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions that `rollback` or `withdraw` withdrew."""
    return list(root.glob(f"{WITHDRAWN_PREFIX}*"))


def next_version(root: pathlib.Path) -> pathlib.Path:
    """The path of a new version: its number is the time, and larger than every number used before."""
    # At least two larger, so that there is a number for a canary between two versions.
    return root / str(max([int(time.time()), *(number + 2 for number in _used_numbers(root))]))


def next_canary(root: pathlib.Path) -> pathlib.Path:
    """The path of a new canary: the largest unused number between the two newest served versions.

    Raises:
        InputError: no version is served, or there is no such number.
    """
    served, used = [int(path.name) for path in served_versions(root)], _used_numbers(root)
    if not served:
        raise InputError(
            f"A canary needs a served version beside it. Received: {root}, which holds none. "
            "Fix: export without --label=canary"
        )
    above = [-1, *served][-2]
    number = next((number for number in range(served[-1] - 1, above, -1) if number not in used), None)
    if number is None:
        raise InputError(
            "A canary needs an unused number between the two newest versions, because TF Serving answers requests "
            f"without a label from the largest number. Received: {above} and {served[-1]} in {root}. "
            "Fix: export once without --label=canary"
        )
    return root / str(number)


def _used_numbers(root: pathlib.Path) -> set[int]:
    found = [path.name.removeprefix(WITHDRAWN_PREFIX) for path in [*list_versions(root), *list_withdrawn(root)]]
    return {int(number) for number in [*found, *_canary_numbers(root)]}


def publish_canary(building: pathlib.Path, version: pathlib.Path, poll_seconds: float) -> None:
    """Renames a finished version and labels it `canary`. An earlier canary is withdrawn.

    Args:
        building: the directory of the finished version.
        version: its path as a canary, from `next_canary`.
        poll_seconds: see `move_labels`.
    """
    root = version.parent
    earlier = find_canary(root)
    if earlier is not None:
        _withdraw_canary(root, earlier, poll_seconds)
    write_whole(root / CANARY_FILE, f"{version.name}\n")  # first: a version without it would count as a served one
    building.rename(version)
    write_models_config(root, served_versions(root), version)


def publish(building: pathlib.Path, version: pathlib.Path, keep_versions: int | None, poll_seconds: float) -> None:
    """Renames a finished version, writes models.config, and deletes old versions.

    Args:
        building: the directory of the finished version, or of the canary.
        version: its path as a version, from `next_version`.
        keep_versions: how many versions stay, including the new one; None: all.
        poll_seconds: see `move_labels`.
    """
    root = version.parent
    served, withdrawn = served_versions(root), list_withdrawn(root)
    expired = [] if keep_versions is None else served[: max(0, len(served) + 1 - keep_versions)]
    if any(path in expired for path in served[-2:]):
        move_labels(root, served[-1:], poll_seconds)
    building.rename(version)
    write_models_config(root, [path for path in [*served, version] if path not in expired])
    for old in [*expired, *(withdrawn if keep_versions is not None else [])]:
        remove_version(old)


def publishing_lock(root: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Refuses a second command that publishes to a directory at the same time.

    Raises:
        InputError: another one is running (on entering the block).
    """
    in_use = (
        f"Only one command may publish to a directory at a time. Received: {root}, which is in use. "
        "Fix: wait for the other command to end"
    )
    return locked(root / ".lock", in_use)


def write_models_config(root: pathlib.Path, served: list[pathlib.Path], canary: pathlib.Path | None = None) -> None:
    """Writes the model, the number of loaded versions and the labels as TF Serving's text protobuf.

    Three versions are loaded although two have labels, since the server unloads the oldest before it loads a new one.
    A canary is the third one.
    """
    name = root.resolve().name
    labels = {"stable": served[-1].name, "previous": served[-2:][0].name}
    if canary is not None:
        labels["canary"] = canary.name
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
