"""A published log through tensorflow-datasets, e.g. `movielens/100k-ratings`."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tfrecords.errors import InputError

_BATCH_ROWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class TfdsLog:
    """A dataset of interactions, with all of its splits; tensorflow-datasets downloads and caches it.

    Attributes:
        name: the argument of `tfds.load`.
        user_column, item_column, timestamp_column, rating_column: features of the dataset.
        timestamp_unit: one of `timestamps.UNITS`; "auto" infers it from the size of the numbers.
    """

    name: str
    user_column: str = "user_id"
    item_column: str = "movie_id"
    timestamp_column: str = "timestamp"
    rating_column: str = "user_rating"
    timestamp_unit: str = "auto"

    def description(self) -> dict[str, Any]:
        """The dataset and its columns, for the manifest."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.timestamp_unit == "auto":  # a manifest older than this option keeps its sha256
            del options["timestamp_unit"]
        return {"format": "tfds"} | options

    def num_rows(self) -> int:
        """The number of rows of all splits."""
        _, info = self._loaded
        return sum(split.num_examples for split in info.splits.values())

    def batches(self) -> Iterator[pa.Table]:
        """The log, piece by piece: user_id and item_id (strings), timestamp, and rating if the dataset has one.

        Raises:
            InputError: the dataset is unknown, cannot be downloaded, or lacks a feature.
        """
        splits, info = self._loaded
        columns = {"user_id": self.user_column, "item_id": self.item_column, "timestamp": self.timestamp_column}
        if self.rating_column in info.features:
            columns["rating"] = self.rating_column
        for name in columns.values():
            if name not in info.features:
                raise InputError(
                    f"{self.name} must have the feature {name!r}. Received: {', '.join(info.features)}. "
                    "Fix: name it with --user_column, --item_column or --timestamp_column"
                )
        import tensorflow_datasets as tfds

        for _, split in sorted(splits.items()):
            for batch in tfds.as_numpy(split.batch(_BATCH_ROWS)):
                yield _table({ours: batch[theirs] for ours, theirs in columns.items()})

    @functools.cached_property
    def _loaded(self) -> tuple[dict[str, Any], Any]:
        import tensorflow_datasets as tfds  # brings TensorFlow, which no other source needs

        try:
            return tfds.load(self.name, with_info=True, shuffle_files=False)
        except Exception as error:  # tfds raises dozens of kinds, its own and those of the network
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"--dataset=tfds:NAME must name a dataset of tensorflow-datasets that is on disk or can be "
                f"downloaded. Received: {self.name!r} ({reason})"
            ) from None


def _table(columns: dict[str, np.ndarray]) -> pa.Table:
    texts = {name: [_text(value) for value in columns.pop(name).tolist()] for name in ("user_id", "item_id")}
    faults = [
        "holds an id that is not UTF-8" if None in ids else None
        for ids in zip(texts["user_id"], texts["item_id"], strict=True)
    ]
    strings = {name: pa.array(values, pa.string()) for name, values in (texts | {"fault": faults}).items()}
    return pa.table(strings | {name: pa.array(values) for name, values in columns.items()})


def _text(value: bytes | int) -> str | None:
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        return None
