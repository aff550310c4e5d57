"""Records from files, data frames and tables."""

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from bert4rec_tf.api.auto_recipe import AUTO, records_config
from bert4rec_tf.api.recipes import ConfigLike, settings_of
from bert4rec_tf.config import Config
from pipelines import build
from pipelines.build import BuildResult
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from pipelines.sources.item_features import FeatureTable, read_feature_table
from pipelines.sources.log_source import LogSource
from tfrecords.errors import InputError

Path: TypeAlias = str | pathlib.Path
_TABLE_FILE, _FEATURES_FILE = "table.parquet", "item_features.parquet"


def build_records(
    log: Any,
    output_dir: Path,
    config: ConfigLike = None,
    *,
    user_column: str = "user_id",
    item_column: str = "item_id",
    timestamp_column: str = "timestamp",
    rating_column: str = "",
    timestamp_unit: str = "auto",
    titles: Mapping[str, str] | None = None,
    item_features: Any = None,
    item_feature_kinds: Mapping[str, str] | None = None,
    num_workers: int = 1,
    overwrite: bool = False,
    show_progress: bool = False,
) -> BuildResult:
    """Turns a log of interactions into a data directory that `train` reads, as `pipelines/make_tfrecords.py` does.

    The same log, configuration and seed give the same records.

    Args:
        log: one row an event. A path or glob, here or in an object store, or several; or a pandas or polars frame, a
            pyarrow table or reader, a DuckDB relation, or anything else with the Arrow C stream interface. A table is
            written to a temporary Parquet file first, batch by batch, so that it is checked as files are.
        output_dir: where the records appear, whole, when all of them are written; here or in an object store.
        config: its sections `data` and `masking` are used: a `Config`, a dict of sections, the path of a JSON file, the
            name of a recipe, or "auto", which chooses by the size of the log. None: the defaults.
        user_column: name of the column with the users' ids, text or integers.
        item_column: name of the column with the items' ids.
        timestamp_column: name of the column with the events' times, numbers or dates; "": the rows are in time order.
        rating_column: name of the column that `data.min_rating` looks at; "": there is none.
        timestamp_unit: of timestamps that are numbers: "s", "ms", "us", "ns" or "auto", which goes by their size.
        titles: of items, by id; they appear beside recommendations.
        item_features: what is known of the items besides their ids: the path of a table, or a frame, with the column
            `item_id` and one column a feature, see `pipelines.sources.item_features.read_feature_table`.
        item_feature_kinds: "categorical", "numeric" or "vector" by column name, where the values alone would give
            another kind.
        num_workers: processes that write shards. More than one needs `if __name__ == "__main__":` in a script.
        overwrite: replaces the records that `output_dir` holds.
        show_progress: prints progress to stderr.

    Returns:
        Counts and the manifest of the directory.

    Raises:
        InputError: a column that is missing, rows that cannot be read, or a directory that holds something else.

    >>> result = build_records(log, "more data", {"data": {"max_seq_length": 10}}, timestamp_unit="s")
    >>> result.manifest.counts["users"], result.manifest.counts["items"]
    (20, 10)
    """
    automatic = config == AUTO
    settings = {} if automatic else settings_of(config)
    checked = Config.from_dict(settings)
    columns = {"user": user_column, "item": item_column, "timestamp": timestamp_column, "rating": rating_column}
    with tempfile.TemporaryDirectory(prefix="bert4rec_tf-") as directory:
        source = log_source(log, columns, timestamp_unit, pathlib.Path(directory))
        features = None
        if item_features is not None:
            features = _feature_table(item_features, pathlib.Path(directory) / _FEATURES_FILE, item_feature_kinds)
        return build.build_records(
            source,
            dict(titles or {}),
            checked,
            os.fspath(output_dir),
            lambda spill_dir: DuckDBEngine(spill_dir, num_workers),
            overwrite=overwrite,
            progress=Progress(shown=None if show_progress else False),
            item_features=features,
            choose_config=functools.partial(records_config, given=settings) if automatic else None,
        )


def log_source(log: Any, columns: Mapping[str, str], timestamp_unit: str, directory: pathlib.Path) -> LogSource:
    """A log as files, for the functions that read logs.

    Args:
        log: as for `build_records`.
        columns: names of the columns "user", "item", "timestamp" and "rating"; "": there is none.
        timestamp_unit: as for `build_records`.
        directory: a table is written there, and must stay until the log was read.

    Raises:
        InputError: a column that is missing, or no log at all.
    """
    if _is_path(log):
        paths = [os.fspath(log)]
    elif isinstance(log, Sequence) and log and all(map(_is_path, log)):
        paths = [os.fspath(path) for path in log]
    else:
        paths = [_write_table(log, directory / _TABLE_FILE, [name for name in columns.values() if name])]
    named: dict[str, Any] = {f"{kind}_column": name for kind, name in columns.items()}
    return LogSource(paths, **named, timestamp_unit=timestamp_unit)


def _feature_table(table: Any, path: pathlib.Path, kinds: Mapping[str, str] | None) -> FeatureTable:
    if _is_path(table):
        return read_feature_table(os.fspath(table), kinds)
    columns = _reader(table).read_all().combine_chunks()
    if not columns.num_rows:
        raise InputError("`item_features` must have at least one item. Received: a table without rows")
    plain = [_plain(column.chunk(0)) for column in columns.columns]
    pq.write_table(pa.Table.from_arrays(plain, columns.schema.names), path)
    return read_feature_table(str(path), kinds)


def _is_path(log: Any) -> bool:
    return isinstance(log, str | os.PathLike)


def _write_table(log: Any, path: pathlib.Path, columns: list[str]) -> str:
    """Writes the columns of a table as Parquet, and gives the file's path.

    Raises:
        InputError: not a table, or one without a column.
    """
    reader = _reader(log)
    missing = [name for name in columns if name not in reader.schema.names]
    if missing:
        raise InputError(
            f"A log must have the columns {', '.join(columns)}. Received: {', '.join(reader.schema.names) or 'none'}. "
            f"Fix: name yours by user_column, item_column and timestamp_column"
        )
    with contextlib.ExitStack() as stack:
        writer = None
        for batch in reader:
            plain = pa.RecordBatch.from_arrays([_plain(batch.column(name)) for name in columns], columns)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, plain.schema))
            writer.write_batch(plain)
        if writer is None:
            raise InputError("A log must have at least one event. Received: a table without rows")
    return str(path)


def _plain(column: pa.Array) -> pa.Array:
    """Categories as their values, and text in the one type that Parquet knows."""
    if pa.types.is_dictionary(column.type):
        column = pa.DictionaryArray.from_arrays(column.indices, _plain(column.dictionary)).dictionary_decode()
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _reader(log: Any) -> pa.RecordBatchReader:
    if isinstance(log, pa.RecordBatchReader):
        return log
    if isinstance(log, pa.Table):
        return log.to_reader()
    if type(log).__module__.split(".")[0] == "pandas":  # its own stream would hold the index as a column
        return pa.Table.from_pandas(log, preserve_index=False).to_reader()
    if hasattr(log, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(log)
    raise InputError(
        "`log` must be a path, a pandas or polars frame, a pyarrow table or a DuckDB relation. "
        f"Received: {type(log).__module__}.{type(log).__qualname__}"
    )
