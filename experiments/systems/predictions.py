"""What the scripts of this folder share: their one argument, the split's tables, and the file of predictions.

A script is run by `table2.py`, in the environment of its library. Its only argument is a JSON object: split_dir,
output, split, top_k, seed and the system's own options.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import pandas as pd


def read_settings() -> dict[str, Any]:
    """The JSON object that is the only argument."""
    if len(sys.argv) != 2:
        sys.exit(f"error: the only argument must be a JSON object. Received: {sys.argv[1:]}. Fix: run table2.py")
    return json.loads(sys.argv[1])


def read_events(settings: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The events to train on, and the whole histories before the targets, in order; columns user_id and item_id."""
    folder = settings["split_dir"]
    train = pd.read_parquet(f"{folder}/train.parquet", columns=["user_id", "item_id"])
    history = train
    if settings["split"] == "test":
        validation = pd.read_parquet(f"{folder}/validation.parquet", columns=["user_id", "item_id"])
        history = pd.concat([train, validation], ignore_index=True)
    return train, history


def users_to_rank(settings: dict[str, Any]) -> list[str]:
    """The users of the split."""
    table = pd.read_parquet(f"{settings['split_dir']}/{settings['split']}.parquet", columns=["user_id"])
    return table["user_id"].tolist()


def write_predictions(settings: dict[str, Any], user_ids: Sequence[str], item_ids: Sequence[Sequence[str]]) -> None:
    """Writes a list of items for each user, best first."""
    pd.DataFrame({"user_id": list(user_ids), "item_ids": [list(items) for items in item_ids]}).to_parquet(
        settings["output"]
    )
