"""Versions of a model where TF Serving looks for them: they appear whole, replace each other, and are taken back.

exports/ml-1m/1764000000/       a version: an integer, larger for each new one
exports/ml-1m/models.config     for --model_config_file: labels `stable`, the newest version, and `previous`
exports/ml-1m/.withdrawn-…/     what `rollback` took back

TF Serving unloads a version before it loads the next one, and refuses a models.config that moves a label to a version
that is not loaded. So that a label always names a loaded version, three versions are loaded where two have labels, and
before a version goes the labels move to one that stays.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
import pathlib
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bert4rec_tf.gate import compare
from bert4rec_tf.inputs.user_histories import iterate_raw_histories
from bert4rec_tf.inverted_file import InvertedFileIndex
from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.provenance import provenance
from bert4rec_tf.retrieval import MISSING_SCORE, ExactIndex
from bert4rec_tf.serving import Recommender, item_scores
from bert4rec_tf.warm_up import replay_warm_up, write_warm_up
from tfrecords.errors import InputError, check_local, disk_error
from tfrecords.files import open_lock, write_whole
from tfrecords.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE

METADATA_FILE = "assets.extra/metadata.json"
MODELS_CONFIG = "models.config"
_WITHDRAWN = ".withdrawn-"
_SAMPLE_USERS, _RECALL_USERS, _BATCH_USERS = 2048, 256, 16  # the latter measures recall
_RECALL_K = 100


@dataclasses.dataclass(frozen=True)
class Publishing:
    """What of a model is published, and when not.

    Attributes:
        top_k: K of the answers.
        max_k: the largest `k` that a request may have; None: see `Recommender`.
        index: "exact" or "ivf".
        min_recall: of "ivf": as many cells are probed as recall@100 needs to reach this.
        data_dir: records whose users measure recall and regression.
        max_regression: refuse a model whose NDCG@10 is lower than the served one's by more than this share of it, if
            the users are enough to tell the drop from chance.
        keep_versions: of older versions, so many stay beside the new one, itself counted; None: all.
        poll_seconds: between two times that the server reads models.config; where a version with a label is deleted,
            twice as long is waited first.
    """

    top_k: int = 10
    index: str = "exact"
    min_recall: float = 0.95
    data_dir: str | None = None
    max_regression: float | None = None
    keep_versions: int | None = None
    poll_seconds: float = 1.0
    max_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"--top_k must be at least 1. Received: {self.top_k}")
        if self.max_k is not None and self.max_k < self.top_k:
            raise InputError(
                f"--max_k must be at least --top_k, which is {self.top_k}. Received: {self.max_k}. "
                "Fix: raise --max_k, or lower --top_k"
            )
        if self.index not in ("exact", "ivf"):
            raise InputError(f"--index must be exact or ivf. Received: {self.index!r}")
        if not 0 < self.min_recall <= 1:
            raise InputError(f"--min_recall must be above 0, and at most 1. Received: {self.min_recall}")
        if self.max_regression is not None and not 0 <= self.max_regression < 1:
            raise InputError(f"--max_regression must be at least 0 and below 1. Received: {self.max_regression}")
        if self.keep_versions is not None and self.keep_versions < 1:
            raise InputError(f"--keep_versions must be at least 1. Received: {self.keep_versions}")
        _check_poll_seconds(self.poll_seconds)
        if self.data_dir is None and (self.index == "ivf" or self.max_regression is not None):
            raise InputError(
                "--index=ivf and --max_regression measure with users' histories. Received: no --data_dir. "
                "Fix: --data_dir=DIR, made by pipelines/make_tfrecords.py"
            )


def export(model_dir: str, export_dir: str, publishing: Publishing) -> pathlib.Path:
    """Writes the best checkpoint of `model_dir` as the next version below `export_dir`, by rename.

    Before it appears, the version has answered each of its warm-up requests, and has stood the comparison with the one
    that is served, if `publishing` asks for it.

    Returns:
        The version's directory, an integer that is larger than every other one's.

    Raises:
        InputError: no trained model, a regression beyond `max_regression`, another export at work, a full disk, or a
            version that cannot answer its warm-up requests.
    """
    check_local("export_dir", export_dir)
    trained = load_model(model_dir)
    root = pathlib.Path(export_dir)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        for left in root.glob(".tmp-*"):  # of an export that was killed
            shutil.rmtree(left)
        served = versions(root)
        taken = [int(path.name.removeprefix(_WITHDRAWN)) for path in [*served, *_withdrawn(root)]]
        version = root / str(max([int(time.time()), *(number + 1 for number in taken)]))
        # TF Serving loads any directory with an integer for a name, whole or not: this one has a dot.
        building = root / f".tmp-{version.name}"
        try:
            metadata = _write(trained, building, publishing) | provenance(model_dir, trained)
            if publishing.max_regression is not None and served:
                metadata["gate"] = _gate(building, served[-1], publishing, trained.config.evaluation.drop_seen)
            write_whole(building / METADATA_FILE, json.dumps(metadata, indent=1) + "\n")
            _sync(building)
            _publish(root, building, version, publishing)
        except OSError as error:
            raise disk_error(error, building) from None
        except tf.errors.OpError as error:
            raise InputError(
                "A version must be written whole and answer its own warm-up requests. Received: "
                f"{' '.join(error.message.split()):.300} at {building}; nothing was published. Fix: free space on the "
                "disk of --export_dir, and run the same command again"
            ) from None
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return version


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
    _check_poll_seconds(poll_seconds)
    check_local("export_dir", export_dir)
    root = pathlib.Path(export_dir)
    if not root.is_dir():
        raise InputError(f"--export_dir must hold versions written by export.py. Received: {root}, no directory")
    with _alone(root):
        served = versions(root)
        if len(served) < 2:
            raise InputError(
                f"A rollback needs a version to return to. Received: {root}, which holds {len(served)}. "
                "Fix: export another model"
            )
        _move_labels(root, served[-2], poll_seconds)
        served[-1].rename(root / f"{_WITHDRAWN}{served[-1].name}")
        write_models_config(root, served[:-1])
    return served[-1].name, served[-2].name


def _publish(root: pathlib.Path, building: pathlib.Path, version: pathlib.Path, publishing: Publishing) -> None:
    """Renames a finished version, writes models.config, and deletes old versions."""
    served, gone = versions(root), list[pathlib.Path]()
    if publishing.keep_versions is not None:
        gone = served[: max(0, len(served) + 1 - publishing.keep_versions)]
    if any(path in gone for path in served[-2:]):
        _move_labels(root, served[-1], publishing.poll_seconds)
    building.rename(version)
    write_models_config(root, [path for path in [*served, version] if path not in gone])
    for old in [*gone, *(_withdrawn(root) if publishing.keep_versions is not None else [])]:
        _remove(old)


def _move_labels(root: pathlib.Path, version: pathlib.Path, poll_seconds: float) -> None:
    """Moves both labels to one version, and gives a server the time to read that.

    The version is one that has a label now, so that the server has loaded it and takes the file.
    """
    if (root / MODELS_CONFIG).is_file():
        write_models_config(root, [version])
        time.sleep(2 * poll_seconds)


def _check_poll_seconds(poll_seconds: float) -> None:
    if not 0 <= poll_seconds < math.inf:
        raise InputError(f"--poll_seconds must be a number of seconds, at least 0. Received: {poll_seconds}")


def versions(root: pathlib.Path) -> list[pathlib.Path]:
    """The versions of an export directory, oldest first."""
    found = [path for path in root.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def _withdrawn(root: pathlib.Path) -> list[pathlib.Path]:
    return list(root.glob(f"{_WITHDRAWN}*"))


@contextlib.contextmanager
def _alone(root: pathlib.Path) -> Iterator[None]:
    """One export or rollback at a time; a killed one's lock goes with its process."""
    with open_lock(root / ".lock") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"One command at a time publishes to a directory. Received: {root}, which another one is using. "
                "Fix: wait for it to end"
            ) from None
        yield


def _write(trained: TrainedModel, building: pathlib.Path, publishing: Publishing) -> dict[str, Any]:
    """Everything of a version but its metadata, which it returns."""
    scores = item_scores(trained.model, trained.vocabulary)
    exact, described = ExactIndex(scores), {"kind": "exact"}
    index: ExactIndex | InvertedFileIndex = exact
    if publishing.index == "ivf":
        histories = _known_histories(trained, str(publishing.data_dir))
        queries = [trained.model.encode_next_item(batch) for batch in histories]
        index = InvertedFileIndex(scores, np.concatenate(queries))
        asked = list(zip(queries, histories, strict=True))[: _RECALL_USERS // _BATCH_USERS]
        described = _choose_probes(index, exact, asked, publishing.min_recall)
    recommender = Recommender(trained.model, trained.vocabulary, publishing.top_k, index, publishing.max_k)
    # No option beyond the signatures: the graph has stock ops only, and no XLA, which TF Serving refuses.
    tf.saved_model.save(recommender, str(building), signatures=recommender.signatures())
    extra = building / "assets.extra"
    extra.mkdir()
    (extra / VOCABULARY_FILE).write_bytes(trained.vocabulary.to_bytes())
    _write_item_vectors(extra / "item_vectors.parquet", trained)
    write_warm_up(building, trained.vocabulary, trained.config.data.max_seq_length)
    replay_warm_up(building)
    return {
        "top_k": publishing.top_k,
        "max_k": recommender.max_k,
        "index": described,
        "config": trained.config.to_dict(),
        "training": trained.state,
    }


def _known_histories(trained: TrainedModel, data_dir: str) -> list[tf.Tensor]:
    """Of validation users, int32 [B, L] a batch."""
    batches = [rows for rows, _ in iterate_raw_histories(data_dir, "validation", _BATCH_USERS, _SAMPLE_USERS)]
    # At once: each call goes through the whole vocabulary.
    ids = iter(trained.vocabulary.ids_of([item_id for rows in batches for row in rows for item_id in row]))
    return [tf.constant([[next(ids) for _ in row] for row in rows], tf.int32) for rows in batches]


def _choose_probes(
    index: InvertedFileIndex, exact: ExactIndex, asked: list[tuple[tf.Tensor, tf.Tensor]], min_recall: float
) -> dict[str, Any]:
    """Sets the fewest cells to probe that reach the recall, by halving; returns what was measured.

    Args:
        index: to set.
        exact: what it is held against.
        asked: queries, float32 [B, D], and their histories, int32 [B, L].
        min_recall: of the best 100.
    """
    k = min(_RECALL_K, index.num_items)
    requests = [(query, tf.ones([len(query)], tf.bool), histories) for query, histories in asked]
    expected = [ids for request in requests for ids in _found(exact.top(*request, k))]

    @tf.function(reduce_retracing=True)
    def search(query: tf.Tensor, known: tf.Tensor, dropped: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Every request needs one item or more, so none looks into fewer cells than are measured here.
        return index.top(query, known, dropped, k, tf.ones([tf.shape(query)[0]], tf.int32))

    def recall(probes: int) -> float:
        index.probes.assign(probes)
        found = [ids for request in requests for ids in _found(search(*request))]
        return sum(len(a & b) / max(1, len(b)) for a, b in zip(found, expected, strict=True)) / len(expected)

    low, high = 1, index.num_cells  # all of them are exact
    while low < high:
        middle = (low + high) // 2
        if recall(middle) >= min_recall:
            high = middle
        else:
            low = middle + 1
    measured = recall(high)
    counted = {"cells": index.num_cells, "probes": high, "users": len(expected)}
    return {"kind": "ivf", f"recall@{k}": round(measured, 4), **counted}


def _found(top: tuple[tf.Tensor, tf.Tensor]) -> list[set[int]]:
    scores, ids = (values.numpy().tolist() for values in top)
    return [
        {item for score, item in zip(*row, strict=True) if score > MISSING_SCORE}
        for row in zip(scores, ids, strict=True)
    ]


def _gate(candidate: pathlib.Path, served: pathlib.Path, publishing: Publishing, drop_seen: bool) -> dict[str, Any]:
    found = compare(candidate, served, str(publishing.data_dir), drop_seen)
    found.check(float(publishing.max_regression or 0))
    print(f"compared with the served model: {found}")
    return dataclasses.asdict(found) | {
        "split": "validation",
        "drop_seen": drop_seen,
        "max_regression": publishing.max_regression,
    }


def _write_item_vectors(path: pathlib.Path, trained: TrainedModel) -> None:
    """What an outside index needs: score = `encode`'s vector . vector + bias."""
    table = trained.model.embedding.item_table.numpy()[NUM_SPECIAL_IDS:]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(table.ravel()), table.shape[1])
    bias = pa.array(trained.model.head.output_bias.numpy()[NUM_SPECIAL_IDS:])
    item_ids = pa.array(list(trained.vocabulary.item_ids), pa.string())
    pq.write_table(pa.table({"item_id": item_ids, "vector": vectors, "bias": bias}), path)


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


def _sync(directory: pathlib.Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _remove(version: pathlib.Path) -> None:
    # Not in place: TF Serving would look at what is left of it.
    shutil.rmtree(version.rename(version.with_name(f".tmp-removed-{version.name.removeprefix(_WITHDRAWN)}")))
