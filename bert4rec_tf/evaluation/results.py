"""An evaluation as JSON and on the console."""

import os
import pathlib
import platform
from typing import Any

import tensorflow as tf

from bert4rec_tf.evaluation.metrics import METRICS, catalogue_metrics
from bert4rec_tf.evaluation.slices import slices
from bert4rec_tf.evaluation.user_ranks import UserRanks
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


def metrics_json(
    ranks: UserRanks,
    model: dict[str, Any],
    manifest: Manifest,
    vocabulary: Vocabulary,
    split: str,
    drop_seen: bool = True,
) -> dict[str, Any]:
    """The content of metrics.json.

    `repeats` counts the users whose target stands in their own history, and `drop_seen` tells how they were ranked.
    `unseen_users`, those of whom nothing was trained on, are there where there are any, and `catalogue` where the best
    items were asked for.
    """
    unseen = ranks.of(ranks.trained_items == 0)
    return {
        "split": split,
        "drop_seen": drop_seen,
        **ranks.metrics(),
        "repeats": {"users": int(ranks.repeats.sum()), "share": float(ranks.repeats.mean())},
        **({"unseen_users": unseen.metrics()} if unseen.user_ids else {}),
        "slices": slices(ranks, vocabulary.counts),
        **({"catalogue": catalogue_metrics(ranks.recommended, vocabulary)} if ranks.recommended.shape[1] else {}),
        "model": model,
        "data": {"manifest_sha256": manifest.sha256(), "source": manifest.source, "counts": manifest.counts},
    }


def print_metrics(who: str, metrics: dict[str, Any], manifest: Manifest) -> None:
    """Prints the metrics of all users under both protocols; `who` names them."""
    among = f"{manifest.config.data.num_negatives} negatives"
    for protocol, says in (("full", "all items"), ("sampled", among)):
        values = metrics[protocol]
        users = values.get("users", metrics["users"])
        shown = "  ".join(f"{name} {values[name]:.4f}" for name in METRICS) if users else "-"
        print(f"{who}, {users:,} users, {says + ':':<15} {shown}")
    if left_out := metrics["sampled"]["users_left_out"]:
        print(f"{who}, {left_out:,} users left out of the ranking among {among}: they have fewer")


def print_slices(metrics: dict[str, Any]) -> None:
    """Prints NDCG@10 by groups of users, and the catalogue's metrics."""
    repeats = metrics["repeats"]
    if repeats["users"]:
        rule = "and count as missed" if metrics["drop_seen"] else "and are ranked"
        print(
            f"repeats: {repeats['users']:,} of {metrics['users']:,} targets ({repeats['share']:.1%}) stand in their "
            f"user's own history {rule} (evaluation.drop_seen={str(metrics['drop_seen']).lower()})"
        )
        _print_repeats(metrics["slices"]["repeats"])
    for name, says in (("history_length", "items of history"), ("target_popularity", "training events of the target")):
        shown = "  ".join(
            f"{group['from']}{'+' if group['to'] is None else '-' + str(group['to'])} {group['full']['ndcg@10']:.4f}"
            for group in metrics["slices"][name]
        )
        print(f"NDCG@10 of all items by {says}: {shown}")
    print("  ".join(f"{name} {value:.4f}" for name, value in metrics["catalogue"].items() if value is not None))


def _print_repeats(groups: list[dict[str, Any]]) -> None:
    shown = "  ".join(
        f"{'repeat' if group['repeat'] else 'no repeat'} {group['full']['ndcg@10']:.4f}" for group in groups
    )
    print(f"NDCG@10 of all items by repeats: {shown}")


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
