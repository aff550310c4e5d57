"""Raw logs of any supported format into one table of events: `events(user_id, item_id, time, row)`.

`time` is an exact decimal (seconds, or whatever unit the log counts in); `row` is the order of the input. Every
row of the input either becomes an event or ends the run with its file, its place and the reason.
"""

import pathlib

import duckdb
import pyarrow as pa

from bert4rec_tf.errors import InputError
from pipelines.bad_rows import check_rejected, check_rows, check_whole, malformed_line
from pipelines.log_formats import LogSource, file_reader, first_lines

# Exact throughout: a division would make doubles of both branches. TIMESTAMP_NS, unlike TIMESTAMP, minds offsets; 'inf'
# is one of its values. Text to DECIMAL(38, 9) takes 13 microseconds; by way of a narrower type it takes a hundredth.
_TIME = r"""CASE
    WHEN regexp_full_match(time_text, '-?[0-9]{1,18}') THEN time_text::BIGINT::DECIMAL(38, 9)
    WHEN regexp_full_match(time_text, '-?[0-9]{1,12}\.[0-9]{1,6}') THEN time_text::DECIMAL(18, 6)::DECIMAL(38, 9)
    ELSE coalesce(
        TRY_CAST(time_text AS DECIMAL(38, 9)),
        (CASE WHEN isfinite(TRY_CAST(time_text AS TIMESTAMP_NS)) THEN epoch_ns(TRY_CAST(time_text AS TIMESTAMP_NS)) END
         ::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9))::DECIMAL(38, 9)) END"""


def load_events(
    connection: duckdb.DuckDBPyConnection, source: LogSource | pa.Table, min_rating: float | None
) -> dict[str, int]:
    """Fills the table `events` from a log, dropping events rated lower than `min_rating`.

    Args:
        connection: where the table is made.
        source: files, or an Arrow table of user_id, item_id, time and, for `min_rating`, rating.
        min_rating: None keeps all events and reads no rating.

    Returns:
        `rows_read` and `low_rated_rows_dropped`.

    Raises:
        InputError: a missing column, a row that cannot be read (file, place and reason), or no event at all.
    """
    connection.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, time DECIMAL(38, 9), row BIGINT)")
    if isinstance(source, pa.Table):
        rated = min_rating is not None
        if rated and "rating" not in source.column_names:
            raise InputError("--min_rating needs a rating. Received: a dataset without one")
        kept = f"WHERE rating >= {min_rating!r}" if rated else ""
        connection.register("arrow_source", source)
        connection.execute(
            f"""INSERT INTO events SELECT user_id, item_id, time, row FROM
            (SELECT *, row_number() OVER () AS row FROM arrow_source) {kept}"""
        )
        connection.unregister("arrow_source")
        return _read_counts(connection, source.num_rows)
    rows_read = last_place = 0
    for file in source.files():
        rows, places = _load_file(connection, source, file, min_rating, first_place=last_place)
        rows_read, last_place = rows_read + rows, last_place + places
    if rows_read == 0:
        raise InputError(f"A log must hold at least one interaction. Received: {', '.join(source.paths)}, with none")
    return _read_counts(connection, rows_read)


def _read_counts(connection: duckdb.DuckDBPyConnection, rows_read: int) -> dict[str, int]:
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone() or (0,)
    return {"rows_read": rows_read, "low_rated_rows_dropped": rows_read - events}


def _load_file(
    connection: duckdb.DuckDBPyConnection,
    source: LogSource,
    file: pathlib.Path,
    min_rating: float | None,
    first_place: int,
) -> tuple[int, int]:
    """Appends one file's events; rows are read as text first, so that what is wrong with one can be said.

    Returns:
        Its rows, and its places: blank lines have a place and are no row.
    """
    check_whole(file)
    table = file_reader(source, file, rated=min_rating is not None)
    time = _TIME if table.timestamp else f"(place + {first_place})::DECIMAL(38, 9)"
    try:
        connection.execute("DROP TABLE IF EXISTS raw")
        connection.execute(
            f"""CREATE TEMP TABLE raw AS
            SELECT place, user_id, item_id, time_text, {time} AS time, TRY_CAST(rating_text AS DOUBLE) AS rating
            FROM (SELECT row_number() OVER () AS place, {table.user} AS user_id, {table.item} AS item_id,
                  {table.timestamp or "NULL"} AS time_text, {table.rating or "NULL"} AS rating_text,
                  {table.blank} AS blank
                  FROM {table.relation})
            WHERE NOT blank"""
        )
        check_rejected(connection, file, table)
        check_rows(connection, file, table, rated=min_rating is not None)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        place = f", line {malformed_line(file)}," if table.format == "jsonl" else ""
        raise InputError(
            f"{file}{place} must be readable as {table.format}. "
            f"Received: {first_lines(error)}. Fix the file, or name its --format"
        ) from None
    kept = "" if min_rating is None else f"WHERE rating >= {min_rating!r}"
    connection.execute(f"INSERT INTO events SELECT user_id, item_id, time, place + {first_place} FROM raw {kept}")
    rows, places = connection.execute("SELECT count(*), coalesce(max(place), 0) FROM raw").fetchone() or (0, 0)
    connection.execute("DROP TABLE raw")
    return rows, places
