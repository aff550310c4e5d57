"""Filters, order and shards against a few lines of Python."""

import hashlib
from collections import Counter

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.engines import duckdb_sequences
from pipelines.engines.duckdb_sequences import (
    count,
    filter_sequences,
    order_sequences,
    prepare_sequences,
    stream_shards,
)
from tests.support.ragged_lists import lists
from tfrecords.config import DataConfig
from tfrecords.errors import InputError
from tfrecords.hashed_random import TIES, hashed_bits

SHARDS = 7
Event = tuple[str, str, int]  # user, item, time; its index in the list is its row


def connect(events: list[Event]) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE events (user_id VARCHAR, item_id VARCHAR, time DECIMAL(38, 9), row BIGINT)")
    users, items, times = zip(*events, strict=True) if events else ((), (), ())
    columns = {"u": pa.array(users, pa.string()), "i": pa.array(items, pa.string()), "t": pa.array(times, pa.int64())}
    connection.register("log", pa.table(columns | {"r": pa.array(range(len(events)), pa.int64())}))
    connection.execute("INSERT INTO events SELECT u, i, t, r FROM log")
    return connection


def kept_events(connection: duckdb.DuckDBPyConnection) -> list[Event]:
    return connection.execute(
        """SELECT user_id, item_id, time::BIGINT
        FROM sequences JOIN users USING (user_index) JOIN items USING (item_index)
        ORDER BY row"""
    ).fetchall()


def user_sequences(events: list[Event], config: DataConfig) -> dict[str, list[str]]:
    with connect(events) as connection:
        prepared = prepare_sequences(connection, config, SHARDS)
        item_ids, users = prepared.item_ids, prepared.users
        found = {}
        for shard in stream_shards(connection, SHARDS):
            for user, row in zip(shard.user_ids, lists(shard.sequences), strict=True):
                found[user] = [item_ids[index] for index in row]
    assert users == len(found)
    assert item_ids == sorted({item for _, item, _ in events})
    return found


EVENTS = st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("uvwxyz"), st.integers(0, 3)), max_size=30)


@given(EVENTS, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=15)
def test_filters_repeat_until_users_and_items_have_enough_events(events: list[Event], users: int, items: int) -> None:
    config = DataConfig(min_user_events=users, min_item_events=items, duplicates="keep")
    expected, before = events, None
    while expected != before:
        before = expected
        of_user, of_item = Counter(event[0] for event in before), Counter(event[1] for event in before)
        expected = [event for event in before if of_user[event[0]] >= users and of_item[event[1]] >= items]
    with connect(events) as connection:
        assert order_sequences(connection, config, SHARDS) == 0
        if not expected:
            with pytest.raises(InputError, match=rf"at least {users} events.*{len(events)} events"):
                filter_sequences(connection, config)
            return
        assert filter_sequences(connection, config) == len(events) - len(expected)
        assert kept_events(connection) == expected
        rows = [lists(shard.sequences) for shard in stream_shards(connection, SHARDS)]
        assert sum(map(len, rows)) == count(connection, "users") == len({user for user, _, _ in expected})


MOMENTS = st.floats(-1, 5) | st.sampled_from([0.0, 2.0, 2.000000001, 1e40, -1e40])


@pytest.mark.slow
@given(EVENTS.filter(bool), MOMENTS, st.none() | MOMENTS)
@settings(max_examples=40)
def test_events_before_a_time_are_counted(events: list[Event], split_time: float, since: float | None) -> None:
    config = DataConfig(
        split="temporal", split_time=split_time, train_since=since, min_user_events=1, duplicates="keep"
    )
    with connect(events) as connection:
        prepare_sequences(connection, config, SHARDS)
        for shard in stream_shards(connection, SHARDS):
            times = [[time for user, _, time in events if user == id_] for id_ in shard.user_ids]
            for found, moment in ((shard.early_events, split_time), (shard.old_events, since)):
                # Times have nine decimals, so the limit is rounded to nine before the comparison.
                expected = [sum(moment is not None and time < round(moment, 9) for time in row) for row in times]
                assert found.tolist() == expected


REPEATED = [("u", "a", 2), ("u", "a", 1), ("u", "a", 2), ("v", "a", 2), ("u", "b", 2), ("u", "a", 1)]


@pytest.mark.parametrize(
    ("policy", "rows"), [("exact", [0, 1, 3, 4]), ("first", [1, 3, 4]), ("last", [2, 3, 4]), ("keep", range(6))]
)
@pytest.mark.parametrize("tie_order", ["hash", "item_id", "input"])
def test_duplicates(policy: str, rows: list[int], tie_order: str) -> None:
    with connect(REPEATED) as connection:
        dropped = order_sequences(connection, DataConfig(duplicates=policy, tie_order=tie_order), SHARDS)
        kept = [row for (row,) in connection.execute("SELECT row FROM sequences ORDER BY row").fetchall()]
    assert kept == list(rows)
    assert dropped == len(REPEATED) - len(kept)


def test_duplicates_are_dropped_before_the_filters() -> None:
    with connect([("u", "a", 1)] * 5 + [("v", "a", 1), ("v", "b", 2)]) as connection:
        order_sequences(connection, DataConfig(), SHARDS)
        filter_sequences(connection, DataConfig(min_user_events=2))
        assert {user for user, _, _ in kept_events(connection)} == {"v"}


TIED = [("u", item, time) for time in (2, 1) for item in ("b", "ä", "B", "a", "😀", "10", "9")]


@given(st.permutations(TIED))
@settings(max_examples=20)
def test_ties_by_item_do_not_depend_on_the_order_of_the_input(events: list[Event]) -> None:
    expected = sorted({item for _, item, _ in TIED}) * 2
    assert user_sequences(events, DataConfig(tie_order="item_id", min_user_events=1)) == {"u": expected}


def key_of(text: str) -> int:
    return int(hashlib.md5(text.encode()).hexdigest()[:15], 16)


def tie(seed: int, user: str, item: str) -> int:
    return int(hashed_bits(seed, TIES, np.array(key_of(user)), np.array(key_of(item)))[0])


@given(st.permutations(TIED), st.integers(0, 2**63 - 1), st.text(min_size=1).filter(lambda text: "\x00" not in text))
@settings(max_examples=20)
def test_ties_are_ordered_by_a_hash_of_seed_user_and_item(events: list[Event], seed: int, user: str) -> None:
    expected = sorted({item for _, item, _ in TIED}, key=lambda item: tie(seed, user, item)) * 2
    config = DataConfig(seed=seed, min_user_events=1)
    assert user_sequences([(user, item, time) for _, item, time in events], config) == {user: expected}


def test_the_last_item_of_a_tie_is_any_of_its_items() -> None:
    users, items, last = 6000, ["a", "b", "c", "d", "e"], {}
    events = [(f"u{user}", item, 0) for user in range(users) for item in items]
    for seed in (1, 2):
        found = user_sequences(events, DataConfig(seed=seed, min_user_events=1))
        last[seed] = [found[f"u{user}"][-1] for user in range(users)]
        orders = Counter(map(tuple, found.values()))
        assert len(orders) == 120, "every order of five items"
        assert max(orders.values()) < 50 + 6 * 50**0.5
        for item in items:
            assert abs(last[seed].count(item) / users - 1 / 5) < 4 * (0.16 / users) ** 0.5
    same = np.mean([one == other for one, other in zip(last[1], last[2], strict=True)])
    assert abs(same - 1 / 5) < 4 * (0.16 / users) ** 0.5, "another seed, another order"


def test_ties_by_input_keep_its_order() -> None:
    expected = [item for _, item, _ in sorted(TIED, key=lambda event: event[2])]
    assert user_sequences(TIED, DataConfig(tie_order="input")) == {"u": expected}


@pytest.mark.parametrize("batch_rows", [2048, 1 << 20])
@pytest.mark.parametrize("tie_order", ["hash", "item_id", "input"])
def test_shards_hold_each_user_once_in_order(monkeypatch: pytest.MonkeyPatch, batch_rows: int, tie_order: str) -> None:
    monkeypatch.setattr(duckdb_sequences, "_BATCH_ROWS", batch_rows)
    random = np.random.default_rng(4)
    draws = np.stack([random.zipf(1.3, 30_000) % 997, *random.integers(0, 90, (2, 30_000))], axis=1)
    events = [(f"Zoë {user}", f"item {item}", time) for user, item, time in draws.tolist()]
    expected: dict[str, list[str]] = {}
    orders = {"hash": lambda user, item: tie(1, user, item), "item_id": lambda _, item: item, "input": lambda *_: 0}
    # sorted() is stable: equal elements stay in the order of the input
    for user, item, _ in sorted(events, key=lambda event: (event[2], orders[tie_order](*event[:2]))):
        expected.setdefault(user, []).append(item)
    config = DataConfig(tie_order=tie_order, duplicates="keep", min_user_events=1)
    assert user_sequences(events, config) == expected

    with connect(events) as connection:
        order_sequences(connection, config, SHARDS)
        filter_sequences(connection, config)
        shards = list(stream_shards(connection, SHARDS))
    assert [shard.shard for shard in shards] == list(range(7))
    assert sum(len(shard.user_ids) for shard in shards) == len(expected)
    for shard in shards:
        hashes = [int(hashlib.md5(user.encode()).hexdigest()[:15], 16) for user in shard.user_ids]
        assert shard.user_keys.tolist() == hashes
        assert {key % 7 for key in hashes} == {shard.shard}
        assert shard.user_ids == sorted(shard.user_ids)


def test_a_shard_without_users_exists() -> None:
    with connect([("u", "a", 1), ("u", "b", 2)]) as connection:
        order_sequences(connection, DataConfig(), 5)
        filter_sequences(connection, DataConfig(min_user_events=1))
        shards = list(stream_shards(connection, 5))
    assert sorted(len(shard.sequences) for shard in shards) == [0, 0, 0, 0, 1]
