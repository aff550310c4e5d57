"""Raw logs of any supported format into one table of events: `events(user_id, item_id, time, row)`.

`time` is an exact decimal (seconds, or whatever unit the log counts in); `row` is the order of the input. Every row of
the input becomes an event, or is dropped for its rating, or is set aside with its file, its line and the reason.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator

import duckdb
import pyarrow as pa

from bert4rec_tf.config import DataConfig
from bert4rec_tf.errors import InputError
from pipelines.bad_rows import BadRow, check_bad_rows, set_aside
from pipelines.engine_rows import all_there, may_read, relation
from pipelines.exact_rows import Row, read_rows
from pipelines.log_formats import Layout, LogSource, first_lines, lay_out

ROWS_IN_A_FILE = 1 << 40  # `row` counts on from file to file in such strides: no file needs to know another's length
_BATCH_ROWS = 1 << 16
_BATCH_CHARACTERS = 1 << 24  # of ids, where they are long
_COLUMNS = ("line", "user_id", "item_id", "timestamp", "rating", "fault", "text")  # in the order of `Row`

# Exact throughout: a division would make doubles of both branches. TIMESTAMP_NS, unlike TIMESTAMP, minds offsets; 'inf'
# is one of its values. Text to DECIMAL(38, 9) takes 13 microseconds; by way of a narrower type it takes a hundredth.
_TIME = r"""CASE
    WHEN regexp_full_match(timestamp, '-?[0-9]{1,18}') THEN timestamp::BIGINT::DECIMAL(38, 9)
    WHEN regexp_full_match(timestamp, '-?[0-9]{1,12}\.[0-9]{1,6}') THEN timestamp::DECIMAL(18, 6)::DECIMAL(38, 9)
    ELSE coalesce(
        TRY_CAST(timestamp AS DECIMAL(38, 9)),
        (CASE WHEN isfinite(TRY_CAST(timestamp AS TIMESTAMP_NS)) THEN epoch_ns(TRY_CAST(timestamp AS TIMESTAMP_NS)) END
         ::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)) END"""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What became of the rows of a log or of a file of it.

    Attributes:
        rows_read: all of them.
        low_rated: dropped for their rating.
        bad: set aside.
        first_bad: some of these.
    """

    rows_read: int = 0
    low_rated: int = 0
    bad: int = 0
    first_bad: tuple[BadRow, ...] = ()

    def __add__(self, other: "Loaded") -> "Loaded":
        return Loaded(
            self.rows_read + other.rows_read,
            self.low_rated + other.low_rated,
            self.bad + other.bad,
            self.first_bad + other.first_bad,
        )

    @property
    def events(self) -> int:
        """Rows that became events."""
        return self.rows_read - self.low_rated - self.bad

    def check(self, source: str, max_bad_fraction: float) -> None:
        """Refuses a log that is empty or of which too much cannot be read.

        Raises:
            InputError: so it is; `source` names it.
        """
        if self.rows_read == 0:
            raise InputError(f"A log must hold at least one interaction. Received: {source}, with none")
        check_bad_rows(self.bad, list(self.first_bad), self.rows_read, max_bad_fraction)


def create_events(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the table `events`, empty."""
    connection.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, time DECIMAL(38, 9), row BIGINT)")


def load_file(
    connection: duckdb.DuckDBPyConnection,
    source: LogSource,
    number: int,
    config: DataConfig,
    bad_rows: pathlib.Path,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Loaded:
    """Appends a file's interactions to the table `events`.

    Args:
        connection: where the table is.
        source: whose file it is.
        number: of the file.
        config: events rated lower than its `min_rating` are dropped; None keeps all and reads no rating.
        bad_rows: the file to which rows that cannot be read are appended.
        on_batch: called with the number of rows done, where they are read batch by batch.

    Raises:
        InputError: a missing column, a file that is not of its format, one without times that needs them, or one that
            changed since its hash was taken.
    """
    file = source.files[number]
    try:
        return _load(connection, source, number, config, bad_rows, on_batch)
    finally:
        file.check_unchanged()  # also where the reading failed: that may be why


def _load(
    connection: duckdb.DuckDBPyConnection,
    source: LogSource,
    number: int,
    config: DataConfig,
    bad_rows: pathlib.Path,
    on_batch: Callable[[int], object],
) -> Loaded:
    min_rating = config.min_rating
    layout = lay_out(source, source.files[number], rated=min_rating is not None)
    timed_by = {"--split=temporal": config.split == "temporal", "--train_since": config.train_since is not None}
    for flag, given in timed_by.items():
        if given and not layout.timed:
            raise InputError(
                f"{flag} needs timestamps. Received: {layout.file.path}, {layout.format} without them. "
                f"Fix: bring a log with them, or leave {flag} out"
            )
    first_row = number * ROWS_IN_A_FILE
    if may_read(layout):
        loaded = _insert_whole(connection, layout, first_row, min_rating)
        if loaded is not None:
            return loaded
    try:
        batches = _parquet_batches(connection, layout) if layout.format == "parquet" else _text_batches(layout)
        return load_batches(
            connection, batches, layout.file.name, min_rating, bad_rows, layout.timed, first_row, on_batch
        )
    except duckdb.InvalidInputException as error:
        raise InputError(
            f"{layout.file.path} must be readable as {layout.format}. Received: {first_lines(error)}. "
            "Fix: mend the file, or name its --format"
        ) from None


def load_batches(
    connection: duckdb.DuckDBPyConnection,
    batches: Iterable[pa.Table],
    name: str,
    min_rating: float | None,
    bad_rows: pathlib.Path,
    timed: bool = True,
    first_row: int = 0,
    on_batch: Callable[[int], object] = lambda _: None,
) -> Loaded:
    """Appends interactions to the table `events`, batch by batch.

    Args:
        connection: where the table is.
        batches: columns user_id, item_id, timestamp; rating where there is one; where it is known, `line`, what is
            wrong with the row as `fault`, and its `text`.
        name: of the file that they come from.
        min_rating: events rated lower are dropped; None keeps all.
        bad_rows: as in `load_file`.
        timed: whether timestamps count; otherwise rows are in time order.
        first_row: from where `row` counts.
        on_batch: called after each batch with the number of rows done.

    Raises:
        InputError: no ratings, and `min_rating` needs them.
    """
    loaded, rows = Loaded(), 0
    for batch in batches:
        if min_rating is not None and "rating" not in batch.column_names:
            raise InputError("--min_rating needs a rating. Received: a dataset without one")
        known = {column: f"{column}::VARCHAR" for column in batch.column_names}
        line = "line" if "line" in known else f"row_number() OVER () + {rows}"
        fields = ", ".join(f"{known.get(column, 'NULL::VARCHAR')} AS {column}" for column in _COLUMNS[1:])
        connection.register("batch", batch)
        rows_of_batch = f"(SELECT {line} AS line, {fields} FROM batch)"
        checked = _checked(rows_of_batch, timed, min_rating is not None, first_row)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE checked AS {checked}")
        connection.unregister("batch")
        shown = ", ".join(f"'{name}': {name}" for name in _COLUMNS[1 : 4 + (min_rating is not None)])
        bad = connection.execute(
            f"""SELECT line, reason, coalesce(text, to_json({{{shown}}})::VARCHAR)[:1000]
            FROM checked WHERE reason IS NOT NULL ORDER BY line"""
        ).fetchall()
        count, first = set_aside((BadRow(name, *row) for row in bad), bad_rows) if bad else (0, [])
        (kept,) = connection.execute(
            f"""INSERT INTO events SELECT user_id, item_id, time, row FROM checked
            WHERE reason IS NULL AND {_rated_enough(min_rating)}"""
        ).fetchone() or (0,)
        rows += len(batch)
        on_batch(rows)
        loaded += Loaded(len(batch), len(batch) - count - kept, count, tuple(first))
    return loaded


def _insert_whole(
    connection: duckdb.DuckDBPyConnection, layout: Layout, first_row: int, min_rating: float | None
) -> Loaded | None:
    """Has the engine read a file, all or nothing: the first row that is not surely a good one ends the attempt."""
    checked = _checked(relation(layout), layout.timed, layout.rated, first_row)
    connection.begin()
    try:
        (kept,) = connection.execute(
            f"""INSERT INTO events
            SELECT user_id, item_id, CASE WHEN reason IS NULL THEN time ELSE error(reason) END, row
            FROM ({checked}) WHERE reason IS NOT NULL OR {_rated_enough(min_rating)}"""
        ).fetchone() or (0,)
        rows = kept
        if layout.rated:
            (rows,) = connection.execute(f"SELECT count(*) FROM {relation(layout)}").fetchone() or (0,)
        if all_there(layout, rows):
            connection.commit()
            return Loaded(rows, rows - kept)
    except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException):
        pass
    except BaseException:
        connection.rollback()
        raise
    connection.rollback()
    return None


def _rated_enough(min_rating: float | None) -> str:
    return "true" if min_rating is None else f"stars >= {min_rating!r}"


def _checked(relation: str, timed: bool, rated: bool, first_row: int) -> str:
    """SQL of a relation of text, with time, row, stars, and the reason why a row is no interaction."""
    faults = {
        "fault IS NOT NULL": "fault",
        "user_id IS NULL OR user_id = ''": "'has no user'",
        "item_id IS NULL OR item_id = ''": "'has no item'",
        "contains(user_id, chr(0)) OR contains(item_id, chr(0))": "'holds a NUL character'",
    }
    if timed:
        faults["time IS NULL"] = "'has no timestamp that is a number or an ISO 8601 time'"
    if rated:
        faults["stars IS NULL OR isnan(stars)"] = "'has no rating that is a number'"
    reason = "CASE " + " ".join(f"WHEN {test} THEN {words}" for test, words in faults.items()) + " END"
    time = _TIME if timed else f"(line + {first_row})::DECIMAL(38, 9)"
    return f"""SELECT *, {reason} AS reason FROM
        (SELECT *, {time} AS time, TRY_CAST(rating AS DOUBLE) AS stars, line + {first_row} AS row FROM {relation})"""


def _parquet_batches(connection: duckdb.DuckDBPyConnection, layout: Layout) -> Iterator[pa.Table]:
    # A cursor of its own: this stream is open while the caller inserts. A relation, not execute(): see sequences.py.
    reader = connection.cursor().sql(f"FROM {relation(layout)}").to_arrow_reader(_BATCH_ROWS)
    yield from (pa.Table.from_batches([batch]) for batch in reader)


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
