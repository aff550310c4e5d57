"""Recommendations in Python from a model directory or an exported version, equal to the server's answers."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import tensorflow as tf

from bert4rec_tf.api.records import Path, log_source
from bert4rec_tf.model.event_times import UNKNOWN_TIME
from bert4rec_tf.scoring.output import OutputOptions, ScoredUsers
from bert4rec_tf.scoring.score_users import score_log
from bert4rec_tf.serving.served_model import ServedModel
from pipelines.engines.duckdb_engine import DuckDBEngine
from pipelines.progress import Progress
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS

if TYPE_CHECKING:
    import pandas as pd

_BATCH_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Recommendations:
    """Items for each history, best first.

    Attributes:
        item_ids: for each history, the ids of its items.
        scores: for each history, the float32 scores of its items.
        titles: the titles of items, by id; items without a title are left out.

    >>> found = recommender.recommend([["1", "2", "3"], ["8"]], k=1)
    >>> len(found), found.item_ids
    (2, [['4'], ['9']])
    """

    item_ids: list[list[str]]
    scores: list[np.ndarray]
    titles: Mapping[str, str] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.item_ids)

    def to_arrow(self) -> pa.Table:
        """A table with one row for each item.

        Columns: row (of the history, from 0), rank (from 1), item_id, score, title (null if unknown).

        >>> recommender.recommend([["1", "2", "3"]], k=1).to_arrow().to_pylist()
        [{'row': 0, 'rank': 1, 'item_id': '4', 'score': ..., 'title': 'Film 4'}]
        """
        lengths = [len(ids) for ids in self.item_ids]
        ids = [item_id for row in self.item_ids for item_id in row]
        return pa.table(
            {
                "row": pa.array(np.repeat(np.arange(len(lengths)), lengths), pa.int64()),
                "rank": pa.array([rank for length in lengths for rank in range(1, length + 1)], pa.int64()),
                "item_id": pa.array(ids, pa.string()),
                "score": pa.array(np.concatenate([np.zeros(0, np.float32), *self.scores]), pa.float32()),
                "title": pa.array([self.titles.get(item_id) for item_id in ids], pa.string()),
            }
        )

    def to_pandas(self) -> "pd.DataFrame":
        """The table of `to_arrow` as a pandas frame; needs pandas.

        >>> recommender.recommend([["1", "2", "3"], ["8"]], k=1).to_pandas()[["row", "rank", "item_id", "title"]]
           row  rank item_id   title
        0    0     1       4  Film 4
        1    1     1       9  Film 9
        """
        return self.to_arrow().to_pandas()


class Recommender:
    """Recommends items for histories of raw item ids; made by `Recommender.load`.

    All methods skip ids that the model does not know. A history without a known item gets the most popular items.

    >>> recommender = Recommender.load("model")
    >>> recommender.recommend([["1", "2", "3"]], k=1).item_ids
    [['4']]
    """

    def __init__(self, model: ServedModel):
        """Used by `load`."""
        self._model = model
        pairs = zip(model.vocabulary.item_ids, model.vocabulary.titles, strict=True)
        self._titles = {item_id: title for item_id, title in pairs if title is not None}

    @classmethod
    def load(cls, directory: Path) -> "Recommender":
        """Loads a model directory of `train`, an export directory (its newest version), or one version of it.

        All of them may be in an object store.

        Raises:
            InputError: the directory is none of these.

        >>> recommender = Recommender.load("model")
        >>> Recommender.load("data")
        Traceback (most recent call last):
        tfrecords.errors.InputError: `directory` must be a model directory of train, ... Received: 'data'
        """
        return cls(ServedModel.load(directory))

    def recommend(
        self,
        histories: Iterable[Sequence[str]],
        k: int = 10,
        *,
        exclude: Sequence[str] | Sequence[Sequence[str]] | None = None,
        allow: Sequence[str] | Sequence[Sequence[str]] | None = None,
        drop_seen: bool = True,
        allow_values: Sequence[str] | Sequence[Sequence[str]] | None = None,
        exclude_values: Sequence[str] | Sequence[Sequence[str]] | None = None,
        timestamps: Iterable[Sequence[int]] | None = None,
        request_times: int | Sequence[int] | None = None,
    ) -> Recommendations:
        """The best items for each history.

        Args:
            histories: item ids, oldest first, of any lengths.
            k: how many items, at least 1.
            exclude: ids that are never recommended: one list for all histories, or one for each.
            allow: the only ids that may be recommended: one list for all histories, or one for each. None: all.
            drop_seen: whether items of the history are left out.
            allow_values: categories of the items' features, such as "genres=Drama": of each feature that is named, a
                recommended item has one of the named categories. One list for all histories, or one for each.
            exclude_values: categories that no recommended item has.
            timestamps: for each history, the time of each of its events, in seconds since 1970; negative if unknown.
                None: all are unknown. Only for models with times.
            request_times: when the items will be shown, in seconds since 1970: one time for all histories, or one for
                each; negative or None: unknown. Only for models with times.

        Returns:
            At most `k` items for each history; fewer if fewer may be recommended.

        Raises:
            InputError: `k` is out of range, a list is neither one for all histories nor one for each, the model has no
                such feature or takes no times, or a history has another number of times than of items.

        >>> recommender.recommend([["1", "2", "3"], ["8", "9"]], k=1).item_ids
        [['4'], ['10']]
        >>> sorted(recommender.recommend([["1", "2", "3"]], allow=["3", "4", "7"]).item_ids[0])
        ['4', '7']
        >>> sorted(recommender.recommend([["1", "2", "3"]], allow=["3", "4", "7"], drop_seen=False).item_ids[0])
        ['3', '4', '7']
        """
        if not 1 <= k <= self._model.max_k:
            raise InputError(f"`k` must be from 1 to {self._model.max_k}, the limit of the export. Received: {k}")
        rows = _rows(histories)
        excluded, allowed = _lists("exclude", exclude, len(rows)), _lists("allow", allow, len(rows))
        filters = self._filters(allow_values, exclude_values, len(rows))
        times = self._times(rows, timestamps, request_times)
        answers = [
            self._model.signatures["recommend"](
                item_ids=_rectangle(rows[part]),
                k=tf.constant([k]),
                drop_seen=tf.constant([drop_seen]),
                excluded_item_ids=_rectangle(_of_part(excluded, part)),
                allowed_item_ids=_rectangle(_of_part(allowed, part)),
                **{name: _rectangle(_of_part(values, part)) for name, values in filters.items()},
                **_times_of_part(times, part),
            )
            for part in _parts(len(rows))
        ]
        return self._recommendations(
            (ids, scores) for answer in answers for ids, scores in zip(*_arrays(answer), strict=True)
        )

    def rank(
        self,
        histories: Iterable[Sequence[str]],
        item_ids: Sequence[str] | Sequence[Sequence[str]],
        *,
        timestamps: Iterable[Sequence[int]] | None = None,
        request_times: int | Sequence[int] | None = None,
    ) -> Recommendations:
        """Sorts given items by their score after each history; items of the history may be among them.

        Args:
            histories: item ids, oldest first.
            item_ids: one list for all histories, or one for each. Unknown ids are left out of the answer.
            timestamps: see `recommend`.
            request_times: see `recommend`.

        >>> recommender.rank([["1", "2", "3"], ["8"]], [["7", "4"], ["9", "unknown"]]).item_ids
        [['4', '7'], ['9']]
        """
        rows = _rows(histories)
        candidates = _lists("item_ids", item_ids, len(rows))
        times = self._times(rows, timestamps, request_times)
        found: list[tuple[np.ndarray, np.ndarray]] = []
        for part in _parts(len(rows)):
            ids = _rectangle(_of_part(candidates, part))
            answer = self._model.signatures["rank"](
                item_ids=_rectangle(rows[part]), candidate_item_ids=ids, **_times_of_part(times, part)
            )
            known, scores = answer["known"].numpy(), answer["scores"].numpy()
            names = np.broadcast_to(ids.numpy(), scores.shape)
            for name, score, is_known in zip(names, scores, known, strict=True):
                order = np.argsort(-score[is_known], kind="stable")
                found.append((name[is_known][order], score[is_known][order]))
        return self._recommendations(found)

    def encode(
        self,
        histories: Iterable[Sequence[str]],
        *,
        timestamps: Iterable[Sequence[int]] | None = None,
        request_times: int | Sequence[int] | None = None,
    ) -> np.ndarray:
        """The vector of each history, float32 [B, D]; an item's score is its inner product with the item's vector.

        Args:
            histories: item ids, oldest first.
            timestamps: see `recommend`.
            request_times: see `recommend`.

        >>> recommender.encode([["1", "2", "3"], ["8"]]).shape
        (2, 16)
        """
        rows = _rows(histories)
        times = self._times(rows, timestamps, request_times)
        parts = [
            self._model.signatures["encode"](item_ids=_rectangle(rows[part]), **_times_of_part(times, part))[
                "vectors"
            ].numpy()
            for part in _parts(len(rows))
        ]
        return np.concatenate([np.zeros([0, self._model.item_vectors.shape[1]], np.float32), *parts])

    def similar_items(self, item_ids: Iterable[str], k: int = 10) -> Recommendations:
        """The items whose embeddings have the largest cosine with that of each given item, without the item itself.

        Raises:
            InputError: an item is unknown to the model, or `k` is below 1.

        >>> similar = recommender.similar_items(["1", "2"], k=4)
        >>> [len(item_ids) for item_ids in similar.item_ids]
        [4, 4]
        >>> "1" in similar.item_ids[0]
        False
        """
        wanted = list(item_ids)
        ids = np.array(self._model.vocabulary.ids_of(wanted), np.int64) - NUM_SPECIAL_IDS
        if unknown := [item_id for item_id, index in zip(wanted, ids, strict=True) if index < 0]:
            raise InputError(f"`item_ids` must be items of the model. Received: {unknown[0]!r}")
        if k < 1:
            raise InputError(f"`k` must be at least 1. Received: {k}")
        names, found = np.array(self._model.vocabulary.item_ids, object), []
        for index in ids:
            best, cosines = self._model.nearest_items.search(int(index), k)
            found.append((names[best], cosines))
        return self._recommendations(found)

    def recommend_log(
        self,
        log: Any,
        output_dir: Path,
        options: OutputOptions | None = None,
        *,
        user_column: str = "user_id",
        item_column: str = "item_id",
        timestamp_column: str = "timestamp",
        rating_column: str = "",
        timestamp_unit: str = "auto",
        memory_limit: str | None = None,
        show_progress: bool = False,
    ) -> ScoredUsers:
        """Recommends to every user of a log, by their whole history, and writes files, as `recommend.py` does.

        Memory does not grow with the number of users. A call that was interrupted goes on when it is repeated.

        Args:
            log: one row an event, as for `build_records`, like the columns.
            output_dir: gets `part-*.parquet`, with the columns user_id, item_ids (best first), scores and
                model_version; and last `_SUCCESS`.
            options: what is written; None: `OutputOptions()`.
            user_column: see `build_records`.
            item_column: see `build_records`.
            timestamp_column: see `build_records`.
            rating_column: see `build_records`.
            timestamp_unit: see `build_records`.
            memory_limit: for sorting the log, such as "1GB"; beyond it, data goes to disk. None: most of the memory.
            show_progress: prints progress to stderr.

        Raises:
            InputError: the log, the options or the output directory cannot be used.

        >>> scored = recommender.recommend_log(log, "recommendations", OutputOptions(top_k=3), timestamp_unit="s")
        >>> scored.counts.users
        20
        >>> import pyarrow.parquet as pq
        >>> pq.read_table("recommendations", columns=["user_id", "item_ids"]).sort_by("user_id").to_pylist()[0]
        {'user_id': 'user-0', 'item_ids': ['7', ...]}
        """
        columns = {"user": user_column, "item": item_column, "timestamp": timestamp_column, "rating": rating_column}
        with tempfile.TemporaryDirectory(prefix="bert4rec_tf-") as directory:
            source = log_source(log, columns, timestamp_unit, pathlib.Path(directory))
            return score_log(
                self._model,
                source,
                output_dir,
                options or OutputOptions(),
                lambda spill_dir: DuckDBEngine(spill_dir, 1, memory_limit),
                progress=Progress(shown=None if show_progress else False),
            )

    def _filters(self, allow: Any, exclude: Any, rows: int) -> dict[str, list[list[str]]]:
        """The filters as inputs of the signature; empty if the model's items have no categories.

        Raises:
            InputError: a filter, but no categories, or no such feature.
        """
        lists = {
            "allowed_values": _lists("allow_values", allow, rows),
            "excluded_values": _lists("exclude_values", exclude, rows),
        }
        for value in (value for rows_of_list in lists.values() for row in rows_of_list for value in row):
            if value.partition("=")[0] not in self._model.categorical or "=" not in value:
                raise InputError(
                    "A filter must be written feature=category, with a categorical feature of the items: "
                    f"{', '.join(self._model.categorical) or 'this model has none'}. Received: {value!r}"
                )
        return lists if self._model.categorical else {}

    def _times(
        self, rows: list[list[str]], timestamps: Iterable[Sequence[int]] | None, request_times: Any
    ) -> tuple[list[list[int]], list[int]] | None:
        """The times of each history and request; None if the model takes no times.

        Raises:
            InputError: times, but the model takes none, or other numbers of them than of items or histories.
        """
        if not self._model.takes_times:
            if timestamps is not None or request_times is not None:
                raise InputError(
                    "`timestamps` and `request_times` need a model that takes times. Received: a model without "
                    "model.time_bias and model.request_time. Fix: leave them out, or train with one of these settings"
                )
            return None
        times = [[UNKNOWN_TIME] * len(row) for row in rows] if timestamps is None else [list(row) for row in timestamps]
        asked = UNKNOWN_TIME if request_times is None else request_times
        asked = [asked] * len(rows) if isinstance(asked, int | np.integer) else list(asked)
        for name, found in (("timestamps", times), ("request_times", asked)):
            if len(found) != len(rows):
                raise InputError(f"`{name}` must be one for each of {len(rows)} histories. Received: {len(found)}")
        for number, (row, of_row) in enumerate(zip(rows, times, strict=True)):
            if len(row) != len(of_row):
                raise InputError(
                    f"`timestamps` must have one time for each item of a history. Received: {len(of_row)} times for "
                    f"the {len(row)} items of history {number}"
                )
        return times, asked

    def _recommendations(self, found: Iterable[tuple[np.ndarray, np.ndarray]]) -> Recommendations:
        item_ids, scores = [], []
        for names, values in found:
            texts = [name.decode("utf-8") if isinstance(name, bytes) else str(name) for name in names]
            item_ids.append(texts)
            scores.append(np.asarray(values, np.float32))
        return Recommendations(item_ids, scores, self._titles)


def _times_of_part(times: tuple[list[list[int]], list[int]] | None, part: slice) -> dict[str, tf.Tensor]:
    """The times of a part of the histories as inputs of a signature."""
    if times is None:
        return {}
    rows, asked = times[0][part], times[1][part]
    length = max(map(len, rows), default=0)
    padded = np.array([[*row, *[UNKNOWN_TIME] * (length - len(row))] for row in rows], np.int64)
    return {
        "timestamps": tf.constant(padded.reshape(len(rows), length)),
        "request_time": tf.constant(asked, tf.int64, [len(rows)]),
    }


def _arrays(answer: Mapping[str, tf.Tensor]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ids and scores of each row, without the fill of rows that have fewer items."""
    ids, scores = answer["item_ids"].numpy(), answer["scores"].numpy()
    filled = [row != b"" for row in ids]
    return [row[kept] for row, kept in zip(ids, filled, strict=True)], [
        row[kept] for row, kept in zip(scores, filled, strict=True)
    ]


def _parts(rows: int) -> Iterator[slice]:
    """Slices of a few hundred rows, so that memory does not grow with the number of histories."""
    return (slice(first, first + _BATCH_ROWS) for first in range(0, rows, _BATCH_ROWS))


def _rows(histories: Iterable[Sequence[str]]) -> list[list[str]]:
    rows = []
    for history in histories:
        if isinstance(history, str | bytes):
            raise InputError(
                f"`histories` must be lists of item ids. Received: the text {history!r} instead of a list. "
                'Fix: [["161", "378"]] is one history of two items'
            )
        rows.append([str(item_id) for item_id in history])
    return rows


def _lists(name: str, given: Any, rows: int) -> list[list[str]]:
    """One list for all histories, or one for each."""
    given = [] if given is None else list(given)
    if not any(isinstance(item, list | tuple | set | np.ndarray) for item in given):
        return [[str(item) for item in given]]
    lists = [[str(item_id) for item_id in item] for item in given]
    if len(lists) not in (1, rows):
        raise InputError(f"`{name}` must be one list, or one for each of {rows} histories. Received: {len(lists)}")
    return lists


def _of_part(lists: list[list[str]], part: slice) -> list[list[str]]:
    """The lists of a part of the histories: theirs, or the one list for all."""
    return lists if len(lists) == 1 else lists[part]


def _rectangle(rows: Sequence[Sequence[str]]) -> tf.Tensor:
    """String [B, L], padded with ""."""
    length = max(map(len, rows), default=0)
    # Through bytes: an array of str would lose trailing NULs.
    flat = [item_id.encode("utf-8") for row in rows for item_id in [*row, *[""] * (length - len(row))]]
    return tf.reshape(tf.constant(flat, tf.string), [len(rows), length])
