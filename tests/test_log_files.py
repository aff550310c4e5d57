"""Log files as people have them: in partition folders, compressed, in other encodings, with stray quotes."""

import bz2
import contextlib
import gzip
import hashlib
import io
import lzma
import pathlib
from decimal import Decimal
from typing import Any
from unittest import mock

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert4rec_tf.config import DataConfig
from bert4rec_tf.errors import InputError
from pipelines import interactions, log_files, text_streams
from pipelines.interactions import Loaded, create_events
from pipelines.log_formats import LogSource

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
    """The events in the order of the log, read by the engine where it may, or line by line."""
    slow = mock.patch.object(interactions, "_insert_whole", return_value=None)
    with duckdb.connect() as connection, slow if line_by_line else contextlib.nullcontext():
        create_events(connection)
        loaded = Loaded()
        for number in range(len(source.files)):
            loaded += interactions.load_file(
                connection, source, number, DataConfig(**data), bad_rows or pathlib.Path("/dev/null")
            )
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
def test_folder_names_mean_nothing_to_other_formats(tmp_path: pathlib.Path, name: str) -> None:
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
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.Codec("zstd").compress(content).to_pybytes(),
}


@pytest.mark.parametrize("name", ["log.csv", "log.csv.zst"], ids=["by its bytes", "by its name"])
@pytest.mark.parametrize("kind", COMPRESSED)
@both_readers
def test_compressed_logs_are_read_whatever_their_name(
    tmp_path: pathlib.Path, name: str, kind: str, line_by_line: bool
) -> None:
    source = LogSource([write(tmp_path / name, COMPRESSED[kind](CSV.encode()))])
    assert load(source, line_by_line=line_by_line) == TIMED
    parts = COMPRESSED[kind](CSV[:30].encode()) + COMPRESSED[kind](CSV[30:].encode())  # as `cat a.gz b.gz` has them
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
    pieces = mock.patch.object(text_streams, "_BUFFER_BYTES", 7)  # which cut characters, pairs and the mark
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
        (gzip.compress(b"log.csv".ljust(257, b"\0") + b"ustar\x0000" + bytes(300)), "a tar archive"),
        (BY_FORMAT["log.parquet"], "--format=parquet"),
        (CSV.encode("utf-16-le"), "UTF-16"),
        (b"\x00\x01\x02garbage\xff" * 9, "UTF-16"),
        (b"\xd0\xcf\x11\xe0 garbage\n" * 9, "UTF-8"),
    ],
)
def test_what_is_no_text_is_named_without_its_bytes(tmp_path: pathlib.Path, content: bytes, named: str) -> None:
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
def test_files_without_rows_are_no_copies(tmp_path: pathlib.Path, name: str, content: str | bytes) -> None:
    for day in ("1", "2"):
        write(tmp_path / day / name, content)
    path = write(tmp_path / "3" / "more.csv", CSV)
    assert load(LogSource([f"{tmp_path}/*/{name}", path])) == TIMED


def test_equal_files_of_two_partitions_are_no_copies(tmp_path: pathlib.Path) -> None:
    for day in ("15", "16"):
        write(tmp_path / f"dt=2014-05-{day}/log.csv", WITHOUT_DT["log.csv"])
    days = LogSource([f"{tmp_path}/*/*"], timestamp_column="dt", partition_columns=("dt",))
    assert [time for _, _, time in load(days)] == [MAY_15, MAY_15 + DAY]
    with pytest.raises(InputError, match="content once"):
        load(LogSource([f"{tmp_path}/*/*"], timestamp_column=""))


@pytest.mark.parametrize("kind", ["plain", "gz", "zst"])
def test_hashes_are_taken_while_a_file_is_looked_through(tmp_path: pathlib.Path, kind: str) -> None:
    text = (HEADER + "".join(f"u{row % 97},i{row % 89},{row}\n" for row in range(20_000))).encode()
    content = TWICE[kind](text)
    path = write(tmp_path / "log.csv", content)
    with mock.patch.object(log_files, "file_sha256", side_effect=AssertionError("read once more")):
        (file,) = LogSource([path]).files
    assert (file.bytes, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert file.content_sha256 == hashlib.sha256(text).hexdigest()
