"""Events into user sequences: filters, order, and a stream of shards, with one sort and constant memory.

Users and items become integers here; the tables are

    users(user_index, user_id, shard, key, events)    sorted by shard and id; `key` is a portable hash of the id
    items(item_index, item_id)                        sorted by id
    sequences(user_index, item_index)                 one row an event, users one after the other, oldest first
"""

import dataclasses
from collections.abc import Callable, Iterator

import duckdb
import numpy as np
import pyarrow as pa

from bert4rec_tf.config import DataConfig
from bert4rec_tf.errors import InputError
from tfrecords.schema import Ragged

_BATCH_ROWS = 1 << 20


@dataclasses.dataclass(frozen=True)
class ShardSequences:
    """The users of one shard.

    Attributes:
        shard: its number.
        user_ids: raw ids.
        user_keys: uint64 [users], hashes of the ids that do not depend on machine or engine.
        sequences: item indices of each user, oldest first.
    """

    shard: int
    user_ids: list[str]
    user_keys: np.ndarray
    sequences: Ragged


def filter_events(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> dict[str, int]:
    """Drops duplicates, then users and items with too few events, over and over until all that are left have enough.

    Returns:
        Events dropped, by reason.

    Raises:
        InputError: nothing is left.
    """
    before = _count(connection)
    keys, order = {
        "exact": ("user_id, item_id, time", "row"),
        "first": ("user_id, item_id", "time, row"),
        "last": ("user_id, item_id", "time DESC, row DESC"),
        "keep": ("", ""),
    }[config.duplicates]
    if keys:
        connection.execute(
            f"""CREATE OR REPLACE TABLE events AS SELECT * FROM events
            QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"""
        )
    duplicates = before - (left := _count(connection))
    start = left
    minimums = {"user_id": config.min_user_events, "item_id": config.min_item_events}
    while True:
        for column, minimum in minimums.items():
            if minimum > 1:
                connection.execute(
                    f"""DELETE FROM events WHERE {column} IN
                    (SELECT {column} FROM events GROUP BY {column} HAVING count(*) < {minimum})"""
                )
        left, previous = _count(connection), left
        if left == previous:
            break
    if left == 0:
        raise InputError(
            f"A log must hold users with at least {config.min_user_events} events over items with at least "
            f"{config.min_item_events}. Received: {before} events, {before - duplicates} without duplicates, "
            "none of them by such a user. Fix: lower --min_user_events, --min_item_events or --min_rating, "
            "or bring a longer log"
        )
    return {"duplicate_events_dropped": duplicates, "rare_events_dropped": start - left}


def order_sequences(connection: duckdb.DuckDBPyConnection, config: DataConfig) -> tuple[list[str], int]:
    """Makes the tables `users`, `items` and `sequences` out of `events`.

    Equal timestamps are ordered by item id, or as in the input (`data.tie_order`); equal items among them, which
    cannot be told apart, as in the input.

    Returns:
        The item ids by their index, and the number of users.
    """
    hash_ = "('0x' || substr(md5(user_id), 1, 15))::BIGINT"
    connection.execute(
        f"""CREATE TABLE users AS
        SELECT row_number() OVER (ORDER BY shard, user_id) - 1 AS user_index, *
        FROM (SELECT user_id, {hash_} % {config.num_shards} AS shard, {hash_} AS key, count(*) AS events
              FROM events GROUP BY user_id)
        ORDER BY user_index"""
    )
    connection.execute(
        """CREATE TABLE items AS SELECT row_number() OVER (ORDER BY item_id) - 1 AS item_index, item_id
        FROM (SELECT DISTINCT item_id FROM events) ORDER BY item_index"""
    )
    ties = {"item_id": "item_index, row", "input": "row"}[config.tie_order]
    connection.execute(
        f"""CREATE TABLE sequences AS SELECT user_index::INTEGER AS user_index, item_index::INTEGER AS item_index
        FROM events JOIN users USING (user_id) JOIN items USING (item_id) ORDER BY user_index, time, {ties}"""
    )
    connection.execute("DROP TABLE events")
    item_ids = [
        item_id for (item_id,) in connection.execute("SELECT item_id FROM items ORDER BY item_index").fetchall()
    ]
    (users,) = connection.execute("SELECT count(*) FROM users").fetchone() or (0,)
    return item_ids, int(users)


def stream_shards(connection: duckdb.DuckDBPyConnection, num_shards: int) -> Iterator[ShardSequences]:
    """Yields the shards in their order, empty ones too, each with all of its users."""
    rows = _stream_rows(connection)
    for shard in range(num_shards):
        users = connection.execute(
            "SELECT user_id, key, events FROM users WHERE shard = ? ORDER BY user_index", [shard]
        ).to_arrow_table()
        lengths = users["events"].to_numpy()
        values = rows(int(lengths.sum()))
        yield ShardSequences(
            shard,
            users["user_id"].to_pylist(),
            users["key"].to_numpy().astype(np.uint64),
            Ragged.from_lengths(values, lengths),
        )


def _stream_rows(connection: duckdb.DuckDBPyConnection) -> Callable[[int], np.ndarray]:
    """A function that takes the next n item indices off the sorted table."""
    # A cursor of its own: the caller queries the users while this stream is open. A relation, not execute(), and
    # insertion order preserved: otherwise two threads may hand over chunks out of order.
    cursor = connection.cursor()
    reader = cursor.sql("SELECT user_index, item_index FROM sequences").to_arrow_reader(_BATCH_ROWS)
    waiting: list[np.ndarray] = []
    last_user = -1

    def take(number: int) -> np.ndarray:
        nonlocal waiting, last_user
        while sum(map(len, waiting)) < number:
            batch: pa.RecordBatch = reader.read_next_batch()
            users = batch.column(0).to_numpy()
            if len(users):
                if users[0] < last_user or np.any(np.diff(users) < 0):
                    raise RuntimeError("the engine returned sequences out of order")
                last_user = users[-1]
                waiting.append(batch.column(1).to_numpy())
        values = np.concatenate(waiting) if waiting else np.zeros(0, np.int32)
        waiting = [values[number:]]
        return values[:number]

    return take


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    (events,) = connection.execute("SELECT count(*) FROM events").fetchone() or (0,)
    return int(events)
