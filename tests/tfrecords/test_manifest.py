"""The manifest: a round trip, and every way in which a directory can differ from it."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import struct
from collections.abc import Callable

import pytest

from pipelines.build import build_records
from pipelines.sources.synthetic import MarkovLog
from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError
from tfrecords.manifest import MANIFEST_FILE, Manifest, VerifiedRecords, verify
from tfrecords.vocabulary import VOCABULARY_FILE

LOG = MarkovLog(num_users=20, num_items=12, num_themes=3, min_events=5, max_events=8)
CONFIG = RecordsConfig.from_dict({"data": {"num_shards": 2, "num_negatives": 2}, "masking": {"duplicate_factor": 2}})
FIRST, SECOND = "train/00000-of-00002.tfrecord", "train/00001-of-00002.tfrecord"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    directory = tmp_path_factory.mktemp("manifest") / "data"
    build_records(LOG, {}, CONFIG, str(directory))
    return directory


@pytest.fixture
def data_dir(built: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(built, tmp_path / "copy"))


def test_a_manifest_survives_its_file(data_dir: pathlib.Path) -> None:
    manifest = Manifest.load(data_dir)
    assert manifest.config == CONFIG
    assert manifest.source == LOG.description()
    assert Manifest.from_bytes(manifest.to_bytes(), "here") == manifest
    assert manifest.to_bytes() == (data_dir / MANIFEST_FILE).read_bytes()
    assert manifest.instances() == 3 * manifest.records("train")
    assert manifest.records("test") == LOG.num_users


@pytest.mark.parametrize("setting", [{"train_since": 3.0}, {"validation_share": 0.5}], ids=str)
def test_a_later_setting_at_its_default_keeps_the_sha256(data_dir: pathlib.Path, setting: dict[str, float]) -> None:
    manifest = Manifest.load(data_dir)
    assert not setting.keys() & json.loads(manifest.to_bytes())["config"]["data"].keys()
    data = dataclasses.replace(manifest.config.data, **setting)
    younger = dataclasses.replace(manifest, config=dataclasses.replace(manifest.config, data=data))
    assert Manifest.from_bytes(younger.to_bytes(), "here") == younger
    assert younger.sha256() != manifest.sha256()


def test_the_directory_as_written_is_verified(data_dir: pathlib.Path) -> None:
    verify(data_dir, Manifest.load(data_dir))


def cut_at_a_record(data_dir: pathlib.Path) -> None:
    content = (data_dir / FIRST).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    (data_dir / FIRST).write_bytes(content[: 8 + 4 + length + 4])


def swap(data_dir: pathlib.Path) -> None:
    (data_dir / FIRST).rename(data_dir / "aside")
    (data_dir / SECOND).rename(data_dir / FIRST)
    (data_dir / "aside").rename(data_dir / SECOND)


DAMAGES: list[tuple[str, Callable[[pathlib.Path], object], list[str]]] = [
    ("missing", lambda data_dir: (data_dir / FIRST).unlink(), [FIRST]),
    ("emptied", lambda data_dir: (data_dir / FIRST).write_bytes(b""), [FIRST]),
    ("cut at a record", cut_at_a_record, [FIRST]),
    ("swapped", swap, [FIRST, SECOND]),
    ("extra", lambda data_dir: shutil.copy(data_dir / FIRST, data_dir / "test/more.tfrecord"), ["test/more.tfrecord"]),
    ("vocabulary", lambda data_dir: (data_dir / "vocabulary.jsonl").write_bytes(b""), ["vocabulary.jsonl"]),
    ("a whole split", lambda data_dir: shutil.rmtree(data_dir / "train"), [FIRST, SECOND]),
]


@pytest.mark.parametrize(("damage", "named"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_damage_is_named(data_dir: pathlib.Path, damage: Callable[[pathlib.Path], object], named: list[str]) -> None:
    manifest = Manifest.load(data_dir)
    damage(data_dir)
    with pytest.raises(InputError) as error:
        verify(data_dir, manifest)
    files = [shard.file for shards in manifest.splits.values() for shard in shards]
    files += ["vocabulary.jsonl", "test/more.tfrecord"]
    assert [file for file in files if file in str(error.value)] == named


def test_a_missing_manifest_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=rf"(?s){MANIFEST_FILE}.*{tmp_path.name}"):
        Manifest.load(tmp_path)


def test_another_schema_version_is_refused(data_dir: pathlib.Path) -> None:
    values = json.loads((data_dir / MANIFEST_FILE).read_bytes()) | {"schema_version": 1}
    (data_dir / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"schema_version.*1.*{MANIFEST_FILE}"):
        Manifest.load(data_dir)


def test_records_of_the_version_without_times_are_read(data_dir: pathlib.Path) -> None:
    content = (data_dir / MANIFEST_FILE).read_bytes()
    assert Manifest.from_bytes(content, "now").has_times
    values = json.loads(content) | {"schema_version": 2}
    earlier = Manifest.from_bytes(json.dumps(values).encode(), "before")
    assert not earlier.has_times
    assert json.loads(earlier.to_bytes()) == values


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b"null", b"{}", b'{"schema_version": 2}'])
def test_content_that_is_no_manifest_is_named(tmp_path: pathlib.Path, content: bytes) -> None:
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    with pytest.raises(InputError, match=rf"{MANIFEST_FILE} must be a manifest"):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("key", ["config", "source", "counts", "length_histogram", "vocabulary_sha256", "splits"])
def test_a_manifest_without_one_of_its_parts_is_refused(data_dir: pathlib.Path, key: str) -> None:
    values = json.loads((data_dir / MANIFEST_FILE).read_bytes())
    del values[key]
    with pytest.raises(InputError, match="here must be a manifest"):
        Manifest.from_bytes(json.dumps(values).encode(), "here")


@pytest.mark.parametrize(
    "damage", [{"config": 3}, {"length_histogram": [3]}, {"splits": {"train": [{}]}}, {"splits": []}]
)
def test_a_manifest_with_parts_of_the_wrong_type_is_refused(data_dir: pathlib.Path, damage: dict[str, object]) -> None:
    values = json.loads((data_dir / MANIFEST_FILE).read_bytes()) | damage
    with pytest.raises(InputError, match="here"):
        Manifest.from_bytes(json.dumps(values).encode(), "here")


def rebuild(data_dir: pathlib.Path, **data: int) -> None:
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, **data))
    build_records(LOG, {}, config, str(data_dir), overwrite=True)


def write_in_place(path: pathlib.Path) -> None:
    """Replaces the bytes of a file, but keeps its size and times."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=times)


CHANGES: list[tuple[str, Callable[[pathlib.Path], object], str]] = [
    ("rebuilt", lambda data_dir: rebuild(data_dir, seed=2), "and .*… was verified"),
    ("removed", shutil.rmtree, "its manifest.json is gone"),
    ("moved away", lambda data_dir: data_dir.rename(data_dir.with_name("moved")), "its manifest.json is gone"),
    ("half written", lambda data_dir: (data_dir / MANIFEST_FILE).write_bytes(b"{"), "its manifest.json is gone"),
    ("a shard removed", lambda data_dir: (data_dir / SECOND).unlink(), SECOND),
    ("a shard changed", lambda data_dir: write_in_place(data_dir / FIRST), FIRST),
    ("another vocabulary", lambda data_dir: write_in_place(data_dir / VOCABULARY_FILE), VOCABULARY_FILE),
]


@pytest.mark.parametrize(("change", "received"), [row[1:] for row in CHANGES], ids=[row[0] for row in CHANGES])
def test_records_that_change_after_they_were_verified_are_refused(
    data_dir: pathlib.Path, change: Callable[[pathlib.Path], object], received: str
) -> None:
    records = VerifiedRecords(data_dir, Manifest.load(data_dir), "wait for it")
    records.check()
    change(data_dir)
    with pytest.raises(InputError, match=f"must not change while they are read.*{received}.*Fix: wait for it"):
        records.check()


def test_records_that_change_while_they_are_verified_are_refused(
    data_dir: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(data_dir)

    def verify_and_rebuild(*arguments: object) -> None:
        monkeypatch.undo()
        verify(data_dir, manifest)
        rebuild(data_dir, seed=2)

    monkeypatch.setattr("tfrecords.manifest.verify", verify_and_rebuild)
    with pytest.raises(InputError, match="must not change while they are read"):
        VerifiedRecords(data_dir, manifest, "wait for it")


def test_the_same_records_in_new_files_are_no_change(data_dir: pathlib.Path) -> None:
    records = VerifiedRecords(data_dir, Manifest.load(data_dir), "wait for it")
    rebuild(data_dir)
    records.check()
    rebuild(data_dir, seed=2)
    with pytest.raises(InputError, match="must not change"):
        records.check()


def test_a_change_of_the_records_explains_the_error_of_their_reader(data_dir: pathlib.Path) -> None:
    records = VerifiedRecords(data_dir, Manifest.load(data_dir), "wait for it")
    with pytest.raises(KeyError), records.unchanged():
        raise KeyError
    shutil.rmtree(data_dir)
    with pytest.raises(InputError, match="must not change"), records.unchanged():
        raise FileNotFoundError
    with pytest.raises(InputError, match="must not change"), records.unchanged():
        pass


def with_shard(values: dict, split: str = "train", **change: object) -> dict:
    (first, *rest) = values["splits"][split]
    return values | {"splits": values["splits"] | {split: [first | change, *rest]}}


WRONG_VALUES: list[tuple[str, Callable[[dict], dict], str]] = [
    ("above", lambda values: with_shard(values, file="../x.tfrecord"), "a file must be a new shard in train/"),
    ("absolute", lambda values: with_shard(values, file="/etc/passwd"), "a file must be a new shard in train/"),
    ("other split", lambda values: with_shard(values, file="test/00000-of-00002.tfrecord"), "a new shard in train/"),
    ("twice", lambda values: with_shard(values, file=SECOND), "a new shard in train/"),
    ("no text", lambda values: with_shard(values, file=3), "a new shard in train/"),
    ("negative bytes", lambda values: with_shard(values, bytes=-1), "bytes of .* an integer, at least 0, not -1"),
    ("absurd bytes", lambda values: with_shard(values, bytes=2**70), "bytes of .* an integer"),
    ("broken bytes", lambda values: with_shard(values, bytes=1.5), "bytes of .* an integer, at least 0, not 1.5"),
    ("true records", lambda values: with_shard(values, records=True), "records of .* an integer, at least 0, not True"),
    ("more records than bytes", lambda values: with_shard(values, records=10**12), "bytes of .* at least"),
    ("no digest", lambda values: with_shard(values, sha256="0"), "64 hex digits"),
    ("count", lambda values: values | {"counts": values["counts"] | {"items": -5}}, "counts.items must be"),
    ("text count", lambda values: values | {"counts": values["counts"] | {"items": "5"}}, "counts.items must be"),
    ("other split", lambda values: values | {"splits": {"dev": []}}, "splits must be train, validation, test"),
    ("source", lambda values: values | {"source": []}, "source must be an object"),
    ("digest of no text", lambda values: values | {"vocabulary_sha256": 5}, "vocabulary_sha256 must be text"),
    (
        "length",
        lambda values: values | {"length_histogram": [{"length": -1, "instances": 1, "max_predictions": 1}]},
        "length_histogram.length must be",
    ),
]


@pytest.mark.parametrize(("change", "rule"), [row[1:] for row in WRONG_VALUES], ids=[row[0] for row in WRONG_VALUES])
def test_values_that_no_pipeline_writes_are_refused(
    data_dir: pathlib.Path, change: Callable[[dict], dict], rule: str
) -> None:
    values = change(json.loads((data_dir / MANIFEST_FILE).read_bytes()))
    with pytest.raises(InputError, match=rf"here must be a manifest.*{rule}"):
        Manifest.from_bytes(json.dumps(values).encode(), "here")


def test_a_missing_split_is_named(data_dir: pathlib.Path) -> None:
    manifest = Manifest.load(data_dir)
    without = dataclasses.replace(manifest, splits={"train": manifest.splits["train"]})
    for read in (lambda: without.records("test"), lambda: VerifiedRecords(data_dir, without, "rebuild it")):
        with pytest.raises(InputError, match=r"must list the split (test|validation)"):
            read()


def test_a_deeply_nested_manifest_is_refused() -> None:
    with pytest.raises(InputError, match="here must be a manifest"):
        Manifest.from_bytes(b'{"a":' * 100_000, "here")


def test_a_link_to_a_file_elsewhere_is_refused(data_dir: pathlib.Path) -> None:
    elsewhere = data_dir.with_name("elsewhere")
    (data_dir / FIRST).rename(elsewhere)
    (data_dir / FIRST).symlink_to(elsewhere)
    with pytest.raises(InputError, match=f"{FIRST} is a link to a file elsewhere"):
        verify(data_dir, Manifest.load(data_dir))


def test_a_directory_behind_a_link_is_verified(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    (tmp_path / "link").symlink_to(data_dir)
    verify(tmp_path / "link", Manifest.load(tmp_path / "link"))


@pytest.mark.parametrize("change", ["a huge length", "one record more", "one record less", "a tail"])
def test_a_shard_that_is_no_sequence_of_its_records_is_refused(data_dir: pathlib.Path, change: str) -> None:
    content = bytearray((data_dir / FIRST).read_bytes())
    if change == "a huge length":
        content[:8] = struct.pack("<Q", 2**62)
    elif change == "a tail":
        content += b"tail"
    (data_dir / FIRST).write_bytes(content)
    manifest = Manifest.load(data_dir)
    first, *rest = manifest.splits["train"]
    more = {"one record more": 1, "one record less": -1}.get(change, 0)
    digest = hashlib.sha256(content).hexdigest()
    forged = dataclasses.replace(first, sha256=digest, bytes=len(content), records=first.records + more)
    with pytest.raises(InputError, match=f"{FIRST} holds something other than {forged.records} records"):
        verify(data_dir, dataclasses.replace(manifest, splits=manifest.splits | {"train": (forged, *rest)}))
