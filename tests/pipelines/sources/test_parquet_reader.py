"""Parquet columns of any type give the same ids and times as text does, or are refused with a message."""

import contextlib
import datetime
import json
import pathlib
import random
import uuid
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.load_events import LoadCounts, load_file
from pipelines.sources.log_source import LogSource
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig
from tfrecords.errors import InputError

Event = tuple[str, str, int]


def load(path: pathlib.Path, **options: Any) -> tuple[list[Event], list[tuple[int, str]], LoadCounts]:
    """Events in their order, row number and reason of each bad row, and the counts."""
    aside = path.with_name("bad")
    aside.unlink(missing_ok=True)
    connection = empty_events()
    loaded = load_file(connection, LogSource([str(path)], **options), 0, DataConfig(), aside)
    events = connection.execute("SELECT user_id, item_id, time::BIGINT FROM events ORDER BY row").fetchall()
    lines = aside.read_text().splitlines() if aside.exists() else []
    bad = [(row["line"], row["reason"]) for row in map(json.loads, lines)]
    assert loaded.rows_read == len(events) + len(bad)
    return events, bad, loaded


def write(path: pathlib.Path, **columns: Any) -> pathlib.Path:
    pq.write_table(pa.table(columns), path)
    return path


D = Decimal
DAY = datetime.date(2020, 1, 1)
SOME_UUID = uuid.UUID("550e8400-e29b-41d4-a716-446655440000")
NO_WHOLE = "has an item that is no whole number, or too large a float to be exact"
IDS = {
    "text": (pa.array(["6", "é"]), ["6", "é"]),
    "large text": (pa.array(["6", "b"], pa.large_string()), ["6", "b"]),
    "bytes": (pa.array([b"6", "é".encode()]), ["6", "é"]),
    "fixed bytes": (pa.array([b"ab", b"cd"], pa.binary(2)), ["ab", "cd"]),
    "dictionary": (pa.array(["b", "a"]).dictionary_encode(), ["b", "a"]),
    "dictionary of numbers": (pa.array([7, 6]).dictionary_encode(), ["7", "6"]),
    "int64": (pa.array([6, -(2**63)]), ["6", str(-(2**63))]),
    "uint64": (pa.array([6, 2**64 - 1], pa.uint64()), ["6", str(2**64 - 1)]),
    "int8": (pa.array([6, -7], pa.int8()), ["6", "-7"]),
    "float64": (pa.array([6.0, 2.0**53]), ["6", str(2**53)]),
    "negative zero": (pa.array([-0.0, 0.0]), ["0", "0"]),
    "float32": (pa.array([6, 2**24], pa.float32()), ["6", str(2**24)]),
    "float16": (pa.array([6, 2**11], pa.float16()), ["6", str(2**11)]),
    "decimal": (pa.array([D(6), D("-120.00")], pa.decimal128(10, 2)), ["6", "-120"]),
    "decimal of 38 digits": (pa.array([D(10**37), D(0)], pa.decimal128(38, 0)), [str(10**37), "0"]),
    "decimal with many zeros": (pa.array([D(0), D(100)], pa.decimal128(38, 20)), ["0", "100"]),
    "decimal256": (pa.array([D(10**60), D(7)], pa.decimal256(70, 5)), [str(10**60), "7"]),
    "bool": (pa.array([True, False]), ["true", "false"]),
    "date": (pa.array([DAY, DAY]), ["2020-01-01", "2020-01-01"]),
    "uuid": (pa.array([SOME_UUID.bytes, bytes(16)], pa.uuid()), [str(SOME_UUID), str(uuid.UUID(int=0))]),
    "json": (pa.array(["a", "b"], pa.json_()), ["a", "b"]),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_type_equal_those_of_text(tmp_path: pathlib.Path, kind: str) -> None:
    values, expected = IDS[kind]
    path = write(tmp_path / "log.parquet", user_id=["u", "v"], item_id=values, timestamp=[1, 2])
    assert load(path)[:2] == ([("u", expected[0], 1), ("v", expected[1], 2)], [])
    path = write(tmp_path / "log.parquet", user_id=values, item_id=["i", "j"], timestamp=[1, 2])
    assert load(path)[:2] == ([(expected[0], "i", 1), (expected[1], "j", 2)], [])


BAD_IDS = {
    "null": (pa.array([None, "i"]), "has no item"),
    "nulls alone": (pa.nulls(2), "has no item"),
    "NaN": (pa.array([float("nan"), 1.0]), "has no item"),
    "float16 NaN": (pa.array([float("nan"), 1.0], pa.float16()), "has no item"),
    "infinite": (pa.array([float("inf"), 1.0]), NO_WHOLE),
    "fraction": (pa.array([6.5, 1.0]), NO_WHOLE),
    "float64 beyond 2**53": (pa.array([2.0**53 + 2, 1.0]), NO_WHOLE),
    "float32 beyond 2**24": (pa.array([2.0**24 + 2, 1.0], pa.float32()), NO_WHOLE),
    "decimal fraction": (pa.array([D("6.50"), D(1)], pa.decimal128(10, 2)), NO_WHOLE),
    "not UTF-8": (pa.array([b"caf\xe9", b"i"]), "has an item that is not UTF-8"),
    "not UTF-8, as text": (pa.array([b"caf\xe9", b"i"]).cast(pa.string(), safe=False), "has an item that is not UTF-8"),
    "half a surrogate pair": (pa.array([b"\xed\xa0\x80", b"i"]), "has an item that is not UTF-8"),
    "NUL": (pa.array(["a\0b", "i"]), "holds a NUL character"),
    "empty": (pa.array(["", "i"]), "has no item"),
}


@pytest.mark.parametrize("kind", BAD_IDS)
def test_only_the_row_of_a_bad_id_is_set_aside(tmp_path: pathlib.Path, kind: str) -> None:
    values, reason = BAD_IDS[kind]
    path = write(tmp_path / "log.parquet", user_id=["u", "v"], item_id=values, timestamp=[1, 2])
    events, bad, _ = load(path)
    assert bad == [(1, reason)] + ([(2, reason)] if kind == "nulls alone" else [])
    assert len(events) == 2 - len(bad)


def test_a_bad_value_is_shown(tmp_path: pathlib.Path) -> None:
    values = pa.array([b"i", b"caf\xe9"]).cast(pa.string(), safe=False)
    load(write(tmp_path / "log.parquet", user_id=["u", "v"], item_id=values, timestamp=[1, 2]))
    row = json.loads((tmp_path / "bad").read_text())
    assert (row["file"], row["line"]) == ("log.parquet", 2)
    assert json.loads(row["text"]) == {"user_id": "v", "item_id": "caf\\xe9", "timestamp": "2"}


def test_a_user_is_the_same_in_files_of_all_types(tmp_path: pathlib.Path) -> None:
    kinds = [pa.int64(), pa.float64(), pa.float32(), pa.uint16(), pa.decimal128(9, 3), pa.string()]
    for number, kind in enumerate(kinds):
        users = pa.array(["7", "8"]).cast(kind)
        write(tmp_path / f"log{number}.parquet", user_id=users, item_id=["i", "j"], timestamp=[number, number])
    (tmp_path / "log.csv").write_text("user_id,item_id,timestamp\n7,i,9\n8,j,9\n")
    source = LogSource([f"{tmp_path}/log*"])
    connection = empty_events()
    for number in range(len(source.files)):
        load_file(connection, source, number, DataConfig(), tmp_path / "bad")
    found = connection.execute("SELECT user_id, count(*) FROM events GROUP BY ALL ORDER BY ALL").fetchall()
    assert found == [("7", 7), ("8", 7)]


MOMENT = datetime.datetime(2020, 1, 1, 0, 0, 1)
SECONDS = 1_577_836_801
TIMES = {
    "s": pa.array([MOMENT], pa.timestamp("s")),
    "ms": pa.array([MOMENT], pa.timestamp("ms")),
    "ns": pa.array([MOMENT], pa.timestamp("ns")),
    "UTC": pa.array([MOMENT], pa.timestamp("us", "UTC")),
    "Berlin": pa.array([MOMENT], pa.timestamp("us", "Europe/Berlin")),
    "text": pa.array(["2020-01-01T00:00:01Z"]),
    "bytes": pa.array([b"2020-01-01T00:00:01Z"]),
    "dictionary": pa.array(["2020-01-01 00:00:01"]).dictionary_encode(),
    "int64": pa.array([SECONDS]),
    "uint32": pa.array([SECONDS], pa.uint32()),
    "float64": pa.array([float(SECONDS)]),
    "float64 ms": pa.array([SECONDS * 1000.0]),
    "float64 ns": pa.array([SECONDS * 1e9]),
    "decimal": pa.array([D(SECONDS)], pa.decimal128(20, 6)),
}


@pytest.mark.parametrize("kind", TIMES)
def test_times_of_every_type_are_the_same_second(tmp_path: pathlib.Path, kind: str) -> None:
    path = write(tmp_path / "log.parquet", user_id=["u"], item_id=["i"], timestamp=TIMES[kind])
    assert load(path)[:2] == ([("u", "i", SECONDS)], [])


def test_dates_and_int96_are_times_too(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.parquet", user_id=["u"], item_id=["i"], timestamp=pa.array([DAY]))
    assert load(path)[:2] == ([("u", "i", SECONDS - 1)], [])
    far = datetime.datetime(2400, 1, 1)  # beyond the range of int64 in nanoseconds
    table = pa.table({"user_id": ["u", "v"], "item_id": ["i", "j"], "timestamp": pa.array([MOMENT, far])})
    pq.write_table(table, tmp_path / "log.parquet", use_deprecated_int96_timestamps=True)
    reason = "has a timestamp outside 1970 to 2100, in us as its column has it"
    assert load(path)[:2] == ([("u", "i", SECONDS)], [(2, reason)])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([10**15, 10**12], pa.timestamp("ms")),
        pa.array([2**62, 10**18], pa.timestamp("ns")),
        pa.array([-1, 10**9], pa.timestamp("s")),
        pa.array([10**7, 10**4], pa.date32()),
        pa.array([None, 10**15], pa.timestamp("us")),
        pa.array([float("nan"), 1e9]),
        pa.array([float("inf"), 1e9]),
        pa.array(["soon", "2001-09-09"]),
        pa.array([b"\xff", b"2001-09-09"]),
    ],
    ids=str,
)
def test_only_the_row_of_a_bad_time_is_set_aside(tmp_path: pathlib.Path, values: pa.Array) -> None:
    path = write(tmp_path / "log.parquet", user_id=["u", "v"], item_id=["i", "j"], timestamp=values)
    events, bad, _ = load(path)
    assert [event[:2] for event in events] == [("v", "j")]
    assert [line for line, _ in bad] == [1]
    assert "timestamp" in bad[0][1]


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("item_id", pa.array([["a", "b"]]), ["list<", "--explode"]),
        ("item_id", pa.array([["a"]], pa.list_(pa.string(), 1)), ["list<", "--explode"]),
        ("item_id", pa.array([{"id": "a"}]), ["struct<id: string>", "--item_column"]),
        ("item_id", pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), ["map<", "--item_column"]),
        ("item_id", pa.array([MOMENT]), ["timestamp[us]", "--item_column"]),
        ("item_id", pa.array([datetime.time(1)]), ["time64[us]", "--item_column"]),
        ("user_id", pa.array([["a", "b"]]), ["list<", "--user_column"]),
        ("timestamp", pa.array([[1]]), ["list<", "--explode"]),
        ("timestamp", pa.array([True]), ["bool", "--timestamp_column"]),
        ("timestamp", pa.array([datetime.time(1)]), ["time64[us]", "--timestamp_column"]),
        ("timestamp", pa.array([{"t": 1}]), ["struct<t: int64>", "--timestamp_column"]),
    ],
    ids=str,
)
def test_columns_of_other_types_are_refused(
    tmp_path: pathlib.Path, column: str, values: pa.Array, named: list[str]
) -> None:
    columns = {"user_id": ["u"], "item_id": ["i"], "timestamp": [1]} | {column: values}
    path = write(tmp_path / "log.parquet", **columns)
    with pytest.raises(InputError) as error:
        load(path)
    assert [words for words in ["log.parquet", repr(column), *named] if words not in str(error.value)] == []


LISTS = [["a", "b", "a"], None, ["c"], [], ["d", None]]
EXPLODED = [("u0", "a", 10), ("u0", "b", 10), ("u0", "a", 10), ("u2", "c", 12), ("u4", "d", 14)]
EMPTY = "has an empty list of items"


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_each_element_of_a_list_becomes_an_event(tmp_path: pathlib.Path, kind: pa.DataType) -> None:
    users, times = [f"u{number}" for number in range(5)], [10, 11, 12, 13, 14]
    path = write(tmp_path / "log.parquet", user_id=users, item_id=pa.array(LISTS, kind), timestamp=times)
    events, bad, loaded = load(path, explode=True)
    assert events == EXPLODED
    assert bad == [(2, EMPTY), (4, EMPTY), (5, "has no item")]
    assert loaded.rows_read == 8
    assert load(path, explode=True, timestamp_column="")[0] == [
        (user, item, time) for time, (user, item, _) in zip([1, 2, 3, 5, 7], EXPLODED, strict=True)
    ]


def test_each_element_of_a_fixed_size_list_becomes_an_event(tmp_path: pathlib.Path) -> None:
    items = pa.array([[1, 2], [3, None]], pa.list_(pa.int32(), 2))
    path = write(tmp_path / "log.parquet", user_id=["u", "v"], item_id=items, timestamp=[5, 6])
    assert load(path, explode=True)[:2] == ([("u", "1", 5), ("u", "2", 5), ("v", "3", 6)], [(2, "has no item")])


def test_lists_of_several_columns_are_paired(tmp_path: pathlib.Path) -> None:
    items, times = [["a", "b"], ["c"], ["d"], ["e", "f"]], [[1, 2], [3, 4], None, [5, 6]]
    path = write(tmp_path / "log.parquet", user_id=list("uvwx"), item_id=items, timestamp=times)
    unequal = "has lists of unequal lengths"
    expected = [("u", "a", 1), ("u", "b", 2), ("x", "e", 5), ("x", "f", 6)]
    assert load(path, explode=True)[:2] == (expected, [(2, unequal), (3, unequal)])
    lines = zip("uvwx", items, times, strict=True)
    text = "".join(json.dumps({"user_id": u, "item_id": i, "timestamp": t}) + "\n" for u, i, t in lines)
    (tmp_path / "log.jsonl").write_text(text)
    events, bad, _ = load(tmp_path / "log.jsonl", explode=True)
    assert events == expected
    assert bad[0] == (2, unequal)
    assert [line for line, _ in bad] == [2, 3]


def test_lists_in_json_equal_those_in_parquet(tmp_path: pathlib.Path) -> None:
    rows = [{"user_id": f"u{n}", "item_id": items, "timestamp": 10 + n} for n, items in enumerate(LISTS)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    events, bad, _ = load(tmp_path / "log.jsonl", explode=True)
    assert events == EXPLODED
    assert bad == [(2, "has no item"), (4, EMPTY), (5, "has no item")]
    events, bad, _ = load(tmp_path / "log.jsonl")
    assert events == []
    assert bad[0][1] == "must have a string or a number for item 'item_id' (--explode takes lists of items)"


@pytest.mark.parametrize(
    "columns",
    [
        {"item_id": ["i"], "timestamp": [[1]]},
        {"item_id": [["i"]], "timestamp": [1], "user_id": [["u"]]},
        {"item_id": [[["i"]]], "timestamp": [1]},
        {"item_id": [[{"id": "i"}]], "timestamp": [1]},
    ],
)
def test_other_lists_are_refused(tmp_path: pathlib.Path, columns: dict[str, Any]) -> None:
    path = write(tmp_path / "log.parquet", **({"user_id": ["u"]} | columns))
    with pytest.raises(InputError, match=r"log\.parquet must have .* in the column"):
        load(path, explode=True)


def test_columns_are_found_by_exact_name(tmp_path: pathlib.Path) -> None:
    columns = {
        "Item_ID": ["A"],
        "item_id": ["a"],
        "ITEM_ID": ["AA"],
        "item_id_1": ["b"],
        "item.id": ["c"],
        "item": ["d"],
    }
    path = write(tmp_path / "log.parquet", user_id=["u"], timestamp=[1], **columns)
    for name, values in columns.items():
        assert load(path, item_column=name)[0] == [("u", values[0], 1)]
    with pytest.raises(InputError, match=r"must have the column 'item_Id'\. Received: .*Item_ID, item_id, ITEM_ID"):
        load(path, item_column="item_Id")


def test_a_column_name_that_occurs_twice_is_refused(tmp_path: pathlib.Path) -> None:
    table = pa.table([["u"], ["i"], ["j"], [1], [2]], names=["user_id", "item_id", "item_id", "timestamp", "more"])
    pq.write_table(table, tmp_path / "log.parquet")
    with pytest.raises(InputError, match=r"log\.parquet, with 'item_id' 2 times"):
        load(tmp_path / "log.parquet")
    pq.write_table(table.rename_columns(["user_id", "x", "x", "timestamp", "item_id"]), tmp_path / "log.parquet")
    assert load(tmp_path / "log.parquet")[0] == [("u", "2", 1)]


def test_rows_are_numbered_over_all_row_groups(tmp_path: pathlib.Path) -> None:
    items = pa.array([b"i"] * 70_000 + [b"\xff"] + [b"j"] * 30)
    table = pa.table({"user_id": ["u"] * len(items), "item_id": items, "timestamp": range(len(items))})
    pq.write_table(table, tmp_path / "log.parquet", row_group_size=1000)
    events, bad, _ = load(tmp_path / "log.parquet")
    assert bad == [(70_001, "has an item that is not UTF-8")]
    assert [time for _, _, time in events] == [*range(70_000), *range(70_001, 70_031)]


def test_a_file_without_rows_gives_no_events(tmp_path: pathlib.Path) -> None:
    for items in (pa.array([], pa.string()), pa.array([], pa.list_(pa.string()))):
        path = write(
            tmp_path / "log.parquet",
            user_id=pa.array([], pa.string()),
            item_id=items,
            timestamp=pa.array([], pa.int64()),
        )
        assert load(path, explode=True) == ([], [], LoadCounts())


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_damage_is_named_and_never_read_as_data(tmp_path: pathlib.Path, compression: str) -> None:
    draw, path = random.Random(4), tmp_path / "log.parquet"
    numbers = np.arange(3000)
    columns = {"user_id": (numbers % 50).astype(str), "item_id": numbers % 301, "timestamp": 10**9 + numbers}
    table = pa.table(columns)
    pq.write_table(table, path, compression=compression, row_group_size=1000, write_page_checksum=True)
    content, (expected, _, _) = path.read_bytes(), load(path)
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for _ in range(12):
        damaged = bytearray(content)
        damaged[draw.randrange(4, footer)] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        try:
            found = load(path)[:2]
        except InputError as error:
            found = str(error)[: str(error).index(".parquet")]
        # Some bytes are never read, such as those of the statistics.
        assert found in ((expected, []), str(tmp_path / "log"))
    for _ in range(12):
        damaged = bytearray(content)
        damaged[draw.randrange(footer, len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])])
        with contextlib.suppress(InputError):  # a damaged footer raises no other kind of error
            load(path)
