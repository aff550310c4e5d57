"""Predictions of other systems: lists of items from files, or from a function."""

import dataclasses
import glob
import importlib
import os
import pathlib
import sys
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from bert4rec_tf.evaluation.list_ranker import ListsOf
from pipelines.sources.log_source import quoted
from tfrecords.errors import InputError, check_local
from tfrecords.files import file_sha256

_READERS = {
    ".parquet": "read_parquet({files})",
    ".csv": "read_csv({files}, header = true, all_varchar = true)",
    ".tsv": "read_csv({files}, header = true, all_varchar = true, delim = '\t')",
    ".jsonl": "read_json({files}, format = 'newline_delimited')",
}


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Lists of items by user.

    Attributes:
        origin: the files, for messages.
        description: the content of metrics.json's "model".
        rows: the row of each user.
        items: for each row a list of raw ids, best first.
    """

    origin: str
    description: dict[str, Any]
    rows: dict[str, int]
    items: pa.ListArray

    @classmethod
    def read(cls, path: str) -> "Predictions":
        """Reads predictions.

        Args:
            path: a Parquet, CSV, TSV or JSONL file, a glob, or a folder of Parquet files such as that of recommend.py.
                A row has `user_id` and `item_ids`, a list, best first; or `user_id`, `item_id` and `score`, in any
                order. Equal scores rank by item id.

        Raises:
            InputError: no such file or columns, a user with two lists, or a score that is missing or not finite.
        """
        check_local("scores", path)
        files = _files(path)
        suffix = pathlib.Path(files[0]).suffix.lower()
        if suffix not in _READERS:
            raise InputError(f"--scores must be {', '.join(_READERS)} files. Received: {files[0]}. Fix: convert it")
        names = "[" + ", ".join(map(quoted, files)) + "]"
        with duckdb.connect() as connection:
            try:
                given = connection.sql(f"SELECT * FROM {_READERS[suffix].format(files=names)}")
                table = _lists(connection, given, path)
            except duckdb.Error as error:
                reason = " ".join(str(error).split())[:300]
                raise InputError(f"--scores must be readable files. Received: {path} ({reason})") from None
        user_ids = table["user_id"].to_pylist()
        rows = {user_id: row for row, user_id in enumerate(user_ids)}
        if len(rows) < len(user_ids):
            twice = next(user_id for row, user_id in enumerate(user_ids) if rows[user_id] != row)
            raise InputError(f"Each user must have one list. Received: {path} with several for {twice!r}")
        hashes = {pathlib.Path(file).name: file_sha256(file) for file in files}
        items = table["item_ids"].combine_chunks()
        lengths = items.value_lengths().to_numpy(zero_copy_only=False)
        description = {
            "scores": os.path.basename(os.path.normpath(path)),  # noqa: PTH119, a glob is no path
            "files_sha256": hashes,
            "items_of_a_list": {"fewest": int(min(lengths, default=0)), "most": int(max(lengths, default=0))},
        }
        return cls(path, description, rows, items)

    def lists_of(self, user_ids: list[str], histories: list[list[str]]) -> list[list[str]]:
        """The lists of some users; the histories are not used.

        Raises:
            InputError: a user has none.
        """
        missing = [user_id for user_id in user_ids if user_id not in self.rows]
        if missing:
            raise InputError(
                f"Every evaluated user must have a list. Received: {self.origin}, without {missing[0]!r} and perhaps "
                "others. Fix: predict for all users of the split; an empty list counts as a miss"
            )
        return [self.items[self.rows[user_id]].as_py() or [] for user_id in user_ids]


def _files(path: str) -> list[str]:
    if pathlib.Path(path).is_dir():
        found = sorted(map(str, pathlib.Path(path).glob("*.parquet")))
    else:
        found = [path] if pathlib.Path(path).is_file() else sorted(glob.glob(path))
    if not found:
        raise InputError(f"--scores must name files. Received: {path}, which matches none")
    return found


def _lists(connection: duckdb.DuckDBPyConnection, given: duckdb.DuckDBPyRelation, path: str) -> pa.Table:
    """One row a user: user_id, and item_ids, a list of text."""
    columns = set(given.columns)
    connection.register("given", given)
    if {"user_id", "item_ids"} <= columns:
        query = "SELECT user_id::VARCHAR AS user_id, item_ids::VARCHAR[] AS item_ids FROM given"
        faulty = "user_id IS NULL OR item_ids IS NULL OR list_contains(list_transform(item_ids, x -> x IS NULL), true)"
    elif {"user_id", "item_id", "score"} <= columns:
        query = """SELECT user_id::VARCHAR AS user_id,
            list(item_id::VARCHAR ORDER BY score::DOUBLE DESC, item_id::VARCHAR) AS item_ids FROM given GROUP BY 1"""
        faulty = "user_id IS NULL OR item_id IS NULL OR score IS NULL OR NOT isfinite(score::DOUBLE)"
    else:
        raise InputError(
            "--scores must have the columns user_id and item_ids, or user_id, item_id and score. "
            f"Received: {path} with {', '.join(given.columns)}"
        )
    (number,) = connection.execute(f"SELECT count(*) FROM given WHERE {faulty}").fetchone() or (0,)
    if number:
        raise InputError(
            f"Predictions must have a user, an item and a finite score in each row. Received: {path} with {number:,} "
            "rows without. Fix: correct or leave out these rows"
        )
    return connection.execute(query).to_arrow_table()


def ranking_function(name: str) -> ListsOf:
    """The function `module:function`, which takes user ids and histories and returns a list of item ids for each user.

    Modules are found as from a script in the current directory.

    Raises:
        InputError: there is no such function.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise InputError(f"--ranker must be MODULE:FUNCTION. Received: {name!r}. Fix: --ranker=my_model:rank")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"--ranker must name a function that can be imported. Received: {name!r} ({error})") from None

    def lists_of(user_ids: list[str], histories: list[list[str]]) -> list[list[str]]:
        lists = found(user_ids, histories)
        return [[str(item) for item in (row.tolist() if isinstance(row, np.ndarray) else row)] for row in lists]

    return lists_of
