"""The directory of a run: what it was made with, which parts are there, and when it is finished."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

from bert4rec_tf.scoring.monitoring import DRIFT_NUMBERS, check_limits, monitor, read_limits
from bert4rec_tf.scoring.output_store import METADATA_FILE, MONITORING_FILE, SUCCESS_FILE, fetch_output
from bert4rec_tf.scoring.part_scorer import Format, PartCounts
from bert4rec_tf.serving.served_model import ServedModel
from tfrecords.errors import InputError, check_local, writing
from tfrecords.files import file_sha256, locked, write_whole
from tfrecords.interruption import deferred
from tfrecords.stores import is_url

# Readers of tables skip names that begin with an underscore.
BAD_ROWS_FILE = "_bad_rows.jsonl"
_COUNTS = "counts"  # in the metadata of a finished run
_LISTS = ("exclude", "allow", "users")


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """What `Recommender.recommend_log` writes, and how.

    Attributes:
        top_k: how many items each user gets.
        drop_seen: whether items that the user met are left out.
        format: of the parts.
        exclude: file of items that are left out, see `UserLists.read`; None: none are.
        allow: file of the only items that may be recommended; None: all may.
        users: file of the only users, see `ChosenUsers.read`; None: all.
        request_time: when the items will be shown, in seconds since 1970; None: unknown.
        overwrite: whether the output of another run is replaced.
        previous: directory with the recommendations of an earlier night, to compare with; None: there is none.
        limits: JSON file of limits, see `monitoring.read_limits`; recommendations outside them are not marked as
            finished. None: no limits.

    >>> OutputOptions(top_k=20, exclude="sold_out.csv").format
    'parquet'
    """

    top_k: int = 10
    drop_seen: bool = True
    format: Format = "parquet"
    exclude: str | None = None
    allow: str | None = None
    users: str | None = None
    request_time: int | None = None
    overwrite: bool = False
    previous: str | None = None
    limits: str | None = None


@dataclasses.dataclass(frozen=True)
class ScoredUsers:
    """The outcome of a run.

    Attributes:
        output_dir: of the parts; an address if they are in an object store.
        counts: over all parts, those of earlier runs included; `written` is 0 if all of them were there.
        bad_rows: rows of the log that could not be read.
        scoring_seconds: how long scoring and writing took, without reading and sorting the log.
        monitoring: the numbers of `monitoring.monitor`.
    """

    output_dir: pathlib.Path | str
    counts: PartCounts
    bad_rows: int = 0
    scoring_seconds: float = 0.0
    monitoring: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Output:
    """The directory of a run.

    Attributes:
        directory: of the parts.
        work: for temporary files.
        run: what the parts depend on, as JSON values.
        finished: the outcome, if an earlier run wrote everything.
        num_items: how many items the model knows.
        options: what is written.
    """

    directory: pathlib.Path
    work: pathlib.Path
    run: dict[str, Any]
    finished: ScoredUsers | None
    num_items: int
    options: OutputOptions

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls, model: ServedModel, output_dir: str | pathlib.Path, options: OutputOptions, described: dict[str, Any]
    ) -> Iterator["Output"]:
        """Checks and locks the directory, and keeps the parts that the same run wrote before.

        Raises:
            InputError: another run is at work there, or wrote something else.
        """
        if is_url(options.previous):
            options = dataclasses.replace(options, previous=str(fetch_output(options.previous)))
        _check_options(model, options)
        directory = pathlib.Path(output_dir).resolve()
        work, lock = (directory.with_name(f".{directory.name}.{name}") for name in ("work", "lock"))
        files = {name: getattr(options, name) for name in _LISTS}
        run = {
            "model_version": model.version,
            "model_fingerprint": model.fingerprint,
            "input": described,
            "format": options.format,
            "top_k": options.top_k,
            "drop_seen": options.drop_seen,
            "request_time": options.request_time,
            **{name: None if path is None else file_sha256(path) for name, path in files.items()},
        }
        with writing(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            in_use = f"One run at a time writes a directory. Received: {directory}, which another run is writing"
            with locked(lock, f"{in_use}. Fix: wait for it, or name another --output", remove=True):
                shutil.rmtree(work, ignore_errors=True)
                _make_ready(directory, run, options.overwrite)
                done = directory / SUCCESS_FILE
                finished = _read_outcome(directory) if done.is_file() else None
                try:
                    work.mkdir()
                    yield cls(directory, work, run, finished, len(model.vocabulary.item_ids), options)
                finally:
                    with deferred():
                        shutil.rmtree(work, ignore_errors=True)

    def finish(self, counts: PartCounts, bad_rows: int, seconds: float) -> ScoredUsers:
        """Writes the metadata and the monitoring. `_SUCCESS`, which marks the output as finished, comes last.

        Raises:
            InputError: the recommendations are outside the limits.
        """
        options = self.options
        previous = None if options.previous is None else pathlib.Path(options.previous)
        numbers_now = monitor(self.directory, counts, self.num_items, options.top_k, previous)
        _write_json(self.directory / MONITORING_FILE, numbers_now)
        check_limits(numbers_now, read_limits(options.limits))
        numbers = {name: value for name, value in dataclasses.asdict(counts).items() if name != "written"}
        _write_json(self.directory / METADATA_FILE, self.run | {_COUNTS: numbers | {"bad_rows": bad_rows}})
        write_whole(self.directory / SUCCESS_FILE, "")
        return ScoredUsers(self.directory, counts, bad_rows, seconds, numbers_now)


def _check_options(model: ServedModel, options: OutputOptions) -> None:
    if not 1 <= options.top_k <= model.max_k:
        raise InputError(
            f"--top_k must be from 1 to {model.max_k}, the limit of the model. Received: {options.top_k}. "
            "Fix: a smaller number, or export with a larger --max_k"
        )
    if options.request_time is not None and not model.takes_times:
        raise InputError(
            "--request_time needs a model that takes times. Received: a model without model.time_bias and "
            "model.request_time. Fix: leave it out"
        )
    limits = read_limits(options.limits)
    needed = [name for name in limits if name in DRIFT_NUMBERS]
    if needed and options.previous is None:
        raise InputError(f"A limit on {needed[0]} needs an earlier night. Received: no --previous. Fix: name it")
    if options.previous is not None and not (pathlib.Path(options.previous) / SUCCESS_FILE).is_file():
        raise InputError(
            f"--previous must be a finished directory of recommend.py. Received: {options.previous}, without "
            f"{SUCCESS_FILE}. Fix: name another night"
        )
    for name in _LISTS:
        path = getattr(options, name)
        check_local(name, path)
        if path is not None and not pathlib.Path(path).is_file():
            raise InputError(f"--{name} must be a file. Received: {path}, which is none")


def _make_ready(directory: pathlib.Path, run: dict[str, Any], overwrite: bool) -> None:
    """Leaves only parts of the same run in the directory.

    Raises:
        InputError: the directory holds something else.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--output must be a directory. Received: {directory}, a file")
    directory.mkdir(exist_ok=True)
    file = directory / METADATA_FILE
    if not file.is_file():
        if any(not path.name.startswith(f".{METADATA_FILE}") for path in directory.iterdir()):
            raise InputError(
                f"--output must be new, empty or made by recommend.py. Received: {directory}, which holds something "
                "else. Fix: name another directory"
            )
    elif different := _first_difference(_read_json(file), run):
        if not overwrite:
            raise InputError(
                f"--output must be new, empty or made by the same command. Received: {directory}, made with another "
                f"{different}. Fix: name another directory, or pass --overwrite"
            )
        (directory / SUCCESS_FILE).unlink(missing_ok=True)  # first: from now on, nobody may read the parts
        for path in [*directory.glob("part-*"), directory / BAD_ROWS_FILE, directory / MONITORING_FILE]:
            path.unlink(missing_ok=True)
    else:
        return
    _write_json(file, run)


def _first_difference(made_by: dict[str, Any], run: dict[str, Any]) -> str | None:
    return next((name for name in run if made_by.get(name) != run[name]), None)


def _write_json(file: pathlib.Path, content: dict[str, Any]) -> None:
    write_whole(file, json.dumps(content, indent=1) + "\n")


def _read_json(file: pathlib.Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise InputError(f"{file} must be JSON. Received: {error}. Fix: remove the directory") from None


def _read_outcome(directory: pathlib.Path) -> ScoredUsers:
    counts = _read_json(directory / METADATA_FILE)[_COUNTS]
    bad_rows = counts.pop("bad_rows")
    return ScoredUsers(directory, PartCounts(**counts), bad_rows, monitoring=_read_json(directory / MONITORING_FILE))
