"""Whether one run ranks better than another: the paired bootstrap over users."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from bert4rec_tf.errors import InputError
from bert4rec_tf.metrics import NO_RANK, ranking_gains, sampled_metrics
from bert4rec_tf.user_ranks import read_users, users_file

RESAMPLES = 10_000
PROTOCOLS = ("full", "sampled")
_SEED = 1
_BLOCK_DRAWS = 1 << 18  # at once: they stay in the processor's cache


@dataclasses.dataclass(frozen=True)
class _Run:
    """An evaluation, as it was written.

    Attributes:
        path: of its metrics file.
        split, manifest_sha256: what was asked.
        user_ids, target_item_ids: raw ids, by rising user id.
        ranks: int32 [users] by protocol; NO_RANK where the user is left out of it.
    """

    path: pathlib.Path
    split: str
    manifest_sha256: str
    user_ids: list[str]
    target_item_ids: list[str]
    ranks: dict[str, np.ndarray]


def compare_runs(metrics_files: Sequence[str | pathlib.Path]) -> dict[str, Any]:
    """Compares two evaluations of the same users, B with A.

    Args:
        metrics_files: A and B, written by `evaluate.py --output`, each with its users beside it.

    Returns:
        "a", "b", "split", "users", "sampled_users" (those whom both runs rank among negatives), "manifest_sha256",
        "resamples", "seed", and for each protocol, metric -> `paired_bootstrap`, empty where it has no user.

    Raises:
        InputError: not two files, files that are missing or damaged, or that do not ask the same of the same users.
    """
    if len(metrics_files) != 2:
        raise InputError(
            f"Two runs are compared. Received: {len(metrics_files)}. Fix: --compare=a/metrics.json,b/metrics.json"
        )
    a, b = (_read(pathlib.Path(path)) for path in metrics_files)
    _check_same_users(a, b)
    found: dict[str, Any] = {
        "a": str(a.path),
        "b": str(b.path),
        "split": a.split,
        "users": len(a.user_ids),
        "sampled_users": int(np.sum((a.ranks["sampled"] != NO_RANK) & (b.ranks["sampled"] != NO_RANK))),
        "manifest_sha256": a.manifest_sha256,
        "resamples": RESAMPLES,
        "seed": _SEED,
    }
    for protocol in PROTOCOLS:
        ranked = (a.ranks[protocol] != NO_RANK) & (b.ranks[protocol] != NO_RANK)
        found[protocol] = {}
        if ranked.any():
            of_a, of_b = (ranking_gains(run.ranks[protocol][ranked]) for run in (a, b))
            found[protocol] = paired_bootstrap(of_a, of_b)
    return found


def paired_bootstrap(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], resamples: int = RESAMPLES, seed: int = _SEED
) -> dict[str, dict[str, Any]]:
    """What the difference of two means is, and how sure its sign.

    Users are drawn with replacement, as many as there are, each with both of its gains; all metrics share the draws.
    The interval holds the middle 95% of the resampled differences; p is twice the smaller one of the shares that are
    at most 0 and at least 0, within [1 / (resamples + 1), 1].

    Args:
        a: for each metric, float64 [users].
        b: the same metrics of the same users, in the same order.
        resamples: how often users are drawn.
        seed: of the draws.

    Returns:
        Metric -> "a" and "b", the means, "difference", b - a, "ci95", [low, high], and "p".
    """
    differences = np.stack([b[name] - a[name] for name in a], axis=1)
    # Gains that cancel out leave rests of 1e-18, which are neither above nor below 0.
    resampled = np.round(_resampled_means(differences, resamples, seed), 12)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    shares = np.minimum(np.mean(resampled <= 0, axis=0), np.mean(resampled >= 0, axis=0))
    p = np.clip(2 * shares, 1 / (resamples + 1), 1)
    return {
        name: {
            "a": float(a[name].mean()),
            "b": float(b[name].mean()),
            "difference": float(differences[:, column].mean()),
            "ci95": [float(low[column]), float(high[column])],
            "p": float(p[column]),
        }
        for column, name in enumerate(a)
    }


def _resampled_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means over users drawn with replacement: float64 [users, M] -> float64 [resamples, M]."""
    users, generator = len(values), np.random.default_rng(seed)
    means = np.empty([resamples, values.shape[1]])
    rows = max(1, _BLOCK_DRAWS // users)
    for first in range(0, resamples, rows):
        number = min(rows, resamples - first)
        drawn = generator.integers(users, size=[number, users]) + users * np.arange(number)[:, None]
        times = np.bincount(drawn.ravel(), minlength=number * users).reshape(number, users)
        means[first : first + number] = times.astype(np.float64) @ values / users
    return means


def _read(path: pathlib.Path) -> _Run:
    if not path.is_file():
        raise InputError(f"--compare takes files written by evaluate.py --output. Received: {path}, which is no file")
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        split, sha256 = metrics["split"], metrics["data"]["manifest_sha256"]
        written = np.array([metrics[protocol]["mrr"] for protocol in PROTOCOLS], float)  # null becomes NaN
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} must be metrics written by evaluate.py --output. Received: {error!r:.200}. Fix: evaluate again"
        ) from None
    table = read_users(users_file(path))
    ranks = {protocol: table[f"{protocol}_rank"].fill_null(NO_RANK).to_numpy() for protocol in PROTOCOLS}
    # The two files could be of different evaluations, and the comparison then of neither.
    kept = np.array([sampled_metrics(ranks[protocol])["mrr"] for protocol in PROTOCOLS], float)
    if not len(table) or not np.allclose(kept, written, rtol=1e-9, equal_nan=True):
        raise InputError(
            f"{users_file(path)} must hold the users of {path}. Received: other ranks than its metrics are of. "
            "Fix: run evaluate.py with --output again, or copy both files"
        )
    return _Run(path, split, sha256, table["user_id"].to_pylist(), table["target_item_id"].to_pylist(), ranks)


def _check_same_users(a: _Run, b: _Run) -> None:
    if (a.manifest_sha256, a.split) != (b.manifest_sha256, b.split):
        raise InputError(
            f"Runs are compared on the same split of the same records. Received: {a.path} of {a.split}, manifest "
            f"{a.manifest_sha256[:12]}, and {b.path} of {b.split}, manifest {b.manifest_sha256[:12]}. "
            "Fix: evaluate both with the same --data_dir and --split"
        )
    fix = "Fix: evaluate both again with the same --data_dir and --split"
    if a.user_ids != b.user_ids:
        alone = sorted(set(a.user_ids) ^ set(b.user_ids))[:3]
        raise InputError(
            f"Runs are compared over the same users. Received: {len(a.user_ids):,} in {a.path} and "
            f"{len(b.user_ids):,} in {b.path}; not in both: {', '.join(map(repr, alone))}. {fix}"
        )
    if a.target_item_ids != b.target_item_ids:
        user = next(place for place, item in enumerate(a.target_item_ids) if item != b.target_item_ids[place])
        raise InputError(
            f"Runs are compared over the same targets. Received: for user {a.user_ids[user]!r} "
            f"{a.target_item_ids[user]!r} in {a.path} and {b.target_item_ids[user]!r} in {b.path}. {fix}"
        )
