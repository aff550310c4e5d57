"""Loads raw logs of any supported format into a table of events: `events(user_id, item_id, time, row)`.

`time` is an exact decimal, in seconds since 1970; `row` is the order of the input. A row of the input becomes an event,
or is dropped for its rating and added to `low_rated(user_id, item_id)`, or is set aside with its file, line and reason.
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator

import duckdb
import pyarrow as pa

from pipelines.sources import line_reader, parquet_reader, timestamps
from pipelines.sources.bad_rows import BadRow, check_bad_rows, set_aside
from pipelines.sources.duckdb_reader import is_safe_for_duckdb, row_count_matches, rows_sql
from pipelines.sources.file_pieces import Piece, cut_out
from pipelines.sources.line_reader import Row, read_rows
from pipelines.sources.log_source import Layout, LogSource, lay_out, quoted
from pipelines.sources.store_files import registered
from pipelines.sources.text_blocks import blocks_of
from pipelines.sources.text_streams import InputPath
from tfrecords.config import DataConfig
from tfrecords.errors import InputError
from tfrecords.interruption import raise_if_stopped

ROWS_IN_A_FILE = 1 << 40  # the stride of `row` from file to file: no file needs to know another's length
_BATCH_ROWS = 1 << 16
_BATCH_CHARACTERS = 1 << 24  # limits a batch of long ids
_COLUMNS = ("line", "user_id", "item_id", "timestamp", "rating", "fault", "text")  # in the order of `Row`
_SAMPLED_ROWS = 100  # of each file, to infer the unit of time


@dataclasses.dataclass(frozen=True)
class LoadCounts:
    """Counts the rows of a log or of one of its files.

    Attributes:
        rows_read: all rows.
        low_rated: rows that were dropped for their rating.
        bad: rows that were set aside.
        first_bad: some of the bad rows.
    """

    rows_read: int = 0
    low_rated: int = 0
    bad: int = 0
    first_bad: tuple[BadRow, ...] = ()

    def __add__(self, other: "LoadCounts") -> "LoadCounts":
        return LoadCounts(
            self.rows_read + other.rows_read,
            self.low_rated + other.low_rated,
            self.bad + other.bad,
            self.first_bad + other.first_bad,
        )

    @property
    def events(self) -> int:
        """The number of rows that became events."""
        return self.rows_read - self.low_rated - self.bad

    def check(self, source: str, max_bad_fraction: float) -> None:
        """Refuses a log that is empty or has too many bad rows.

        Raises:
            InputError: names `source`.
        """
        if self.rows_read == 0:
            raise InputError(f"A log must hold at least one interaction. Received: {source}, with none")
        check_bad_rows(self.bad, list(self.first_bad), self.rows_read, max_bad_fraction)


def create_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the tables `events` and `low_rated`, empty."""
    timestamps.register(connection)
    connection.execute("CREATE TABLE low_rated (user_id VARCHAR, item_id VARCHAR)")
    connection.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, time DECIMAL(38, 9), row BIGINT)")


@dataclasses.dataclass(frozen=True)
class RowRules:
    """How the rows of one input become events.

    Attributes:
        name: of the input, in the rows that are set aside.
        bad_rows: the file to which rows that cannot be read are appended.
        min_rating: events rated lower are dropped; None keeps all and reads no rating.
        timed: whether timestamps are read; otherwise rows are in time order.
        unit: of numeric timestamps.
        null_values: texts that mean a missing value.
        first_row: the first value of `row`.
        lines_before: lines of the file before those that are read.
    """

    name: str
    bad_rows: pathlib.Path
    min_rating: float | None = None
    timed: bool = True
    unit: str = "s"
    null_values: Collection[str] = ()
    first_row: int = 0
    lines_before: int = 0

    @property
    def rated(self) -> bool:
        """Whether ratings are read."""
        return self.min_rating is not None

    @property
    def rated_enough(self) -> str:
        """SQL that is true of the rows that `min_rating` keeps."""
        return "true" if self.min_rating is None else f"stars >= {self.min_rating!r}"


def load_file(
    connection: duckdb.DuckDBPyConnection,
    source: LogSource,
    number: int,
    config: DataConfig,
    bad_rows: pathlib.Path,
    on_batch: Callable[[int], object] = lambda _: None,
    unit: str | None = None,
    piece: Piece | None = None,
    copied_to: pathlib.Path | None = None,
) -> LoadCounts:
    """Appends a file's interactions, or those of a piece of it, to the table `events`.

    Args:
        connection: of the database with the table.
        source: the log that the file belongs to.
        number: index of the file in it.
        config: events rated lower than its `min_rating` are dropped; None keeps all and reads no rating.
        bad_rows: the file to which rows that cannot be read are appended.
        on_batch: called with the number of rows done, if they are read in batches.
        unit: the log's, from `timestamp_unit`; None infers it, which looks into every file.
        piece: of the file, from `pieces_of`; None: the whole file.
        copied_to: path for a copy of a piece of text; None: beside `bad_rows`.

    Raises:
        InputError: a column is missing, the file does not have its format, needs timestamps and has none, or changed
            since its hash was taken.
    """
    file, piece = source.files[number], piece or Piece(number)
    try:
        unit = timestamp_unit(source, config) if unit is None else unit
        layout = lay_out(source, file, rated=config.min_rating is not None)
        _check_timed(layout, config)
        # Text that is cut has timestamps, so `row` only orders it: a row, also a blank one, is a byte at least.
        rows_before = piece.lines_before if layout.format == "parquet" else piece.start
        rules = RowRules(
            layout.file.name,
            bad_rows,
            config.min_rating,
            layout.timed,
            unit,
            layout.null_values,
            first_row=number * ROWS_IN_A_FILE + rows_before,
            lines_before=piece.lines_before,
        )
        if layout.format == "parquet":
            batches = parquet_reader.read_batches(layout, start=piece.start, end=piece.end)
            return load_batches(connection, batches, rules, on_batch)
        if not piece.whole:
            layout = cut_out(layout, piece, copied_to or bad_rows.with_name("piece"))
        if is_safe_for_duckdb(layout):
            with registered(connection, layout.file.path):
                loaded = _insert_whole(connection, layout, rules)
            if loaded is not None:
                return loaded
        if layout.file.encoding != "utf-8":  # what is no valid text is named with the file's own encoding
            return load_batches(connection, _text_batches(layout), rules, on_batch)
        return _load_blocks(connection, layout, rules, on_batch)
    finally:
        file.check_unchanged()  # also after a failure, which a change may explain


def _check_timed(layout: Layout, config: DataConfig) -> None:
    """Refuses settings that need timestamps, for a file without them."""
    timed_by = {"--split=temporal": config.split == "temporal", "--train_since": config.train_since is not None}
    for flag, given in timed_by.items():
        if given and not layout.timed:
            raise InputError(
                f"{flag} needs timestamps. Received: {layout.file.path}, {layout.format} without them. "
                f"Fix: use a log with timestamps, or omit {flag}"
            )


def timestamp_unit(source: LogSource, config: DataConfig) -> str:
    """The unit of a log's numeric timestamps; "" if its rows have no timestamps.

    Raises:
        InputError: some files have timestamps and others have none, or their numbers are in several units.
    """
    samples: dict[str, list[str | None]] = {}  # of the files with timestamps
    untimed: list[InputPath] = []
    for file in source.files:
        layout = lay_out(source, file, rated=config.min_rating is not None)
        times = _some_timestamps(layout)
        if layout.timed and times:
            samples[str(file.path)] = times
        elif times:
            untimed.append(file.path)
    if untimed and samples:
        raise InputError(
            f"All files must have timestamps, or none of them. Received: {next(iter(samples))} with them, {untimed[0]} "
            "without. Fix: leave one kind out, or name the --format"
        )
    if untimed:
        return ""
    if source.timestamp_unit != "auto":
        return source.timestamp_unit
    nulls = source.null_values
    known = {name: [time for time in times if time and time not in nulls] for name, times in samples.items()}
    return timestamps.infer_unit(known)


def _some_timestamps(layout: Layout) -> list[str | None]:
    """The timestamps of a file's first rows; None for rows without one."""
    if layout.format == "parquet":
        batch = next(parquet_reader.read_batches(layout, _SAMPLED_ROWS, ahead=False), None)
        if batch is None:
            return []
        return batch["timestamp"].to_pylist() if layout.timed else [None] * len(batch)
    return [row.timestamp for row in itertools.islice(line_reader.read_rows(layout), _SAMPLED_ROWS)]


def load_batches(
    connection: duckdb.DuckDBPyConnection,
    batches: Iterable[pa.Table],
    rules: RowRules,
    on_batch: Callable[[int], object] = lambda _: None,
) -> LoadCounts:
    """Appends interactions to the table `events`, batch by batch.

    Args:
        connection: of the database with the table.
        batches: columns user_id, item_id and timestamp; optionally rating, `line`, the `fault` of a bad row, and its
            `text`.
        rules: which rows become events.
        on_batch: called after each batch with the number of rows done.

    Raises:
        InputError: `rules.min_rating` needs ratings and there are none.
    """
    loaded, rows = LoadCounts(), 0
    for batch in batches:
        _check_rows(connection, batch, rules, rows)
        shown = ", ".join(f"'{name}': {name}" for name in _COLUMNS[1 : 4 + rules.rated])
        bad = connection.execute(
            f"""SELECT line + {rules.lines_before}, reason, coalesce(text, to_json({{{shown}}})::VARCHAR)[:1000]
            FROM checked WHERE reason IS NOT NULL ORDER BY position"""
        ).fetchall()
        count, first = set_aside((BadRow(rules.name, *row) for row in bad), rules.bad_rows) if bad else (0, [])
        (kept,) = connection.execute(
            f"""INSERT INTO events SELECT user_id, item_id, time, row FROM checked
            WHERE reason IS NULL AND {rules.rated_enough}"""
        ).fetchone() or (0,)
        _keep_low_rated(connection, "checked", rules)
        raise_if_stopped()
        rows += len(batch)
        on_batch(rows)
        loaded += LoadCounts(len(batch), len(batch) - count - kept, count, tuple(first))
    return loaded


def _check_rows(connection: duckdb.DuckDBPyConnection, batch: pa.Table, rules: RowRules, rows_before: int) -> None:
    """Makes the table `checked` of a batch's rows, see `_checked`."""
    if rules.rated and "rating" not in batch.column_names:
        raise InputError("--min_rating needs a rating. Received: a dataset without one")
    known = {column: f"{column}::VARCHAR" for column in batch.column_names}
    position = f"row_number() OVER () + {rows_before}"
    line = "line" if "line" in known else position
    fields = ", ".join(f"{known.get(column, 'NULL::VARCHAR')} AS {column}" for column in _COLUMNS[1:])
    connection.register("batch", batch)
    checked = _checked(f"(SELECT {position} AS position, {line} AS line, {fields} FROM batch)", rules)
    connection.execute(f"CREATE OR REPLACE TEMP TABLE checked AS {checked}")
    connection.unregister("batch")


def _insert_whole(connection: duckdb.DuckDBPyConnection, layout: Layout, rules: RowRules) -> LoadCounts | None:
    """Reads a file with DuckDB, all or nothing: the first row that may be bad ends the attempt."""
    checked = _checked(rows_sql(layout), rules)
    connection.begin()
    try:
        (kept,) = connection.execute(
            f"""INSERT INTO events
            SELECT user_id, item_id, CASE WHEN reason IS NULL THEN time ELSE error(reason) END, row
            FROM ({checked}) WHERE reason IS NOT NULL OR {rules.rated_enough}"""
        ).fetchone() or (0,)
        rows = kept + _keep_low_rated(connection, f"({checked})", rules)
        if row_count_matches(layout, rows):
            connection.commit()
            return LoadCounts(rows, rows - kept)
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException):
        pass
    except BaseException:
        connection.rollback()
        raise
    connection.rollback()
    raise_if_stopped()
    return None


def _load_blocks(
    connection: duckdb.DuckDBPyConnection, layout: Layout, rules: RowRules, on_batch: Callable[[int], object]
) -> LoadCounts:
    """Reads a text file block by block: with DuckDB where that is safe, otherwise line by line."""
    loaded, first_row = LoadCounts(), rules.first_row
    for block in blocks_of(layout, rules.bad_rows.with_name("block")):
        lines_before = rules.lines_before + block.lines_before
        of_block = dataclasses.replace(rules, first_row=first_row, lines_before=lines_before)
        whole = _insert_whole(connection, block.layout, of_block) if is_safe_for_duckdb(block.layout) else None
        if whole is None:
            rows_before = loaded.rows_read
            batches = _text_batches(block.layout)
            whole = load_batches(connection, batches, of_block, lambda rows: on_batch(rows_before + rows))  # noqa: B023
        loaded += whole
        # DuckDB counts blank lines as rows; and a line may hold several rows.
        first_row += max(whole.rows_read, block.layout.file.lines)
        on_batch(loaded.rows_read)
    return loaded


def _keep_low_rated(connection: duckdb.DuckDBPyConnection, checked: str, rules: RowRules) -> int:
    """Appends the rows that `min_rating` drops to `low_rated` and returns their number; they are no negatives."""
    if not rules.rated:
        return 0
    (rows,) = connection.execute(
        f"""INSERT INTO low_rated SELECT user_id, item_id FROM {checked}
        WHERE reason IS NULL AND NOT {rules.rated_enough}"""
    ).fetchone() or (0,)
    return int(rows)


def _checked(rows_sql: str, rules: RowRules) -> str:
    """SQL that adds time, row, stars, and the reason why a row is not an interaction."""
    missing = ", ".join(map(quoted, ["", *rules.null_values]))
    faults = {
        "fault IS NOT NULL": "fault",
        f"user_id IS NULL OR user_id IN ({missing})": "'has no user'",
        f"item_id IS NULL OR item_id IN ({missing})": "'has no item'",
        "contains(user_id, chr(0)) OR contains(item_id, chr(0))": "'holds a NUL character'",
    }
    if rules.timed:
        faults[f"timestamp IN ({missing})"] = "'has no timestamp that is a number or an ISO 8601 time'"
        faults |= timestamps.faults_sql(rules.unit)
    if rules.rated:
        faults[f"stars IS NULL OR isnan(stars) OR rating IN ({missing})"] = "'has no rating that is a number'"
    reason = "CASE " + " ".join(f"WHEN {test} THEN {words}" for test, words in faults.items()) + " END"
    time = timestamps.time_sql(rules.unit) if rules.timed else f"(position + {rules.first_row})::DECIMAL(38, 9)"
    return f"""SELECT *, {reason} AS reason FROM
        (SELECT *, {time} AS time, TRY_CAST(rating AS DOUBLE) AS stars, position + {rules.first_row} AS row
         FROM {rows_sql})"""


def _text_batches(layout: Layout) -> Iterator[pa.Table]:
    schema = pa.schema([(name, pa.int64() if name == "line" else pa.string()) for name in _COLUMNS])
    rows, size = [], 0
    for row in read_rows(layout):
        rows.append(row)
        size += len(row.user or row.text or "") + len(row.item or "")
        if len(rows) == _BATCH_ROWS or size > _BATCH_CHARACTERS:
            yield _table(rows, schema)
            rows, size = [], 0
    if rows:
        yield _table(rows, schema)


def _table(rows: list[Row], schema: pa.Schema) -> pa.Table:
    columns = zip(zip(*rows, strict=True), schema, strict=True)
    return pa.table([pa.array(values, field.type) for values, field in columns], schema=schema)
