"""Writes an evaluation as JSON and prints it."""

import json
import os
import pathlib
import platform
from typing import Any

import tensorflow as tf

from bert4rec_tf.evaluation.metrics import METRICS, catalogue_metrics
from bert4rec_tf.evaluation.slices import slices
from bert4rec_tf.evaluation.user_ranks import UserRanks, users_file, write_users
from tfrecords.files import write_whole
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


def metrics_json(
    ranks: UserRanks,
    model: dict[str, Any],
    manifest: Manifest,
    vocabulary: Vocabulary,
    split: str,
    drop_seen: bool = True,
    target_time: bool = False,
) -> dict[str, Any]:
    """The content of metrics.json.

    `repeats` counts the users whose target is in their own history; `drop_seen` is the rule that ranked them.
    `target_time` tells whether the model was told the time of the target. The key
    `unseen_users`, for users without a trained item, exists only if there are any; `catalogue` exists only if the best
    items were computed.
    """
    unseen = ranks.select(ranks.trained_items == 0)
    return {
        "split": split,
        "drop_seen": drop_seen,
        "target_time": target_time,
        **ranks.metrics(),
        "repeats": {"users": int(ranks.repeats.sum()), "share": float(ranks.repeats.mean())},
        **({"unseen_users": unseen.metrics()} if unseen.user_ids else {}),
        "slices": slices(ranks, vocabulary.counts),
        **({"catalogue": catalogue_metrics(ranks.recommended, vocabulary)} if ranks.recommended.shape[1] else {}),
        "model": model,
        "data": {"manifest_sha256": manifest.sha256(), "source": manifest.source, "counts": manifest.counts},
    }


def write_metrics(path: pathlib.Path, metrics: dict[str, Any], ranks: UserRanks, vocabulary: Vocabulary) -> None:
    """Writes metrics.json, and its users beside it, each by rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_users(users_file(path), ranks, vocabulary)
    write_whole(path, _as_json(metrics))


def write_json(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a JSON file by rename, and makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _as_json(content))


def _as_json(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"


def print_results(metrics: dict[str, Any], manifest: Manifest) -> None:
    """Prints the metrics of all users, of users unseen in training, and of groups of users."""
    if metrics["target_time"]:
        print("The model was told the time of each target (evaluation.target_time=true).")
    of_lists = metrics["model"].keys() & {"scores", "ranker"}
    why = "they have fewer, or their lists lack some" if of_lists else "they have fewer"
    _print_metrics(metrics["split"], metrics, manifest, why)
    if "unseen_users" in metrics:
        _print_metrics(f"{metrics['split']}, unseen in training", metrics["unseen_users"], manifest, why)
    _print_slices(metrics)


def _print_metrics(title: str, metrics: dict[str, Any], manifest: Manifest, why_left_out: str) -> None:
    negatives = f"{manifest.config.data.num_negatives} negatives"
    for protocol, candidates in (("full", "all items"), ("sampled", negatives)):
        values = metrics[protocol]
        users = values.get("users", metrics["users"])
        written = "  ".join(f"{name} {values[name]:.4f}" for name in METRICS) if users else "-"
        print(f"{title}, {users:,} users, {candidates + ':':<15} {written}")
    if left_out := metrics["sampled"]["users_left_out"]:
        print(f"{title}, {left_out:,} users left out of the ranking among {negatives}: {why_left_out}")


def _print_slices(metrics: dict[str, Any]) -> None:
    """Prints NDCG@10 by groups of users, and the catalogue's metrics."""
    repeats = metrics["repeats"]
    if repeats["users"]:
        rule = "and count as missed" if metrics["drop_seen"] else "and are ranked"
        print(
            f"repeats: {repeats['users']:,} of {metrics['users']:,} targets ({repeats['share']:.1%}) are in their "
            f"user's own history {rule} (evaluation.drop_seen={str(metrics['drop_seen']).lower()})"
        )
        _print_repeats(metrics["slices"]["repeats"])
    cold = [group for group in metrics["slices"]["cold_targets"] if group["cold"]]
    for group in cold:
        full, users = group["full"], group["users"]
        print(
            f"cold targets, {users:,} of {metrics['users']:,} users: hr@10 {full['hr@10']:.4f}  "
            f"ndcg@10 {full['ndcg@10']:.4f} over all items; no training event has such a target"
        )
    for name, label in (("history_length", "items of history"), ("target_popularity", "training events of the target")):
        written = "  ".join(
            f"{group['from']}{'+' if group['to'] is None else '-' + str(group['to'])} {group['full']['ndcg@10']:.4f}"
            for group in metrics["slices"][name]
        )
        print(f"NDCG@10 of all items by {label}: {written}")
    print("  ".join(f"{name} {value:.4f}" for name, value in metrics["catalogue"].items() if value is not None))


def _print_repeats(groups: list[dict[str, Any]]) -> None:
    written = "  ".join(
        f"{'repeat' if group['repeat'] else 'no repeat'} {group['full']['ndcg@10']:.4f}" for group in groups
    )
    print(f"NDCG@10 of all items by repeats: {written}")


def hardware() -> dict[str, object]:
    """The machine, for metrics.json."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line] if cpuinfo.exists() else []
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cores": os.cpu_count(),
        "gpus": len(tf.config.list_physical_devices("GPU")),
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
    }
