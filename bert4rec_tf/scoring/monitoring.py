"""What is watched every night: numbers of a night's recommendations, alone and beside those of an earlier one."""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import duckdb

from bert4rec_tf.scoring.part_scorer import PartCounts
from pipelines.sources.log_source import quoted
from tfrecords.errors import InputError

_SHARE_FLOOR = 1e-4  # of a bin, so that the index stays finite
_TOP_ITEMS = 100
_MOST_RECOMMENDED = 0.01
_BINS = 10
_NIGHTS = ("today", "before")
DRIFT_NUMBERS = ("overlap", "score_drift", "item_drift", "new_users_share", "lost_users_share")
NUMBERS = (
    "users", "unknown_event_share", "users_without_known_items_share", "full_lists_share", "coverage",
    "popularity_share", "score_median", *DRIFT_NUMBERS,
)  # fmt: skip


def monitor(
    directory: pathlib.Path, counts: PartCounts, num_items: int, top_k: int, previous: pathlib.Path | None
) -> dict[str, float]:
    """The numbers of finished parts.

    Args:
        directory: of the parts.
        counts: of the users and events.
        num_items: how many items the model knows.
        top_k: how many items each user was to get.
        previous: of the parts of an earlier night; None: there is none.

    Returns:
        users, and shares from 0 to 1: unknown_event_share, of the events whose item the model does not know;
        users_without_known_items_share; full_lists_share, of the users who got `top_k` items; coverage, of the items
        that some user got; popularity_share, of the recommendations that the most recommended 1% of the model's items
        have. Also score_median.

        With `previous`: overlap, of today's items in yesterday's list of the same user; new_users_share and
        lost_users_share; and two population stability indices (0: equal, above 0.25: a large change): score_drift, over
        the tenths of yesterday's scores, and item_drift, over yesterday's 100 most recommended items and all others.

    Raises:
        InputError: `previous` holds no recommendations.
    """
    with duckdb.connect() as connection:
        connection.execute("SET memory_limit = '1GB'")
        _make_tables(connection, directory, "today")
        users, full = _one(connection, f"SELECT count(*), count(*) FILTER (len(item_ids) >= {top_k}) FROM today")
        places, items = _one(connection, "SELECT count(*), count(DISTINCT item) FROM today_places")
        most = max(1, math.ceil(_MOST_RECOMMENDED * num_items))
        (popular,) = _one(
            connection,
            f"""SELECT coalesce(sum(number), 0) FROM
            (SELECT count(*) AS number FROM today_places GROUP BY item ORDER BY number DESC LIMIT {most})""",
        )
        (median,) = _one(connection, "SELECT median(score) FROM today_places")
        found = {
            "users": float(users),
            "unknown_event_share": counts.unknown_events / max(counts.events, 1),
            "users_without_known_items_share": counts.users_without_known_items / max(counts.users, 1),
            "full_lists_share": full / max(users, 1),
            "coverage": items / max(num_items, 1),
            "popularity_share": float(popular) / max(places, 1),
            "score_median": float(median or 0.0),
        }
        if previous is not None:
            _make_tables(connection, previous, "before")
            found |= _drift(connection, users)
    return {name: round(value, 6) for name, value in found.items()}


def read_limits(path: str | None) -> dict[str, dict[str, float]]:
    """Limits by number, such as `{"overlap": {"min": 0.3}, "unknown_event_share": {"max": 0.05}}`; None: no limits.

    Raises:
        InputError: no such file, or it holds something else.
    """
    if path is None:
        return {}
    try:
        limits = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--limits must be a JSON file. Received: {path} ({error})") from None
    well_formed = isinstance(limits, dict) and all(
        name in NUMBERS
        and isinstance(limit, dict)
        and limit.keys() <= {"min", "max"}
        and all(isinstance(value, int | float) for value in limit.values())
        for name, limit in limits.items()
    )
    if not well_formed:
        raise InputError(
            f'--limits must name numbers with "min", "max" or both: {", ".join(NUMBERS)}. Received: {path} with '
            f"{json.dumps(limits):.200}"
        )
    return limits


def check_limits(numbers: Mapping[str, float], limits: Mapping[str, Mapping[str, float]]) -> None:
    """Compares the numbers with the limits.

    Raises:
        InputError: names every number outside its limits.
    """
    broken = []
    for name, limit in limits.items():
        if numbers[name] < limit.get("min", -math.inf):
            broken.append(f"{name} is {numbers[name]:g}, below {limit['min']:g}")
        if numbers[name] > limit.get("max", math.inf):
            broken.append(f"{name} is {numbers[name]:g}, above {limit['max']:g}")
    if broken:
        raise InputError(
            f"Recommendations must be within --limits. Received: {'; '.join(broken)}. They are not marked as finished. "
            "Fix: find the cause, or change the limits and run the same command again"
        )


def _make_tables(connection: duckdb.DuckDBPyConnection, directory: pathlib.Path, name: str) -> None:
    """The views `name` of users and `name`_places of recommended items."""
    for suffix, reader in ((".parquet", "read_parquet"), (".jsonl", "read_json")):
        if any(directory.glob(f"part-*{suffix}")):
            files = quoted(str(directory / f"part-*{suffix}"))
            connection.execute(f"CREATE VIEW {name} AS SELECT user_id, item_ids, scores FROM {reader}({files})")
            connection.execute(
                f"""CREATE VIEW {name}_places AS
                SELECT unnest(item_ids) AS item, unnest(scores)::DOUBLE AS score FROM {name}"""
            )
            return
    raise InputError(f"--previous must be a directory of recommend.py. Received: {directory}, without recommendations")


def _drift(connection: duckdb.DuckDBPyConnection, users: int) -> dict[str, float]:
    both, overlap = _one(
        connection,
        """SELECT count(*), avg(len(list_intersect(today.item_ids, before.item_ids))
            / greatest(len(today.item_ids), len(before.item_ids), 1)) FROM today JOIN before USING (user_id)""",
    )
    (users_before,) = _one(connection, "SELECT count(*) FROM before")
    steps = ", ".join(f"{step / _BINS}" for step in range(1, _BINS))
    (edges,) = _one(connection, f"SELECT quantile_cont(score, [{steps}]) FROM before_places")
    bins = " + ".join(f"(score > {edge!r})::INTEGER" for edge in sorted(set(edges or []))) or "0"
    connection.execute(
        f"""CREATE TEMP TABLE top_items AS
        SELECT item FROM before_places GROUP BY item ORDER BY count(*) DESC, item LIMIT {_TOP_ITEMS}"""
    )
    by_score = f"SELECT {bins} AS bin, count(*) FROM {{}}_places GROUP BY 1"
    by_item = "SELECT top_items.item AS bin, count(*) FROM {}_places LEFT JOIN top_items USING (item) GROUP BY 1"
    score_shares, item_shares = (
        [_shares(connection, query.format(night)) for night in _NIGHTS] for query in (by_score, by_item)
    )
    return {
        "overlap": float(overlap or 0.0),
        "new_users_share": 1 - both / max(users, 1),
        "lost_users_share": 1 - both / max(users_before, 1),
        "score_drift": _stability_index(*score_shares),
        "item_drift": _stability_index(*item_shares),
    }


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchone() or ()


def _shares(connection: duckdb.DuckDBPyConnection, query: str) -> dict[object, float]:
    """The share of each bin, of a query for bins and their numbers."""
    rows = connection.execute(query).fetchall()
    total = max(sum(number for _, number in rows), 1)
    return {bin_: number / total for bin_, number in rows}


def _stability_index(today: Mapping[object, float], before: Mapping[object, float]) -> float:
    """The population stability index: the sum of (p - q) ln(p / q) over the bins."""
    index = 0.0
    for bin_ in {**today, **before}:
        p, q = (max(shares.get(bin_, 0.0), _SHARE_FLOOR) for shares in (today, before))
        index += (p - q) * math.log(p / q)
    return index
