"""Every format gives the same events in the order of the file, and unreadable rows are named with file and line."""

import datetime
import gzip
import hashlib
import io
import os
import pathlib
import tempfile
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources import load_events, log_file
from pipelines.sources.load_events import LoadCounts, RowRules, load_batches
from pipelines.sources.log_source import LogSource
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig
from tfrecords.errors import InputError

Event = tuple[str, str, Decimal]

EVENTS = [("u1", "i1", Decimal(100)), ("u2", "i2", Decimal(50)), ("u1", "i2", Decimal(101))]
HEADER = "user_id,item_id,timestamp\n"
CSV = HEADER + "u1,i1,100\nu2,i2,50\nu1,i2,101\n"
MOVIELENS = "u1::i1::5::100\nu2::i2::3.5::50\nu1::i2::1::101\n"
JSONL = "".join(f'{{"timestamp": {time}, "item_id": "{item}", "user_id": "{user}"}}\n' for user, item, time in EVENTS)
COLUMN_NUMBERS = {"user_column": "1", "item_column": "0", "timestamp_column": "3", "rating_column": "2"}
HEADERLESS = "i1\tu1\t5\t100\ni2\tu2\t3.5\t50\ni2\tu1\t1\t101\n"


def load(
    source: LogSource | pa.Table, min_rating: float | None = None, bad_rows: pathlib.Path | None = None
) -> tuple[list[Event], LoadCounts]:
    """The events in order. Without a `bad_rows` file, a bad row raises an error."""
    connection = empty_events()
    with tempfile.TemporaryDirectory() as directory:
        aside = bad_rows or pathlib.Path(directory) / "bad_rows.jsonl"
        if isinstance(source, pa.Table):
            loaded = load_batches(connection, [source], RowRules("rows", aside, min_rating, unit="none"))
        else:
            config = DataConfig(min_rating=min_rating)
            parts = [load_events.load_file(connection, source, n, config, aside) for n in range(len(source.files))]
            loaded = sum(parts, LoadCounts())
        loaded.check(str(getattr(source, "paths", source)), max_bad_fraction=0 if bad_rows is None else 1)
        rows = connection.execute("SELECT user_id, item_id, time FROM events ORDER BY row").fetchall()
    assert len(rows) == loaded.events
    return rows, loaded


def load_file(
    directory: pathlib.Path, name: str, content: str | bytes, min_rating: float | None = None, **columns: str
) -> list[Event]:
    (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return load(LogSource([str(directory / name)], **columns), min_rating)[0]


def parquet(**columns: pa.Array | list) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


TEXTS = [
    pytest.param("log.csv", CSV, {}, id="csv"),
    pytest.param("log.tsv", CSV.replace(",", "\t"), {}, id="tsv"),
    pytest.param("log.jsonl", JSONL, {}, id="jsonl"),
    pytest.param("log.ndjson", JSONL.replace("}\n", "}\n\n"), {}, id="jsonl with blank lines"),
    pytest.param("ratings.dat", MOVIELENS, {}, id="movielens ::"),
    pytest.param("u.data", MOVIELENS.replace("::", "\t"), {}, id="movielens tabs"),
    pytest.param("log.tsv", HEADERLESS, COLUMN_NUMBERS, id="tsv without a header"),
    pytest.param("log.weird", CSV, {"format": "csv"}, id="named format"),
    pytest.param(
        "log.csv", CSV.replace("user_id,item_id,timestamp", 'my user,"the ""item""",t'),
        {"user_column": "my user", "item_column": 'the "item"', "timestamp_column": "t"}, id="named columns",
    ),
]  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(("name", "content", "columns"), TEXTS)
def test_every_text_format_gives_the_same_events(
    tmp_path: pathlib.Path, name: str, content: str, columns: dict[str, str], compressed: bool
) -> None:
    if compressed:
        assert load_file(tmp_path, f"{name}.gz", gzip.compress(content.encode(), mtime=0), **columns) == EVENTS
    else:
        assert load_file(tmp_path, name, content, **columns) == EVENTS


@pytest.mark.parametrize("change", ["CRLF", "no last line end"])
@pytest.mark.parametrize(("name", "content", "columns"), TEXTS)
def test_line_ends_do_not_matter(
    tmp_path: pathlib.Path, name: str, content: str, columns: dict[str, str], change: str
) -> None:
    changed = content.rstrip("\n") if change == "no last line end" else content.replace("\n", "\r\n")
    assert load_file(tmp_path, name, changed, **columns) == EVENTS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.csv", CSV),
        ("log.tsv", CSV.replace(",", "\t")),
        ("ratings.dat", MOVIELENS),
        ("log.csv", CSV.replace("\n", "\r\n")),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_field(tmp_path: pathlib.Path, name: str, content: str) -> None:
    assert load_file(tmp_path, name, "\ufeff" + content) == EVENTS


def test_parquet(tmp_path: pathlib.Path) -> None:
    users, items, times = map(list, zip(*EVENTS, strict=True))
    content = parquet(more=[0, 0, 0], timestamp=[int(time) for time in times], item_id=items, user_id=users)
    assert load_file(tmp_path, "log.parquet", content) == EVENTS
    as_bytes = parquet(user_id=[b"Zo\xc3\xab"], item_id=["i"], timestamp=[1])  # some writers store strings as bytes
    assert load_file(tmp_path, "log.parquet", as_bytes) == [("Zo\u00eb", "i", Decimal(1))]
    integers = parquet(user_id=[7], item_id=pa.array([8], pa.int32()), timestamp=[1.5])
    assert load_file(tmp_path, "log.parquet", integers) == [("7", "8", Decimal("1.5"))]


@pytest.mark.parametrize("start", ["", "\ufeff"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\n\n"])
def test_user_item_rows_are_in_time_order(tmp_path: pathlib.Path, start: str, line_end: str) -> None:
    rows = load_file(tmp_path, "log.txt", start + line_end.join(["u1 i1", " u2\ti2 ", 'u1 "i2']))
    assert [row[:2] for row in rows] == [("u1", "i1"), ("u2", "i2"), ("u1", '"i2')]
    assert [row[2] for row in rows] == sorted({row[2] for row in rows})


def test_a_csv_without_timestamps_is_in_time_order(tmp_path: pathlib.Path) -> None:
    rows = load_file(tmp_path, "log.csv", "item_id,user_id\n9,u\n3,u\n5,u\n", timestamp_column="")
    assert [item for _, item, _ in sorted(rows, key=lambda row: row[2])] == ["9", "3", "5"]


def test_rows_keep_the_order_of_a_long_file(tmp_path: pathlib.Path) -> None:
    lines = 400_000
    content = "".join(f"{line * 7919 % 1009} {line}\n" for line in range(lines))
    rows = load_file(tmp_path, "log.txt", content)
    assert [item for _, item, _ in rows] == [str(line) for line in range(lines)]
    assert [int(time) for _, _, time in rows] == list(range(1, lines + 1))


def test_globs_and_several_inputs_are_read_one_after_the_other(tmp_path: pathlib.Path) -> None:
    for name in ("b.txt", "a1.txt", "a2.txt"):
        (tmp_path / name).write_text(f"u {name}-1\nu {name}-2\n")
    source = LogSource([str(tmp_path / "b.txt"), str(tmp_path / "a*.txt"), str(tmp_path / "a1.txt")])
    rows, counts = load(source)
    expected = [f"{name}-{row}" for name in ("b.txt", "a1.txt", "a2.txt") for row in (1, 2)]
    assert [item for _, item, _ in sorted(rows, key=lambda row: row[2])] == expected
    assert [item for _, item, _ in rows] == expected
    assert counts == LoadCounts(rows_read=6)
    described = source.description()["inputs"]
    assert [(row["name"], row["bytes"]) for row in described] == [("b.txt", 20), ("a1.txt", 22), ("a2.txt", 22)]
    assert described[0]["sha256"] == hashlib.sha256(b"u b.txt-1\nu b.txt-2\n").hexdigest()


def test_a_file_is_read_once_however_its_path_is_spelt(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "log.txt").write_text("u a\nu b\n")
    (tmp_path / "link.txt").symlink_to("log.txt")
    monkeypatch.chdir(tmp_path)
    source = LogSource(["log.txt", "./log.txt", str(tmp_path / "*.txt"), f"../{tmp_path.name}/log.txt"])
    assert [file.name for file in source.files] == ["log.txt"]
    assert load(source)[1] == LoadCounts(rows_read=2)


@pytest.mark.parametrize(
    "header",
    [",user_id,item_id,timestamp", "ITEM_ID,user_id,item_id,timestamp", 'n,user_id,item_id,"timestamp" '],
    ids=["a column without a name", "names that differ in case", "not RFC 4180"],
)
def test_any_header_is_accepted(tmp_path: pathlib.Path, header: str) -> None:
    rows = "0,u1,i1,100\n1,u2,i2,50\n2,u1,i2,101\n"
    columns = {"timestamp_column": "timestamp "} if header.endswith(" ") else {}
    assert load_file(tmp_path, "log.csv", f"{header}\n{rows}", **columns) == EVENTS
    for stray in ('"u', "u,i"):  # makes the loader read the rows one by one
        with pytest.raises(InputError, match=r"1 bad rows of 4: log.csv, line 5"):
            load_file(tmp_path, "log.csv", f"{header}\n{rows}{stray}\n", **columns)


def test_a_file_whose_name_looks_like_a_glob_is_read_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.txt").write_text("u other\n")
    assert [row[:2] for row in load_file(tmp_path, "lo*.txt", "u item\n")] == [("u", "item")]


def test_ids_may_hold_anything_that_the_format_can_quote(tmp_path: pathlib.Path) -> None:
    ids = ["a,b", "a\nb", "a\r\nb", 'say ""hi""', " padded ", "Zoë 😀", "\u2028", "NULL", "1e3", "007"]
    content = HEADER + "".join(f'"u {item}","{item}",{time}\n' for time, item in enumerate(ids))
    plain = [item.replace('""', '"') for item in ids]
    assert load_file(tmp_path, "log.csv", content) == [(f"u {item}", item, Decimal(t)) for t, item in enumerate(plain)]
    lines = "".join(f'{{"user_id": 1, "item_id": {item}, "timestamp": 1}}\n' for item in ('"a\\tb\\n"', '"\u2028\\""'))
    assert [item for _, item, _ in load_file(tmp_path, "log.jsonl", lines)] == ["a\tb\n", '\u2028"']


NANOSECONDS = 1_500_000_000_123_456_789


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("0", "0"),
        ("-5", "-5"),
        ("978300760.25", "978300760.25"),
        ("1.5e9", "1500000000"),
        (str(NANOSECONDS), str(NANOSECONDS)),
        ("1500000000.123456789", "1500000000.123456789"),
        ("1970-01-02", "86400"),
        ("2017-07-14T02:40:00Z", "1500000000"),
        ("2017-07-14 04:40:00+02:00", "1500000000"),
        ("2017-07-14T02:40:00.123456", "1500000000.123456"),
    ],
)
def test_timestamps_are_exact(tmp_path: pathlib.Path, text: str, time: str) -> None:
    content = f"{HEADER}u,i,{text}\n"
    assert load_file(tmp_path, "log.csv", content, timestamp_unit="none") == [("u", "i", Decimal(time))]


@pytest.mark.parametrize(
    ("values", "time"),
    [
        (pa.array([NANOSECONDS]), Decimal(NANOSECONDS)),
        (pa.array([datetime.datetime(2017, 7, 14, 2, 40)]), Decimal(1_500_000_000)),
        (pa.array([NANOSECONDS // 1000], pa.timestamp("us")), Decimal(NANOSECONDS // 1000).scaleb(-6)),
        (pa.array([NANOSECONDS], pa.timestamp("ns")), Decimal(NANOSECONDS).scaleb(-9)),
    ],
    ids=["integer", "datetime", "microseconds", "nanoseconds"],
)
def test_timestamps_of_parquet_are_exact(tmp_path: pathlib.Path, values: pa.Array, time: Decimal) -> None:
    content = parquet(user_id=["u"], item_id=["i"], timestamp=values)
    assert load_file(tmp_path, "log.parquet", content, timestamp_unit="none") == [("u", "i", time)]


RATED_CSV = "user_id,item_id,timestamp,stars\nu1,i1,100,5\nu2,i2,50,3.5\nu1,i2,101,1\n"


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("log.csv", RATED_CSV, {"rating_column": "stars"}),
        ("log.tsv", HEADERLESS, COLUMN_NUMBERS),
        ("ratings.dat", MOVIELENS, {}),
        ("log.jsonl", '{"user_id":"u1","item_id":"i1","timestamp":100,"stars":5}\n'
         '{"user_id":"u2","item_id":"i2","timestamp":50,"stars":"3.5"}\n'
         '{"user_id":"u1","item_id":"i2","timestamp":101,"stars":1}\n', {"rating_column": "stars"}),
    ],
)  # fmt: skip
def test_low_ratings_are_dropped_and_counted(
    tmp_path: pathlib.Path, name: str, content: str, columns: dict[str, str]
) -> None:
    (tmp_path / name).write_text(content)
    rows, counts = load(LogSource([str(tmp_path / name)], **columns), min_rating=3.5)
    assert rows == EVENTS[:2]
    assert counts == LoadCounts(rows_read=3, low_rated=1)


def test_a_table_is_a_log_too() -> None:
    table = pa.table(
        {"user_id": ["u", "u"], "item_id": ["i", "j"], "timestamp": [NANOSECONDS, 3], "rating": [4.0, 2.0]}
    )
    assert load(table)[0] == [("u", "i", Decimal(NANOSECONDS)), ("u", "j", Decimal(3))]
    assert load(table, min_rating=4.0)[1] == LoadCounts(rows_read=2, low_rated=1)
    with pytest.raises(InputError, match="rating"):
        load(table.drop_columns("rating"), min_rating=4.0)


@pytest.mark.parametrize(
    ("name", "content", "columns", "named"),
    [
        ("log.csv", "user_id,timestamp\nu,1\n", {}, ["item_id", "user_id, timestamp", "--item_column"]),
        ("log.csv", "user_id,item_id\nu,i\n", {}, ["'timestamp'", "--timestamp_column="]),
        ("log.tsv", CSV, {}, ["user_id"]),
        ("log.tsv", "u\ti\n", COLUMN_NUMBERS, ["3"]),
        ("log.csv", HEADER.replace("timestamp", "item_id") + "u,i,i\n", {"timestamp_column": ""}, ["differ"]),
        ("log.csv", CSV + "u,i\n", {}, ["line 5"]),
        ("log.csv", CSV + "u,i,1,2\n", {}, ["line 5"]),
        ("log.csv", CSV + '"u,i,1\n', {}, ["line 5"]),
        ("log.csv", CSV + ",i,1\n", {}, ["line 5", "no user"]),
        ("log.csv", CSV + "u,,1\n", {}, ["line 5", "no item"]),
        ("log.csv", CSV + 'u,"",1\n', {}, ["line 5", "no item"]),
        ("log.csv", CSV + "u,i,\n", {}, ["line 5", "timestamp"]),
        ("log.csv", CSV + "u,i,yesterday\nu,i,nan\nu,i,7\nu,i,inf\n", {}, ["line 5", "yesterday", "line 6", "line 8"]),
        ("log.csv", CSV + "u,i,x\n" * 9, {}, ["line 9", "and 4 more", "9 bad rows of 12"]),
        ("log.csv", CSV + "u,\n,i,1\n", {}, ["line 5"]),
        ("log.csv", HEADER + '"a\nb",i,1\nu,,2\n', {}, ["line 4", "no item"]),
        ("log.csv", HEADER + "u,i,1\n\n\nu,,2\n", {}, ["line 5", "no item"]),
        ("log.csv", CSV.encode() + b"\xff,i,1\n", {}, ["line 5"]),
        ("log.tsv", "i\tu\t5\t1\ni\t\t5\t1\n", COLUMN_NUMBERS, ["line 2", "no user"]),
        ("log.txt", "u i\nu i j\n", {}, ["line 2", "user item"]),
        ("log.txt", "u i\n\nu\n", {}, ["line 3", "user item"]),
        ("log.txt", b"u i\nu \xff\n", {}, ["line 2", "not UTF-8"]),
        ("ratings.dat", MOVIELENS + "1::2::3\n", {}, ["line 4", "user::item::rating::timestamp"]),
        ("ratings.dat", MOVIELENS + "1::2::3::x\n", {}, ["line 4", "timestamp", '"x"']),
        ("log.jsonl", JSONL + '{"user_id": "u", "timestamp": 1}\n', {}, ["line 4", "no item"]),
        ("log.jsonl", JSONL + '{"user_id": null, "item_id": 1, "timestamp": 1}\n', {}, ["line 4", "no user"]),
        ("log.jsonl", JSONL + "\n" + '{"user_id": 1, "timestamp": 1}\n', {}, ["line 5", "no item"]),
        ("log.jsonl", JSONL + '{"user_id": "u",\n', {}, ["line 4"]),
        ("log.parquet", parquet(user_id=[1], timestamp=[1]), {}, ["item_id", "user_id, timestamp"]),
        ("log.parquet", parquet(user_id=[1, 2], item_id=[1, None], timestamp=[1, 1]), {}, ["line 2", "no item"]),
        ("log.parquet", b"PAR1 not", {}, ["parquet"]),
        ("log.csv", "", {}, ["at least one", "empty"]),
        ("log.csv", HEADER, {}, ["at least one"]),
        ("log.jsonl", "", {}, ["at least one"]),
        ("log.txt", "\n\n", {}, ["at least one"]),
        ("log.parquet", parquet(user_id=[], item_id=[], timestamp=[]), {}, ["at least one"]),
        ("log.xlsx", "", {}, [".csv", "parquet"]),
        ("log", "", {}, [".csv", "parquet"]),
    ],
)  # fmt: skip
def test_unreadable_rows_and_files_are_named(
    tmp_path: pathlib.Path, name: str, content: str | bytes, columns: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(InputError) as error:
        load_file(tmp_path, name, content, **columns)
    message = str(error.value)
    assert [words for words in [name, *named] if words not in message] == [], message


@pytest.mark.parametrize(
    ("name", "content", "columns", "named"),
    [
        ("log.csv", RATED_CSV, {}, "--rating_column"),
        ("log.csv", RATED_CSV, {"rating_column": "rating"}, "rating"),
        ("log.csv", RATED_CSV + "u,i,1,good\n", {"rating_column": "stars"}, "line 5 has no rating"),
        ("log.csv", RATED_CSV + "u,i,1,\n", {"rating_column": "stars"}, "line 5 has no rating"),
        ("log.csv", RATED_CSV + "u,i,1,nan\n", {"rating_column": "stars"}, "line 5 has no rating"),
        ("ratings.dat", MOVIELENS + "1::2::x::5\n", {}, "line 4 has no rating"),
        ("log.txt", "u i\n", {}, "user_item"),
    ],
)
def test_a_rating_that_cannot_be_read_is_named(
    tmp_path: pathlib.Path, name: str, content: str, columns: dict[str, str], named: str
) -> None:
    with pytest.raises(InputError) as error:
        load_file(tmp_path, name, content, min_rating=3.0, **columns)
    assert named in str(error.value)
    if "good" in content:
        assert '"rating":"good"' in str(error.value)


@pytest.mark.parametrize("pattern", ["nowhere.csv", "*.csv", "folder"])
def test_missing_inputs_are_named(tmp_path: pathlib.Path, pattern: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "log.txt").write_text("u i\n")
    with pytest.raises(InputError, match=r"--input") as error:
        load(LogSource([str(tmp_path / "log.txt"), str(tmp_path / pattern)]))
    assert str(tmp_path / pattern) in str(error.value)


@pytest.mark.parametrize("name", ["log.csv.gz", "log.txt.gz"])
@pytest.mark.parametrize("kept", [slice(-12), slice(-8)], ids=["cut within the rows", "cut behind the rows"])
def test_a_compressed_file_that_is_cut_short_is_named(tmp_path: pathlib.Path, name: str, kept: slice) -> None:
    text = HEADER + "u,i,1\n" * 1000 if "csv" in name else "u i\n" * 100_000
    content = gzip.compress(text.encode(), mtime=0)
    with pytest.raises(InputError) as error:
        load_file(tmp_path, name, content[kept])
    assert str(tmp_path / name) in str(error.value)


def test_files_with_blank_lines_are_read_in_order(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_text("u i1\n\n\n\nu i2\n")
    (tmp_path / "b.txt").write_text("u i3\n\nu i4\n")
    events, counts = load(LogSource([str(tmp_path / "*.txt")]))
    assert [item for _, item, _ in events] == ["i1", "i2", "i3", "i4"]
    assert sorted(events, key=lambda event: event[2]) == events
    assert len({time for _, _, time in events}) == counts.rows_read == 4


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-5",
        "007",
        "1600000000",
        "9" * 18,
        "9" * 19,
        "1600000000.123456",
        "-0.000001",
        "1600000000.1234567",
        "1e3",
        ".5",
    ],
)
def test_numbers_of_every_width_stay_exact(tmp_path: pathlib.Path, text: str) -> None:
    content = f"{HEADER}u,i,{text}\n"
    assert load_file(tmp_path, "log.csv", content, timestamp_unit="none") == [("u", "i", Decimal(text))]


CHANGES = {
    "grown": lambda content: content + content[content.index(b"\n") + 1 :],
    "shorter": lambda content: content[: content.rindex(b"\n", 0, -1) + 1],
    "other bytes": lambda content: content.replace(b"u1", b"u7"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_a_file_that_changes_after_it_was_hashed_is_refused(tmp_path: pathlib.Path, name: str, change: str) -> None:
    path = tmp_path / name

    def write(content: bytes) -> None:
        if name == "log.parquet":
            rows = [line.split(",") for line in content.decode().splitlines()[1:]]
            users, items, times = map(list, zip(*rows, strict=True))
            content = parquet(user_id=users, item_id=items, timestamp=times)
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)

    write(CSV.encode())
    before = path.stat()
    source = LogSource([str(path)])
    assert load(source)[0] == EVENTS
    write(CHANGES[change](CSV.encode()))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InputError, match=r"must not change while it is read.*log\."):
        load(source)
    write(CSV.encode())
    assert load(source)[0] == EVENTS, "the same bytes, written again"


def test_a_file_that_grows_or_disappears_while_it_is_hashed_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.csv"
    path.write_text(CSV)
    source = LogSource([str(path)])
    assert len(source.files) == 1
    path.unlink()
    with pytest.raises(InputError, match=r"must not change while it is read.*log\.csv"):
        load(source)

    path.write_text(CSV)
    monkeypatch.setattr(log_file.HashingReader, "read_rest", lambda _: path.write_text(CSV + "u,i,9\n"))
    with pytest.raises(InputError, match=r"must not change while it is read.*log\.csv"):
        load(LogSource([str(path)]))
