"""Engine for many machines: Spark reads, sorts and counts. It writes the same bytes as `DuckDBEngine`.

They are equal for these reasons: both engines compute a user's shard by the same hash, they sort by keys without ties,
random draws depend only on seed, user and position, and a task that fails and runs again replaces the file by rename.
All machines must see the inputs, the output and the spill directory under the same paths.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import operator
import os
import pathlib
import re
import shutil
import signal
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from pipelines.engines.base import SQL_SECONDS, PreparedLog, ShardSequences, Source, nothing_left, sql_before
from pipelines.engines.duckdb_connection import connect, raise_as_input_error
from pipelines.progress import Progress
from pipelines.sources.file_pieces import Piece, pieces_of
from pipelines.sources.load_events import LoadCounts, RowRules, create_events, load_batches, load_file
from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import LogSource, quoted
from pipelines.sources.synthetic import MarkovLog
from pipelines.sources.text_streams import InputPath
from pipelines.sources.tfds_log import TfdsLog
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.errors import InputError
from tfrecords.hashed_random import TIES, hashed_bits
from tfrecords.ragged import Ragged

try:
    from py4j.protocol import Py4JError
    from pyspark import RDD, Broadcast, SparkContext
    from pyspark.errors import PySparkException
    from pyspark.sql import Column, DataFrame, SparkSession, Window
    from pyspark.sql import functions as F  # noqa: N812, as in Spark's own documentation
except ImportError:
    raise InputError(
        "--engine=spark needs pyspark. Received: an environment without it. "
        "Fix: pip install -r requirements-spark.txt, on Python 3.11 or later"
    ) from None
T = TypeVar("T")
_ZIP = "bert4rec_tf_packages.zip"
_PACKAGES = ("bert4rec_tf", "pipelines", "tfrecords")
_SUBMITTED = "SPARK_ENV_LOADED" in os.environ  # spark-submit sets it, and chooses where to run
_TRIES = 4
_BATCH_ROWS = 1 << 16
_MAX_FILES = 4096
# Spark's logging is off: errors come back as exceptions. Without an appender, Spark would use its own setting.
_QUIET = """rootLogger.level = off
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
"""


class SparkEngine:
    """See `pipelines.engines.base.Engine`. Use it in a `with` block.

    It uses the session that `spark-submit` set up, or starts one on this machine.
    """

    def __init__(self, spill_dir: pathlib.Path, num_workers: int = 1, memory_limit: str | None = None):
        """Opens an engine.

        Args:
            spill_dir: for events between the stages, on a disk that all machines share; removed at the end.
            num_workers: number of threads, if Spark runs only on this machine.
            memory_limit: of DuckDB in each task that reads; None: the task's share of the executor's memory.

        Raises:
            InputError: Java is missing, or the limit is not a size.
        """
        self._memory_limit, self._spill_dir = memory_limit, spill_dir
        self._num_shards, self._files_written = 0, 0
        self._shard_files: list[pathlib.Path] = []
        self._item_ids: Broadcast[pa.Array]
        connect(spill_dir, memory_limit).close()  # reports a wrong limit here instead of in a task
        spill_dir.mkdir(parents=True, exist_ok=True)
        self._spark = _start(num_workers, spill_dir)
        _add_packages(self._spark)
        self._share = _Share.of_tasks(self._spark.sparkContext, memory_limit)

    def __enter__(self) -> "SparkEngine":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        try:
            self._spark.stop()
        finally:
            shutil.rmtree(self._spill_dir, ignore_errors=True)
        if isinstance(error, duckdb.Error):
            raise_as_input_error(error, self._memory_limit)
        if isinstance(error, PySparkException | Py4JError):
            raise _failed(error) from None

    def load(
        self, source: Source, unit: str, config: RecordsConfig, bad_rows: pathlib.Path, progress: Progress
    ) -> LoadCounts:
        """Reads each piece of a file in a separate task, and other sources in this process."""
        if isinstance(source, LogSource):
            rated = config.data.min_rating is not None
            pieces = [piece for number in range(len(source.files)) for piece in pieces_of(source, number, rated)]
            read = functools.partial(_read_piece, source, unit, config.data, self._spill_dir, self._share)
            numbered = self._spark.sparkContext.parallelize(list(enumerate(pieces)), len(pieces))
            results = numbered.map(read).collect()
        else:
            results = [
                _read_batches(source, unit, config.data, self._spill_dir, _Share(memory_limit=self._memory_limit))
            ]
        loaded = LoadCounts()
        for number, result in enumerate(results):
            loaded += _checked(result)
            part = _part(self._spill_dir, "bad", number)
            if part.exists():
                with bad_rows.open("ab") as stream, part.open("rb") as rows:
                    shutil.copyfileobj(rows, stream)
        return loaded

    def prepare(self, config: RecordsConfig, num_shards: int, progress: Progress) -> PreparedLog:
        """Runs one pass for duplicates, one per round of the filters, and one that sorts."""
        data, self._num_shards = config.data, num_shards
        events = self._spark.read.parquet(_url(self._spill_dir / "events"))
        number = events.count()
        # All events of a user lie in one partition: one shuffle is enough to drop duplicates and to count the user's.
        events = _without_duplicates(events.repartition("user_id"), data)
        of_user = F.count("*").over(Window.partitionBy("user_id"))
        events = self._written(events.withColumn("of_user", of_user) if data.min_user_events > 1 else events)
        different = left = events.count()
        if data.min_user_events > 1:
            events = events.where(F.col("of_user") >= data.min_user_events).drop("of_user")
            left = events.count()
        if data.min_item_events > 1:
            events, left = self._filtered(events, left, data)
        if left == 0:
            raise nothing_left(data, different)
        items = events.select("item_id").distinct().toArrow()["item_id"]
        item_ids = items.take(pc.array_sort_indices(items)).to_pylist()
        users = events.select("user_id").distinct().count()
        first, last = events.agg(F.min("time"), F.max("time")).collect()[0]
        self._write_shards(events, data, num_shards)
        self._item_ids = self._spark.sparkContext.broadcast(pa.array(item_ids, pa.string()))
        return PreparedLog(item_ids, users, left, number - different, different - left, first, last)

    def _filtered(self, events: "DataFrame", left: int, data: DataConfig) -> tuple["DataFrame", int]:
        """Drops rare items and users, repeatedly, until all that remain have enough. Also returns how many remain."""
        while True:
            for column, minimum in {"item_id": data.min_item_events, "user_id": data.min_user_events}.items():
                if minimum > 1:
                    enough = events.groupBy(column).count().where(F.col("count") >= minimum).select(column)
                    events = events.join(enough, column, "left_semi")
            events = self._written(events)  # cuts the lineage: a lost task reads this file instead of filtering again
            left, previous = events.count(), left
            if left == previous:
                return events, left

    def _write_shards(self, events: "DataFrame", data: DataConfig, num_shards: int) -> None:
        """Sorts the events once, into a file for each shard, or for a few."""
        events = (
            events.withColumn("key", _portable_key("user_id"))
            .withColumn("shard", (F.col("key") % num_shards).cast("int"))
            .withColumn("early", F.expr(sql_before(data.split_time)))
            .withColumn("old", F.expr(sql_before(data.train_since)))
            .withColumn("seconds", F.expr(SQL_SECONDS))
            .withColumn("met", F.lit(False))
        )
        if data.tie_order == "hash":
            events = events.withColumn("tie", _tie_hash(data.seed)("key", _portable_key("item_id")))
        if data.min_rating is not None:
            met = self._spark.read.parquet(_url(self._spill_dir / "low_rated")).distinct()
            met = met.join(events.select("item_id").distinct(), "item_id", "left_semi").withColumn("met", F.lit(True))
            met = met.join(events.select("user_id", "key", "shard").distinct(), "user_id")
            events = events.unionByName(met, allowMissingColumns=True)
        ties = {"hash": ["tie", "item_id"], "item_id": ["item_id"], "input": []}
        # By number and not by hash: a hash would leave a third of the files empty, and give others several shards.
        num_files = min(num_shards, _MAX_FILES)
        directory = self._write(
            events.repartitionById(num_files, F.col("shard") % num_files)
            .sortWithinPartitions("shard", "user_id", "met", "time", *ties[data.tie_order], "row")
            .select("shard", "user_id", "key", "item_id", "seconds", "early", "old", "met")
        )
        self._shard_files = sorted(directory.glob("*.parquet"))

    def map_shards(self, function: Callable[[ShardSequences], T]) -> Iterator[T]:
        """Calls the function in Spark tasks, and in this process for shards without users."""
        call = functools.partial(_map_file, function, self._item_ids)
        results = self._files().flatMap(call).collect()
        found = dict(results)
        if len(found) < len(results):
            raise RuntimeError("the engine wrote a shard to two files")
        nothing = np.zeros(0, np.int64)
        nobody = Ragged.from_lengths(nothing, nothing)
        for shard in range(self._num_shards):
            if shard in found:
                yield found[shard]
            else:
                nobodys_events = nobody, nothing, nothing, nothing
                yield function(ShardSequences(shard, [], np.zeros(0, np.uint64), *nobodys_events, nobody))

    def sum_shards(self, function: Callable[[ShardSequences], T]) -> T:
        """Adds up in Spark tasks, in two rounds, so that this process receives one result and not one of each shard."""
        sums = self._files().flatMap(functools.partial(_sum_file, function, self._item_ids))
        for groups in (math.isqrt(len(self._shard_files)), 1):
            grouped: RDD[tuple[int, T]] = sums.mapPartitionsWithIndex(functools.partial(_grouped, groups))
            sums = grouped.reduceByKey(operator.add, groups).values()
        (result,) = sums.collect()
        return result

    def _files(self) -> "RDD[pathlib.Path]":
        """The files of shards, one a task."""
        return self._spark.sparkContext.parallelize(self._shard_files, len(self._shard_files))

    def _written(self, events: "DataFrame") -> "DataFrame":
        """Writes the events to files, which survive the loss of a machine, and reads them back."""
        return self._spark.read.parquet(_url(self._write(events)))

    def _write(self, events: "DataFrame") -> pathlib.Path:
        """Writes the events to a directory, each partition to one file; empty ones, except the first, to none."""
        self._files_written += 1
        directory = self._spill_dir / f"events-{self._files_written}"
        events.write.option("maxRecordsPerFile", 0).parquet(_url(directory))
        return directory


def scan_in_tasks(source: Source) -> None:
    """Scans the files of a log in Spark's tasks, if `spark-submit` runs this process; otherwise `source.files` does it.

    Raises:
        InputError: as `LogSource.files`, or a task failed.
    """
    if not _SUBMITTED or not isinstance(source, LogSource):
        return

    def run(scan: Callable[[InputPath, str], LogFile], paths: list[InputPath], names: list[str]) -> list[LogFile]:
        session = _start(1, pathlib.Path())
        _add_packages(session)
        files = session.sparkContext.parallelize(list(zip(paths, names, strict=True)), len(paths))
        return [_checked(result) for result in files.map(functools.partial(_scan, scan)).collect()]

    try:
        source.scan(run)
    except (PySparkException, Py4JError) as error:
        raise _failed(error) from None


def _checked(result: T | str) -> T:
    """The result of a task.

    Raises:
        InputError: the task returned its text.
    """
    if isinstance(result, str):
        raise InputError(result)
    return result


def _start(num_workers: int, spill_dir: pathlib.Path) -> "SparkSession":
    builder = SparkSession.builder.appName("make_tfrecords")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", _BATCH_ROWS)
    if not _SUBMITTED:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        quiet = spill_dir / "log4j2.properties"
        quiet.write_text(_QUIET)
        local = {
            "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile={quiet.as_uri()}",
            "spark.driver.host": "127.0.0.1",
            "spark.local.dir": str(spill_dir / "spark"),
            "spark.sql.shuffle.partitions": str(2 * num_workers),
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
        }
        for name, value in local.items():
            builder = builder.config(name, value)
        builder = builder.master(f"local[{num_workers},{_TRIES}]")
    logging.getLogger().addFilter(_is_not_of_py4j)
    handler = signal.getsignal(signal.SIGINT)
    try:
        return builder.getOrCreate()
    except (PySparkException, Py4JError, OSError) as error:
        raise InputError(
            f"--engine=spark needs Java 17, on the PATH or under JAVA_HOME. Received: {str(error).splitlines()[0]}"
        ) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Spark's own would call Java in the midst of another call


def _is_not_of_py4j(record: logging.LogRecord) -> bool:
    """Leaves out what py4j logs: its errors come back as exceptions. It uses the root logger."""
    return record.module not in ("java_gateway", "clientserver")


def _cause(error: Exception) -> str:
    """The line that names the error, from the combined traces of Python and Java."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception)\b.*:|\[[A-Z_.]+\]", line)]
    return (named or lines)[-1][:500]


def _failed(error: Exception) -> InputError:
    return InputError(f"Every Spark task must succeed. Received: {_cause(error)}")


def _add_packages(session: "SparkSession") -> None:
    """Sends this project's packages to the machines that run the tasks."""
    if not any(file.endswith(_ZIP) for file in session.sparkContext.listFiles):
        session.sparkContext.addPyFile(str(pathlib.Path(_packages().name) / _ZIP))


@functools.cache
def _packages() -> "tempfile.TemporaryDirectory[str]":
    """A directory with a zip of the packages, for as long as this process runs: any task may fetch it."""
    root, directory = pathlib.Path(__file__).resolve().parents[2], tempfile.TemporaryDirectory()
    with zipfile.ZipFile(pathlib.Path(directory.name) / _ZIP, "w") as archive:
        for package in _PACKAGES:
            for file in sorted((root / package).rglob("*.py")):
                archive.write(file, file.relative_to(root))
    return directory


def _url(path: pathlib.Path) -> str:
    return path.absolute().as_uri()


def _part(spill_dir: pathlib.Path, kind: str, number: int) -> pathlib.Path:
    return spill_dir / kind / f"{number:05d}.{'jsonl' if kind == 'bad' else 'parquet'}"


# ---- what runs in the tasks ----


@dataclasses.dataclass(frozen=True)
class _Share:
    """What the DuckDB of a task may use of its machine.

    Attributes:
        memory_limit: a size; None: the task's part of `executor_megabytes`, and without those most of the memory.
        threads: None: all cores.
        executor_megabytes: memory of all the tasks of an executor.
        executor_cores: cores of an executor; None: all of its machine.
    """

    memory_limit: str | None = None
    threads: int | None = None
    executor_megabytes: int | None = None
    executor_cores: int | None = None

    @classmethod
    def of_tasks(cls, context: "SparkContext", memory_limit: str | None) -> "_Share":
        """The share of each task, from the settings of Spark."""
        conf, master = context.getConf(), context.master or ""
        cores = conf.get("spark.executor.cores") or (None if master.startswith("spark:") else "1")  # Spark's defaults
        threads = int(conf.get("spark.task.cpus") or 1)
        if master.startswith("local"):
            return cls(memory_limit or _default_limit(max(1, context.defaultParallelism // threads)), threads)
        memory = conf.get("spark.executor.pyspark.memory") or conf.get("spark.executor.memory") or "1g"
        java: Any = context._jvm
        megabytes = java.org.apache.spark.network.util.JavaUtils.byteStringAsMb(memory)
        return cls(memory_limit, threads, megabytes, int(cores) if cores else None)

    @contextlib.contextmanager
    def connect(self, spill_dir: pathlib.Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """A database within these limits.

        Raises:
            InputError: they are too small for what the block does.
        """
        limit = self.memory_limit
        if limit is None and self.executor_megabytes is not None:
            slots = (self.executor_cores or os.cpu_count() or 1) // (self.threads or 1)
            limit = f"{self.executor_megabytes // max(1, slots)}MiB"
        try:
            with connect(spill_dir, limit, self.threads) as connection:
                yield connection
        except duckdb.OutOfMemoryException as error:
            raise_as_input_error(error, limit)


def _default_limit(slots: int) -> str:
    """DuckDB's own limit of memory, most of the machine's, divided by a number."""
    with duckdb.connect() as connection:
        size, unit = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0].split()
    return f"{float(size) / slots:.2f}{unit}"


def _scan(scan: Callable[[InputPath, str], LogFile], path_and_name: tuple[InputPath, str]) -> LogFile | str:
    try:
        return scan(*path_and_name)
    except InputError as error:
        return str(error)


def _read_piece(
    source: LogSource,
    unit: str,
    data: DataConfig,
    spill_dir: pathlib.Path,
    share: "_Share",
    numbered: tuple[int, Piece],
) -> LoadCounts | str:
    """Reads a piece of a log into a file of events. A user's mistake is returned, not raised: it would happen again."""
    number, piece = numbered

    def load(connection: duckdb.DuckDBPyConnection, bad: pathlib.Path) -> LoadCounts:
        # Spark names the disks of this machine: the copy of a piece need not go to the shared one.
        disks = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")
        with tempfile.TemporaryDirectory(prefix="piece-", dir=disks[0] or None) as directory:
            copy = pathlib.Path(directory) / "piece"
            return load_file(connection, source, piece.file, data, bad, unit=unit, piece=piece, copied_to=copy)

    return _read(load, spill_dir, share, number)


def _read_batches(
    source: MarkovLog | TfdsLog, unit: str, data: DataConfig, spill_dir: pathlib.Path, share: "_Share"
) -> LoadCounts | str:
    def load(connection: duckdb.DuckDBPyConnection, bad: pathlib.Path) -> LoadCounts:
        rules = RowRules(source.description()["format"], bad, data.min_rating, unit=unit)
        return load_batches(connection, source.batches(), rules)

    return _read(load, spill_dir, share, 0)


def _read(
    load: Callable[[duckdb.DuckDBPyConnection, pathlib.Path], LoadCounts],
    spill_dir: pathlib.Path,
    share: "_Share",
    number: int,
) -> LoadCounts | str:
    with tempfile.TemporaryDirectory(prefix=".reading-", dir=spill_dir) as directory:
        own = pathlib.Path(directory)
        try:
            with share.connect(own / "spill") as connection:
                create_events(connection)
                loaded = load(connection, own / "bad")
                for table in ("events", "low_rated"):
                    # Quoted, because the path contains the name of --output_dir.
                    connection.execute(f"COPY {table} TO {quoted(str(own / table))} (FORMAT parquet)")
        except InputError as error:
            return str(error)
        for kind in ("events", "low_rated", "bad"):
            if (own / kind).exists():
                _part(spill_dir, kind, number).parent.mkdir(exist_ok=True)
                (own / kind).replace(_part(spill_dir, kind, number))
    return loaded


def _without_duplicates(events: "DataFrame", data: DataConfig) -> "DataFrame":
    """Drops duplicates as `order_sequences` does."""
    if data.duplicates == "exact":
        return events.groupBy("user_id", "item_id", "time").agg(F.min("row").alias("row"))
    if data.duplicates == "keep":
        return events
    order = [F.col("time"), F.col("row")] if data.duplicates == "first" else [F.desc("time"), F.desc("row")]
    rank = F.row_number().over(Window.partitionBy("user_id", "item_id").orderBy(*order))
    return events.withColumn("rank", rank).where("rank = 1").drop("rank")


def _portable_key(column: str) -> "Column":
    return F.conv(F.substring(F.md5(column), 1, 15), 16, 10).cast("bigint")


def _tie_hash(seed: int) -> Callable[..., "Column"]:
    """A function of the keys of user and item that sorts like the hash of `DuckDBEngine`.

    It is signed, with the sign bit flipped.
    """
    arrow_udf: Any = F.arrow_udf  # its type stub wants the kind of function too, which the hints below tell

    @arrow_udf("bigint")
    def tie_hash(users: pa.Array, items: pa.Array) -> pa.Array:
        keys = (column.to_numpy().astype(np.uint64) for column in (users, items))
        return pa.array((hashed_bits(seed, TIES, *keys)[: len(users)] ^ np.uint64(1 << 63)).view(np.int64))

    return cast(Callable[..., "Column"], tie_hash)


def _map_file(
    function: Callable[[ShardSequences], T], item_ids: "Broadcast[pa.Array]", path: pathlib.Path
) -> Iterator[tuple[int, T]]:
    """Splits a sorted file of events into shards, and calls the function with each."""
    waiting: list[pa.Table] = []

    def done() -> tuple[int, T]:
        shard = _shard_of(pa.concat_tables(waiting), item_ids.value)
        return shard.shard, function(shard)

    with parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(_BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            shards = table["shard"].to_numpy()
            bounds = [0, *(np.flatnonzero(np.diff(shards)) + 1).tolist(), len(shards)]
            for first, last in itertools.pairwise(bounds):
                if waiting and waiting[0]["shard"][0].as_py() != shards[first]:
                    yield done()
                    waiting = []
                waiting.append(table.slice(first, last - first))
    if waiting:
        yield done()


def _sum_file(function: Callable[[ShardSequences], T], item_ids: "Broadcast[pa.Array]", path: pathlib.Path) -> list[T]:
    """One sum; none for a file without events, which Spark writes for the first partition."""
    results = (result for _, result in _map_file(function, item_ids, path))
    return [functools.reduce(operator.add, results, first) for first in itertools.islice(results, 1)]


def _grouped(groups: int, partition: int, results: Iterator[T]) -> Iterator[tuple[int, T]]:
    return ((partition % groups, result) for result in results)


def _shard_of(events: pa.Table, item_ids: pa.Array) -> ShardSequences:
    met, events = events.filter(events["met"]), events.filter(pc.invert(events["met"])).combine_chunks()
    users = events["user_id"].combine_chunks()
    changes = pc.not_equal(users.slice(1), users.slice(0, max(len(users) - 1, 0)))
    starts = np.concatenate([[0], np.flatnonzero(changes.to_numpy(zero_copy_only=False)) + 1])
    lengths = np.diff([*starts, len(users)])
    items = pc.index_in(events["item_id"], value_set=item_ids).to_numpy()
    early, old = (np.add.reduceat(events[name].to_numpy().astype(np.int64), starts) for name in ("early", "old"))
    user_ids = users.take(pa.array(starts))
    met_users = pc.index_in(met["user_id"], value_set=user_ids).to_numpy()
    met_items = pc.index_in(met["item_id"], value_set=item_ids).to_numpy()
    return ShardSequences(
        events["shard"][0].as_py(),
        user_ids.to_pylist(),
        events["key"].to_numpy()[starts].astype(np.uint64),
        Ragged.from_lengths(items, lengths),
        events["seconds"].to_numpy(),
        early,
        old,
        Ragged.from_lengths(met_items, np.bincount(met_users, minlength=len(user_ids))),
    )
