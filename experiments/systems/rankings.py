"""What the scripts of this folder share: their one argument, the split's tables, and the files of rankings.

A script is run by `table2.py`, in the environment of its library. Its only argument is a JSON object: split_dir,
output, candidates_output, report, split, top_k, minutes, seed and the system's own options.
"""

import json
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

THREADS = 2
_BLOCK = 256  # users whose scores of all items are in memory together


def read_settings() -> dict[str, Any]:
    """The JSON object that is the only argument."""
    if len(sys.argv) != 2:
        sys.exit(f"error: the only argument must be a JSON object. Received: {sys.argv[1:]}. Fix: run table2.py")
    return json.loads(sys.argv[1])


class Stopwatch:
    """The time since it was made: of the wall clock, and of the processor.

    The limit of a system counts the processor, over `THREADS`, so that other work on the machine takes nothing from it.

    Args:
        minutes: the limit.
    """

    def __init__(self, minutes: float):
        self._limit = 60 * minutes
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def seconds(self) -> float:
        """Of the processor, over the threads: about those of the wall clock on a machine without other work."""
        return (time.process_time() - self._cpu) / THREADS

    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self.seconds() > self._limit

    def times(self) -> dict[str, float]:
        """What a report keeps, in seconds."""
        return {"seconds": round(self.seconds(), 1), "wall_seconds": round(time.monotonic() - self._wall, 1)}


class Split:
    """The tables of `make_tfrecords.py --split_dir`, as a system sees them that is evaluated on one of their splits.

    Attributes:
        settings: of the script.
        train: the events to train on, in order; columns user_id and item_id.
        history: all events before the targets, in order.
        users: the users to rank for.
        items: the items that were trained on, sorted.
    """

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings
        self.train = self._table("train")
        before = ["train"] if settings["split"] == "validation" else ["train", "validation"]
        self.history = pd.concat([self._table(name) for name in before], ignore_index=True)
        self._targets = self._table(settings["split"])
        self.users: list[str] = self._targets["user_id"].tolist()
        self.items = np.unique(self.train["item_id"].to_numpy(str))

    def _table(self, name: str) -> pd.DataFrame:
        return pd.read_parquet(f"{self.settings['split_dir']}/{name}.parquet", columns=["user_id", "item_id"])

    def validation(self) -> pd.DataFrame:
        """The validation targets, by which a system may choose settings and its best epoch."""
        return self._table("validation")

    def write_rankings(self, score: Callable[[list[str]], np.ndarray]) -> None:
        """Writes, for each user, the best items without those of the history, and the order of target and negatives.

        Equal scores are ordered by a permutation of the items that the seed draws, so that they favour no item. An
        item that was not trained on comes last.

        Args:
            score: from B users to their scores of `items`, float [B, V]; NaN is an error, -inf is last.
        """
        column_of = {item: column for column, item in enumerate(self.items.tolist())}
        seen = self.history.groupby("user_id", sort=False)["item_id"].agg(list).to_dict()
        negatives = pd.read_parquet(f"{self.settings['split_dir']}/negatives.parquet")
        negatives = negatives[negatives["split"] == self.settings["split"]]
        negatives_of = dict(zip(negatives["user_id"], negatives["item_ids"], strict=True))
        targets = dict(zip(self._targets["user_id"], self._targets["item_id"], strict=True))
        order = np.random.default_rng(self.settings["seed"]).permutation(len(self.items))
        best, candidates = [], []
        for first in range(0, len(self.users), _BLOCK):
            users = self.users[first : first + _BLOCK]
            scores = np.asarray(score(users), np.float64)
            if scores.shape != (len(users), len(self.items)) or np.isnan(scores).any():
                sys.exit(f"error: {len(users)} users need finite scores of {len(self.items)} items: {scores.shape}")
            for user, row in zip(users, scores, strict=True):
                asked = dict.fromkeys([targets[user], *negatives_of[user]])
                known = [column_of[item] for item in asked if item in column_of]
                ranked = sorted(known, key=lambda column: (-row[column], order[column]))
                unknown = [item for item in asked if item not in column_of]
                candidates.append([*self.items[ranked].tolist(), *unknown])
                row[[column_of[item] for item in seen.get(user, []) if item in column_of]] = -np.inf
                number = min(self.settings["top_k"], len(row))
                top = np.argpartition(-row, number - 1)[:number]
                top = top[np.lexsort((order[top], -row[top]))]
                best.append(self.items[top[row[top] > -np.inf]].tolist())
        _write(self.settings["output"], self.users, best)
        _write(self.settings["candidates_output"], self.users, candidates)

    def write_report(self, **values: Any) -> None:
        """Writes what table2.py keeps of the training: the times of a `Stopwatch`, and how it ended."""
        pathlib.Path(self.settings["report"]).write_text(json.dumps(values) + "\n", encoding="utf-8")


def _write(path: str, user_ids: list[str], lists: list[list[str]]) -> None:
    pd.DataFrame({"user_id": user_ids, "item_ids": lists}).to_parquet(path)
