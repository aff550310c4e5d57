"""A file that is read in pieces gives the same events and the same bad rows as in one."""

import dataclasses
import gzip
import json
import pathlib
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipelines.sources import log_file
from pipelines.sources.file_pieces import Piece, pieces_of
from pipelines.sources.load_events import LoadCounts, load_file
from pipelines.sources.log_source import LogSource
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig

HEADER = "user_id,item_id,timestamp\n"
Row = tuple[str, str, int]
_BAD = "neither one nor the other\n"


def random_rows(seed: int) -> list[Row]:
    """Some ids make a line look like the start of another kind of file; a line with many such is long."""
    draw = random.Random(seed)
    users = ["ann", "Zoë", "\ufeffbob", "BZh91AY&SY", "PK\x03\x04", "x" * 40]
    return [(draw.choice(users), f"i{draw.randrange(50)}", draw.randrange(1000)) for _ in range(400)]


def text(rows: list[Row], line: Callable[[Row], str], bad: bool) -> str:
    lines = list(map(line, rows))
    lines[::37] = ["\n"] * len(lines[::37])
    if bad:
        lines[5::70] = [_BAD] * len(lines[5::70])
    return "".join(lines)


def json_line(row: Row) -> str:
    return json.dumps(dict(zip(("user_id", "item_id", "timestamp"), row, strict=True)), ensure_ascii=False) + "\n"


FORMATS: dict[str, Callable[[Row], str]] = {
    "csv": lambda row: f"{row[0]},{row[1]},{row[2]}\n",
    "quoted csv": lambda row: f'"{row[0]}","say ""{row[1]}""",{row[2]}\n',
    "tsv": lambda row: f'{row[0]}"\t{row[1]}\t{row[2]}\n',
    "jsonl": json_line,
    "user_item_rating_time": lambda row: f"{row[0]} {row[1]} 5 {row[2]}\r\n",
    "movielens": lambda row: f"{row[0]}::{row[1]}::5::{row[2]}\n",
}


def write(directory: pathlib.Path, format_: str, rows: list[Row], bad: bool = True) -> LogSource:
    header = {"csv": HEADER, "quoted csv": HEADER, "tsv": HEADER.replace(",", "\t")}.get(format_, "")
    path = directory / "log.txt"
    path.write_bytes((header + text(rows, FORMATS[format_], bad)).encode())
    return LogSource([str(path)], format_.split()[-1])


def load(source: LogSource, pieces: list[Piece], directory: pathlib.Path) -> tuple[list[Any], str, LoadCounts]:
    bad_rows, config, loaded = directory / "bad_rows.jsonl", DataConfig(), LoadCounts()
    bad_rows.unlink(missing_ok=True)
    connection = empty_events()
    for piece in pieces:
        copied_to = directory / f"piece-{piece.start}"
        loaded += load_file(connection, source, 0, config, bad_rows, piece=piece, copied_to=copied_to)
    events = connection.execute("SELECT user_id, item_id, time FROM events ORDER BY row").fetchall()
    assert connection.execute("SELECT count(*) - count(DISTINCT row) FROM events").fetchone() == (0,)
    loaded = dataclasses.replace(loaded, first_bad=loaded.first_bad[:5])
    return events, bad_rows.read_text() if bad_rows.exists() else "", loaded


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_file, "PIECE_BYTES", 900)


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("format_", FORMATS)
def test_pieces_of_text_are_the_file(tmp_path: pathlib.Path, format_: str, bad: bool) -> None:
    source = write(tmp_path, format_, random_rows(1), bad)
    pieces = pieces_of(source, 0, rated=False)
    assert len(pieces) > 4
    whole = load(source, [Piece(0)], tmp_path)
    assert load(source, pieces, tmp_path) == whole
    assert whole[2].rows_read == 400 - 11
    assert whole[2].bad == bool(bad) * 6
    assert (_BAD.strip() in whole[1]) == bad


def test_pieces_of_parquet_are_the_file(tmp_path: pathlib.Path) -> None:
    users, items, times = zip(*random_rows(2), strict=True)
    table = pa.table({"user_id": users, "item_id": items, "timestamp": [None, *times[1:200], None, *times[201:]]})
    parquet.write_table(table, tmp_path / "log.parquet", row_group_size=30)
    source = LogSource([str(tmp_path / "log.parquet")])
    pieces = pieces_of(source, 0, rated=False)
    assert len(pieces) > 4
    whole = load(source, [Piece(0)], tmp_path)
    assert load(source, pieces, tmp_path) == whole
    assert [json.loads(row)["line"] for row in whole[1].splitlines()] == [1, 201]


def test_parquet_without_timestamps_keeps_its_numbers(tmp_path: pathlib.Path) -> None:
    users, items, _ = zip(*random_rows(3), strict=True)
    parquet.write_table(pa.table({"user_id": users, "item_id": items}), tmp_path / "log.parquet", row_group_size=30)
    source = LogSource([str(tmp_path / "log.parquet")], timestamp_column="")
    pieces = pieces_of(source, 0, rated=False)
    assert len(pieces) > 4
    assert load(source, pieces, tmp_path) == load(source, [Piece(0)], tmp_path)


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (gzip.compress((HEADER + "ann,book,5\n" * 900).encode()), {}),
        ((HEADER + 'ann,"a\nbook",5\n' * 900).encode(), {}),
        ((HEADER + "ann,book,5\n" * 900 + 'ann,"a\nbook",5\n').encode(), {}),
        ((HEADER + "ann,book,5\n" * 900).encode("utf-16"), {}),
        (b"\xef\xbb\xbf" + (HEADER + "ann,book,5\n" * 900).encode(), {}),
        ((HEADER + "ann,book,5\n" * 900).encode(), {"timestamp_column": ""}),
        (b'{"user_id": "a", "item_id": ["b"], "timestamp": 5}\n' * 900, {"format": "jsonl", "explode": True}),
        (b"ann book\n" * 900, {"format": "user_item"}),
        ((HEADER + "ann,book,5\rx\n" * 900).encode(), {}),
    ],
    ids=[
        "gzip",
        "line ends",
        "one line end",
        "utf-16",
        "marked",
        "untimed",
        "exploded",
        "user_item",
        "carriage_returns",
    ],
)
def test_other_files_stay_whole(tmp_path: pathlib.Path, content: bytes, options: dict[str, Any]) -> None:
    (tmp_path / "log.csv").write_bytes(content)
    assert pieces_of(LogSource([str(tmp_path / "log.csv")], **options), 0, rated=False) == [Piece(0)]
