"""Does one run rank better than another? The paired bootstrap over users."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from bert4rec_tf.evaluation.metrics import NO_RANK, ranking_gains, sampled_metrics
from bert4rec_tf.evaluation.user_ranks import UserRanks, read_users, users_file, users_table
from tfrecords.errors import InputError, check_local
from tfrecords.vocabulary import Vocabulary

RESAMPLES = 10_000
PROTOCOLS = ("full", "sampled")
_SEED = 1
_BLOCK_DRAWS = 1 << 20  # numbers drawn in one call
_MAX_CELLS = 4096  # up to this many groups of users with equal differences are drawn exactly
_GRID = 256  # with more groups, differences are rounded to this many steps in a standard deviation


@dataclasses.dataclass(frozen=True)
class Run:
    """An evaluation, with the ranks of its users.

    Attributes:
        name: the metrics file, or another name for messages.
        split, manifest_sha256: the evaluated split, and the sha256 of the records' manifest.
        drop_seen: `evaluation.drop_seen`; None if an older version wrote the file.
        user_ids, target_item_ids: raw ids, by rising user id.
        ranks: protocol -> int32 [users]; NO_RANK for a user whom the protocol leaves out.
    """

    name: str
    split: str
    manifest_sha256: str
    drop_seen: bool | None
    user_ids: list[str]
    target_item_ids: list[str]
    ranks: dict[str, np.ndarray]

    @classmethod
    def from_evaluation(cls, name: str, metrics: dict[str, Any], ranks: UserRanks, vocabulary: Vocabulary) -> "Run":
        """A run that is in memory.

        Args:
            name: for messages.
            metrics: from `metrics_json`; its split, records and rule are read.
            ranks: of its users.
            vocabulary: of the records.
        """
        table = users_table(ranks, vocabulary).sort_by("user_id")
        return cls._from_table(name, metrics["split"], metrics["data"]["manifest_sha256"], metrics["drop_seen"], table)

    def check_rules(self, name: str, split: str, manifest_sha256: str, drop_seen: bool | None) -> None:
        """Checks that another evaluation, called `name`, has the same records, split and rule.

        Raises:
            InputError: they differ.
        """
        if (manifest_sha256, split) != (self.manifest_sha256, self.split):
            raise InputError(
                f"Compared runs must have the same split of the same records. Received: {name} of {split}, manifest "
                f"{manifest_sha256[:12]}, and {self.name} of {self.split}, manifest {self.manifest_sha256[:12]}. "
                "Fix: evaluate both with the same --data_dir and --split"
            )
        if drop_seen != self.drop_seen:
            rules = ["none (an older file)" if rule is None else rule for rule in (drop_seen, self.drop_seen)]
            raise InputError(
                f"Compared runs must have the same evaluation.drop_seen. Received: {rules[0]} in {name} and "
                f"{rules[1]} in {self.name}. Fix: evaluate both again with the same --drop_seen"
            )

    @classmethod
    def _from_table(cls, name: str, split: str, manifest_sha256: str, drop_seen: bool | None, table: pa.Table) -> "Run":
        ranks = {protocol: table[f"{protocol}_rank"].fill_null(NO_RANK).to_numpy() for protocol in PROTOCOLS}
        user_ids, target_item_ids = table["user_id"].to_pylist(), table["target_item_id"].to_pylist()
        return cls(name, split, manifest_sha256, drop_seen, user_ids, target_item_ids, ranks)


def compare_runs(metrics_files: Sequence[str | pathlib.Path]) -> dict[str, Any]:
    """Compares two evaluations of the same users, B with A.

    Args:
        metrics_files: A and B, written by `evaluate.py --output`, each with its users beside it.

    Returns:
        The result of `compare`.

    Raises:
        InputError: not two files, files that are missing or damaged, or evaluations of different users, targets,
            records or rules.
    """
    if len(metrics_files) != 2:
        raise InputError(
            f"--compare takes two runs. Received: {len(metrics_files)}. Fix: --compare=a/metrics.json,b/metrics.json"
        )
    return compare(*(read_run(path, "compare") for path in metrics_files))


def compare(a: Run, b: Run) -> dict[str, Any]:
    """Compares two evaluations of the same users, B with A.

    Returns:
        "a", "b", "split", "users", "sampled_users" (users whom both runs rank among negatives), "manifest_sha256",
        "resamples", "seed", and for each protocol, metric -> `paired_bootstrap`; empty if the protocol has no user.
        Each row also has "p_holm", the p-value corrected for all rows of both protocols together.

    Raises:
        InputError: evaluations of different users, targets, records or rules.
    """
    _check_comparable(a, b)
    found: dict[str, Any] = {
        "a": a.name,
        "b": b.name,
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
            gains_a, gains_b = (ranking_gains(run.ranks[protocol][ranked]) for run in (a, b))
            found[protocol] = paired_bootstrap(gains_a, gains_b)
    rows = [row for protocol in PROTOCOLS for row in found[protocol].values()]
    for row, corrected in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = corrected
    return found


def print_comparison(comparison: dict[str, Any]) -> None:
    """Prints the result of `compare_runs`: a row for each metric of each protocol."""
    print(f"A: {comparison['a']}\nB: {comparison['b']}\n{comparison['split']}, {comparison['users']:,} users")
    print(f"{'':<16}{'A':>8}{'B':>9}{'B - A':>9}{'95% interval':>20}{'p':>9}{'p (Holm)':>10}")
    for protocol in PROTOCOLS:
        for name, row in comparison[protocol].items():
            low, high = row["ci95"]
            values = f"{row['a']:>8.4f} {row['b']:>8.4f} {row['difference']:>+8.4f}   [{low:+.4f}, {high:+.4f}]"
            print(f"{protocol + ' ' + name:<16}{values} {row['p']:>8.4f} {row['p_holm']:>9.4f}")


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method.

    The chance that any true null hypothesis of the family gets a corrected value below .05 is at most 5%. The smallest
    value is multiplied by the number of values n, the next one by n - 1, and so on. No corrected value is smaller than
    the one before it, or larger than 1.
    """
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = floor
    return corrected


def paired_bootstrap(
    a: dict[str, np.ndarray], b: dict[str, np.ndarray], resamples: int = RESAMPLES, seed: int = _SEED
) -> dict[str, dict[str, Any]]:
    """The difference of two means, with an interval and a p-value.

    A resample draws as many users as there are, with replacement, each with both gains; all metrics share the draws.
    The interval holds the middle 95% of the resampled differences. p is two-sided: twice the smaller of two shares,
    that of differences at most 0 and that of differences at least 0. The observed difference counts in both shares, so
    p is at least 2 / (resamples + 1); it is at most 1.

    Args:
        a: metric -> float64 [users], the gain of each user.
        b: the same metrics of the same users, in the same order.
        resamples: number of resamples.
        seed: seed of the draws.

    Returns:
        Metric -> "a" and "b", the means, "difference", b - a, "ci95", [low, high], and "p".
    """
    differences = np.stack([b[name] - a[name] for name in a], axis=1)
    # Gains that cancel out leave rounding errors of 1e-18, which must count as 0.
    resampled = np.round(_resampled_means(differences, resamples, seed), 12)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    extreme = np.minimum(np.sum(resampled <= 0, axis=0), np.sum(resampled >= 0, axis=0))
    p = np.minimum(2 * (extreme + 1) / (resamples + 1), 1)
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
    """Means over users drawn with replacement: float64 [users, M] -> float64 [resamples, M].

    Users with equal values form a cell. The number of draws of each cell is multinomial, so the cost grows with the
    number of cells, not of users.
    """
    means, sizes = _cells(values)
    users, generator = len(values), np.random.default_rng(seed)
    resampled = np.empty([resamples, values.shape[1]])
    rows = max(1, _BLOCK_DRAWS // len(sizes))
    for first in range(0, resamples, rows):
        number = min(rows, resamples - first)
        drawn = generator.multinomial(users, sizes / users, size=number)
        resampled[first : first + number] = drawn.astype(np.float64) @ means / users
    return resampled


def _cells(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Groups of users with equal values, in the order of their first users.

    If there are more than `_MAX_CELLS` groups, values are rounded to steps of a `_GRID`th of their standard deviation,
    and those of the same step count as equal. A cell has the mean of its users, so the resampled means keep their mean,
    and lose at most 4 millionths of their variance.

    Returns:
        The mean of each cell, float64 [cells, M], and its number of users, int64 [cells].
    """
    _, first, cell, sizes = _unique_rows(np.round(values, 12))
    if len(sizes) > _MAX_CELLS:
        deviations = values.std(axis=0)
        _, first, cell, sizes = _unique_rows(np.round(values * (_GRID / np.where(deviations > 0, deviations, 1.0))))
    sums = [np.bincount(cell, column, minlength=len(sizes)) for column in values.T]
    order = np.argsort(first)
    return (np.stack(sums, axis=1) / sizes[:, None])[order], sizes[order]


def _unique_rows(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """`np.unique` of rows: values, first indices, the index of each row's value, and counts."""
    rows = rows + 0.0  # -0.0 and 0.0 are one value
    values, first, cell, sizes = np.unique(rows, axis=0, return_index=True, return_inverse=True, return_counts=True)
    return values, first, cell.ravel(), sizes


def read_run(metrics_file: str | pathlib.Path, flag: str) -> Run:
    """Reads an evaluation that `evaluate.py --output` wrote.

    Args:
        metrics_file: the metrics, with the users beside them.
        flag: the flag that names the file, for messages.

    Raises:
        InputError: a file is missing or damaged.
    """
    check_local(flag, metrics_file)
    path = pathlib.Path(metrics_file)
    if not path.is_file():
        raise InputError(
            f"--{flag} takes files written by evaluate.py --output. Received: {path}, which is not a file. "
            "Fix: evaluate each run with --output first"
        )
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        split, sha256 = metrics["split"], metrics["data"]["manifest_sha256"]
        drop_seen = metrics.get("drop_seen")
        written = np.array([metrics[protocol]["mrr"] for protocol in PROTOCOLS], float)  # null becomes NaN
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} must be metrics written by evaluate.py --output. Received: {error!r:.200}. Fix: evaluate again"
        ) from None
    run = Run._from_table(str(path), split, sha256, drop_seen, read_users(users_file(path)))
    # The metrics and the users file may come from different evaluations.
    kept = np.array([sampled_metrics(run.ranks[protocol])["mrr"] for protocol in PROTOCOLS], float)
    if not run.user_ids or not np.allclose(kept, written, rtol=1e-9, equal_nan=True):
        raise InputError(
            f"{users_file(path)} must hold the users of {path}. Received: ranks that do not give its metrics. "
            "Fix: run evaluate.py with --output again, or copy both files"
        )
    return run


def _check_comparable(a: Run, b: Run) -> None:
    b.check_rules(a.name, a.split, a.manifest_sha256, a.drop_seen)
    fix = "Fix: evaluate both again with the same --data_dir and --split"
    if a.user_ids != b.user_ids:
        alone = sorted(set(a.user_ids) ^ set(b.user_ids))[:3]
        raise InputError(
            f"Compared runs must have the same users. Received: {len(a.user_ids):,} in {a.name} and "
            f"{len(b.user_ids):,} in {b.name}; not in both: {', '.join(map(repr, alone))}. {fix}"
        )
    if a.target_item_ids != b.target_item_ids:
        pairs = zip(a.target_item_ids, b.target_item_ids, strict=True)
        user = next(index for index, (target_a, target_b) in enumerate(pairs) if target_a != target_b)
        raise InputError(
            f"Compared runs must have the same targets. Received: for user {a.user_ids[user]!r} "
            f"{a.target_item_ids[user]!r} in {a.name} and {b.target_item_ids[user]!r} in {b.name}. {fix}"
        )
