"""Exports one version: writes it under a temporary name, warms it up, compares it, and publishes it by a rename."""

import contextlib
import dataclasses
import functools
import gc
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.model_store import fetch_model
from bert4rec_tf.serving.cold_items import ItemTable, with_new_items
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.export_store import publishing
from bert4rec_tf.serving.item_scores import item_scores
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.ivf_tuning import BATCH_USERS, RECALL_USERS, choose_probes, known_histories
from bert4rec_tf.serving.provenance import provenance
from bert4rec_tf.serving.quality_gate import compare
from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.versions import (
    check_keep_versions,
    check_poll_seconds,
    find_canary,
    list_versions,
    next_canary,
    next_version,
    publish,
    publish_canary,
    publishing_lock,
)
from bert4rec_tf.serving.warmup import replay_warm_up, write_warm_up
from bert4rec_tf.trained_average import TrainedAverage, load_models
from tfrecords.errors import InputError, disk_error
from tfrecords.files import write_whole
from tfrecords.record_store import local_records
from tfrecords.stores import check_path, is_url, shown
from tfrecords.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE

METADATA_FILE = "assets.extra/metadata.json"
_ITEMS_A_GROUP = 1 << 17  # of the file of item vectors


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """How a model is exported, and on which conditions it is published.

    Attributes:
        top_k: K of the answers.
        max_k: the largest `k` that a request may have; None: see `Recommender`.
        index: "exact" or "ivf".
        min_recall: for "ivf", the recall@100 that the number of probed cells must reach.
        data_dir: records whose users measure recall and regression.
        max_regression: refuse a model whose NDCG@10 is lower than the served one's by more than this share of it, if
            the difference is significant.
        keep_versions: the number of versions that stay, including the new one; None: all.
        poll_seconds: how often the server reads models.config. Before a version with a label is deleted, the export
            waits twice this time.
        label: "stable": the version is served at once; "canary": it is loaded beside the served one, under this label,
            until `versions.promote` or `versions.withdraw`.

    >>> ExportOptions(top_k=20).index
    'exact'
    >>> ExportOptions(index="ivf")
    Traceback (most recent call last):
    tfrecords.errors.InputError: --index=ivf and --max_regression need the histories of users. ...
    """

    top_k: int = 10
    index: str = "exact"
    min_recall: float = 0.95
    data_dir: str | None = None
    max_regression: float | None = None
    keep_versions: int | None = None
    poll_seconds: float = 1.0
    max_k: int | None = None
    label: str = "stable"

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
            raise InputError(f"--min_recall must be above 0 and at most 1. Received: {self.min_recall}")
        if self.max_regression is not None and not 0 <= self.max_regression < 1:
            raise InputError(f"--max_regression must be at least 0 and below 1. Received: {self.max_regression}")
        if self.label not in ("stable", "canary"):
            raise InputError(f"--label must be stable or canary. Received: {self.label!r}")
        check_keep_versions(self.keep_versions)
        if self.label == "canary" and self.keep_versions is not None:
            raise InputError(
                "--label=canary deletes no version. Received: --keep_versions as well. "
                "Fix: give --keep_versions to export.py promote"
            )
        check_poll_seconds(self.poll_seconds)
        if self.data_dir is None and (self.index == "ivf" or self.max_regression is not None):
            raise InputError(
                "--index=ivf and --max_regression need the histories of users. Received: no --data_dir. "
                "Fix: --data_dir=DIR, written by pipelines/make_tfrecords.py"
            )


@overload
def export(
    model_dir: str | pathlib.Path | Sequence[str | pathlib.Path],
    export_dir: pathlib.Path,
    options: ExportOptions | None = None,
    new_items: ItemTable | None = None,
) -> pathlib.Path: ...


@overload
def export(
    model_dir: str | pathlib.Path | Sequence[str | pathlib.Path],
    export_dir: str | pathlib.Path,
    options: ExportOptions | None = None,
    new_items: ItemTable | None = None,
) -> pathlib.Path | str: ...


def export(
    model_dir: str | pathlib.Path | Sequence[str | pathlib.Path],
    export_dir: str | pathlib.Path,
    options: ExportOptions | None = None,
    new_items: ItemTable | None = None,
) -> pathlib.Path | str:
    """Writes the best checkpoint of `model_dir` as the next version below `export_dir`, by rename.

    Before the version appears, it has answered all of its warm-up requests and, if `options` requires it, passed the
    comparison with the served version.

    Args:
        model_dir: the directory of a trained model, here or in an object store; or several, whose scores are averaged:
            the version answers as `TrainedAverage` does, and takes the memory of all of them and of their item
            vectors twice.
        export_dir: the directory of all versions, which is made if it does not exist; in an object store, see
            `serving.export_store`.
        options: None: `ExportOptions()`.
        new_items: a table whose items are recommended too, by their features alone if they came after the training.

    Returns:
        The version's directory; in a store, its address. Its name is an integer, larger than those of all other
        versions. Only a canary's is smaller than that of the served version, which answers requests without a label.

    Raises:
        InputError: no trained model, a regression beyond `max_regression`, another export at work, a full disk, a
            version that cannot answer its warm-up requests, a canary without a served version, or a version that
            would be served beside a canary.

    >>> version = export("model", "exports", ExportOptions(top_k=3))
    >>> version.parent.name, version.name.isdecimal()
    ('exports', True)
    >>> sorted(path.name for path in version.iterdir())
    ['assets', 'assets.extra', 'fingerprint.pb', 'saved_model.pb', 'variables']
    >>> bert4rec_tf.Recommender.load("exports").recommend([["1", "2", "3"]], k=1).item_ids
    [['4']]
    """
    check_path("export_dir", export_dir)
    options = options or ExportOptions()
    if options.data_dir is not None:
        options = dataclasses.replace(options, data_dir=str(local_records(options.data_dir)))
    model_dirs = [
        fetch_model(path) for path in ([model_dir] if isinstance(model_dir, str | os.PathLike) else model_dir)
    ]
    if is_url(export_dir):
        if options.label == "canary":
            raise InputError(
                "--label=canary needs an --export_dir on this machine: models.config has no labels in a store. "
                f"Received: {shown(export_dir)}. Fix: export without --label=canary, or to a mounted folder"
            )
        with publishing(export_dir, options.keep_versions, options.max_regression is not None) as local:
            written = export(model_dirs, local, dataclasses.replace(options, keep_versions=None), new_items)
        return f"{shown(export_dir).rstrip('/')}/{pathlib.Path(written).name}"
    loaded = [load_models(model_dirs, functools.partial(_load, new_items=new_items))]
    root = pathlib.Path(export_dir)
    root.mkdir(parents=True, exist_ok=True)
    with publishing_lock(root):
        canary = find_canary(root)
        if options.label == "stable" and canary is not None:
            raise InputError(
                f"A version cannot be published while a canary waits. Received: {root} with canary {canary.name}. "
                "Fix: run export.py promote or export.py withdraw first, or export with --label=canary to replace it"
            )
        version = next_canary(root) if options.label == "canary" else next_version(root)
        with _building_directory(version) as building:
            metadata = _write_and_release(loaded, model_dirs, building, options)
            gc.collect()  # the version is loaded next, and a large catalogue would take twice the memory
            replay_warm_up(building)
            metadata |= _compare_with_served(building, root, metadata, options)
            write_whole(building / METADATA_FILE, json.dumps(metadata, indent=1) + "\n")
            _sync(building)
            if options.label == "canary":
                publish_canary(building, version, options.poll_seconds)
            else:
                publish(building, version, options.keep_versions, options.poll_seconds)
    return version


@contextlib.contextmanager
def _building_directory(version: pathlib.Path) -> Iterator[pathlib.Path]:
    """A temporary directory to write a version in; it is deleted afterwards, also those of killed exports.

    Raises:
        InputError: the disk is full, or TensorFlow failed.
    """
    for leftover in version.parent.glob(".tmp-*"):  # of an export that was killed
        shutil.rmtree(leftover)
    # TF Serving loads any directory with an integer as its name, even an incomplete one, so this name has a dot.
    building = version.with_name(f".tmp-{version.name}")
    try:
        yield building
    except OSError as error:
        raise disk_error(error, building) from None
    except tf.errors.OpError as error:
        raise InputError(
            "A version must be written completely and answer its own warm-up requests. Received: "
            f"{' '.join(error.message.split()):.300} at {building}; nothing was published. Fix: free space on the "
            "disk of --export_dir, and run the same command again"
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _load(model_dir: str | pathlib.Path, new_items: ItemTable | None) -> TrainedModel:
    trained = load_model(model_dir, fold=new_items is None)
    return trained if new_items is None else with_new_items(trained, new_items)


def _write_and_release(
    loaded: list[TrainedModel | TrainedAverage],
    model_dirs: Sequence[pathlib.Path],
    building: pathlib.Path,
    options: ExportOptions,
) -> dict[str, Any]:
    """`_write_version` with the whole metadata. Takes the model out of the list, so that it is free afterwards.

    `del` in the caller would not free it, since TensorFlow's traces keep the variables of the frames that they see.
    """
    trained = loaded.pop()
    return _write_version(trained, building, options) | provenance(model_dirs, trained)


def _write_version(
    trained: TrainedModel | TrainedAverage, building: pathlib.Path, options: ExportOptions
) -> dict[str, Any]:
    """Writes all files of a version except its metadata, which it returns. No request was answered yet."""
    index, index_description = _make_index(trained, options)
    features = trained.item_features
    recommender = Recommender(
        trained.model, trained.vocabulary, options.top_k, index, options.max_k, item_features=features
    )
    # No options except the signatures: the graph has stock ops only, and no XLA, which TF Serving refuses.
    tf.saved_model.save(recommender, str(building), signatures=recommender.signatures())
    extra = building / "assets.extra"
    extra.mkdir()
    (extra / VOCABULARY_FILE).write_bytes(trained.vocabulary.to_bytes())
    _write_item_vectors(extra / "item_vectors.parquet", trained)
    with_filters = features is not None and bool(features.categorical())
    longest = trained.model.max_seq_length
    write_warm_up(building, trained.vocabulary, longest, with_filters, recommender.takes_times)
    return {
        "top_k": options.top_k,
        "max_k": recommender.max_k,
        "index": index_description,
        "items": len(trained.vocabulary.item_ids),
        "cold_items": int((trained.vocabulary.counts == 0).sum()),
        "takes_times": recommender.takes_times,
        "categorical_features": [feature.name for feature in features.categorical()] if features else [],
        **trained.description(),
    }


def _make_index(
    trained: TrainedModel | TrainedAverage, options: ExportOptions
) -> tuple[ExactIndex | InvertedFileIndex, dict[str, Any]]:
    """The index over the items, and its description for the metadata."""
    scores = item_scores(trained.model, trained.vocabulary)
    exact = ExactIndex(scores)
    if options.index == "exact":
        return exact, {"kind": "exact"}
    histories = known_histories(trained.vocabulary, str(options.data_dir))
    queries = [trained.model.encode_next_item(*batch) for batch in histories]
    index = InvertedFileIndex(scores, np.concatenate(queries))
    of_queries = [ids for ids, _ in histories]
    recall_batches = list(zip(queries, of_queries, strict=True))[: RECALL_USERS // BATCH_USERS]
    return index, choose_probes(index, exact, recall_batches, options.min_recall)


def _compare_with_served(
    building: pathlib.Path, root: pathlib.Path, metadata: dict[str, Any], options: ExportOptions
) -> dict[str, Any]:
    """The metadata `gate` of the comparison with the served version; empty if none is required or possible.

    Raises:
        InputError: the new version is worse than `max_regression` allows.
    """
    served = list_versions(root)
    if options.max_regression is None or not served:
        return {}
    drop_seen = metadata["config"]["evaluation"]["drop_seen"]
    comparison = compare(building, served[-1], str(options.data_dir), drop_seen)
    comparison.check(options.max_regression)
    print(f"compared with the served model: {comparison}")
    settings = {"split": "validation", "drop_seen": drop_seen, "max_regression": options.max_regression}
    return {"gate": dataclasses.asdict(comparison) | settings}


def _write_item_vectors(path: pathlib.Path, trained: TrainedModel | TrainedAverage) -> None:
    """Writes the item vectors for an index outside: score = `encode`'s vector . vector + bias."""
    table, bias = trained.model.item_table, trained.model.output_bias
    item_ids, size = trained.vocabulary.item_ids, table.shape[1]
    schema = pa.schema([("item_id", pa.string()), ("vector", pa.list_(pa.float32(), size)), ("bias", pa.float32())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, len(item_ids), _ITEMS_A_GROUP):  # in pieces, which need no copy of the table
            ids = item_ids[first : first + _ITEMS_A_GROUP]
            rows = slice(NUM_SPECIAL_IDS + first, NUM_SPECIAL_IDS + first + len(ids))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(table[rows].numpy().ravel()), size)
            columns = [pa.array(ids, pa.string()), vectors, pa.array(bias[rows].numpy())]
            writer.write_table(pa.table(columns, schema=schema))


def _sync(directory: pathlib.Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
