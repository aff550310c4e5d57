"""Files of items to exclude or to allow, and of users to score, split like the users over the parts."""

import dataclasses
import pathlib
from typing import Any

import duckdb
import pyarrow.parquet as pq

from pipelines.sources.log_source import quoted
from tfrecords.errors import InputError
from tfrecords.hashed_random import portable_key_sql

_READERS = {
    ".parquet": "read_parquet({path})",
    ".csv": "read_csv({path}, header = true, all_varchar = true, auto_detect = true)",
    ".tsv": "read_csv({path}, header = true, all_varchar = true, delim = '\t', quote = '')",
    ".jsonl": "read_json({path}, format = 'newline_delimited')",
    ".txt": "read_csv({path}, header = false, all_varchar = true, delim = '\x01', quote = '', names = ['{column}'])",
}
_PLAIN_TYPES = ("VARCHAR", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")


@dataclasses.dataclass(frozen=True)
class UserLists:
    """Item ids for all users or for each user.

    Attributes:
        for_all: the ids, if they are for all users.
        directory: holds a folder for each part with the ids of its users; None: there are none.
    """

    for_all: tuple[str, ...] = ()
    directory: pathlib.Path | None = None

    @classmethod
    def read(cls, path: str, flag: str, directory: pathlib.Path, num_parts: int) -> "UserLists":
        """Reads a table with the column `item_id`, and `user_id` if each user has ids of their own.

        Args:
            path: Parquet, CSV, TSV or JSONL; or .txt with an item id in each line.
            flag: that names the file, for messages.
            directory: for the lists of each part; it is made if it is needed.
            num_parts: how many parts the output has.

        Raises:
            InputError: the file cannot be read, has no such column or no row, or ids that are neither text nor
                integers.
        """
        connection = duckdb.connect()
        columns = _open(connection, path, flag, "item_id")
        if "user_id" not in columns:
            rows = connection.execute("SELECT DISTINCT item_id FROM given ORDER BY item_id").fetchall()
            return cls(for_all=tuple(item_id for (item_id,) in rows))
        _write_parts(connection, "user_id, item_id", directory, num_parts)
        return cls(directory=directory)

    def of_part(self, part: int) -> dict[str, list[str]]:
        """The ids of the users of a part, for those who have any."""
        lists: dict[str, list[str]] = {}
        for user_id, item_id in _read_part(self.directory, part, ["user_id", "item_id"]):
            lists.setdefault(user_id, []).append(item_id)
        return lists


@dataclasses.dataclass(frozen=True)
class ChosenUsers:
    """The only users to score.

    Attributes:
        directory: holds a folder for each part with its users.
    """

    directory: pathlib.Path

    @classmethod
    def read(cls, path: str, flag: str, directory: pathlib.Path, num_parts: int) -> "ChosenUsers":
        """Reads a table with the column `user_id`, or a .txt with a user id in each line; see `UserLists.read`."""
        connection = duckdb.connect()
        _open(connection, path, flag, "user_id")
        _write_parts(connection, "user_id", directory, num_parts)
        return cls(directory)

    def of_part(self, part: int) -> set[str]:
        """The users of a part."""
        return {user_id for (user_id,) in _read_part(self.directory, part, ["user_id"])}


def _open(connection: duckdb.DuckDBPyConnection, path: str, flag: str, needed: str) -> list[str]:
    """Makes the view `given` of a file's ids, as text, and returns its columns."""
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in _READERS:
        raise InputError(
            f"--{flag} must be a {', '.join(_READERS)} file. Received: {path}. Fix: convert it, or rename it"
        )
    try:
        source = connection.sql(f"SELECT * FROM {_READERS[suffix].format(path=quoted(path), column=needed)}")
        types = dict(zip(source.columns, map(str, source.types), strict=True))
        if needed not in types:
            raise InputError(
                f"--{flag} must have the column {needed}. Received: {path} with {', '.join(types)}. "
                "Fix: rename the column"
            )
        columns: list[str] = [
            name for name in ("user_id", "item_id") if name in types and (needed == "item_id" or name == needed)
        ]
        for name in columns:
            if types[name] not in _PLAIN_TYPES:
                raise InputError(
                    f"Ids must be text or integers. Received: {path}, whose column {name} is {types[name]}. "
                    "Fix: write one id a row"
                )
        ids = ", ".join(f"CAST({name} AS VARCHAR) AS {name}" for name in columns)
        missing = " OR ".join(f"{name} IS NULL OR {name} = ''" for name in columns)
        connection.execute(f"CREATE TEMP TABLE given AS SELECT {ids} FROM source")
        faulty, rows = connection.execute(f"SELECT count(*) FILTER ({missing}), count(*) FROM given").fetchone() or (
            0,
            0,
        )
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--{flag} must be a readable {suffix} file. Received: {path} ({reason})") from None
    if faulty or not rows:
        received = f"{faulty:,} of {rows:,} rows without one" if rows else "no row"
        raise InputError(
            f"--{flag} must have an id in each row. Received: {path} with {received}. Fix: correct the file"
        )
    return columns


def _write_parts(connection: duckdb.DuckDBPyConnection, columns: str, directory: pathlib.Path, num_parts: int) -> None:
    directory.mkdir(parents=True)
    rows = f"SELECT DISTINCT {columns}, {portable_key_sql('user_id')} % {num_parts} AS part FROM given ORDER BY ALL"
    connection.execute(
        f"COPY ({rows}) TO {quoted(str(directory))} (FORMAT parquet, PARTITION_BY (part), OVERWRITE_OR_IGNORE)"
    )


def _read_part(directory: pathlib.Path | None, part: int, columns: list[str]) -> list[tuple[Any, ...]]:
    folder = None if directory is None else directory / f"part={part}"
    if folder is None or not folder.is_dir():
        return []
    tables = [pq.ParquetFile(file).read(columns) for file in sorted(folder.glob("*.parquet"))]
    return sorted(row for table in tables for row in zip(*(table[name].to_pylist() for name in columns), strict=True))
