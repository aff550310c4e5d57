"""A text file that is read block by block gives the same events and the same bad rows as line by line."""

import bz2
import gzip
import json
import pathlib
import tempfile
from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.sources import load_events, text_blocks
from pipelines.sources.load_events import LoadCounts
from pipelines.sources.log_source import LogSource
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig

HEADER = "user_id,item_id,timestamp\n"
Loaded = tuple[list[tuple], list[tuple[int, str]], tuple[int, int]]


def load(content: bytes, name: str, block_bytes: int, fast: bool) -> tuple[Loaded, list[bool]]:
    """Events, bad rows and counts; and for each attempt at a whole file or block whether DuckDB read it."""
    attempts: list[bool] = []
    insert_whole = load_events._insert_whole

    def counted(*arguments: object) -> LoadCounts | None:
        loaded = insert_whole(*arguments) if fast else None
        attempts.append(loaded is not None)
        return loaded

    connection = empty_events()
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(load_events, "_insert_whole", counted),
        mock.patch.object(text_blocks, "_BLOCK_BYTES", block_bytes),
        mock.patch.object(text_blocks, "_READ_BYTES", 7),
    ):
        path, bad_rows = pathlib.Path(directory) / name, pathlib.Path(directory) / "bad_rows.jsonl"
        path.write_bytes(content)
        loaded = load_events.load_file(connection, LogSource([str(path)]), 0, DataConfig(), bad_rows)
        events = connection.execute(
            "SELECT user_id, item_id, rank() OVER (ORDER BY time) FROM events ORDER BY row"
        ).fetchall()
        assert connection.execute("SELECT count(*) - count(DISTINCT row) FROM events").fetchone() == (0,)
        bad = [json.loads(line) for line in bad_rows.read_text().splitlines()] if bad_rows.exists() else []
        left = {left.name for left in pathlib.Path(directory).iterdir()}
        assert left <= {name, bad_rows.name}, "nothing is left behind"
    return (events, [(row["line"], row["reason"]) for row in bad], (loaded.rows_read, loaded.bad)), attempts


PIECES = st.lists(
    st.sampled_from(["u,i,1\n", "v,j,2\n", 'u,"a, b",3\n', '"u","i","4"\n', "\n", "u,i\n", 'u,"a\nb",5\n', '"\n',
                     'u,"i,6\n', 'x"y,i,7\n', 'u,"say ""so""",8\n', "u,i,9,\n", "u,i,no\n",
                     "\ufeffu,i,1\n", "BZh91AY&SY,i,1\n"]),
    max_size=40,
)  # fmt: skip


def check(rows: list[str], block_bytes: int) -> None:
    content = (HEADER + "".join(rows)).encode()
    expected, _ = load(content, "log.csv", 1 << 20, fast=False)
    assert load(content, "log.csv", block_bytes, fast=True)[0] == expected


@given(PIECES, st.integers(1, 90))
@example(['u,"a\n', "b\n", "c\n", "d\n", "e\n", "f\n", "g\n", 'h",1\n'] * 3, 10)
@example(['"\n'] * 30, 20)
@settings(max_examples=25)
def test_blocks_give_what_lines_give(rows: list[str], block_bytes: int) -> None:
    check(rows, block_bytes)


@pytest.mark.slow
@given(PIECES, st.integers(1, 90))
@settings(max_examples=1000)
def test_blocks_give_what_lines_give_for_many_files(rows: list[str], block_bytes: int) -> None:
    check(rows, block_bytes)


PLAIN = "".join(f"user{row % 7},item{row % 5},{row}\n" for row in range(200))
ODD = PLAIN.replace("user3,item2,17\n", "user3,item2\n")


@pytest.mark.parametrize(
    ("name", "encode"),
    [("log.csv", str.encode), ("log.csv.gz", lambda text: gzip.compress(text.encode())),
     ("log.csv.bz2", lambda text: bz2.compress(text.encode()))],
    ids=["plain", "gzip", "bzip2"],
)  # fmt: skip
def test_only_the_block_of_an_odd_row_is_read_line_by_line(name: str, encode: Callable[[str], bytes]) -> None:
    content = encode(HEADER + ODD)
    expected, _ = load(content, name, 1 << 20, fast=False)
    received, attempts = load(content, name, 500, fast=True)
    assert received == expected
    assert expected[1] == [(19, "must have 3 fields, as line 1 has, not 2")]
    assert attempts.count(True) >= 6
    assert attempts.count(False) <= 2, "the whole file, if DuckDB can read its kind, and the block"


def test_quoted_delimiters_do_not_slow_a_file_down() -> None:
    content = (HEADER + PLAIN.replace("item1", '"item, 1"')).encode()
    received, attempts = load(content, "log.csv", 1 << 20, fast=True)
    assert attempts == [True]
    assert received == load(content, "log.csv", 1 << 20, fast=False)[0]
    assert ("user1", "item, 1", 2) in received[0]


@pytest.mark.parametrize("blank", ["", "\n\n"])
def test_rows_without_timestamps_keep_their_order_over_blocks(blank: str) -> None:
    lines = [f"{row % 7 + 1} {row % 5 + 1}\n" + blank for row in range(60)]
    lines[25] = "odd\n"
    content = "".join(lines).encode()
    received, attempts = load(content, "log.txt", 40, fast=True)
    assert True in attempts
    assert received == load(content, "log.txt", 1 << 20, fast=False)[0]
