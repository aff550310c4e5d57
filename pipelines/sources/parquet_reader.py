"""Reads Parquet logs as text, batch by batch, so that a bad value affects only its row.

pyarrow reads them instead of DuckDB: it distinguishes column names by case, verifies the checksums of pages, and
returns values that are not UTF-8 or out of range instead of failing. Ids look as in a CSV file: whole numbers have no
decimal point, whatever the type of the column.
"""

import functools
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines.sources import timestamps
from pipelines.sources.log_source import Layout, unreadable
from pipelines.sources.text_streams import arrow_source
from tfrecords.errors import InputError
from tfrecords.stores import StoreFile

BATCH_ROWS = 1 << 16
_BUFFER_BYTES = 1 << 16
_FIELDS = {"user": "user_id", "item": "item_id", "timestamp": "timestamp", "rating": "rating"}
_NAMES = {"user": "a user", "item": "an item", "timestamp": "a timestamp", "rating": "a rating"}
_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_SECONDS_A_DAY = 86_400
_EXACT = {
    pa.float16(): 2**11,
    pa.float32(): 2**24,
    pa.float64(): 2**53,
}  # above, some whole numbers are no floats
_Converted = tuple[pa.Array, pa.Array]  # a column as text, and for each value its fault or null
_Converter = Callable[[pa.Array], _Converted]


def read_batches(
    layout: Layout, batch_rows: int = BATCH_ROWS, start: int = 0, end: int | None = None, ahead: bool = True
) -> Iterator[pa.Table]:
    """The rows of a Parquet file as `load_events.load_batches` takes them; a list gives one row per element.

    Args:
        layout: of the file.
        batch_rows: rows at a time, before lists are split.
        start: the first row group.
        end: the row group after the last one; None: the end of the file.
        ahead: whether a row group is read as a whole; otherwise no more of it than the batches need.

    Raises:
        InputError: a column has an unsupported type, or the file is damaged.
    """
    path = layout.file.path
    try:
        with arrow_source(path) as source:
            yield from _read_batches(layout, source, batch_rows, slice(start, end), ahead)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(path, error) from None


def _read_batches(layout: Layout, source: Any, batch_rows: int, row_groups: slice, ahead: bool) -> Iterator[pa.Table]:
    # INT96 holds nanoseconds of any year; read as such they would wrap around outside 1677 to 2262.
    file = parquet.ParquetFile(
        source,
        page_checksum_verification=True,
        coerce_int96_timestamp_unit="us",
        pre_buffer=ahead and isinstance(layout.file.path, StoreFile),
        buffer_size=0 if ahead else _BUFFER_BYTES,
    )
    types = {field: file.schema_arrow.field(name).type for field, name in layout.columns.items()}
    lists = [field for field, type_ in types.items() if _is_list(type_) and layout.explode]
    _check_lists(layout, types, lists)
    converters = {
        field: _converter(layout, field, type_.value_type if field in lists else type_)
        for field, type_ in types.items()
    }
    first = 1
    groups = list(range(file.num_row_groups))[row_groups]
    for batch in file.iter_batches(batch_rows, groups, columns=list(dict.fromkeys(layout.columns.values()))):
        columns = {field: batch.column(name) for field, name in layout.columns.items()}
        lines, faults = np.arange(first, first + len(batch)), pa.nulls(len(batch), pa.string())
        first += len(batch)
        if lists:
            lines, columns, faults = _explode(lines, columns, lists)
        texts = {}
        for field, values in columns.items():
            texts[_FIELDS[field]], found = converters[field](values)
            faults = pc.coalesce(faults, found)
        for field, value in layout.partition.items():
            texts[_FIELDS[field]] = pa.repeat(pa.scalar(value, pa.string()), len(lines))
        yield pa.table({"line": lines, **texts, "fault": faults})


# ---- lists ----


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_)


def _check_lists(layout: Layout, types: dict[str, pa.DataType], lists: list[str]) -> None:
    for field, type_ in types.items():
        if _is_list(type_) and not layout.explode and field != "user":
            raise _unfit(layout, field, type_, "Fix: --explode makes an event of each element")
    if lists and ("item" not in lists or "user" in lists):
        field = "user" if "user" in lists else lists[0]
        raise _unfit(layout, field, types[field], "Fix: --explode takes lists of items, with one user a row")


def _explode(
    lines: np.ndarray, columns: dict[str, pa.Array], lists: list[str]
) -> tuple[np.ndarray, dict[str, pa.Array], pa.Array]:
    """One row per element of the lists; a row without elements, or with lists of unequal lengths, stays one row."""
    lengths = np.stack([pc.fill_null(pc.list_value_length(columns[field]), 0).to_numpy() for field in lists])
    unequal = np.any(lengths != lengths[0], axis=0)
    elements = np.where(unequal, 0, lengths[0])
    rows = np.repeat(np.arange(len(lines)), np.maximum(elements, 1))
    within = np.arange(len(rows)) - np.searchsorted(rows, rows)  # which element of its row
    missing = (elements == 0)[rows]
    exploded = {}
    for field, values in columns.items():
        if field in lists:
            own = lengths[lists.index(field)]
            indices = (np.cumsum(own) - own)[rows] + within
            exploded[field] = pc.list_flatten(values).take(pa.array(indices, mask=missing))
        else:
            exploded[field] = values.take(pa.array(rows))
    words = np.where(unequal, "has lists of unequal lengths", "has an empty list of items")[rows]
    return lines[rows], exploded, pa.array(words, pa.string(), mask=~missing)


# ---- values ----


def _converter(layout: Layout, field: str, type_: pa.DataType) -> _Converter:
    """A function that converts a column's values to text.

    Raises:
        InputError: values of this type cannot be ids, times or ratings.
    """
    types = pa.types
    if types.is_dictionary(type_):
        inner = _converter(layout, field, type_.value_type)
        return lambda values: inner(values.dictionary_decode())
    if isinstance(type_, pa.UuidType):
        return lambda values: _plain(pa.array([_uuid(value) for value in values.storage.to_pylist()], pa.string()))
    if isinstance(type_, pa.BaseExtensionType):
        inner = _converter(layout, field, type_.storage_type)
        return lambda values: inner(values.storage)
    if types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return functools.partial(_text, field)
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_fixed_size_binary(type_):
        return functools.partial(_text, field)
    if types.is_integer(type_) or types.is_null(type_):
        return lambda values: _plain(values.cast(pa.string()))
    is_id = field in ("user", "item")
    if types.is_floating(type_) or types.is_decimal(type_):
        return functools.partial(_whole_numbers, field) if is_id else _numbers
    if is_id and types.is_boolean(type_):
        return lambda values: _plain(values.cast(pa.string()))
    if is_id and types.is_date(type_):
        return lambda values: _plain(values.cast(pa.date32(), safe=False).cast(pa.string()))
    if field == "timestamp" and types.is_date(type_):
        return lambda values: _times(values.cast(pa.date32(), safe=False).cast(pa.int32()), "days")
    if field == "timestamp" and types.is_timestamp(type_):
        return lambda values: _times(values.cast(pa.int64()), type_.unit)
    raise _unfit(layout, field, type_, "Fix: name another column")


def _unfit(layout: Layout, field: str, type_: pa.DataType, fix: str) -> InputError:
    name = layout.columns[field]
    return InputError(
        f"{layout.file.path} must have {_WANTED[field]} in the column {name!r}. Received: values of type {type_}. {fix}"
        f"{'' if 'explode' in fix else f' with --{field}_column'}"
    )


_WANTED = {
    "user": "text or whole numbers",
    "item": "text or whole numbers",
    "timestamp": "numbers, dates, times or text",
    "rating": "numbers or text",
}


def _plain(texts: pa.Array) -> _Converted:
    return texts, pa.nulls(len(texts), pa.string())


def _uuid(value: bytes | None) -> str | None:
    return None if value is None else str(uuid.UUID(bytes=value))


def _text(field: str, values: pa.Array) -> _Converted:
    """Converts text and bytes. Values that are not UTF-8 keep their bytes as escapes, for the report of the row."""
    values = values.cast(pa.large_binary())
    try:
        return _plain(values.cast(pa.large_string()))
    except pa.ArrowInvalid:
        pass
    texts, faults = list[str | None](), list[str | None]()
    for value in values.to_pylist():
        fault = None
        try:
            text = None if value is None else value.decode("utf-8")
        except UnicodeDecodeError:
            text, fault = value.decode("utf-8", "backslashreplace"), f"has {_NAMES[field]} that is not UTF-8"
        texts.append(text)
        faults.append(fault)
    return pa.array(texts, pa.large_string()), pa.array(faults, pa.string())


def _whole_numbers(field: str, values: pa.Array) -> _Converted:
    """Converts numbers to ids: 6.0 becomes 6, as in a column of integers; NaN becomes null."""
    largest = _EXACT.get(values.type)
    if largest is None:
        whole = pc.equal(values, pc.trunc(values))
    else:
        values = values.cast(pa.float64())
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
        whole = pc.and_(pc.equal(values, pc.trunc(values)), pc.less_equal(pc.abs(values), largest))
    integers = pc.if_else(whole, values, pc.trunc(values) if largest is None else 0.0)
    integers = integers.cast(pa.decimal256(76, 0) if largest is None else pa.int64()).cast(pa.string())
    fault = f"has {_NAMES[field]} that is no whole number, or too large a float to be exact"
    faults = pc.if_else(pc.fill_null(whole, True), pa.scalar(None, pa.string()), fault)
    return pc.if_else(whole, integers, values.cast(pa.string())), faults


def _numbers(values: pa.Array) -> _Converted:
    return _plain((values.cast(pa.float64()) if pa.types.is_floating(values.type) else values).cast(pa.string()))


def _times(numbers: pa.Array, unit: str) -> _Converted:
    """Converts numbers of `unit` since 1970 (UTC) to ISO 8601 times."""
    end = timestamps.END // _SECONDS_A_DAY if unit == "days" else timestamps.END * _TICKS[unit]
    inside = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, end))
    times = pc.if_else(inside, numbers, 0)
    times = times.cast(pa.int32()).cast(pa.date32()) if unit == "days" else times.cast(pa.timestamp(unit))
    texts = pc.if_else(inside, times.cast(pa.string()), numbers.cast(pa.string()))
    fault = f"has a timestamp outside 1970 to 2100, in {unit} as its column has it"
    return texts, pc.if_else(pc.fill_null(inside, True), pa.scalar(None, pa.string()), fault)
