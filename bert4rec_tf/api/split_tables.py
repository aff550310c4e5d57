"""Writes the split of a data directory as Parquet tables, for systems that do not read its records."""

import contextlib
import functools
import os
import pathlib
import shutil
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bert4rec_tf.api.evaluation_records import EvaluationRecords
from tfrecords.errors import InputError, check_local, writing
from tfrecords.schema import EVALUATION_USER, parse_batch
from tfrecords.vocabulary import NUM_SPECIAL_IDS

TABLES = ("train", "validation", "test", "negatives")
_EVENTS = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())])
_NEGATIVES = pa.schema([("user_id", pa.string()), ("split", pa.string()), ("item_ids", pa.list_(pa.string()))])
_USERS_AT_ONCE = 4096


def write_split_tables(data_dir: str | pathlib.Path, output_dir: str | pathlib.Path) -> dict[str, int]:
    """Writes train.parquet, validation.parquet, test.parquet and negatives.parquet.

    The first three have user_id, item_id and timestamp (seconds since 1970, null if the records have no times), each
    user's events in order. `negatives` has user_id, split ("validation" or "test") and item_ids. Records do not name
    users who are neither validated nor tested, so the events of these users are not in `train`.

    Args:
        data_dir: written by `build_records`.
        output_dir: for the files; new or empty.

    Returns:
        The rows of each table.

    Raises:
        InputError: no data directory, a damaged one, or an output directory that holds something else.

    >>> write_split_tables("data", "split")
    {'train': 80, 'validation': 20, 'test': 20, 'negatives': 40}
    >>> pq.read_table("split/test.parquet").slice(0, 1).to_pylist()
    [{'user_id': 'user-0', 'item_id': '6', 'timestamp': 5}]
    """
    check_local("split_dir", output_dir)
    directory = pathlib.Path(output_dir)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"--split_dir must be new or empty. Received: {directory}. Fix: name another directory")
    records = EvaluationRecords.open(data_dir, "run the same command again when the records are complete")
    building = directory.with_name(f".{directory.name}.building")
    with writing(directory), records.verified.unchanged():
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir(parents=True)
        try:
            rows = _write(records, building)
            if directory.exists():
                directory.rmdir()
            building.rename(directory)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return rows


def _write(records: EvaluationRecords, directory: pathlib.Path) -> dict[str, int]:
    names = pa.array([None] * NUM_SPECIAL_IDS + list(records.vocabulary.item_ids), pa.string())
    rows = dict.fromkeys(TABLES, 0)
    with contextlib.ExitStack() as stack:
        schemas = {table: _NEGATIVES if table == "negatives" else _EVENTS for table in TABLES}
        writers = {
            table: stack.enter_context(pq.ParquetWriter(directory / f"{table}.parquet", schema))
            for table, schema in schemas.items()
        }

        def add(table: str, columns: list[pa.Array]) -> None:
            rows[table] += len(columns[0])
            writers[table].write_table(pa.Table.from_arrays(columns, schema=schemas[table]))

        trained: set[str] = set()
        for split in ("test", "validation"):  # a tested user's history has all that was trained on
            for batch in _users(records, split):
                users = batch["user_id"].numpy()
                user_ids = pa.array([user.decode("utf-8") for user in users], pa.string())
                items, times = batch["item_ids"], batch["times"]
                targets = names.take(pa.array(batch["target_item_id"].numpy()))
                last = items.row_lengths().numpy() if records.manifest.has_times else None
                add(split, [user_ids, targets, _times(times, last)])
                negatives = batch["negative_item_ids"]
                offsets = pa.array(negatives.row_splits.numpy(), pa.int32())
                lists = pa.ListArray.from_arrays(offsets, names.take(pa.array(negatives.values.numpy())))
                add("negatives", [user_ids, pa.array([split] * len(users), pa.string()), lists])
                new = np.array([user not in trained for user in user_ids.to_pylist()], bool)
                trained.update(user_ids.to_pylist())
                lengths = np.where(new, batch["trained_items"].numpy(), 0)
                starts = items.row_splits.numpy()[:-1]
                places = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
                places = (places + np.arange(len(places))).astype(np.int64)
                of_user = np.repeat(np.arange(len(users)), lengths)
                if records.manifest.has_times:
                    # A row of times has one more entry, that of the target.
                    seconds = pa.array(times.values.numpy()[places + of_user], pa.int64())
                else:
                    seconds = pa.nulls(len(places), pa.int64())
                trained_items = names.take(pa.array(items.values.numpy()[places]))
                add("train", [user_ids.take(pa.array(of_user)), trained_items, seconds])
    return rows


def _times(times: tf.RaggedTensor, places: np.ndarray | None) -> pa.Array:
    """The time of each row at a place; null without places."""
    if places is None:
        return pa.nulls(int(times.nrows()), pa.int64())
    return pa.array(times.values.numpy()[times.row_splits.numpy()[:-1] + places], pa.int64())


def _users(records: EvaluationRecords, split: str) -> Iterator[dict[str, tf.Tensor]]:
    """The users of a split, some at a time; lists of different lengths are ragged."""
    shards = records.manifest.shards(split)
    files = [os.path.join(records.data_dir, shard.file) for shard in shards if shard.records]  # noqa: PTH118
    if files:
        batches = tf.data.TFRecordDataset(files).batch(_USERS_AT_ONCE)
        parse = tf.autograph.experimental.do_not_convert(functools.partial(parse_batch, EVALUATION_USER))
        yield from batches.map(parse)
