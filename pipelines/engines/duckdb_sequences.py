"""Turns events into user sequences: it orders and filters them and streams shards, with one sort and constant memory.

Users and items become integers here. The tables are

    users(user_index, user_id, shard, key, events, early_events, old_events)
                                                        sorted by shard and id; `key` is a hash of the id
    items(item_index, item_id, key)                     sorted by id; `key` as for users
    sequences(user_index, item_index, time, row)        one row per event, sorted by user, oldest first
    met(user_index, item_index)                         events that `data.min_rating` dropped, of the remaining users
                                                        and items
"""

from collections.abc import Callable, Iterator
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.engines.base import SQL_SECONDS, PreparedLog, ShardSequences, nothing_left, sql_before
from tfrecords.config import DataConfig
from tfrecords.hashed_random import TIES, hashed_bits, hashed_bits_sql, portable_key_sql
from tfrecords.ragged import Ragged

_BATCH_ROWS = 1 << 20


def prepare_sequences(connection: duckdb.DuckDBPyConnection, config: DataConfig, num_shards: int) -> PreparedLog:
    """Turns the table `events` into `users`, `items` and `sequences`: orders, drops duplicates and filters.

    Raises:
        InputError: the filters drop all events.
    """
    duplicates = order_sequences(connection, config, num_shards)
    rare = filter_sequences(connection, config)
    item_ids = [id_ for (id_,) in connection.execute("SELECT item_id FROM items ORDER BY item_index").fetchall()]
    users, events = count(connection, "users"), count(connection, "sequences")
    first, last = connection.execute("SELECT min(time), max(time) FROM sequences").fetchone() or (
        Decimal(0),
        Decimal(0),
    )
    return PreparedLog(item_ids, users, events, duplicates, rare, first, last)


def order_sequences(connection: duckdb.DuckDBPyConnection, config: DataConfig, num_shards: int) -> int:
    """Turns the table `events` into `users`, `items` and `sequences`, without duplicates (`data.duplicates`).

    Events with equal timestamps are ordered by a hash of seed, user and item, by item id, or as in the input
    (`data.tie_order`). If their items are equal too, they keep the order of the input.

    Returns:
        The number of dropped duplicates.
    """
    # With integers for ids, sorting and counting move 40 bytes per event.
    key = portable_key_sql("user_id")
    connection.execute(
        f"""CREATE TABLE users AS
        SELECT (row_number() OVER (ORDER BY shard, user_id) - 1)::INTEGER AS user_index, *
        FROM (SELECT user_id, {key} % {num_shards} AS shard, {key} AS key FROM events GROUP BY user_id)
        ORDER BY user_index"""
    )
    connection.execute(
        f"""CREATE TABLE items AS SELECT (row_number() OVER (ORDER BY item_id) - 1)::INTEGER AS item_index, item_id,
               {portable_key_sql("item_id")} AS key
        FROM (SELECT DISTINCT item_id FROM events) ORDER BY item_index"""
    )
    events = count(connection, "events")
    numbered = _events_with_ties(config)
    if config.duplicates in ("first", "last"):
        falling = "DESC" if config.duplicates == "last" else ""
        numbered += f""" QUALIFY row_number() OVER (
            PARTITION BY user_index, item_index ORDER BY time {falling}, row {falling}) = 1"""
    if config.tie_order == "hash":
        numbered = hashed_bits_sql(numbered, "user_index, item_index, time, row")
    connection.execute(
        f"""CREATE TABLE sequences AS SELECT user_index, item_index, time, row FROM ({numbered})
        ORDER BY user_index, time, bits, item_index, row"""
    )
    connection.execute("DROP TABLE events")
    if config.duplicates == "exact":  # events that are equal in all three are now adjacent
        connection.execute(
            """CREATE OR REPLACE TABLE sequences AS SELECT user_index, item_index, time, row FROM
            (SELECT *, lag(user_index) OVER () AS last_user, lag(item_index) OVER () AS last_item,
                    lag(time) OVER () AS last_time FROM sequences)
            WHERE last_user IS DISTINCT FROM user_index OR last_item <> item_index OR last_time <> time"""
        )
    if config.tie_order == "input":
        connection.execute("CREATE OR REPLACE TABLE sequences AS FROM sequences ORDER BY user_index, time, row")
    return events - count(connection, "sequences")


def _events_with_ties(config: DataConfig) -> str:
    """SQL for the events with integers for ids; `bits` is the input of `hashed_bits_sql` for the item's part."""
    users, bits = "users", "NULL"
    if config.tie_order == "hash":
        prefix = int(hashed_bits(config.seed, TIES)[0])
        users = f"SELECT user_id, user_index, xor({prefix}::UBIGINT, key::UBIGINT) AS bits FROM users"
        users = f"({hashed_bits_sql(users, 'user_id, user_index')}) AS users"
        bits = "xor(users.bits, items.key::UBIGINT)"
    return f"""SELECT user_index, item_index, time, row, {bits} AS bits
        FROM events JOIN {users} USING (user_id) JOIN items USING (item_id)"""


def filter_sequences(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> int:
    """Drops users and items with too few events, repeatedly, until all that remain have enough.

    Returns:
        The number of dropped events.

    Raises:
        InputError: no event is left.
    """
    events = left = count(connection, "sequences")
    minimums = {"user_index": config.min_user_events, "item_index": config.min_item_events}
    while True:
        for column, minimum in minimums.items():
            if minimum > 1:
                connection.execute(
                    f"""DELETE FROM sequences WHERE {column} IN
                    (SELECT {column} FROM sequences GROUP BY {column} HAVING count(*) < {minimum})"""
                )
        left, previous = count(connection, "sequences"), left
        if left == previous:
            break
    if left == 0:
        raise nothing_left(config, events)
    connection.execute(
        f"""CREATE OR REPLACE TABLE users AS SELECT * FROM users
        JOIN (SELECT user_index, count(*) AS events, count(*) FILTER ({sql_before(config.split_time)}) AS early_events,
                     count(*) FILTER ({sql_before(config.train_since)}) AS old_events
              FROM sequences GROUP BY user_index) USING (user_index)
        ORDER BY user_index"""
    )
    connection.execute("DELETE FROM items WHERE item_index NOT IN (SELECT DISTINCT item_index FROM sequences)")
    connection.execute("CREATE TABLE met (user_index INTEGER, item_index INTEGER)")
    if config.min_rating is not None:
        connection.execute(
            """INSERT INTO met SELECT DISTINCT user_index, item_index
            FROM low_rated JOIN users USING (user_id) JOIN items USING (item_id) ORDER BY user_index, item_index"""
        )
        connection.execute("DROP TABLE low_rated")
    return events - left


def count(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    """The number of rows of a table."""
    (rows,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,)
    return int(rows)


def stream_shards(connection: duckdb.DuckDBPyConnection, num_shards: int) -> Iterator[ShardSequences]:
    """Yields all shards in order, also empty ones, each with all of its users."""
    rows = _stream_rows(connection)
    indices = connection.execute("SELECT item_index FROM items ORDER BY item_index").to_arrow_table()[0].to_numpy()
    dense = np.zeros(indices[-1] + 1, np.int32)
    dense[indices] = np.arange(len(indices))
    for shard in range(num_shards):
        users = connection.execute(
            """SELECT user_id, key, events, early_events, old_events, user_index
            FROM users WHERE shard = ? ORDER BY user_index""",
            [shard],
        ).to_arrow_table()
        lengths = users["events"].to_numpy()
        items, times = rows(int(lengths.sum()))
        yield ShardSequences(
            shard,
            users["user_id"].to_pylist(),
            users["key"].to_numpy().astype(np.uint64),
            Ragged.from_lengths(dense[items], lengths),
            times,
            users["early_events"].to_numpy(),
            users["old_events"].to_numpy(),
            _also_met(connection, users["user_index"].to_numpy(), dense),
        )


def _also_met(connection: duckdb.DuckDBPyConnection, users: np.ndarray, dense: np.ndarray) -> Ragged:
    """The rows of the table `met` for some users, whose indices are consecutive and rising."""
    if not len(users):
        return Ragged.from_lengths(dense[:0], users)
    met = connection.execute(
        """SELECT user_index, item_index FROM met WHERE user_index BETWEEN ? AND ? ORDER BY user_index""",
        [int(users[0]), int(users[-1])],
    ).to_arrow_table()
    lengths = np.bincount(np.searchsorted(users, met["user_index"].to_numpy()), minlength=len(users))
    return Ragged.from_lengths(dense[met["item_index"].to_numpy()], lengths)


def _stream_rows(connection: duckdb.DuckDBPyConnection) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Returns a function that reads the item indices and the times of the next n rows of the sorted table."""
    # It has its own cursor, because the caller queries the users while this stream is open. It uses a relation, not
    # execute(), and preserves the insertion order: otherwise two threads may return chunks out of order.
    cursor = connection.cursor()
    query = f"SELECT user_index, item_index, {SQL_SECONDS} AS seconds FROM sequences"
    reader = cursor.sql(query).to_arrow_reader(_BATCH_ROWS)
    waiting: list[tuple[np.ndarray, ...]] = [(np.zeros(0, np.int32), np.zeros(0, np.int64))]
    last_user = -1

    def take(number: int) -> tuple[np.ndarray, np.ndarray]:
        nonlocal waiting, last_user
        while sum(len(items) for items, _ in waiting) < number:
            batch: pa.RecordBatch = reader.read_next_batch()
            users = batch.column(0).to_numpy()
            if len(users):
                if users[0] < last_user or np.any(np.diff(users) < 0):
                    raise RuntimeError("the engine returned sequences out of order")
                last_user = users[-1]
                waiting.append((batch.column(1).to_numpy(), batch.column(2).to_numpy()))
        items, times = map(np.concatenate, zip(*waiting, strict=True))
        waiting = [(items[number:], times[number:])]
        return items[:number], times[:number]

    return take
