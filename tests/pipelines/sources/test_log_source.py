"""Log files in partition folders, compressed, in other encodings, with stray quotes."""

import bz2
import contextlib
import csv
import functools
import gzip
import hashlib
import io
import json
import lzma
import pathlib
import tempfile
from decimal import Decimal
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.sources import load_events, log_file, text_streams
from pipelines.sources.delimited import MAX_FIELD_LINES, Dialect, Line, read_records
from pipelines.sources.load_events import LoadCounts
from pipelines.sources.log_source import LogSource
from pipelines.sources.titles import read_titles
from pipelines.sources.whitespace_format import recognise
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig
from tfrecords.errors import InputError

Event = tuple[str, str, Decimal]
HEADER = "user_id,item_id,timestamp\n"
TIMED = [("u1", "i1", Decimal(100)), ("u2", "i2", Decimal(50)), ("u1", "i2", Decimal(101))]
CSV = HEADER + "u1,i1,100\nu2,i2,50\nu1,i2,101\n"


def load(
    source: LogSource,
    *,
    line_by_line: bool = False,
    max_bad: float = 0,
    bad_rows: pathlib.Path | None = None,
    **data: Any,
) -> list[Event]:
    """The events in log order, read by DuckDB if the files are safe for it, else line by line."""
    slow = mock.patch.object(load_events, "_insert_whole", return_value=None)
    connection = empty_events()
    with (
        tempfile.TemporaryDirectory() as directory,
        slow if line_by_line else contextlib.nullcontext(),
    ):
        loaded, aside = LoadCounts(), bad_rows or pathlib.Path(directory) / "bad_rows.jsonl"
        for number in range(len(source.files)):
            loaded += load_events.load_file(connection, source, number, DataConfig(**data), aside)
        loaded.check("the log", max_bad)
        return connection.execute("SELECT user_id, item_id, time FROM events ORDER BY row").fetchall()


def write(path: pathlib.Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def parquet(**columns: list) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


BY_FORMAT = {
    "log.csv": "user_id,item_id,dt\nu,i,2014-05-15\n",
    "log.tsv": "user_id\titem_id\tdt\nu\ti\t2014-05-15\n",
    "log.jsonl": '{"user_id": "u", "item_id": "i", "dt": "2014-05-15"}\n',
    "log.parquet": parquet(user_id=["u"], item_id=["i"], dt=["2014-05-15"]),
}
DAY = 86_400
MAY_15 = Decimal(1_400_112_000)
both_readers = pytest.mark.parametrize("line_by_line", [False, True], ids=["engine", "line by line"])


@pytest.mark.parametrize("folder", ["dt=2014-05-01", "dt=2014-05-01/deeper", "user_id=other/item_id=5/DT=x"])
@pytest.mark.parametrize("name", BY_FORMAT)
@both_readers
def test_folder_names_replace_no_column(tmp_path: pathlib.Path, folder: str, name: str, line_by_line: bool) -> None:
    path = write(tmp_path / folder / name, BY_FORMAT[name])
    assert load(LogSource([path], timestamp_column="dt"), line_by_line=line_by_line) == [("u", "i", MAY_15)]


@pytest.mark.parametrize("name", ["log.txt", "ratings.dat"])
def test_other_formats_ignore_folder_names(tmp_path: pathlib.Path, name: str) -> None:
    content = {"log.txt": "u i\n", "ratings.dat": "u::i::5::7\n"}[name]
    assert load(LogSource([write(tmp_path / "line=3/column0=4" / name, content)]))[0][:2] == ("u", "i")


WITHOUT_DT = {
    "log.csv": "user_id,item_id\nu,i\n",
    "log.tsv": "user_id\titem_id\nu\ti\n",
    "log.jsonl": '{"user_id": "u", "item_id": "i"}\n',
    "log.parquet": parquet(user_id=["u"], item_id=["i"]),
}


@pytest.mark.parametrize("name", WITHOUT_DT)
@both_readers
def test_partition_columns_are_read_from_folders(tmp_path: pathlib.Path, name: str, line_by_line: bool) -> None:
    for day in (15, 16):
        content = WITHOUT_DT[name]
        write(tmp_path / f"country=us/dt=2014-05-{day}T00%3A00%3A00" / name, content)
    source = LogSource([f"{tmp_path}/*/*/{name}"], timestamp_column="dt", partition_columns=("dt",))
    assert load(source, line_by_line=line_by_line) == [("u", "i", MAY_15), ("u", "i", MAY_15 + DAY)]
    described = source.description()
    assert described["partition_columns"] == ["dt"]
    assert [row["partition"] for row in described["inputs"]] == [
        {"dt": "2014-05-15T00:00:00"},
        {"dt": "2014-05-16T00:00:00"},
    ]


@both_readers
def test_every_column_may_be_a_partition(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    path = write(tmp_path / "who=Zo%C3%AB/what=a%2Fb+c%3Dd/stars=4/log.csv", "0,17\n1,18\n")
    columns = {"user_column": "who", "item_column": "what", "timestamp_column": "1", "rating_column": "stars"}
    source = LogSource([path], **columns, partition_columns=("what", "who", "stars"))
    assert load(source, line_by_line=line_by_line, min_rating=4.0) == [("Zoë", "a/b+c=d", Decimal(t)) for t in (17, 18)]
    assert load(source, line_by_line=line_by_line, min_rating=4.5) == []


@pytest.mark.parametrize("name", WITHOUT_DT)
@both_readers
def test_the_null_partition_is_a_missing_value(tmp_path: pathlib.Path, name: str, line_by_line: bool) -> None:
    path = write(tmp_path / "dt=__HIVE_DEFAULT_PARTITION__" / name, WITHOUT_DT[name])
    with pytest.raises(InputError, match=r"line [12]") as error:
        load(LogSource([path], timestamp_column="dt", partition_columns=("dt",)), line_by_line=line_by_line)
    assert "has no timestamp" in str(error.value)


@pytest.mark.parametrize(
    ("path", "content", "options", "named"),
    [
        *[
            (f"dt=1/{name}", content, {"timestamp_column": "dt"}, ["dt", "itself"])
            for name, content in BY_FORMAT.items()
        ],
        ("dt=1/log.csv", "user_id,item_id,DT\nu,i,5\n", {"timestamp_column": "dt"}, ["'dt' itself"]),
        ("log.csv", WITHOUT_DT["log.csv"], {"timestamp_column": "dt"}, ["no such folder", "dt=VALUE"]),
        ("dt=1/dt=2/log.csv", WITHOUT_DT["log.csv"], {"timestamp_column": "dt"}, ["2 values: 1, 2"]),
        ("dt=1/log.csv", CSV, {}, ["user_id, item_id, timestamp", "--timestamp_column=dt"]),
        ("dt=1/log.txt", "u i\n", {"timestamp_column": "dt"}, ["user_item", "--format"]),
    ],
)
def test_partition_columns_that_do_not_fit_are_named(
    tmp_path: pathlib.Path, path: str, content: str | bytes, options: dict[str, str], named: list[str]
) -> None:
    source = LogSource([write(tmp_path / path, content)], **options, partition_columns=("dt",))
    with pytest.raises(InputError) as error:
        load(source)
    assert [words for words in ["partition_columns", *named] if words not in str(error.value)] == []


def test_a_later_row_with_the_partition_column_is_a_bad_row(tmp_path: pathlib.Path) -> None:
    content = WITHOUT_DT["log.jsonl"] + '{"user_id": "u", "item_id": "j", "dt": "2014-05-15"}\n'
    path = write(tmp_path / "dt=2014-05-15/log.jsonl", content)
    source = LogSource([path], timestamp_column="dt", partition_columns=("dt",))
    assert load(source, max_bad=0.5) == [("u", "i", MAY_15)]
    with pytest.raises(InputError, match="line 2 has the key 'dt' itself"):
        load(source)


def test_options_that_are_not_set_are_not_in_the_manifest(tmp_path: pathlib.Path) -> None:
    described = LogSource([write(tmp_path / "log.csv", CSV)]).description()
    assert list(described) == ["format", "user_column", "item_column", "timestamp_column", "rating_column", "inputs"]
    assert list(described["inputs"][0]) == ["name", "bytes", "sha256"]


COMPRESSED = {
    "gz": functools.partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
}


@pytest.mark.parametrize("name", ["log.csv", "log.csv.zst"], ids=["by its bytes", "by its name"])
@pytest.mark.parametrize("kind", COMPRESSED)
@both_readers
def test_compressed_logs_are_read_under_any_name(
    tmp_path: pathlib.Path, name: str, kind: str, line_by_line: bool
) -> None:
    source = LogSource([write(tmp_path / name, COMPRESSED[kind](CSV.encode()))])
    assert load(source, line_by_line=line_by_line) == TIMED
    parts = COMPRESSED[kind](CSV[:30].encode()) + COMPRESSED[kind](CSV[30:].encode())  # as by `cat a.gz b.gz`
    assert load(LogSource([write(tmp_path / name, parts)]), line_by_line=line_by_line) == TIMED


@pytest.mark.parametrize("kind", COMPRESSED)
def test_compressed_logs_that_are_cut_or_damaged_are_named(tmp_path: pathlib.Path, kind: str) -> None:
    whole = COMPRESSED[kind](CSV.encode())
    broken = [whole[:cut] for cut in range(10, len(whole))] + [whole[:12] + b"garbage"]
    for content in broken:
        path = write(tmp_path / f"log.csv.{kind}", content)
        with pytest.raises(InputError, match="must be whole") as error:
            LogSource([path]).files  # noqa: B018
        assert path in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be", "utf-8"])
@pytest.mark.parametrize("kind", ["", "gz"])
@both_readers
def test_a_byte_order_mark_tells_the_encoding(
    tmp_path: pathlib.Path, encoding: str, kind: str, line_by_line: bool
) -> None:
    text = CSV + "".join(f'"Zoë 😀{row}","\u2028",{row}\r\n' for row in range(3))
    content = ("\ufeff" + text).encode(encoding)
    path = write(tmp_path / "log.csv", COMPRESSED[kind](content) if kind else content)
    # Pieces of 7 bytes cut within characters, surrogate pairs and the byte order mark.
    pieces = mock.patch.object(text_streams, "_BUFFER_BYTES", 7)
    plain = write(tmp_path / "plain.csv", text)
    expected = load(LogSource([plain]))
    assert len(expected) == 6
    assert load(LogSource([path]), line_by_line=line_by_line) == expected
    with pieces:
        assert load(LogSource([path]), line_by_line=line_by_line) == expected


def test_text_that_does_not_fit_its_encoding_is_named(tmp_path: pathlib.Path) -> None:
    half_a_pair = "\ufeff" + CSV + "u\ud83d,i,1\nu3,i3,102\n"
    path = write(tmp_path / "log.csv", half_a_pair.encode("utf-16-le", "surrogatepass"))
    assert load(LogSource([path]), max_bad=0.5)[3:] == [("u3", "i3", Decimal(102))]
    with pytest.raises(InputError, match="line 5 is not UTF-16"):
        load(LogSource([path]))
    for content in (("\ufeff" + CSV).encode("utf-16-le")[:-1], b"\xff\xfe\0\0\0\0\0\1"):
        path = write(tmp_path / "log.csv", content)
        with pytest.raises(InputError, match="must be whole") as error:
            load(LogSource([path]))
        assert path in str(error.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"PK\x03\x04" + bytes(30), "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(30), "a 7z archive"),
        (b"\x04\x22\x4d\x18" + bytes(30), "lz4"),
        (gzip.compress(b"log.csv".ljust(257, b"\0") + b"ustar\x0000" + bytes(300), mtime=0), "a tar archive"),
        (BY_FORMAT["log.parquet"], "--format=parquet"),
        (CSV.encode("utf-16-le"), "UTF-16"),
        (b"\x00\x01\x02garbage\xff" * 9, "UTF-16"),
        (b"\xd0\xcf\x11\xe0 garbage\n" * 9, "UTF-8"),
    ],
)
def test_binary_content_is_named_without_its_bytes(tmp_path: pathlib.Path, content: bytes, named: str) -> None:
    path = write(tmp_path / "log.csv", content)
    with pytest.raises(InputError) as error:
        load(LogSource([path]))
    assert path in str(error.value)
    assert named in str(error.value)
    assert str(error.value).isprintable()


TWICE = {"plain": lambda content: content, **COMPRESSED, "marked": lambda content: b"\xef\xbb\xbf" + content,
         "utf-16": lambda content: content.decode().encode("utf-16")}  # fmt: skip


@pytest.mark.parametrize("kind", TWICE)
def test_the_same_content_twice_is_refused(tmp_path: pathlib.Path, kind: str) -> None:
    first = write(tmp_path / "logs/a.csv", CSV)
    write(tmp_path / "logs/b.csv", CSV + "u,i,7\n")
    second = write(tmp_path / f"logs/c.csv.{kind}.csv", TWICE[kind](CSV.encode()))
    for paths in ([f"{tmp_path}/logs/*"], [second, first], [f"{tmp_path}/logs/b*", first, f"{tmp_path}/logs/c*"]):
        with pytest.raises(InputError, match="--input must hold each file's content once") as error:
            load(LogSource(paths))
        assert first in str(error.value)
        assert second in str(error.value)
        assert "leave one of them out" in str(error.value)


def test_the_same_parquet_twice_is_refused(tmp_path: pathlib.Path) -> None:
    for name in ("a.parquet", "b.parquet"):
        write(tmp_path / name, BY_FORMAT["log.parquet"])
    with pytest.raises(InputError, match="content once") as error:
        load(LogSource([f"{tmp_path}/*"], timestamp_column="dt"))
    assert "a.parquet" in str(error.value)
    assert "b.parquet" in str(error.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [("log.csv", HEADER), ("log.txt", "\n\n"), ("log.parquet", parquet(user_id=[], item_id=[], timestamp=[]))],
)
def test_empty_files_do_not_count_as_copies(tmp_path: pathlib.Path, name: str, content: str | bytes) -> None:
    for day in ("1", "2"):
        write(tmp_path / day / name, content)
    path = write(tmp_path / "3" / "more.csv", CSV)
    assert load(LogSource([f"{tmp_path}/*/{name}", path])) == TIMED


def test_equal_files_of_two_partitions_do_not_count_as_copies(tmp_path: pathlib.Path) -> None:
    for day in ("15", "16"):
        write(tmp_path / f"dt=2014-05-{day}/log.csv", WITHOUT_DT["log.csv"])
    days = LogSource([f"{tmp_path}/*/*"], timestamp_column="dt", partition_columns=("dt",))
    assert [time for _, _, time in load(days)] == [MAY_15, MAY_15 + DAY]
    with pytest.raises(InputError, match="content once"):
        load(LogSource([f"{tmp_path}/*/*"], timestamp_column=""))


@pytest.mark.parametrize("kind", ["plain", "gz", "zst"])
def test_files_are_hashed_while_they_are_inspected(tmp_path: pathlib.Path, kind: str) -> None:
    text = (HEADER + "".join(f"u{row % 97},i{row % 89},{row}\n" for row in range(20_000))).encode()
    content = TWICE[kind](text)
    path = write(tmp_path / "log.csv", content)
    with mock.patch.object(log_file, "_hash", side_effect=AssertionError("read once more")):
        (file,) = LogSource([path]).files
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.content_sha256 == hashlib.sha256(text).hexdigest()


def records(text: str, dialect: Dialect) -> list[tuple[int, list[str], bool]]:
    """Line, fields, and whether it is malformed, of each record."""
    lines = [Line(number, line, None) for number, line in enumerate(io.StringIO(text, newline="\n"), 1)]
    return [(record.line, record.fields, record.fault is not None) for record in read_records(lines, dialect)]


def character_by_character(text: str, delimiter: str) -> list[tuple[int, list[str], bool]]:
    """A plain reader of RFC 4180 with two additions: fields span few lines, and a bad record ends with its line."""
    lines = text.split("\n")
    lines = [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    found, start = [], 0
    while start < len(lines):
        if not lines[start].strip("\r\n"):
            start += 1
            continue
        fields, field, state, used, spans = [], "", "begin", 0, 0
        while state not in ("end", "bad"):
            if start + used == len(lines):
                state = "bad" if state == "quoted" else "end"
                break
            line, used = lines[start + used], used + 1
            spans += 1
            index = 0
            while index < len(line) and state not in ("end", "bad"):
                character = line[index]
                index += 1
                line_end = not line[index - 1 :].strip("\r\n")
                if state == "quoted":
                    if character == '"' and line[index : index + 1] == '"':
                        field, index = field + '"', index + 1
                    elif character == '"':
                        state = "closed"
                    else:
                        field += character
                elif line_end or character == delimiter:
                    fields, field = [*fields, field], ""
                    state = "end" if line_end else "begin"
                elif state == "begin" and character == '"':
                    state, spans = "quoted", 1
                elif state == "closed" or character in '"\r':
                    state = "bad"
                else:
                    state, field = "plain", field + character
            if state == "quoted" and spans == MAX_FIELD_LINES:
                state = "bad"
            elif state in ("begin", "plain", "closed"):  # the last line has no line end
                fields, state = [*fields, field], "end"
        found.append((start + 1, [], True) if state == "bad" else (start + 1, fields, False))
        start += 1 if state == "bad" else used
    return found


DELIMITED_TEXT = st.lists(
    st.sampled_from([*',;|\t \n\n\n\n""""""ab', '""', ',"', '",', '"\n', '\n"', "\r\n", "\r"]), max_size=40
).map("".join)


@given(DELIMITED_TEXT, st.sampled_from(",;|\t "))
@example('a,"b\n' * 30, ",")
@example('"' + "\n" * (MAX_FIELD_LINES - 1) + '",a\nb,c\n', ",")
@example('"' + "\n" * MAX_FIELD_LINES + '",a\nb,c\n', ",")
@example('"a\n","b\n",c\nd\n', ",")
@example('a,"b', ",")
@settings(max_examples=200)
def test_records_equal_those_of_a_plain_oracle(text: str, delimiter: str) -> None:
    assert records(text, Dialect(delimiter, quoted=True)) == character_by_character(text, delimiter)
    plain = [
        (number, line.rstrip("\r").split(delimiter))
        for number, line in enumerate(text.split("\n"), 1)
        if line.rstrip("\r")
    ]
    unquoted = [
        (number, [], True) if any("\r" in field for field in fields) else (number, fields, False)
        for number, fields in plain
    ]
    assert records(text, Dialect(delimiter, quoted=False)) == unquoted


FIELD_TEXT = st.lists(st.sampled_from([*'ab,;|\t \n"', "\r\n"]), max_size=MAX_FIELD_LINES - 1).map("".join)


@given(
    st.lists(st.lists(FIELD_TEXT, min_size=2, max_size=4), min_size=1, max_size=4),
    st.sampled_from(",;|\t "),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(["\n", "\r\n"]),
)
@settings(max_examples=100)
def test_well_formed_records_equal_those_of_pythons_csv(
    rows: list[list[str]], delimiter: str, quoting: Any, line_end: str
) -> None:
    stream = io.StringIO()
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=line_end).writerows(rows)
    found = records(stream.getvalue(), Dialect(delimiter, quoted=True))
    assert [(fields, bad) for _, fields, bad in found] == [(row, False) for row in rows]


FIELDS = st.sampled_from(["u", "i", "1", "2", '"u"', '"1"', '"', '""', 'u"', '"u', '"u"x', "u;v", "u,v", "NA", "", " "])


def check_that_the_readers_agree(rows: list[list[str]], format_: str, delimiter: str, quote: str) -> None:
    header = ["user_id", "item_id", "timestamp", "more"]
    text = "".join(delimiter.join(row) + "\n" for row in [header, *rows, ["u", "i", "1", "x"]])
    options = {"format": format_, "delimiter": delimiter, "quote": quote, "null_values": ("NA", "2")}
    with tempfile.TemporaryDirectory() as directory:
        source = LogSource([write(pathlib.Path(directory) / "log", text)], **options)
        found = []
        for line_by_line in (False, True):
            bad = pathlib.Path(directory) / f"bad-{line_by_line}"
            events = load(source, line_by_line=line_by_line, max_bad=1, bad_rows=bad)
            found.append((events, bad.read_text() if bad.exists() else ""))
    assert found[0] == found[1]


GOOD_OR_ODD = st.lists(st.sampled_from(["u", "i", "1", "3"]) | FIELDS, min_size=4, max_size=4)


DIALECTS = (
    st.lists(GOOD_OR_ODD | st.lists(FIELDS, min_size=1, max_size=5), max_size=4),
    st.sampled_from(["csv", "tsv"]),
    st.sampled_from(",;|\t \\#~^¦\x01"),
    st.sampled_from(["none", "double"]),
)


@given(*DIALECTS)
@example([["u", "i", "1", 'x"']], "csv", ",", "double")
@example([["u", 'i"', "1", "x"], ['"u', "i", "1", "x"]], "csv", ",", "double")
@example([["u", '"i', "1", 'x"']], "tsv", "\t", "none")
@settings(max_examples=20)
def test_both_readers_agree_on_every_dialect(rows: list[list[str]], format_: str, delimiter: str, quote: str) -> None:
    check_that_the_readers_agree(rows, format_, delimiter, quote)


@pytest.mark.slow
@given(*DIALECTS)
@settings(max_examples=600)
def test_both_readers_agree_on_many_files_of_every_dialect(
    rows: list[list[str]], format_: str, delimiter: str, quote: str
) -> None:
    check_that_the_readers_agree(rows, format_, delimiter, quote)


COLUMNS = {"user_column": "0", "timestamp_column": "1", "item_column": "3"}
STRAY = [
    'u1\t100\t"Artist one\ti1\tTrack\n',
    'u2\t50\tArtist two"\ti2\tTrack\n',
    'u1\t101\t"Nick" Name\ti2\t12" mix\n',
]


@both_readers
def test_quotes_in_tsv_are_text(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    path = write(tmp_path / "log.tsv", "".join(STRAY))
    assert load(LogSource([path], **COLUMNS), line_by_line=line_by_line) == TIMED
    as_items = LogSource([path], **{**COLUMNS, "item_column": "2"})
    items = [item for _, item, _ in load(as_items, line_by_line=line_by_line)]
    assert items == ['"Artist one', 'Artist two"', '"Nick" Name']
    with pytest.raises(InputError, match=r"line 3 must be RFC 4180 \(text after a closing quote\)"):
        load(LogSource([path], **COLUMNS, quote="double"), line_by_line=line_by_line)


@both_readers
def test_quotes_in_csv_can_be_text(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    path = write(tmp_path / "log.csv", "".join(STRAY).replace("\t", ","))
    assert load(LogSource([path], **COLUMNS, quote="none"), line_by_line=line_by_line) == TIMED


@both_readers
def test_a_stray_quote_in_csv_swallows_no_row(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    rows = [f"u,i{row},{row}\n" for row in range(300)]
    rows[3], rows[293] = 'u,"i3,3\n', 'u,i293",293\n'
    path, bad_rows = write(tmp_path / "log.csv", HEADER + "".join(rows)), tmp_path / "bad"
    events = load(LogSource([path]), line_by_line=line_by_line, max_bad=0.1, bad_rows=bad_rows)
    assert [int(time) for _, _, time in events] == [row for row in range(300) if row not in (3, 293)]
    bad = [json.loads(line) for line in bad_rows.read_text().splitlines()]
    assert [(row["line"], row["text"]) for row in bad] == [(5, rows[3]), (295, rows[293])]
    assert [row["reason"] for row in bad] == [
        f"must be RFC 4180 (a quoted field that does not end within {MAX_FIELD_LINES} lines)",
        "must be RFC 4180 (a quote inside a field that does not begin with one)",
    ]


@pytest.mark.parametrize("delimiter", [";", "|", "\t", " ", "^", "\x01", "§"])
@pytest.mark.parametrize("format_", ["csv", "tsv"])
@both_readers
def test_a_delimiter_may_be_any_character(
    tmp_path: pathlib.Path, delimiter: str, format_: str, line_by_line: bool
) -> None:
    path = write(tmp_path / f"log.{format_}", CSV.replace(",", delimiter))
    assert load(LogSource([path], delimiter=delimiter), line_by_line=line_by_line) == TIMED


@pytest.mark.parametrize("delimiter", ['"', "'", "\n", "\r", "\0", "a", "7", "é", "::", "\udcff"])
def test_impossible_delimiters_are_named(delimiter: str) -> None:
    with pytest.raises(InputError, match="--delimiter must be one character") as error:
        LogSource(["log.csv"], delimiter=delimiter)
    assert repr(delimiter) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "columns", "fix"),
    [
        ("log.csv", CSV.replace(",", ";"), {}, "--delimiter=';'"),
        ("log.csv", CSV.replace(",", "|"), {}, "--delimiter='|'"),
        ("log.csv", CSV.replace(",", "\t"), {}, "--delimiter='\\t'"),
        ("log.tsv", CSV, {}, "--delimiter=','"),
        ("log.csv", CSV.replace(",", ";"), {"timestamp_column": "other"}, "--delimiter=';'"),
        (
            "log.csv",
            "u;1,5;i;7\n",
            {"user_column": "0", "item_column": "2", "timestamp_column": "3"},
            "--delimiter=';'",
        ),
        ("log.csv", "user_id;item_id;a,b;timestamp\n", {}, "--delimiter=';'"),
        ("log.csv", "user_id,item;timestamp\n", {}, "--item_column"),
        ("log.tsv", '"user_id"\t"item_id"\t"timestamp"\n', {}, "--quote=double"),
    ],
)
def test_another_delimiter_is_suggested(
    tmp_path: pathlib.Path, name: str, content: str, columns: dict[str, str], fix: str
) -> None:
    with pytest.raises(InputError, match="must have the column") as error:
        load(LogSource([write(tmp_path / name, content)], **columns))
    assert f"Fix: {fix}" in str(error.value).replace("name it with ", "")
    assert ("--delimiter" in str(error.value)) == fix.startswith("--delimiter")


@pytest.mark.parametrize("option", [{"delimiter": ";"}, {"quote": "none"}])
@pytest.mark.parametrize("name", ["log.txt", "log.jsonl", "ratings.dat", "log.parquet"])
def test_other_formats_take_no_delimiter(tmp_path: pathlib.Path, name: str, option: dict[str, str]) -> None:
    content = {"log.txt": "u i\n", "log.jsonl": "{}\n", "ratings.dat": "u::i::5::7\n"}.get(
        name, BY_FORMAT["log.parquet"]
    )
    with pytest.raises(InputError, match="--delimiter and --quote need"):
        load(LogSource([write(tmp_path / name, content)], **option))


NULLS = ("NA", "-1")


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("log.csv", "NA,i,7,4", "no user"),
        ("log.csv", "u,NA,7,4", "no item"),
        ("log.csv", 'u,"NA",7,4', "no item"),
        ("log.csv", "u,i,NA,4", "no timestamp"),
        ("log.csv", "u,i,-1,4", "no timestamp"),
        ("log.csv", "u,i,7,NA", "no rating"),
        ("log.csv", "u,i,7,-1", "no rating"),
        ("log.csv", "u,i,7,", "no rating"),
        ("log.csv", "na,NA ,7,4", None),
        ("log.jsonl", '{"user_id": "NA", "item_id": 1, "timestamp": 7, "stars": 4}', "no user"),
        ("log.jsonl", '{"user_id": 1, "item_id": -1, "timestamp": 7, "stars": 4}', "no item"),
        ("ratings.dat", "1::-1::4::7", "no item"),
        ("log.parquet", parquet(user_id=[-1], item_id=["i"], timestamp=[7], stars=[4.5]), "no user"),
        ("log.parquet", parquet(user_id=[1], item_id=["NA"], timestamp=[7], stars=[4.5]), "no item"),
    ],
)
@both_readers
def test_null_values_are_missing_values(
    tmp_path: pathlib.Path, name: str, row: str | bytes, reason: str | None, line_by_line: bool
) -> None:
    if isinstance(row, str):
        row = ("user_id,item_id,timestamp,stars\n" if name == "log.csv" else "") + row + "\n"
    source = LogSource([write(tmp_path / name, row)], rating_column="stars", null_values=NULLS)
    if reason is None:
        assert load(source, line_by_line=line_by_line, min_rating=1.0) == [("na", "NA ", Decimal(7))]
        return
    with pytest.raises(InputError, match=f"has {reason}"):
        load(source, line_by_line=line_by_line, min_rating=1.0)


def test_null_ratings_do_not_matter_if_no_rating_is_read(tmp_path: pathlib.Path) -> None:
    path = write(tmp_path / "log.csv", "user_id,item_id,timestamp,stars\nu,i,7,NA\n")
    assert load(LogSource([path], rating_column="stars", null_values=NULLS)) == [("u", "i", Decimal(7))]


@pytest.mark.parametrize("kind", ["", "gz"])
@pytest.mark.parametrize(
    ("name", "content", "titles"),
    [
        ("t.tsv", 'item_id\ttitle\n1\t"Untitled\n2\tSecond\n3\t12"\n', ['"Untitled', "Second", '12"']),
        ("t.csv", 'item_id,title\n1,"A, ""B""; C"\n2,Second\n3,"two\nlines"\n', ['A, "B"; C', "Second", "two\nlines"]),
        ("t.csv", 'title;x;item_id\n"A;B";;1\nC, D;;2\nE;;3\n', ["A;B", "C, D", "E"]),
        ("t.txt", "item_id|title\r\n1|A\r\n2|\r\n3|C\r\n", ["A", None, "C"]),
    ],
)
def test_titles(tmp_path: pathlib.Path, name: str, content: str, titles: list[str | None], kind: str) -> None:
    path = write(tmp_path / name, COMPRESSED[kind](content.encode()) if kind else content)
    assert read_titles(path) == {str(item): title for item, title in enumerate(titles, 1) if title}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('item_id,title\n1,A\n2,"B\n3,C\n', ["line 3", "RFC 4180"]),
        ('item_id,title\n1,A "B"\n', ["line 2", "RFC 4180"]),
        ("item_id,title\n1,Usual Suspects, The\n", ["line 2", "must have 2 fields", "Suspects, The"]),
        ("item_id,title\n1,A\n,B\n", ["line 3", "no item_id"]),
        (b"item_id,title\n1,A\n2,\xff\n", ["line 3", "UTF-8"]),
        ("item,title\n1,A\n", ["item_id and title", "item,title"]),
        ("", ["item_id and title"]),
        (gzip.compress(b"item_id,title\n1,A\n", mtime=0)[:-6], ["must be whole"]),
    ],
)
def test_titles_that_cannot_be_read_are_named(tmp_path: pathlib.Path, content: str | bytes, named: list[str]) -> None:
    path = write(tmp_path / "titles.csv", content)
    with pytest.raises(InputError) as error:
        read_titles(path)
    assert [words for words in [path, *named] if words not in str(error.value)] == []


NUMBERED = {"user_column": "0", "item_column": "1", "timestamp_column": "2"}
ROWS = "u1,i1,100\nu2,i2,50\nu1,i2,101\n"


@both_readers
def test_a_header_that_numbers_the_columns_is_no_event(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    source = LogSource([write(tmp_path / "log.csv", "0,1,2\n" + ROWS)], **NUMBERED)
    assert load(source, line_by_line=line_by_line) == TIMED
    (remark,) = source.remarks()
    assert "log.csv, line 1" in remark
    assert "--header=no" in remark
    indexed = "".join(f"{row},{line}\n" for row, line in enumerate(ROWS.splitlines()))
    after_index = {"user_column": "1", "item_column": "2", "timestamp_column": "3"}
    source = LogSource([write(tmp_path / "log.csv", ",0,1,2\n" + indexed)], **after_index)
    assert load(source, line_by_line=line_by_line) == TIMED
    assert len(source.remarks()) == 1


@both_readers
def test_a_header_can_be_declared(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    path = write(tmp_path / "log.csv", "0,1,2\n" + ROWS)
    source = LogSource([path], **NUMBERED, header="no")
    assert load(source, line_by_line=line_by_line) == [("0", "1", Decimal(2)), *TIMED]
    assert source.remarks() == []
    named = LogSource([write(tmp_path / "log.csv", CSV)], **NUMBERED, header="yes")
    assert load(named, line_by_line=line_by_line) == TIMED
    pairs = LogSource([write(tmp_path / "log.csv", "0,1\nu,i\n")], **{**NUMBERED, "timestamp_column": ""})
    with pytest.raises(InputError, match=r"--header=yes or --header=no"):
        load(pairs, line_by_line=line_by_line)
    with pytest.raises(InputError, match=r"--header=no needs columns by number"):
        load(LogSource([write(tmp_path / "log.csv", CSV)], header="no"))


@pytest.mark.parametrize("first", ["1,2,3", "0,1,3", "0,1,2,", "00,1,2"])
def test_other_first_lines_are_events(tmp_path: pathlib.Path, first: str) -> None:
    width = first.count(",") + 1
    rows = "".join(line + "," * (width - 3) + "\n" for line in ROWS.split())
    source = LogSource([write(tmp_path / "log.csv", f"{first}\n{rows}")], **NUMBERED)
    assert len(load(source)) == 4
    assert source.remarks() == []


@both_readers
def test_a_malformed_first_row_does_not_tell_the_number_of_columns(tmp_path: pathlib.Path, line_by_line: bool) -> None:
    path = write(tmp_path / "log.csv", 'u,"i,1\n' + ROWS)
    with pytest.raises(InputError, match=r"1 bad rows of 4: log.csv, line 1 must be RFC 4180"):
        load(LogSource([path], **NUMBERED), line_by_line=line_by_line)


RATED = "u1 i1 5 1400000100\nu2\ti2\t3.5\t1400000050\n\n u1  i2 1 1400000101 \r\n"
AT_1400000000 = [(user, item, time + 1_400_000_000) for user, item, time in TIMED]


@pytest.mark.parametrize("format_", ["auto", "user_item_rating_time"])
@both_readers
def test_user_item_rating_time(tmp_path: pathlib.Path, format_: str, line_by_line: bool) -> None:
    source = LogSource([write(tmp_path / "log.txt", RATED)], format=format_)
    assert load(source, line_by_line=line_by_line) == AT_1400000000
    assert load(source, line_by_line=line_by_line, min_rating=3.5) == AT_1400000000[:2]
    bad = LogSource([write(tmp_path / "bad/log.txt", RATED + "u i 5\n")], format=format_)
    with pytest.raises(InputError, match=r"1 bad rows of 4: log.txt, line 5 must be `user item rating time`"):
        load(bad, line_by_line=line_by_line)


@pytest.mark.parametrize("format_", ["auto", "user_items"])
@both_readers
def test_user_items(tmp_path: pathlib.Path, format_: str, line_by_line: bool) -> None:
    text = "u1 i3 i1 i2\n\nu2\ti1\ti9 \nu3 i5 i5 i5 i1\n"
    source = LogSource([write(tmp_path / "log.txt", text)], format=format_)
    events = load(source, line_by_line=line_by_line)
    expected = [("u1", "i3 i1 i2"), ("u2", "i1 i9"), ("u3", "i5 i5 i5 i1")]
    assert [event[:2] for event in events] == [(user, item) for user, items in expected for item in items.split()]
    times = [time for _, _, time in events]
    assert times == sorted(set(times))
    bad = LogSource([write(tmp_path / "bad/log.txt", text + "u4\n")], format=format_)
    with pytest.raises(InputError, match=r"1 bad rows of 10: log.txt, line 5 must be `user item item …`"):
        load(bad, line_by_line=line_by_line)
    with pytest.raises(InputError, match=r"--min_rating needs a rating.*format user_items"):
        load(source, min_rating=3.0)


PAIRS = "".join(f"u{row % 7} i{row}\n" for row in range(40))


@pytest.mark.parametrize(
    ("text", "format_"),
    [
        (PAIRS, "user_item"),
        ("u i\n", "user_item"),
        ("\n", "user_item"),
        ("u1 i1\nu2 i2\n", "user_item"),
        ("one two three\nfour\n" + PAIRS, "user_item"),
        ("user item rating time\n" + RATED, "user_item_rating_time"),
        ("u i 5 1400000000\n", "user_item_rating_time"),
        ("u i 5 2014-05-15\nu j 4 2014-05-16T10:00:00Z\n", "user_item_rating_time"),
        ("1 26 3 4 25\n2 25 23\n3 1 2 3\n", "user_items"),
        ("1 26\n2 25 23\n3 1 2 3\n", "user_items"),
        ("s 26 1\ns 25 23 4 5\nt 1 2 3\nt 4 5 6 7 8\n", "user_items"),
        ("1 2 3\n1 3 4\n2 3 5\n", None),
        ("1 2 3\n1 3 4\n2 3 5\n3 1 4 two\n", None),
        ("1 26 5 17\n1 27 4 18\n", None),
        ("1 2 3 4 5 6\n", None),
        ("1 2\n2 3\n3 4 5\n", "user_item"),
        ("1\n2\n3 4\n", None),
        ("1,2\n1,3\n", None),
    ],
)
def test_the_first_lines_tell_the_format(tmp_path: pathlib.Path, text: str, format_: str | None) -> None:
    path = write(tmp_path / "log.txt", text)
    if format_:
        assert recognise(pathlib.Path(path)) == format_
        return
    with pytest.raises(InputError, match="--format must be given") as error:
        load(LogSource([path]))
    assert path in str(error.value)
    assert "--format=user_items" in str(error.value)
