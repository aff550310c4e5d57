"""Item features: what is known of an item besides its id, one row for each item of the vocabulary."""

import dataclasses
import json
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tfrecords.errors import InputError
from tfrecords.manifest import ITEM_FEATURES_FILE
from tfrecords.ragged import Ragged

Kind = Literal["categorical", "numeric", "vector"]
KINDS: tuple[Kind, ...] = ("categorical", "numeric", "vector")
_METADATA = b"item_features"


@dataclasses.dataclass(frozen=True, eq=False)
class CategoricalFeature:
    """One or many categories for each item, such as its brand or its genres.

    Attributes:
        name: of the feature.
        categories: by falling number of items that have them, then by text.
        values: for each item, indices of `categories`, rising and without repeats; none if the item has no value.
    """

    name: str
    categories: tuple[str, ...]
    values: Ragged
    kind: Kind = "categorical"

    @classmethod
    def from_cells(
        cls, name: str, cells: Sequence[Sequence[str]], categories: tuple[str, ...] | None = None
    ) -> "CategoricalFeature":
        """Numbers the categories of the items' cells.

        Args:
            name: of the feature.
            cells: the categories of each item.
            categories: those of an earlier file, which keep their numbers; others are left out. None: all are numbered.

        >>> genres = CategoricalFeature.from_cells("genres", [["War", "Drama"], ["Drama"], []])
        >>> genres.categories, genres.values.values.tolist(), genres.values.lengths.tolist()
        (('Drama', 'War'), [0, 1, 0], [2, 1, 0])
        """
        distinct = [set(cell) for cell in cells]
        if categories is None:
            counts = Counter(category for cell in distinct for category in cell)
            categories = tuple(sorted(counts, key=lambda category: (-counts[category], category)))
        index = {category: number for number, category in enumerate(categories)}
        numbers = [sorted(index[category] for category in cell if category in index) for cell in distinct]
        flat = np.array([number for row in numbers for number in row], np.int64)
        return cls(name, categories, Ragged.from_lengths(flat, np.array([len(row) for row in numbers], np.int64)))

    def item_counts(self) -> np.ndarray:
        """int64 [categories], the number of items that have each category.

        >>> CategoricalFeature.from_cells("genres", [["War", "Drama"], ["Drama"]]).item_counts().tolist()
        [2, 1]
        """
        return np.bincount(self.values.values, minlength=len(self.categories))


@dataclasses.dataclass(frozen=True, eq=False)
class NumericFeature:
    """One number for each item, such as its price or its year.

    Attributes:
        name: of the feature.
        values: float64 [items], NaN if the item has no value.
        mean: of the values that the model is trained with, for `standardised`.
        deviation: their standard deviation; 1 if they are all equal.
    """

    name: str
    values: np.ndarray
    mean: float
    deviation: float
    kind: Kind = "numeric"

    @classmethod
    def from_values(cls, name: str, values: np.ndarray) -> "NumericFeature":
        """Measures mean and deviation of the values, float64 [items], NaN if missing.

        >>> year = NumericFeature.from_values("year", np.array([1990.0, 2000.0, np.nan]))
        >>> year.mean, year.deviation
        (1995.0, 5.0)
        """
        present = values[~np.isnan(values)]
        mean, deviation = (float(present.mean()), float(present.std())) if len(present) else (0.0, 0.0)
        return cls(name, values, mean, deviation if deviation > 0 else 1.0)

    def standardised(self) -> np.ndarray:
        """(value - mean) / deviation, from -10 to 10: float32 [items], 0 if the item has no value.

        >>> NumericFeature.from_values("year", np.array([1990.0, 2000.0, np.nan])).standardised().tolist()
        [-1.0, 1.0, 0.0]
        """
        scaled = np.clip((self.values - self.mean) / self.deviation, -10, 10)
        return np.where(np.isnan(self.values), 0.0, scaled).astype(np.float32)

    def present(self) -> np.ndarray:
        """Whether an item has a value, bool [items]."""
        return ~np.isnan(self.values)


@dataclasses.dataclass(frozen=True, eq=False)
class VectorFeature:
    """A vector for each item that an encoder of text, images or anything else made.

    Attributes:
        name: of the feature.
        values: float32 [items, size], rows of NaN for items without a vector.
    """

    name: str
    values: np.ndarray
    kind: Kind = "vector"

    def normalised(self) -> np.ndarray:
        """The vectors, scaled to the length √size: float32 [items, size], 0 if the item has none.

        >>> VectorFeature("text", np.array([[3.0, 4.0], [np.nan, np.nan]], np.float32)).normalised().round(3).tolist()
        [[0.849, 1.131], [0.0, 0.0]]
        """
        values = np.nan_to_num(self.values, nan=0.0)
        lengths = np.linalg.norm(values, axis=1, keepdims=True)
        scaled = values / np.where(lengths > 0, lengths, 1) * np.sqrt(values.shape[1])
        return scaled.astype(np.float32)

    def present(self) -> np.ndarray:
        """Whether an item has a vector, bool [items]."""
        return ~np.isnan(self.values).any(axis=1)


ItemFeature = CategoricalFeature | NumericFeature | VectorFeature


@dataclasses.dataclass(frozen=True, eq=False)
class ItemFeatures:
    """The features of all items of a vocabulary, in its order.

    Attributes:
        item_ids: raw ids.
        features: in the order of the input's columns.
    """

    item_ids: tuple[str, ...]
    features: tuple[ItemFeature, ...]

    def to_bytes(self) -> bytes:
        """The content of `item_features.parquet`; equal features give equal bytes.

        >>> year = NumericFeature.from_values("year", np.array([1990.0, np.nan]))
        >>> features = ItemFeatures(("1", "2"), (year,))
        >>> features.to_bytes() == ItemFeatures.from_bytes(features.to_bytes(), "a copy").to_bytes()
        True
        """
        columns = {"item_id": pa.array(list(self.item_ids), pa.string())}
        descriptions = []
        for feature in self.features:
            column, description = _to_column(feature)
            columns[feature.name] = column
            descriptions.append({"name": feature.name, "kind": feature.kind} | description)
        metadata = {_METADATA: json.dumps(descriptions, ensure_ascii=False)}
        stream = pa.BufferOutputStream()
        table = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(table, stream, compression="zstd")
        return stream.getvalue().to_pybytes()

    @classmethod
    def from_bytes(cls, content: bytes, origin: str) -> "ItemFeatures":
        """Reads what `to_bytes` wrote; `origin` names it in errors.

        Raises:
            InputError: the content is something else.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(content))
            descriptions = json.loads(file.metadata.metadata[_METADATA])
            table = file.read()
            item_ids = tuple(table["item_id"].to_pylist())
            features = tuple(_from_column(table[row["name"]], row) for row in descriptions)
        except (pa.ArrowException, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{origin} must be item features written by pipelines/make_tfrecords.py. Received: {error!r:.200}. "
                "Fix: rebuild the directory"
            ) from None
        return cls(item_ids, features)

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "ItemFeatures | None":
        """Reads the features of a data or model directory; None if it has none.

        >>> ItemFeatures.load("data") is None
        True
        """
        path = pathlib.Path(directory) / ITEM_FEATURES_FILE
        return cls.from_bytes(path.read_bytes(), str(path)) if path.is_file() else None

    def counts(self) -> dict[str, int]:
        """How many items have a value of each feature."""
        return {feature.name: int(_has_value(feature).sum()) for feature in self.features}

    def followed_by(self, other: "ItemFeatures") -> "ItemFeatures":
        """These items and, after them, those of `other`, which has the same features and categories.

        >>> one, two = (ItemFeatures((id,), (NumericFeature(id, np.ones(1), 0.0, 1.0),)) for id in ("a", "b"))
        >>> one.followed_by(two).item_ids
        ('a', 'b')
        """
        pairs = zip(self.features, other.features, strict=True)
        features = tuple(
            dataclasses.replace(first, values=_concatenated(first.values, second.values)) for first, second in pairs
        )
        return ItemFeatures(self.item_ids + other.item_ids, features)

    def rows(self, indices: np.ndarray) -> "ItemFeatures":
        """The items at `indices`, int64 [any], in that order."""
        features = tuple(
            dataclasses.replace(feature, values=_rows(feature.values, indices)) for feature in self.features
        )
        return ItemFeatures(tuple(self.item_ids[index] for index in indices), features)

    def categorical(self) -> tuple[CategoricalFeature, ...]:
        """Only the categorical features."""
        return tuple(feature for feature in self.features if isinstance(feature, CategoricalFeature))

    def description(self) -> str:
        """Names, kinds and sizes of the features, which must be equal for one model to read both.

        >>> ItemFeatures(("1",), (VectorFeature("text", np.ones([1, 4], np.float32)),)).description()
        'text (vector of 4)'
        """
        return ", ".join(f"{feature.name} ({kind_and_size(feature.kind, feature.values)})" for feature in self.features)

    def has_value(self) -> np.ndarray:
        """Whether an item has a value of any feature, bool [items]."""
        return np.any([_has_value(feature) for feature in self.features], axis=0)


def _concatenated(first: Ragged | np.ndarray, second: Ragged | np.ndarray) -> Any:
    if isinstance(first, Ragged) and isinstance(second, Ragged):
        lengths = np.concatenate([first.lengths, second.lengths])
        return Ragged.from_lengths(np.concatenate([first.values, second.values]), lengths)
    return np.concatenate([first, second])


def _rows(values: Ragged | np.ndarray, indices: np.ndarray) -> Any:
    return values.rows(indices) if isinstance(values, Ragged) else values[indices]


def kind_and_size(kind: str, values: Any) -> str:
    """What must be equal for one model to read two features of the same name.

    >>> kind_and_size("vector", np.ones([1, 4]))
    'vector of 4'
    """
    return f"vector of {values.shape[1]}" if kind == "vector" else kind


def _has_value(feature: ItemFeature) -> np.ndarray:
    return feature.values.lengths > 0 if isinstance(feature, CategoricalFeature) else feature.present()


def _to_column(feature: ItemFeature) -> tuple[pa.Array, dict[str, Any]]:
    """The column that stores a feature, and what else its reader needs."""
    if isinstance(feature, CategoricalFeature):
        offsets = pa.array(feature.values.offsets, pa.int32())
        column = pa.ListArray.from_arrays(offsets, pa.array(feature.values.values, pa.int32()))
        return column, {"categories": list(feature.categories)}
    if isinstance(feature, NumericFeature):
        column = pa.array(feature.values, pa.float64(), mask=~feature.present())
        return column, {"mean": feature.mean, "deviation": feature.deviation}
    size = feature.values.shape[1]
    flat = pa.array(np.ascontiguousarray(feature.values, np.float32).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, size)
    return column, {"size": size}


def _from_column(column: pa.ChunkedArray, description: dict[str, Any]) -> ItemFeature:
    array = column.combine_chunks()
    name, kind = description["name"], description["kind"]
    if kind == "categorical":
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
        values = Ragged.from_lengths(array.flatten().to_numpy(zero_copy_only=False).astype(np.int64), lengths)
        categories = tuple(description["categories"])
        if not (all(isinstance(category, str) for category in categories) and _inside(values.values, len(categories))):
            raise ValueError(f"{name} has a category that is not listed")
        return CategoricalFeature(name, categories, values)
    if kind == "numeric":
        numbers = array.to_numpy(zero_copy_only=False).astype(np.float64)
        return NumericFeature(name, numbers, float(description["mean"]), float(description["deviation"]))
    if kind == "vector":
        vectors = array.flatten().to_numpy(zero_copy_only=False).reshape(len(array), int(description["size"]))
        return VectorFeature(name, vectors.astype(np.float32))
    raise ValueError(f"{name} is of an unknown kind, {kind!r}")


def _inside(values: np.ndarray, limit: int) -> bool:
    return len(values) == 0 or (int(values.min()) >= 0 and int(values.max()) < limit)
