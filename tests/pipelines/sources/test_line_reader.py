"""Any file content: no traceback, no lost row, and the DuckDB reader and the line reader agree."""

import contextlib
import csv
import gzip
import io
import json
import pathlib
import tempfile
import tracemalloc
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bert4rec_tf.config import Config
from pipelines.build import DROPPED, build_records
from pipelines.sources import line_reader, load_events
from pipelines.sources.load_events import LoadCounts, load_file
from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import MAX_LINE_BYTES, LogSource, lay_out
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig
from tfrecords.errors import InputError

HEADER = b"user_id,item_id,timestamp\n"
Event = tuple[str, str, str]
Bad = tuple[int, str]


def load(
    content: bytes, name: str, *, exactly: bool = False, min_rating: float | None = None, **columns: str
) -> tuple[list[Event], list[Bad], LoadCounts]:
    """Events in their order, line and reason of each bad row, and the counts."""
    connection = empty_events()
    with tempfile.TemporaryDirectory() as directory:
        path, bad_rows = pathlib.Path(directory) / name, pathlib.Path(directory) / "bad"
        path.write_bytes(content)
        engine = mock.patch.object(load_events, "_insert_whole", return_value=None)
        with engine if exactly else contextlib.nullcontext():
            source, config = LogSource([str(path)], **columns), DataConfig(min_rating=min_rating)
            loaded = load_file(connection, source, 0, config, bad_rows)
        # Without timestamps, the row number is the time. Only its order counts, as the readers differ on blank lines.
        time = "rank() OVER (ORDER BY time)" if name == "log.txt" else "time"
        events = connection.execute(f"SELECT user_id, item_id, ({time})::VARCHAR FROM events ORDER BY row").fetchall()
        # The file is split only at "\n", as it was written.
        lines = bad_rows.read_bytes().decode().split("\n")[:-1] if bad_rows.exists() else []
    bad = [(row["line"], row["reason"]) for row in map(json.loads, lines)]
    assert len(events) == loaded.events, "no row is lost"
    assert len(bad) == loaded.bad
    return events, bad, loaded


# Texts that two readers are likely to read differently, and the bytes of ordinary rows.
ODD = ["", '"', '""', "'", " ", "\t", "\r", "\r\n", "\n", ",", "::", "\\", "#", "\x00", "\x01", "\x0b", "\x0c", "\x1f",
       "\x7f", "\x85", "\xa0", "\u2028", "\ufeff", "é", "e\u0301", "😀", "NULL", "null", "NaN", "inf", "true", "{", "[",
       "1e5", "1.10", "-0", "1.", ".5", "00", "9" * 19, "2020-01-01", "2020-01-01T00:00:00+01:00", "infinity",
       "epoch", "5::6"]  # fmt: skip
FIELD = st.lists(st.sampled_from(ODD) | st.sampled_from("abu1i27"), max_size=3).map("".join)
GOOD = st.sampled_from(["u", "i", "1", "2", "33", "007"])
LINE_ENDS = st.sampled_from(["\n"] * 5 + ["\r\n", "\r", "", "\n\n"])


def text_of(separator: str) -> st.SearchStrategy[bytes]:
    """Files whose rows are mostly valid."""
    fields = st.one_of(GOOD, GOOD, GOOD, GOOD.map('"{}"'.format), FIELD.map('"{}"'.format), FIELD)
    quoted = st.lists(GOOD.map('"{}"'.format), min_size=3, max_size=3)
    row = st.lists(fields, min_size=3, max_size=3) | st.lists(FIELD, max_size=5) | quoted
    line = st.tuples(row.map(separator.join), LINE_ENDS).map("".join)
    return st.lists(line, max_size=6).map(lambda lines: "".join(lines).encode("utf-8", "surrogatepass"))


def raw(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The same files, some of them cut short or with a byte that is not UTF-8."""
    broken = st.tuples(inner, st.integers(0, 60), st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b""]))
    return st.one_of(inner, inner, broken.map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] :]))


JSON_VALUE = st.one_of(
    GOOD, FIELD, st.integers(-3, 2**70), st.floats(), st.booleans(), st.none(), st.lists(GOOD, max_size=1)
)
JSON_ROW = st.dictionaries(st.sampled_from(["user_id", "item_id", "timestamp", "x", "USER_ID"]), JSON_VALUE, max_size=5)
GOOD_JSON = st.fixed_dictionaries({"user_id": GOOD, "item_id": GOOD, "timestamp": st.integers(0, 9)})
ODD_JSON = [
    "", " ", "{", "{}", "null", "[]", "1", "{'user_id':1}", "\ufeff{}", '{"user_id":1} {"user_id":2}',
    '{"user_id":1,"user_id":2,"item_id":3,"timestamp":4}',
    '{"user_id":"\\ud800","item_id":1,"timestamp":1}',
    '{"user_id":"\\u0000","item_id":1,"timestamp":1}',
    '{"x":{"x":1},"user_id":1,"item_id":2,"timestamp":1}',
    '{"user_id":1e5,"item_id":1.10,"timestamp":1600000000.123456789}',
]  # fmt: skip
JSON_LINE = st.one_of(
    st.one_of(GOOD_JSON, JSON_ROW).map(json.dumps),
    JSON_ROW.map(lambda row: json.dumps(row, ensure_ascii=False)),
    st.sampled_from(ODD_JSON),
)
JSONL = st.lists(st.tuples(JSON_LINE, LINE_ENDS).map("".join), max_size=6).map(
    lambda lines: "".join(lines).encode("utf-8", "surrogatepass")
)
FILES = {
    "log.csv": text_of(",").map(lambda rows: HEADER + rows),
    "log.tsv": text_of("\t").map(lambda rows: HEADER.replace(b",", b"\t") + rows),
    "log.txt": text_of(" "),
    "log.dat": text_of("::"),
    "log.jsonl": JSONL,
}


def both(name: str, content: bytes, compressed: bool) -> None:
    content = gzip.compress(content, mtime=0) if compressed else content
    try:
        found = load(content, name)
    except InputError:  # the whole file is unreadable: no header, or cut short
        with pytest.raises(InputError):
            load(content, name, exactly=True)
        return
    assert found == load(content, name, exactly=True)


@pytest.mark.parametrize("name", FILES)
def test_duckdb_and_line_reader_agree(name: str) -> None:
    @given(raw(FILES[name]), st.booleans())
    @settings(max_examples=15)
    @example(HEADER + b"u,i,1,\n", False)
    @example(HEADER + b'u, "i",1\nu,"i" ,1\n', False)
    @example(HEADER + b"u,i,1\rv,j,2\r", False)
    def check(content: bytes, compressed: bool) -> None:
        both(name, content, compressed)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_duckdb_and_line_reader_agree_on_many_files(name: str) -> None:
    @given(raw(FILES[name]), st.booleans())
    @settings(max_examples=1500)
    def check(content: bytes, compressed: bool) -> None:
        both(name, content, compressed)

    check()


IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=6)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=6), st.sampled_from(["\n", "\r\n"]))
@example([("\r", "\n"), ("a\nb", 'c"d'), ("é", "e\u0301"), ("x" * 10_000, " "), (",", "\ufeff")], "\n")
@settings(max_examples=30)
def test_any_id_survives(rows: list[tuple[str, str]], line_end: str) -> None:
    expected = [(user, item, f"{time}.000000000") for time, (user, item) in enumerate(rows)]
    for name, delimiter, options in (("log.csv", ",", {}), ("log.tsv", "\t", {"quote": "double"})):
        stream = io.StringIO()
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL)
        writer.writerows([["user_id", "item_id", "timestamp"], *expected])
        assert load(stream.getvalue().encode(), name, **options)[:2] == (expected, [])
    lines = [{"user_id": user, "item_id": item, "timestamp": time} for time, (user, item) in enumerate(rows)]
    for ascii_only in (True, False):
        text = line_end.join(json.dumps(line, ensure_ascii=ascii_only) for line in lines)
        assert load(text.encode(), "log.jsonl")[:2] == (expected, [])


def test_duckdb_reads_files_whose_quotes_enclose_fields(tmp_path: pathlib.Path) -> None:
    for content in (b'"user_id","item_id","timestamp"\nu,i,1\n', b'user_id,item_id,timestamp\n"u","i","1"'):
        (tmp_path / "log.csv").write_bytes(content)
        with mock.patch.object(load_events, "read_rows", side_effect=AssertionError("read line by line")):
            assert load(content, "log.csv")[0] == [("u", "i", "1.000000000")]


CASES = [
    ("log.csv", HEADER + b"u,i,1\nu,i\nu,i,2\n", [(3, "must have 3 fields")]),
    ("log.csv", HEADER + b"u,i,1,\n", [(2, "must have 3 fields, as line 1 has, not 4")]),
    ("log.csv", HEADER + b'u,"i,1\nv,j,2\nw,k,3\n', [(2, "RFC 4180")]),  # the rows after the quote are kept
    ("log.csv", HEADER + b'u,"i"x,1\nv,j,2\n', [(2, "RFC 4180")]),
    ("log.csv", HEADER + b'u,"a\nb",1,2\nv,j,2\n', [(2, "must have 3 fields, as line 1 has, not 4")]),
    ("log.csv", HEADER + b'u,"a\n\xff",1\nv,j,2\n', [(2, "is not UTF-8")]),
    ("log.csv", HEADER + b"\xff,i,1\nu,i,1\n", [(2, "is not UTF-8")]),
    ("log.csv", HEADER + b"u\x00,i,1\nu,i,1\n", [(2, "NUL")]),
    ("log.csv", HEADER + b"u,i\rv,1\nu,i,1\n", [(2, "RFC 4180")]),
    ("log.csv", HEADER + b",i,1\nu,,1\n", [(2, "no user"), (3, "no item")]),
    ("log.csv", HEADER + b"u,i,soon\nu,i,\n", [(2, "timestamp"), (3, "timestamp")]),
    ("log.csv", b"\xef\xbb\xbf" + HEADER + b"u,i,x\r\nu,i,1\r\n", [(2, "timestamp")]),
    ("log.csv", HEADER + b"u," + b"i" * MAX_LINE_BYTES + b",1\nu,i,1\n", [(2, "longer than")]),
    ("log.txt", b"u i\nu\n\n\tu i \nu i j\n", [(2, "`user item`"), (5, "`user item`")]),
    ("log.txt", b"u i\xff\nu i\n", [(1, "is not UTF-8")]),
    ("log.dat", b"1::2::3::4\n1::2::3\n1\t2\t3\t4\n1::2::3::x\n", [(2, "user::item"), (4, "timestamp")]),
    ("log.jsonl", b'{"user_id":1\n[1]\n', [(1, "JSON object"), (2, "JSON object")]),
    ("log.jsonl", b'{"user_id":{},"item_id":2,"timestamp":3}\n', [(1, "a string or a number for user 'user_id'")]),
    ("log.jsonl", b'{"user_id":NaN,"item_id":2,"timestamp":3}\n', [(1, "no user")]),
    ("log.jsonl", b'{"user_id":"\\ud83d","item_id":2,"timestamp":3}\n', [(1, "surrogate")]),
    ("log.jsonl", b'{"user_id":"\\u0000","item_id":2,"timestamp":3}\n', [(1, "NUL")]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), CASES, ids=[repr(content[:60]) for _, content, _ in CASES])
def test_bad_rows_are_set_aside_with_line_and_reason(name: str, content: bytes, expected: list[Bad]) -> None:
    _, bad, _ = load(content, name)
    assert [line for line, _ in bad] == [line for line, _ in expected]
    assert all(words in reason for (_, reason), (_, words) in zip(bad, expected, strict=True)), bad


@given(raw(FILES["log.csv"]), raw(FILES["log.csv"]), st.sampled_from(["exact", "first", "keep"]))
@settings(max_examples=20)
def test_rows_read_are_used_dropped_or_set_aside(one: bytes, other: bytes, duplicates: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in (("one.csv", one), ("other.csv", other + b"\n" + b"w,i,1\nw,j,2\nw,k,3\n")):
            (pathlib.Path(directory) / name).write_bytes(content)
        source = LogSource([f"{directory}/*.csv"])
        data = DataConfig(min_user_events=2, duplicates=duplicates, max_bad_fraction=1, num_negatives=2)
        try:
            built = build_records(source, {}, Config(data=data), f"{directory}/data")
        except InputError:
            return
        counts = built.manifest.counts
        assert counts["rows_read"] == sum(counts[name] for name in (*DROPPED, "events"))
        aside = pathlib.Path(directory) / "data/bad_rows.jsonl"
        assert counts["bad_rows_set_aside"] == (aside.read_bytes().count(b"\n") if aside.exists() else 0)


def test_long_ids_are_read_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_events, "_BATCH_CHARACTERS", 40_000)
    content = HEADER + b"".join(b'"%d,%s",i,1\n' % (row, b"x" * 10_000) for row in range(20))
    with mock.patch.object(load_events, "_table", wraps=load_events._table) as table:
        events, _, _ = load(content, "log.csv", exactly=True)
    sizes = [len(call.args[0]) for call in table.call_args_list]
    assert [len(user) for user, _, _ in events] == [10_002] * 10 + [10_003] * 10
    assert sizes == [4] * 5


def test_numbers_in_json_stay_as_they_are_written() -> None:
    content = (
        b'{"user_id":1.10,"item_id":1e5,"timestamp":1600000000.123456789}\n{"user_id":"2","item_id":3,"timestamp":4}'
    )
    events, bad, _ = load(content, "log.jsonl")
    assert events == [("1.10", "1e5", "1600000000.123456789"), ("2", "3", "4.000000000")]
    assert not bad


def test_bad_ratings_do_not_count_as_low() -> None:
    content = b"1::2::5::9\n1::2::1::9\n1::2::x::9\n1::2::nan::9\n"
    events, bad, loaded = load(content, "log.dat", min_rating=3.0)
    assert (len(events), loaded.low_rated) == (1, 1)
    assert [line for line, _ in bad] == [3, 4]


def test_an_unclosed_quote_costs_only_a_look_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_reader, "MAX_LINE_BYTES", 300)
    rows = b"".join(b"u,i%d,%d\n" % (row, row) for row in range(200))
    events, bad, _ = load(HEADER + b'"u,i,0\n' + rows, "log.csv")
    assert len(events) == 200
    assert [line for line, _ in bad] == [2]


def test_a_bad_row_is_kept_unchanged(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.txt").write_bytes("u i\nÜber drei Wörter\n".encode())
    load_file(empty_events(), LogSource([str(tmp_path / "log.txt")]), 0, DataConfig(), tmp_path / "bad.jsonl")
    kept = json.loads((tmp_path / "bad.jsonl").read_text())
    assert kept == {"file": "log.txt", "line": 2, "reason": "must be `user item`", "text": "Über drei Wörter"}


@pytest.mark.parametrize(
    ("content", "blank"),
    [
        (b"", 0),
        (b"\n", 1),
        (b"a", 0),
        (b" ", 1),
        (b"a\n \t\r\n\x0b\x0c\nb\n\n ", 4),
        (b" " * (1 << 16) + b"\n", 1),
        (b" " * (1 << 16) + b"a\n", 0),
        (b"a" + b" " * (1 << 17) + b"\n \n", 1),
    ],
)
def test_blank_lines_are_counted_whatever_their_length(content: bytes, blank: int, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(content)
    assert line_reader.count_blank_lines(LogFile.scan(path, path.name)) == blank


@pytest.mark.parametrize("filling", [b" ", b"a", b"u i "])
def test_a_line_of_any_length_is_read_in_bounded_memory(filling: bytes, tmp_path: pathlib.Path) -> None:
    path, size = tmp_path / "log.txt", 1 << 25
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"u i\n" + filling * (size // len(filling)) + b"\nu j\n")
    file = LogFile.scan(path, path.name)
    layout = lay_out(LogSource([str(path)]), file, rated=False)
    tracemalloc.start()
    try:
        assert line_reader.count_blank_lines(file) == (filling == b" ")
        rows = list(line_reader.read_rows(layout))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [row.item for row in rows] == ["i", None, "j"]
    assert rows[1].fault == f"is longer than {MAX_LINE_BYTES} bytes"
    assert peak < size // 2
