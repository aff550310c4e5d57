"""The manifest: it lists the content of a data directory, is written last, and is checked before any file is read."""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.files import file_sha256
from tfrecords.schema import READABLE_VERSIONS, SCHEMA_VERSION
from tfrecords.stores import Store, check_path, is_url
from tfrecords.vocabulary import VOCABULARY_FILE
from tfrecords.writer import FRAME_BYTES, Shard

MANIFEST_FILE = "manifest.json"
BAD_ROWS_FILE = "bad_rows.jsonl"
ITEM_FEATURES_FILE = "item_features.parquet"
_SPLITS = ("train", "validation", "test")
_COUNT = "an integer, at least 0"
DRAWS_VERSION = 2  # 1: test negatives were the validation negatives of the next seed, and could be low-rated items
_LATER_SETTINGS = (
    "train_since",
    "validation_share",
)  # written only if set: older directories keep their sha256


@dataclasses.dataclass(frozen=True)
class LengthCount:
    """Training instances of one length: their number, and the largest number of masked slots among them.

    >>> built.manifest.length_histogram
    (LengthCount(length=4, instances=220, max_predictions=1),)
    """

    length: int
    instances: int
    max_predictions: int


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of a data directory.

    Attributes:
        config: the settings that the records were built with.
        source: the format, and the name, bytes and sha256 of each input (or the synthetic log's parameters).
        counts: numbers of users, items, events and dropped rows, by name.
        length_histogram: the lengths of the training instances, rising.
        vocabulary_sha256: hex digest of vocabulary.jsonl.
        splits: the shards of each split.
        bad_rows_sha256: hex digest of bad_rows.jsonl; None if every row of the log could be read.
        item_features_sha256: hex digest of item_features.parquet; None if the items have no features.
        schema_version: of the record format.
        draws_version: of the random draws; equal settings give equal records only within one version.

    >>> manifest = Manifest.load("data")
    >>> manifest.counts["users"], manifest.counts["items"], manifest.counts["events"]
    (20, 10, 120)
    >>> manifest.config.data.max_seq_length
    6
    """

    config: RecordsConfig
    source: dict[str, Any]
    counts: dict[str, int]
    length_histogram: tuple[LengthCount, ...]
    vocabulary_sha256: str
    splits: dict[str, tuple[Shard, ...]]
    bad_rows_sha256: str | None = None
    item_features_sha256: str | None = None
    schema_version: int = SCHEMA_VERSION
    draws_version: int = DRAWS_VERSION

    def records(self, split: str) -> int:
        """The number of records in a split.

        >>> {split: built.manifest.records(split) for split in built.manifest.splits}
        {'train': 20, 'validation': 20, 'test': 20}
        """
        return sum(shard.records for shard in self.shards(split))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The files of a split.

        Raises:
            InputError: the manifest does not list the split.

        >>> [shard.file for shard in built.manifest.shards("train")]
        ['train/00000-of-00001.tfrecord']
        """
        if split not in self.splits:
            raise InputError(
                f"A manifest must list the split {split}. Received: one without it. Fix: rebuild the directory"
            )
        return self.splits[split]

    def instances(self) -> int:
        """The number of masked training instances; a training record holds several.

        >>> built.manifest.instances()
        220
        """
        return sum(row.instances for row in self.length_histogram)

    @property
    def has_times(self) -> bool:
        """Whether the records hold the times of events; those of earlier versions do not.

        >>> built.manifest.has_times
        True
        """
        return self.schema_version >= 3

    def to_bytes(self) -> bytes:
        """The file's content; equal records give equal bytes.

        >>> built.manifest.to_bytes() == pathlib.Path("data/manifest.json").read_bytes()
        True
        """
        settings = self.config.to_dict()
        config = {"data": settings["data"], "masking": settings["masking"]}
        for name in _LATER_SETTINGS:
            if config["data"][name] == getattr(DataConfig, name):
                del config["data"][name]
        values = dataclasses.asdict(self) | {"config": config}
        if self.draws_version == 1:  # older manifests do not name it
            del values["draws_version"]
        if self.item_features_sha256 is None:  # nor this
            del values["item_features_sha256"]
        return (json.dumps(values, indent=1, sort_keys=True) + "\n").encode()

    def sha256(self) -> str:
        """Hex digest of the file's content: it identifies the data of a result.

        >>> built.manifest.sha256() == file_sha256("data/manifest.json")
        True
        """
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def from_bytes(cls, content: bytes, origin: str) -> "Manifest":
        """Reads a manifest's content; `origin` names it in errors.

        Raises:
            InputError: the content is no manifest, or one of another schema version.

        >>> Manifest.from_bytes(built.manifest.to_bytes(), "a copy") == built.manifest
        True
        >>> Manifest.from_bytes(b"{}", "an empty object")
        Traceback (most recent call last):
        tfrecords.errors.InputError: an empty object must be a manifest written by pipelines/make_tfrecords.py. ...
        """
        try:
            values = json.loads(content)
            version = values["schema_version"]
            if version in READABLE_VERSIONS:
                manifest = cls(
                    config=RecordsConfig.from_dict(values["config"], origin),
                    source=values["source"],
                    counts=values["counts"],
                    length_histogram=tuple(LengthCount(**row) for row in values["length_histogram"]),
                    vocabulary_sha256=values["vocabulary_sha256"],
                    splits={name: tuple(Shard(**shard) for shard in rows) for name, rows in values["splits"].items()},
                    bad_rows_sha256=values["bad_rows_sha256"],
                    item_features_sha256=values.get("item_features_sha256"),
                    schema_version=version,
                    draws_version=values.get("draws_version", 1),
                )
                _check_values(manifest)
                return manifest
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{origin} must be a manifest written by pipelines/make_tfrecords.py. "
                f"Received: {error!r}. Fix: rebuild the directory"
            ) from None
        raise InputError(
            f"`schema_version` must be one of {READABLE_VERSIONS}. Received: {version!r} ({origin}). "
            "Fix: rebuild the directory with pipelines/make_tfrecords.py --overwrite"
        )

    @classmethod
    def load(cls, data_dir: str | pathlib.Path) -> "Manifest":
        """Reads the manifest of a data directory, on this machine or in an object store.

        Raises:
            InputError: there is no manifest (the build was not finished), or it is invalid.

        >>> Manifest.load("data") == built.manifest
        True
        """
        check_path("data_dir", data_dir)
        if is_url(data_dir):
            store = Store.open(data_dir)
            path, content = f"{store.url}/{MANIFEST_FILE}", store.read(MANIFEST_FILE)
        else:
            local = pathlib.Path(data_dir) / MANIFEST_FILE
            path, content = str(local), local.read_bytes() if local.is_file() else None
        if content is None:
            raise InputError(
                f"A data directory has a {MANIFEST_FILE}, written last. Received: {data_dir}, which has "
                "none. Fix: build it with pipelines/make_tfrecords.py"
            )
        return cls.from_bytes(content, path)


def _check_values(manifest: Manifest) -> None:
    """Refuses values that the pipeline never writes: a manifest may come from an untrusted source.

    Raises:
        ValueError: names the first invalid value.
    """

    def check(name: str, value: object, fits: bool, rule: str) -> None:
        if not fits:
            raise ValueError(f"{name} must be {rule}, not {value!r:.100}")

    check("source", manifest.source, isinstance(manifest.source, dict), "an object")
    counts = {f"counts.{name}": value for name, value in manifest.counts.items()}
    for row in manifest.length_histogram:
        counts |= {f"length_histogram.{name}": value for name, value in dataclasses.asdict(row).items()}
    check("splits", list(manifest.splits), manifest.splits.keys() <= set(_SPLITS), ", ".join(_SPLITS))
    files = set()
    for split, shards in manifest.splits.items():
        for shard in shards:
            path = re.fullmatch(rf"{split}/[0-9]{{5}}-of-[0-9]{{5}}\.tfrecord", str(shard.file))
            check("a file", shard.file, path is not None and shard.file not in files, f"a new shard in {split}/")
            files.add(shard.file)
            digest = isinstance(shard.sha256, str) and re.fullmatch(r"[0-9a-f]{64}", shard.sha256) is not None
            check(f"the sha256 of {shard.file}", shard.sha256, digest, "64 hex digits")
            sizes = {f"{name} of {shard.file}": getattr(shard, name) for name in ("records", "bytes")}
            for name, value in sizes.items():
                check(name, value, _is_count(value), _COUNT)
            min_bytes = FRAME_BYTES * shard.records
            check(
                f"bytes of {shard.file}",
                shard.bytes,
                shard.bytes >= min_bytes,
                f"at least {min_bytes}, for its records",
            )
    for name, value in (counts | {"draws_version": manifest.draws_version}).items():
        check(name, value, _is_count(value), _COUNT)
    digests = {
        "vocabulary": manifest.vocabulary_sha256,
        "bad_rows": manifest.bad_rows_sha256 or "",
        "item_features": manifest.item_features_sha256 or "",
    }
    for name, value in digests.items():
        check(f"{name}_sha256", value, isinstance(value, str), "text")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def verify(data_dir: str | pathlib.Path, manifest: Manifest) -> None:
    """Compares every file of a data directory with its manifest, byte for byte.

    TFRecord readers do not notice an empty shard, a missing one, or one that is cut at a record boundary.

    Raises:
        InputError: names every file that is missing, extra or different from the one that was written.

    >>> verify("data", built.manifest)
    >>> verify("model", built.manifest)
    Traceback (most recent call last):
    tfrecords.errors.InputError: The files must be those of ... train/00000-of-00001.tfrecord is missing; ...
    """
    data_dir = pathlib.Path(data_dir)
    shards = [shard for shards in manifest.splits.values() for shard in shards]
    expected = {shard.file: shard.sha256 for shard in shards}
    sizes, records = {shard.file: shard.bytes for shard in shards}, {shard.file: shard.records for shard in shards}
    expected[VOCABULARY_FILE] = manifest.vocabulary_sha256
    for file, sha256 in (
        (BAD_ROWS_FILE, manifest.bad_rows_sha256),
        (ITEM_FEATURES_FILE, manifest.item_features_sha256),
    ):
        if sha256:
            expected[file] = sha256
    faults = []
    for file, sha256 in expected.items():
        path = data_dir / file
        if not path.is_file():
            faults.append(f"{file} is missing")
        elif not path.resolve().is_relative_to(data_dir.resolve()):
            faults.append(f"{file} is a link to a file elsewhere")
        elif path.stat().st_size != sizes.get(file, path.stat().st_size) or file_sha256(path) != sha256:
            faults.append(f"{file} is damaged or not the one that was written")
        elif file in sizes and not _holds_records(path, records[file]):
            faults.append(f"{file} holds something other than {records[file]} records")
    on_disk = {path.relative_to(data_dir).as_posix() for path in data_dir.glob("*/*.tfrecord")}
    faults += [f"{file} is not in the manifest" for file in sorted(on_disk - expected.keys())]
    if faults:
        raise InputError(
            f"The files must be those of {data_dir / MANIFEST_FILE}. Received: {'; '.join(faults)}. "
            "Fix: rebuild with pipelines/make_tfrecords.py --overwrite, or copy the directory again"
        )


def _holds_records(path: pathlib.Path, number: int) -> bool:
    """Whether a file consists of `number` record frames.

    TensorFlow's reader would allocate memory for a damaged length before it notices the damage.
    """
    size, position = path.stat().st_size, 0
    with path.open("rb") as stream:
        for _ in range(number):
            stream.seek(position)
            header = stream.read(8)
            position += FRAME_BYTES + int.from_bytes(header, "little")
            if len(header) < 8 or position > size:
                return False
    return position == size


class VerifiedRecords:
    """A data directory that was compared with its manifest and is checked for later changes.

    A rebuild may replace a data directory while it is read. Open files stay the old ones, and files that are opened
    later are the new ones. Readers therefore check again before they keep a result.

    Args:
        data_dir: of `manifest`.
        manifest: the content that the directory must have, now and at each check.
        fix: for the message after a change.

    Raises:
        InputError: as `verify` and `check`.

    >>> records = VerifiedRecords("data", Manifest.load("data"), "read them again")
    >>> with records.unchanged():
    ...     size = pathlib.Path("data/vocabulary.jsonl").stat().st_size
    """

    def __init__(self, data_dir: str | pathlib.Path, manifest: Manifest, fix: str):
        self._data_dir, self._manifest, self._fix = pathlib.Path(data_dir), manifest, fix
        shards = [shard.file for split in _SPLITS for shard in manifest.shards(split)]
        features = [ITEM_FEATURES_FILE] if manifest.item_features_sha256 else []
        self._files = [MANIFEST_FILE, VOCABULARY_FILE, *features, *shards]
        before = self._file_states()  # first, so that a change during the comparison is noticed
        self._check_manifest()
        verify(self._data_dir, manifest)
        self._verified_states = before
        self.check()

    def check(self) -> None:
        """Compares the directory with the verified one: file states, and the contents if a state changed.

        Raises:
            InputError: the manifest on disk is a different one, or a file does not match the manifest.

        >>> VerifiedRecords("data", Manifest.load("data"), "read them again").check()
        """
        states = self._file_states()
        if states == self._verified_states:
            return
        self._check_manifest()
        try:
            verify(self._data_dir, self._manifest)
        except InputError:
            changed = [
                file for file, now, then in zip(self._files, states, self._verified_states, strict=True) if now != then
            ]
            raise self._changed(f"{changed[0]} and perhaps others were replaced or removed") from None
        self._verified_states = states  # same content in new files, for example after a second build of the same log

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Checks after the block. If the records changed, that error replaces one that the block raised.

        >>> with VerifiedRecords("data", Manifest.load("data"), "read them again").unchanged():
        ...     shards = [path.name for path in pathlib.Path("data/train").iterdir()]
        """
        try:
            yield
        except Exception:
            self.check()
            raise
        self.check()

    def _file_states(self) -> list[tuple[int, ...] | None]:
        return [_file_state(self._data_dir / file) for file in self._files]

    def _check_manifest(self) -> None:
        try:
            sha256 = Manifest.load(self._data_dir).sha256()
        except (InputError, OSError):
            raise self._changed(f"its {MANIFEST_FILE} is gone") from None
        expected = self._manifest.sha256()
        if sha256 != expected:
            raise self._changed(f"its {MANIFEST_FILE} has sha256 {sha256[:12]}…, and {expected[:12]}… was verified")

    def _changed(self, received: str) -> InputError:
        return InputError(
            f"The records must not change while they are read. Received: {self._data_dir} was rebuilt or changed: "
            f"{received}. Fix: {self._fix}"
        )


def _file_state(path: pathlib.Path) -> tuple[int, ...] | None:
    """Values that change with every write or replacement of a file; None if there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
