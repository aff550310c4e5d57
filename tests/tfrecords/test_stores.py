"""Object stores: addresses, whole files, retries, and records with their manifest last."""

import gzip
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.build import build_records
from pipelines.sources import line_reader
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from tests.support.model_dirs import files_in
from tests.support.object_stores import FlakyMemory, memory_store  # noqa: F401, a fixture
from tfrecords import stores
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest, verify
from tfrecords.record_store import local_records
from tfrecords.stores import Store, StoreError, check_path, find_files, shown

SOURCE = MarkovLog(num_users=30, num_items=12, num_themes=3, min_events=5, max_events=8)
URL = "s3://bucket/data"


def config(seed: int = 1) -> RecordsConfig:
    return RecordsConfig(DataConfig(num_negatives=2, num_shards=2, seed=seed))


def put(memory: FlakyMemory, path: str, content: bytes) -> None:
    with memory.open(f"/bucket/{path}", "wb") as stream:
        stream.write(content)


@pytest.mark.parametrize(
    "url", ["s3://b/x", "gs://b", "hdfs://host:9000/x", "hdfs:///x", "abfs://c@a/x", "abfss://c/x"]
)
def test_addresses_of_known_stores_are_accepted(url: str) -> None:
    check_path("output_dir", [url, "local", pathlib.Path("local")])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "ftp://host/x",
            r"--output_dir must be a path on this machine, or start with s3://, .* Received: ftp://host/x",
        ),
        ("s3:///x", "--output_dir must name a bucket after s3://. Received: s3:///x"),
        (pathlib.Path("s3://b/x"), "--output_dir must be text if it is an address. Received: s3:/b/x, a pathlib.Path"),
    ],
)
def test_other_addresses_are_refused(path: str | pathlib.Path, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_path("output_dir", path)


def test_messages_hold_no_password() -> None:
    assert shown("s3://key:secret@bucket/x?region=eu-west-1&scheme=http") == "s3://bucket/x"
    assert shown("abfs://container@account.dfs.core.windows.net/x") == "abfs://container@account.dfs.core.windows.net/x"
    assert shown("s3://bucket/log-?.csv") == "s3://bucket/log-?.csv"


def test_globs(memory: FlakyMemory) -> None:
    for path in ("logs/day=1/a.csv", "logs/day=2/b.csv", "logs/day=2/deep/c.csv", "logs/[1].csv"):
        put(memory, path, b"x")

    def found(url: str) -> list[str]:
        return [str(file).removeprefix("s3://bucket/logs/") for file in find_files(url)]

    assert found("s3://bucket/logs/day=1/a.csv") == ["day=1/a.csv"]
    assert found("s3://bucket/logs/*/*.csv") == ["day=1/a.csv", "day=2/b.csv"]
    assert found("s3://bucket/logs/day=?/*") == ["day=1/a.csv", "day=2/b.csv"]
    assert found("s3://bucket/logs/day=2/**") == ["day=2/b.csv", "day=2/deep/c.csv"]
    assert found("s3://bucket/**/c.csv") == ["day=2/deep/c.csv"]
    assert found("s3://bucket/logs/[1].csv") == ["[1].csv"]  # a file of that name counts before a glob
    assert found("s3://bucket/logs/none.csv") == found("s3://bucket/none/*.csv") == []


def test_a_log_in_a_store_gives_the_same_records_as_a_local_one(
    memory: FlakyMemory,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [f"u{user},i{(user + step) % 7},{step}\n" for user in range(20) for step in range(6)]
    files = {"logs/day=1/a.csv": rows[:60], "logs/day=2/b.csv": rows[60:]}
    for name, lines in files.items():
        content = "".join(["user_id,item_id,timestamp\n", *lines]).encode()
        put(memory, name, content)
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    build_records(LogSource([str(tmp_path / "logs/*/*.csv")]), {}, config(), str(tmp_path / "local"))
    # The whole of it by DuckDB: the line reader is asked only for the first lines, to infer the unit of time.
    monkeypatch.setattr(
        line_reader, "_delimited_rows", lambda _: iter([line_reader.Row(1, "u", "i", "1", "", None, "")])
    )
    build_records(LogSource(["s3://bucket/logs/*/*.csv"]), {}, config(), URL)
    assert files_in(local_records(URL)) == files_in(tmp_path / "local")


def test_records_appear_with_their_manifest_and_are_not_built_twice(
    memory: FlakyMemory, tmp_path: pathlib.Path
) -> None:
    built = build_records(SOURCE, {}, config(), URL)
    assert built.written
    assert memory.written[-1] == "/bucket/data/manifest.json"
    assert memory.written[-2].endswith("/manifest.json")
    assert not list((tmp_path / "cache" / "output").glob("data-*"))  # nothing stays on this machine
    assert not build_records(SOURCE, {}, config(), URL).written
    with pytest.raises(
        InputError, match=r"--output_dir must be new.* Received: s3://bucket/data, which holds something"
    ):
        build_records(SOURCE, {}, config(seed=2), URL)
    copy = local_records(URL)
    verify(copy, Manifest.load(copy))
    assert Manifest.load(URL) == built.manifest


def test_replaced_records_stay_for_readers_until_they_are_replaced_once_more(memory: FlakyMemory) -> None:
    store, folders = Store.open(URL), []
    for seed in (1, 2, 3):
        build_records(SOURCE, {}, config(seed), URL, overwrite=seed > 1)
        folders.append(f"records-{Manifest.load(URL).sha256()[:16]}")
        assert set(store.folders()) == set(folders[-2:])


def test_a_store_that_fails_half_way_shows_nothing_and_the_next_call_goes_on(memory: FlakyMemory) -> None:
    def refuse(path: str) -> None:
        if path.endswith("test/00001-of-00002.tfrecord"):
            raise OSError("AWS Error SLOW_DOWN")

    memory.refuse = refuse
    with pytest.raises(StoreError, match=r"AWS Error SLOW_DOWN \(s3://bucket/data/records-[0-9a-f]+/test/00001"):
        build_records(SOURCE, {}, config(), URL)
    assert not memory.exists("/bucket/data/manifest.json")
    with pytest.raises(InputError, match=r"A data directory has a manifest.json.* Received: s3://bucket/data"):
        local_records(URL)
    memory.refuse, sent = lambda _: None, len(memory.written)

    def never(_: pathlib.Path) -> None:
        raise AssertionError("the records are on this machine")

    assert build_records(SOURCE, {}, config(), URL, never).written  # type: ignore[arg-type]
    assert len(set(memory.written[sent:])) < len(set(memory.written))  # what is there is not sent again
    verify(local_records(URL), Manifest.load(URL))


def test_an_attempt_that_fails_is_repeated(memory: FlakyMemory) -> None:
    failures = ["AWS Error INTERNAL_FAILURE", "HTTP status 503"]

    def refuse(_: str) -> None:
        if failures:
            raise OSError(failures.pop())

    memory.refuse = refuse
    Store.open("s3://bucket").write("x", b"1")
    assert (Store.open("s3://bucket").read("x"), failures) == (b"1", [])


def test_what_no_repetition_mends_is_not_repeated(memory: FlakyMemory) -> None:
    tries = []

    def refuse(path: str) -> None:
        tries.append(path)
        raise OSError("AWS Error ACCESS_DENIED during PutObject")

    memory.refuse = refuse
    with pytest.raises(
        StoreError, match=r"ACCESS_DENIED.*\(s3://bucket/x\). Fix: check the address and the credentials"
    ):
        Store.open("s3://bucket").write("x", b"1")
    assert len(tries) == 1


def test_the_copy_of_records_is_used_again_repaired_and_replaced(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    build_records(SOURCE, {}, config(), URL)
    copy = local_records(URL)
    shard = next(copy.glob("train/*"))
    whole = shard.read_bytes()
    opened = len(memory.written)
    assert local_records(URL) == copy
    shard.write_bytes(whole[:-1])
    assert local_records(URL) == copy
    assert shard.read_bytes() == whole
    assert len(memory.written) == opened
    build_records(SOURCE, {}, config(seed=2), URL, overwrite=True)
    other = local_records(URL)
    assert other != copy
    assert copy.is_dir()  # this process may still read it


def test_a_directory_that_was_copied_to_a_store_can_be_read(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    build_records(SOURCE, {}, config(), str(tmp_path / "data"))
    for name, content in files_in(tmp_path / "data").items():
        put(memory, f"flat/{name}", content)
    assert files_in(local_records("s3://bucket/flat")) == files_in(tmp_path / "data")


def test_damage_in_a_store_is_found(memory: FlakyMemory) -> None:
    build_records(SOURCE, {}, config(), URL)
    shard = next(path for path in memory.store if "/train/" in path)
    memory.store[shard].write(b"x")
    with pytest.raises(InputError, match=r"must be those of s3://bucket/data/.*train/.* is damaged"):
        local_records(URL)
    del memory.store[shard]
    with pytest.raises(InputError, match=r"Received: train/.*, which is missing"):
        build_records(SOURCE, {}, config(), URL)


def test_a_folder_with_other_files_is_refused(memory: FlakyMemory) -> None:
    put(memory, "data/precious.txt", b"1")
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"Received: s3://bucket/data, which holds precious.txt"):
            build_records(SOURCE, {}, config(), URL, overwrite=overwrite)


def test_a_dry_run_writes_nothing(memory: FlakyMemory) -> None:
    assert not build_records(SOURCE, {}, config(), URL, dry_run=True).written
    assert not memory.written


def test_a_file_that_changes_while_it_is_read_is_refused(memory: FlakyMemory) -> None:
    put(memory, "log.csv", b"user_id,item_id,timestamp\nu,i,1\n")
    (file,) = LogSource(["s3://bucket/log.csv"]).files
    put(memory, "log.csv", b"user_id,item_id,timestamp\nu,i,1\nu,j,2\n")
    with pytest.raises(InputError, match=r"must not change while it is read. Received: s3://bucket/log.csv"):
        file.check_unchanged()


def test_a_file_is_read_in_pieces_and_from_any_position(
    memory: FlakyMemory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stores, "_BUFFER_BYTES", 4)
    put(memory, "x", bytes(range(20)))
    raw = find_files("s3://bucket/x")[0].open_raw()
    raw.seek(3)
    assert raw.read(2) == b"\3\4"
    assert raw.read(20) == b"\5\6"  # the rest of the piece
    assert (raw.seek(-2, 2), raw.read(), raw.read()) == (18, b"\x12\x13", b"")


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.jsonl", "log.parquet", "log.txt"])
def test_logs_of_all_formats_are_read_as_local_ones(memory: FlakyMemory, tmp_path: pathlib.Path, name: str) -> None:
    rows = [(f"u{user}", f"i{(user + step) % 7}", step) for user in range(20) for step in range(6)]
    csv = "user_id,item_id,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in rows)
    contents = {
        "log.csv": csv.encode(),
        "log.csv.gz": gzip.compress(csv.encode(), mtime=0),
        "log.jsonl": "".join(
            json.dumps({"user_id": user, "item_id": item, "timestamp": time}) + "\n" for user, item, time in rows
        ).encode(),
        "log.txt": "".join(f"{user} {item}\n" for user, item, _ in rows).encode(),
    }
    if name == "log.parquet":
        table = pa.table(dict(zip(("user_id", "item_id", "timestamp"), zip(*rows, strict=True), strict=True)))
        pq.write_table(table, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(contents[name])
    put(memory, name, (tmp_path / name).read_bytes())
    here = build_records(LogSource([str(tmp_path / name)]), {}, config(), str(tmp_path / "here"))
    there = build_records(LogSource([f"s3://bucket/{name}"]), {}, config(), str(tmp_path / "there"))
    assert here.manifest == there.manifest
    assert files_in(tmp_path / "here") == files_in(tmp_path / "there")


def test_bad_rows_of_a_log_in_a_store_are_set_aside(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    rows = "".join(f"u{user},i{(user + step) % 7},{step}\n" for user in range(20) for step in range(6))
    put(memory, "log.csv", f"user_id,item_id,timestamp\n{rows}u1,i1,never\n".encode())
    settings = RecordsConfig(DataConfig(num_negatives=2, num_shards=2, max_bad_fraction=0.1))
    built = build_records(LogSource(["s3://bucket/log.csv"]), {}, settings, URL)
    assert [(row.line, row.file) for row in built.bad_rows] == [(122, "log.csv")]
    assert (local_records(URL) / "bad_rows.jsonl").is_file()


def test_names_are_those_below_the_shared_folder(memory: FlakyMemory, tmp_path: pathlib.Path) -> None:
    put(memory, "logs/day=1/a.csv", b"user_id,item_id,timestamp\nu,i,1\n")
    put(memory, "logs/day=2/a.csv", b"user_id,item_id,timestamp\nu,i,2\n")
    (tmp_path / "b.csv").write_bytes(b"user_id,item_id,timestamp\nu,i,3\n")
    log = LogSource(["s3://bucket/logs/*/a.csv"], partition_columns=["day"], timestamp_column="day")
    assert [file.name for file in log.files] == ["day=1/a.csv", "day=2/a.csv"]
    assert [log.partition_values(file) for file in log.files] == [{"day": "1"}, {"day": "2"}]
    mixed = LogSource(["s3://bucket/logs/day=1/a.csv", str(tmp_path / "b.csv")])
    assert [file.name for file in mixed.files] == ["s3://bucket/logs/day=1/a.csv", str(tmp_path / "b.csv")]


@pytest.mark.parametrize("mark", ["_delta_log/0.json", ".hoodie/x", "metadata/v1.metadata.json"])
def test_files_of_tables_in_a_store_are_refused(memory: FlakyMemory, mark: str) -> None:
    put(memory, f"{mark[:3]}/table/{mark}", b"{}")
    put(memory, f"{mark[:3]}/table/part/a.csv", b"user_id,item_id,timestamp\nu,i,1\n")
    with pytest.raises(
        InputError, match=rf"of the (Delta|Hudi|Iceberg) table s3://bucket/{mark[:3]}/table, whose files"
    ):
        _ = LogSource([f"s3://bucket/{mark[:3]}/table/**"]).files
