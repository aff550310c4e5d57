"""A database with the tables of events. Tests of many small logs share it: it takes longer to open than such a log."""

import functools

import duckdb

from pipelines.sources.load_events import create_events


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    create_events(connection)
    return connection


def empty_events() -> duckdb.DuckDBPyConnection:
    """The tables `events` and `low_rated`, empty, in a database of this process."""
    connection = _connection()
    for table in ("events", "low_rated"):
        connection.execute(f"TRUNCATE {table}")
    return connection
