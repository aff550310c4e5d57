"""The origin of an exported model: its code, its records, and its validation metrics."""

import datetime
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from bert4rec_tf import __version__
from bert4rec_tf.code_version import git_state
from bert4rec_tf.model_dir import HISTORY_FILE, TrainedModel
from bert4rec_tf.trained_average import TrainedAverage


def provenance(model_dirs: Sequence[str | pathlib.Path], trained: TrainedModel | TrainedAverage) -> dict[str, Any]:
    """The part of a version's metadata about its origin. Unknown values are left out.

    Args:
        model_dirs: the directory of the model, or of each member of an average.
        trained: loaded from them.

    Returns:
        exported_at: the time of the export, UTC, ISO 8601.
        package_version: the version of the exporting code.
        git_commit, git_changed: the commit of its checkout, and whether files differ from the commit.
        manifest_sha256: the sha256 of the manifest of the training records.
        validation: metrics of the exported checkpoint, as in history.jsonl.
        members: of an average, in place of these two: the description, `manifest_sha256` and `validation` of each
            model.
    """
    known = {
        "exported_at": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "package_version": __version__,
        **git_state(),
    }
    if isinstance(trained, TrainedModel):
        return known | _of_training(model_dirs[0], trained)
    pairs = zip(model_dirs, trained.members, strict=True)
    return known | {"members": [member.description() | _of_training(path, member) for path, member in pairs]}


def _of_training(model_dir: str | pathlib.Path, trained: TrainedModel) -> dict[str, Any]:
    """The records of a training, and the validation of its checkpoint."""
    validation = _validation(pathlib.Path(model_dir) / HISTORY_FILE, trained.state["step"])
    return {"manifest_sha256": trained.manifest.sha256()} | ({"validation": validation} if validation else {})


def _validation(path: pathlib.Path, step: int) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    found = None
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # a line that a killed run wrote in part
            continue
        if entry.get("step") == step:
            found = entry.get("validation")
    return found
