"""One version: written beside its place, warmed up, compared, and published by a rename."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bert4rec_tf.model_dir import TrainedModel, load_model
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.item_scores import item_scores
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.ivf_tuning import BATCH_USERS, RECALL_USERS, choose_probes, known_histories
from bert4rec_tf.serving.provenance import provenance
from bert4rec_tf.serving.quality_gate import compare
from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.versions import (
    WITHDRAWN_PREFIX,
    check_poll_seconds,
    move_labels,
    only_publisher,
    remove_version,
    versions,
    withdrawn_versions,
    write_models_config,
)
from bert4rec_tf.serving.warmup import replay_warm_up, write_warm_up
from tfrecords.errors import InputError, check_local, disk_error
from tfrecords.files import write_whole
from tfrecords.vocabulary import NUM_SPECIAL_IDS, VOCABULARY_FILE

METADATA_FILE = "assets.extra/metadata.json"


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
        check_poll_seconds(self.poll_seconds)
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
    with only_publisher(root):
        for left in root.glob(".tmp-*"):  # of an export that was killed
            shutil.rmtree(left)
        served = versions(root)
        taken = [int(path.name.removeprefix(WITHDRAWN_PREFIX)) for path in [*served, *withdrawn_versions(root)]]
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


def _publish(root: pathlib.Path, building: pathlib.Path, version: pathlib.Path, publishing: Publishing) -> None:
    """Renames a finished version, writes models.config, and deletes old versions."""
    served, gone = versions(root), list[pathlib.Path]()
    if publishing.keep_versions is not None:
        gone = served[: max(0, len(served) + 1 - publishing.keep_versions)]
    if any(path in gone for path in served[-2:]):
        move_labels(root, served[-1], publishing.poll_seconds)
    building.rename(version)
    write_models_config(root, [path for path in [*served, version] if path not in gone])
    for old in [*gone, *(withdrawn_versions(root) if publishing.keep_versions is not None else [])]:
        remove_version(old)


def _write(trained: TrainedModel, building: pathlib.Path, publishing: Publishing) -> dict[str, Any]:
    """Everything of a version but its metadata, which it returns."""
    scores = item_scores(trained.model, trained.vocabulary)
    exact, described = ExactIndex(scores), {"kind": "exact"}
    index: ExactIndex | InvertedFileIndex = exact
    if publishing.index == "ivf":
        histories = known_histories(trained, str(publishing.data_dir))
        queries = [trained.model.encode_next_item(batch) for batch in histories]
        index = InvertedFileIndex(scores, np.concatenate(queries))
        asked = list(zip(queries, histories, strict=True))[: RECALL_USERS // BATCH_USERS]
        described = choose_probes(index, exact, asked, publishing.min_recall)
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


def _sync(directory: pathlib.Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
