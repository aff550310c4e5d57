"""Reads tables of item features: Parquet, CSV, TSV or JSONL with the column `item_id` and one column a feature."""

import contextlib
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.delimited import read_table
from pipelines.sources.line_reader import read_lines
from tfrecords.errors import InputError, check_local
from tfrecords.files import file_sha256
from tfrecords.item_features import (
    KINDS,
    CategoricalFeature,
    ItemFeature,
    ItemFeatures,
    NumericFeature,
    VectorFeature,
    kind_and_size,
)

ITEM_ID, TITLE = "item_id", "title"
_VALUE_SEPARATOR = "|"  # between several categories in a cell of a text file
_PARQUET, _JSON, _TEXT = (".parquet",), (".jsonl", ".ndjson"), (".csv", ".tsv", ".txt", ".item")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+(?:[eE][+-]?\d+)?|[+-]?\d+\.?[eE][+-]?\d+")
_FIX_KIND = "correct the cell, or name another kind, such as --item_feature_kinds={name}:categorical"
Cell = Any  # None, text, a number, or a list of these


@dataclasses.dataclass(frozen=True, eq=False)
class FeatureTable:
    """A table of items as it was read; `features_of` numbers it for a vocabulary.

    Attributes:
        path: of the file.
        item_ids: raw ids, one a row.
        places: of each row in the file, such as "line 5".
        columns: the cells of each feature, by its name: lists of text for "categorical", float64 [rows] for "numeric",
            float32 [rows, size] for "vector"; NaN is missing.
        kinds: of each feature, by its name.
        titles: by raw item id, from the column `title`.
    """

    path: str
    item_ids: list[str]
    places: Sequence[str]
    columns: dict[str, Any]
    kinds: dict[str, str]
    titles: dict[str, str]

    def description(self) -> dict[str, Any]:
        """The manifest's entry for the file, as JSON values."""
        path = pathlib.Path(self.path)
        return {"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path), "kinds": self.kinds}

    def features_of(self, item_ids: Sequence[str], known: ItemFeatures | None = None) -> ItemFeatures:
        """The features of the given items, in their order; an item that is not in the table has none.

        Args:
            item_ids: raw ids.
            known: the features that a model was trained with: their categories keep their numbers, others are left
                out, and numbers are standardised as theirs.

        Raises:
            InputError: none of the items is in the table, a feature has no value for any of them, or the features
                differ from the known ones in name, kind or size.
        """
        if known is not None:
            self._check_same_features(known)
        rows_by_id = {item_id: row for row, item_id in enumerate(self.item_ids)}
        rows = np.array([rows_by_id.get(item_id, -1) for item_id in item_ids], np.int64)
        if not (rows >= 0).any():
            raise InputError(
                f"Item features must be of items of the log. Received: {self.path}, of whose {len(self.item_ids):,} "
                f"items none is in the log; its first item_id is {self.item_ids[0]!r}, the log's {item_ids[0]!r}. "
                "Fix: write the ids as the log does"
            )
        names = list(self.columns) if known is None else [feature.name for feature in known.features]
        knowns = [None] * len(names) if known is None else list(known.features)
        features = tuple(self._feature(name, rows, old) for name, old in zip(names, knowns, strict=True))
        found = ItemFeatures(tuple(item_ids), features)
        empty = [name for name, count in found.counts().items() if count == 0]
        if known is None and empty:
            raise InputError(
                f"A feature needs a value for an item of the log. Received: {self.path}, whose column {empty[0]} is "
                "empty for all of them. Fix: leave that column out"
            )
        return found

    def items_outside(self, item_ids: Iterable[str]) -> list[int]:
        """The rows whose item is not among the given ones."""
        inside = set(item_ids)
        return [row for row, item_id in enumerate(self.item_ids) if item_id not in inside]

    def _feature(self, name: str, rows: np.ndarray, known: ItemFeature | None) -> ItemFeature:
        cells, found = self.columns[name], rows >= 0
        if self.kinds[name] == "categorical":
            categories = known.categories if isinstance(known, CategoricalFeature) else None
            return CategoricalFeature.from_cells(name, [cells[row] if row >= 0 else () for row in rows], categories)
        if self.kinds[name] == "numeric":
            numbers = np.where(found, cells[rows], np.nan)
            if isinstance(known, NumericFeature):
                return NumericFeature(name, numbers, known.mean, known.deviation)
            return NumericFeature.from_values(name, numbers)
        return VectorFeature(name, np.where(found[:, None], cells[rows], np.float32(np.nan)))

    def _check_same_features(self, known: ItemFeatures) -> None:
        expected = {feature.name: kind_and_size(feature.kind, feature.values) for feature in known.features}
        received = {name: kind_and_size(self.kinds[name], column) for name, column in self.columns.items()}
        if {name: received.get(name) for name in expected} != expected:
            raise InputError(
                f"Item features must have the columns that the model was trained with: {_listed(expected)}. "
                f"Received: {self.path} with {_listed(received)}. Fix: write the same columns"
            )


def read_feature_table(
    path: str, kinds: Mapping[str, str] | None = None, usual_kinds: Mapping[str, str] | None = None
) -> FeatureTable:
    """Reads a table of items.

    A column's kind follows from its values: text and integers are categories, numbers with a decimal point are numeric,
    lists of numbers with a decimal point are vectors, and lists of anything else are several categories. In CSV and
    TSV, `|` separates several categories, and a vector is a JSON list. The column `title` is no feature.

    Args:
        path: Parquet, CSV, TSV or JSONL by its ending; text may be compressed.
        kinds: "categorical", "numeric" or "vector" by column name, instead of the kind that follows from the values.
        usual_kinds: the same for columns that the file may lack, such as those that a model was trained with.

    Raises:
        InputError: the file cannot be read, has no column `item_id` or no feature, an item without an id or with two
            rows, a number that cannot be read, or vectors of different sizes; names the file and the row.
    """
    kinds = dict(kinds or {})
    check_local("item_features", path)
    ending = _ending(path)
    try:
        if ending in _PARQUET:
            names, columns, places = _read_parquet(path)
        elif ending in _JSON:
            names, columns, places = _read_json(path)
        elif ending in _TEXT:
            names, columns, places = _read_text(path)
        else:
            raise InputError(
                "--item_features must be a .parquet, .csv, .tsv or .jsonl file. "
                f"Received: {path}. Fix: convert it, or rename it"
            )
    except OSError as error:
        raise InputError(f"--item_features must be a readable file. Received: {path} ({error})") from None
    _check_columns(path, names, kinds)
    reader = _Cells(path, places)
    item_ids = reader.item_ids(columns.pop(ITEM_ID))
    titles = {}
    if TITLE in columns:
        titles = {
            item_id: str(cell) for item_id, cell in zip(item_ids, _pylist(columns.pop(TITLE)), strict=True) if cell
        }
    kinds = dict(usual_kinds or {}) | kinds
    found = {name: kinds.get(name) or _kind_of(column, ending in _TEXT) for name, column in columns.items()}
    parse = {"categorical": reader.categories, "numeric": reader.numbers, "vector": reader.vectors}
    split = ending in _TEXT
    parsed = {name: parse[found[name]](name, column, split) for name, column in columns.items()}
    return FeatureTable(path, item_ids, places, parsed, found, titles)


def parse_kinds(texts: Iterable[str]) -> dict[str, str]:
    """Reads `name:kind` pairs, as of the flag --item_feature_kinds.

    Raises:
        InputError: not such a pair.

    >>> parse_kinds(["year:numeric,brand:categorical"])
    {'year': 'numeric', 'brand': 'categorical'}
    """
    kinds: dict[str, str] = {}
    for pair in (pair for text in texts for pair in text.split(",") if pair):
        name, _, kind = pair.rpartition(":")
        if not name or kind not in KINDS:
            raise InputError(
                f"--item_feature_kinds must be NAME:KIND pairs, with a kind of {', '.join(KINDS)}. Received: {pair!r}. "
                "Fix: --item_feature_kinds=year:numeric"
            )
        kinds[name] = kind
    return kinds


class _Cells:
    """Checks and converts the cells of one file, and names the row of a fault."""

    def __init__(self, path: str, places: Sequence[str]):
        self._path, self._places = path, places

    def item_ids(self, column: Any) -> list[str]:
        rows: dict[str, int] = {}
        for row, cell in enumerate(_pylist(column)):
            item_id = "" if cell is None else str(cell)
            if not item_id or isinstance(cell, float | list | bool | dict):
                self._fail(row, "Each row needs an item_id, text or an integer", repr(cell), "correct the row")
            if item_id in rows:
                first = self._places[rows[item_id]]
                received = f"{item_id!r}, which {first} has too"
                self._fail(row, "Each item must have one row", received, "keep one of them")
            rows[item_id] = row
        if not rows:
            raise InputError(f"--item_features must have a row. Received: {self._path}, which has none. Fix: fill it")
        return list(rows)

    def categories(self, name: str, column: Any, split: bool) -> list[tuple[str, ...]]:
        cells = []
        for row, cell in enumerate(_pylist(column)):
            values = cell if isinstance(cell, list) else [cell]
            if split and isinstance(cell, str):
                values = [part.strip() for part in cell.split(_VALUE_SEPARATOR)]
            if any(isinstance(value, list | dict) for value in values):
                self._fail(
                    row, f"The column {name} must hold categories", f"{cell!r:.100}", "write text or a flat list"
                )
            cells.append(tuple(_category(value) for value in values if not _is_missing(value)))
        return cells

    def numbers(self, name: str, column: Any, split: bool) -> np.ndarray:
        if isinstance(column, pa.ChunkedArray) and pa.types.is_floating(column.type):
            values = column.to_numpy().astype(np.float64)
            infinite = np.flatnonzero(np.isinf(values))
            if len(infinite):
                self._not_a_number(name, int(infinite[0]), float(values[infinite[0]]))
            return values
        numbers = np.full(len(self._places), np.nan)
        for row, cell in enumerate(_pylist(column)):
            if _is_missing(cell):
                continue
            try:
                numbers[row] = float(cell)
            except (TypeError, ValueError):
                self._not_a_number(name, row, cell)
            if not math.isfinite(numbers[row]):
                self._not_a_number(name, row, cell)
        return numbers

    def vectors(self, name: str, column: Any, split: bool) -> np.ndarray:
        lists = self._lists(name, column)
        present = np.flatnonzero(lists.lengths > 0)
        sizes = lists.lengths[present]
        if not len(present):
            return np.full([len(self._places), 1], np.nan, np.float32)
        size = int(sizes[0])
        if (sizes != size).any():
            row = int(present[np.flatnonzero(sizes != size)[0]])
            received = f"{int(lists.lengths[row])} numbers, where {self._places[int(present[0])]} has {size}"
            self._fail(row, f"The vectors of the column {name} must have one size", received, "correct the row")
        values = lists.values.astype(np.float32).reshape(len(present), size)
        faulty = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(faulty):
            row = int(present[faulty[0]])
            received = "a number that is missing, infinite or too large"
            self._fail(row, f"The vectors of the column {name} must have finite numbers", received, "correct the row")
        vectors = np.full([len(self._places), size], np.nan, np.float32)
        vectors[present] = values
        return vectors

    def _lists(self, name: str, column: Any) -> "_FlatLists":
        """The numbers of all lists of a column, and how many each row has; 0 for a missing list."""
        if isinstance(column, pa.ChunkedArray) and _is_list(column.type):
            array = column.combine_chunks()
            if pa.types.is_fixed_size_list(array.type):
                array = array.cast(pa.list_(array.type.value_type))
            if pa.types.is_floating(array.type.value_type) or pa.types.is_integer(array.type.value_type):
                lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
                return _FlatLists(array.flatten().to_numpy(zero_copy_only=False).astype(np.float64), lengths)
        flat: list[Any] = []
        sizes: list[int] = []
        for row, cell in enumerate(_pylist(column)):
            found = cell
            if isinstance(cell, str) and cell:
                with contextlib.suppress(ValueError):
                    found = json.loads(cell)
            if _is_missing(cell):
                found = []
            numbers = found if isinstance(found, list) else [None]
            if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers):
                rule = f"The column {name} must hold vectors, which are lists of numbers"
                self._fail(row, rule, f"{cell!r:.100}", _FIX_KIND.format(name=name))
            flat += numbers
            sizes.append(len(numbers))
        return _FlatLists(np.array(flat, np.float64), np.array(sizes, np.int64))

    def _not_a_number(self, name: str, row: int, cell: Cell) -> NoReturn:
        rule = f"The column {name} must hold finite numbers"
        self._fail(row, rule, f"{cell!r:.100}", _FIX_KIND.format(name=name))

    def _fail(self, row: int, rule: str, received: str, fix: str) -> NoReturn:
        raise InputError(f"{rule}. Received: {received} in {self._path}, {self._places[row]}. Fix: {fix}")


@dataclasses.dataclass(frozen=True)
class _FlatLists:
    values: np.ndarray
    lengths: np.ndarray


class _RowNumbers(Sequence[str]):
    """Names of the rows of a file without lines: "row 1", "row 2" and so on."""

    def __init__(self, size: int):
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: Any) -> Any:
        return f"row {range(self._size)[index] + 1}"


def _ending(path: str) -> str:
    """The file name's ending that names the format, without that of a compression."""
    suffixes = [suffix.lower() for suffix in pathlib.Path(path).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_parquet(path: str) -> tuple[list[str], dict[str, Any], Sequence[str]]:
    try:
        table = pq.read_table(path)
    except pa.ArrowException as error:
        raise InputError(f"--item_features must be a Parquet file. Received: {path} ({error!s:.200})") from None
    names = table.schema.names
    columns = {name: _decoded(column) for name, column in zip(names, table.columns, strict=True)}
    return names, columns, _RowNumbers(table.num_rows)


def _decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _read_json(path: str) -> tuple[list[str], dict[str, Any], Sequence[str]]:
    rows, places = [], []
    for number, text, fault in read_lines(pathlib.Path(path)):
        if not text.strip():
            continue
        row: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            row = json.loads(text)
        if fault or not isinstance(row, dict):
            raise InputError(
                f"Each line of item features must be a JSON object. Received: {text[:100]!r} in {path}, line {number}. "
                "Fix: correct the line"
            )
        rows.append(row)
        places.append(f"line {number}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    return names, {name: [row.get(name) for row in rows] for name in names}, places


def _read_text(path: str) -> tuple[list[str], dict[str, Any], Sequence[str]]:
    table = read_table(read_lines(pathlib.Path(path)), lambda names: ITEM_ID in names and len(names) > 1)
    if isinstance(table, str):
        raise InputError(
            "--item_features must have a header with item_id and the names of the features, separated by tabs, commas, "
            f"semicolons or pipes. Received: {path}: {table!r}"
        )
    names, records = table
    rows, places = [], []
    for line, fields, fault, text in records:
        if fault:
            raise InputError(
                f"Each row of item features must have a field for each column. Received: {path}, line {line} {fault} "
                f"({text[:200]!r}). Fix: correct the line"
            )
        rows.append(fields)
        places.append(f"line {line}")
    return names, {name: [row[index] for row in rows] for index, name in enumerate(names)}, places


def _check_columns(path: str, names: list[str], kinds: Mapping[str, str]) -> None:
    features = [name for name in names if name not in (ITEM_ID, TITLE)]
    listed = ", ".join(names) or "none"
    repeated = sorted({name for name in names if names.count(name) > 1})
    unnamed = any(not name.strip() for name in names)
    if ITEM_ID not in names or not features or repeated or unnamed:
        raise InputError(
            f"--item_features must have the column item_id and one or several others, each with a name of its own. "
            f"Received: {path} with the columns {listed}. Fix: name the columns in the file"
        )
    for name in kinds:
        if name not in features:
            raise InputError(
                f"--item_feature_kinds must name columns of --item_features. Received: {name}; {path} has the "
                f"features {', '.join(features)}"
            )


def _kind_of(column: Any, text: bool) -> str:
    """The kind that follows from a column's values."""
    if isinstance(column, pa.ChunkedArray):
        type_ = column.type
        if _is_list(type_):
            return "vector" if pa.types.is_floating(type_.value_type) else "categorical"
        return "numeric" if pa.types.is_floating(type_) or pa.types.is_decimal(type_) else "categorical"
    cells = [cell for cell in column if not _is_missing(cell)]
    if text:
        decimal = any(_DECIMAL.fullmatch(cell) for cell in cells)
        if decimal and all(_is_number(cell) for cell in cells):
            return "numeric"
        return (
            "vector" if cells and all(cell.startswith("[") and cell.endswith("]") for cell in cells) else "categorical"
        )
    if any(isinstance(cell, list) and any(isinstance(value, float) for value in cell) for cell in cells):
        return "vector"
    return "numeric" if any(isinstance(cell, float) for cell in cells) else "categorical"


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _is_missing(cell: Cell) -> bool:
    return cell is None or cell == "" or cell == [] or (isinstance(cell, float) and math.isnan(cell))


def _category(value: Cell) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _pylist(column: Any) -> Iterator[Cell]:
    return iter(column.to_pylist() if isinstance(column, pa.ChunkedArray) else column)


def _listed(shapes: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({shape})" for name, shape in shapes.items()) or "none"
