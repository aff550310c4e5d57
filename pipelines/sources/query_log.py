"""The rows of a SQL query as a log: DuckDB runs it over what it can read, and a Parquet file holds the result."""

import pathlib

import duckdb

from pipelines.sources.log_source import LogSource, quoted
from tfrecords.errors import InputError

_RESULT = "query.parquet"


def query_log(
    query: str,
    directory: pathlib.Path,
    user_column: str = "user_id",
    item_column: str = "item_id",
    timestamp_column: str = "timestamp",
    rating_column: str = "",
    timestamp_unit: str = "auto",
    explode: bool = False,
) -> LogSource:
    """Runs a query and gives its result as a log, which is checked as Parquet files are.

    The query may use any table function and extension that DuckDB has on this machine: `read_parquet`, `delta_scan`,
    `iceberg_scan`, attached databases. It sees times in UTC.

    Args:
        query: one SELECT statement, with a row for each event.
        directory: for the result, which must stay until the log was read.
        user_column: see `LogSource`, like the other columns and options.
        item_column: see `LogSource`.
        timestamp_column: see `LogSource`.
        rating_column: see `LogSource`.
        timestamp_unit: see `LogSource`.
        explode: see `LogSource`.

    Raises:
        InputError: DuckDB cannot run the query, or it has no row.
    """
    path = directory / _RESULT
    with duckdb.connect() as connection:
        try:
            connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = true")
            connection.execute("SET temp_directory = ?", [str(directory)])
            statements = connection.extract_statements(query)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise InputError(f"--query must be one SELECT statement. Received: {query!r:.300}")
            connection.execute(f"COPY ({query.strip().rstrip(';')}) TO {quoted(str(path))} (FORMAT parquet)")
            (rows,) = connection.execute(f"SELECT count(*) FROM {quoted(str(path))}").fetchone() or (0,)
        except duckdb.Error as error:
            reason = " ".join(str(error).split())[:500]
            raise InputError(
                f"--query must be SQL that DuckDB can run. Received: {query!r:.300} ({reason}). Fix: try it in duckdb"
            ) from None
    if not rows:
        raise InputError(f"--query must return an event. Received: {query!r:.300}, which returns none")
    return LogSource(
        [str(path)],
        "parquet",
        user_column,
        item_column,
        timestamp_column,
        rating_column,
        timestamp_unit=timestamp_unit,
        explode=explode,
        query=query,
    )
