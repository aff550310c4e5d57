"""Engine for one machine: DuckDB reads, sorts and counts within a memory limit; worker processes mask and write."""

import functools
import multiprocessing
import operator
import os
import pathlib
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker

import duckdb

from pipelines.engines.base import PreparedLog, ShardSequences, Source, T
from pipelines.engines.duckdb_connection import connect, raise_as_input_error
from pipelines.engines.duckdb_sequences import prepare_sequences, stream_shards
from pipelines.progress import Progress
from pipelines.sources.load_events import LoadCounts, RowRules, create_events, load_batches, load_file
from pipelines.sources.log_file import LogFile
from pipelines.sources.log_source import LogSource
from tfrecords.config import RecordsConfig
from tfrecords.errors import InputError
from tfrecords.interruption import deferred


class DuckDBEngine:
    """See `pipelines.engines.base.Engine`. Use it in a `with` block."""

    def __init__(self, spill_dir: pathlib.Path, num_workers: int = 1, memory_limit: str | None = None):
        """Opens an engine.

        Args:
            spill_dir: for data that does not fit in memory; removed at the end.
            num_workers: number of processes that mask and write; with 1 it is this process.
            memory_limit: of DuckDB, e.g. "4GB"; None: most of the machine's memory.

        Raises:
            InputError: the limit is not a size.
        """
        self._num_workers, self._memory_limit, self._num_shards = num_workers, memory_limit, 0
        self._connection = connect(spill_dir, memory_limit)
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "DuckDBEngine":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if self._pool:
            if error is not None:  # without it, a worker would first finish its shard
                for process in list((self._pool._processes or {}).values()):
                    process.kill()  # SIGTERM may be ignored: by `trap "" TERM` in the shell, say
                # The pool reads the rest of a result that a killed worker was sending until no writer is left.
                self._pool._result_queue._writer.close()  # type: ignore[attr-defined]
            self._pool.shutdown(cancel_futures=True)
        self._connection.close()
        if isinstance(error, duckdb.Error):
            raise_as_input_error(error, self._memory_limit)

    def load(
        self, source: Source, unit: str, config: RecordsConfig, bad_rows: pathlib.Path, progress: Progress
    ) -> LoadCounts:
        """Reads the log, file by file."""
        create_events(self._connection)
        if not isinstance(source, LogSource):
            with progress.stage("reading", source.num_rows()) as bar:
                rules = RowRules(source.description()["format"], bad_rows, config.data.min_rating, unit=unit)
                return load_batches(
                    self._connection, source.batches(), rules, on_batch=lambda rows: bar.update(rows - bar.n)
                )
        loaded = LoadCounts()
        with progress.stage("reading", sum(file.lines for file in source.files)) as bar:
            for number, file in enumerate(source.files):
                by_batch: list[int] = []  # numbers of rows done; empty while one statement reads the whole file

                def done(file: LogFile = file, by_batch: list[int] = by_batch) -> float:
                    return by_batch[-1] / file.lines if by_batch else self._done()

                with progress.watch(bar, file.lines, done):
                    loaded += load_file(self._connection, source, number, config.data, bad_rows, by_batch.append, unit)
        return loaded

    def prepare(self, config: RecordsConfig, num_shards: int, progress: Progress) -> PreparedLog:
        """Sorts once; the other steps are scans."""
        self._num_shards = num_shards
        with progress.stage("sorting", 100, unit="%") as bar, progress.watch(bar, 100, self._done):
            return prepare_sequences(self._connection, config.data, num_shards)

    def map_shards(self, function: Callable[[ShardSequences], T]) -> Iterator[T]:
        """Calls the function in worker processes, with a few shards at a time in memory."""
        shards = stream_shards(self._connection, self._num_shards)
        if self._num_workers == 1:
            yield from map(function, shards)
            return
        if self._pool is None:  # no fork: it would copy the engine's threads in an unknown state
            context = multiprocessing.get_context("forkserver")
            # A terminal sends its signals to the workers too. The workers inherit this mask, so that only this process
            # stops them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
            try:
                resource_tracker.ensure_running()  # it ignores SIGINT itself, and unblocks it here
                signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
                forkserver.ensure_running()
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._pool = ProcessPoolExecutor(self._num_workers, mp_context=context, initializer=_end_with_parent)
        running: deque[Future[T]] = deque()
        try:
            for shard in shards:
                with deferred():  # submit starts workers, and __exit__ stops only those that the pool has registered
                    running.append(self._pool.submit(function, shard))
                if len(running) > self._num_workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool:
            raise InputError(
                "Every worker process must finish. Received: one was killed, probably out of memory. "
                "Fix: lower --num_workers, or raise --num_shards so that each shard is smaller"
            ) from None

    def sum_shards(self, function: Callable[[ShardSequences], T]) -> T:
        """Holds the results of a few shards at a time."""
        return functools.reduce(operator.add, self.map_shards(function))

    def _done(self) -> float:
        return float(self._connection.query_progress()) / 100


def _end_with_parent() -> None:
    """Ends this worker when the main process is killed. Otherwise it would wait, or write during the next run."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
