"""Recommends to the users of one part, and writes its file."""

import concurrent.futures
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from bert4rec_tf.scoring.histories import Histories
from bert4rec_tf.scoring.user_lists import ChosenUsers, UserLists
from bert4rec_tf.serving.served_model import ServedModel
from tfrecords.files import replacing
from tfrecords.interruption import raise_if_stopped
from tfrecords.ragged import Ragged

Format = Literal["parquet", "jsonl"]
_USERS_AT_ONCE = 4096  # a row group of the file; their answers are in memory together
_SLOTS_AT_ONCE = 1 << 16  # of the padded histories of a request
_ROWS_AT_ONCE = 512
_UNKNOWN_TIME = -1
_NO_LISTS = UserLists()
_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("item_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float32())),
        ("model_version", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True)
class Request:
    """What every user gets.

    Attributes:
        top_k: how many items.
        drop_seen: whether items that the user met are left out.
        request_time: when the items will be shown, in seconds since 1970; None: unknown.
        exclude: items that are left out.
        allow: the only items that may be recommended; none: all.
        users: the only users; None: all.
    """

    top_k: int = 10
    drop_seen: bool = True
    request_time: int | None = None
    exclude: UserLists = _NO_LISTS
    allow: UserLists = _NO_LISTS
    users: ChosenUsers | None = None


@dataclasses.dataclass(frozen=True)
class PartCounts:
    """What a part, or several, are made of.

    Attributes:
        users: how many.
        users_without_known_items: whose history has no item that the model knows; they get the most popular items.
        events: of their histories.
        unknown_events: of items that the model does not know.
        written: users whose rows were written by this run and not by an earlier one.
    """

    users: int = 0
    users_without_known_items: int = 0
    events: int = 0
    unknown_events: int = 0
    written: int = 0

    def __add__(self, other: "PartCounts") -> "PartCounts":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return PartCounts(*(first + second for first, second in pairs))


@dataclasses.dataclass(frozen=True)
class PartScorer:
    """Scores parts; engines may send it to other processes.

    Attributes:
        load: returns the model.
        output_dir: for the files.
        format: of the files.
        request: what every user gets.
        item_ids: the raw ids that histories index.
    """

    load: Callable[[], ServedModel]
    output_dir: pathlib.Path
    format: Format
    request: Request
    item_ids: Sequence[str]

    def path(self, part: int) -> pathlib.Path:
        """The file of a part."""
        return self.output_dir / f"part-{part:05d}.{self.format}"

    def warm_up(self) -> None:
        """Answers one request, so that TensorFlow makes its graph now."""
        one_event = Ragged.from_lengths(np.zeros(1, np.int64), np.ones(1, np.int64))
        nothing = Ragged.from_lengths(np.zeros(0, np.int64), np.zeros(1, np.int64))
        one_user = Histories(0, [""], one_event, np.full(1, _UNKNOWN_TIME, np.int64), nothing)
        times = Ragged(one_user.times, one_event.offsets)
        self._answers(one_user, times, np.zeros(1, np.int64), {}, {})

    def score(self, histories: Histories) -> PartCounts:
        """Writes the part's file by rename, unless it exists already."""
        if self.request.users is not None:
            histories = histories.of_users(self.request.users.of_part(histories.part))
        known = self._known[histories.items.values]
        known_items = Ragged.from_lengths(known, histories.items.lengths)
        rows = np.repeat(np.arange(len(histories.user_ids)), histories.items.lengths)
        known_of_user = np.bincount(rows, weights=known, minlength=len(histories.user_ids))
        counts = PartCounts(
            users=len(histories.user_ids),
            users_without_known_items=int((known_of_user == 0).sum()),
            events=len(known),
            unknown_events=int((~known).sum()),
        )
        if self.path(histories.part).exists():
            return counts
        self._write(histories, known_items)
        return dataclasses.replace(counts, written=counts.users)

    def _write(self, histories: Histories, known: Ragged) -> None:
        """Leaves out events of unknown items, which the model would skip too."""
        rows = np.repeat(np.arange(len(known)), known.lengths)[known.values]
        lengths = np.bincount(rows, minlength=len(known))
        items = Ragged.from_lengths(histories.items.values[known.values], lengths)
        times = Ragged.from_lengths(histories.times[known.values], lengths)
        histories = dataclasses.replace(histories, items=items, times=times.values)
        exclude, allow = (lists.of_part(histories.part) for lists in (self.request.exclude, self.request.allow))
        with replacing(self.path(histories.part)) as stream, _Rows(stream, self.format) as file:
            for first in range(0, max(len(known), 1), _USERS_AT_ONCE):
                users = np.arange(first, min(first + _USERS_AT_ONCE, len(known)))
                ids, scores = self._answers(histories, times, users, exclude, allow)
                file.write([histories.user_ids[user] for user in users], ids, scores, self._model.version)

    def _answers(
        self,
        histories: Histories,
        times: Ragged,
        users: np.ndarray,
        exclude: dict[str, list[str]],
        allow: dict[str, list[str]],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item ids, bytes [users, K], "" where there are fewer, and their scores, float32 [users, K]."""
        ids = np.full([len(users), self.request.top_k], b"", object)
        scores = np.zeros([len(users), self.request.top_k], np.float32)

        def answer(batch: np.ndarray) -> None:
            raise_if_stopped()
            answered = self._answer(histories, times, users[batch], exclude, allow)
            found = answered["item_ids"].numpy()
            ids[batch, : found.shape[1]] = found
            scores[batch, : found.shape[1]] = answered["scores"].numpy()

        # Two at a time: Python prepares one request while TensorFlow computes another.
        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            for _ in threads.map(answer, _batches_by_length(histories.items.lengths[users])):
                pass
        return ids, scores

    def _answer(
        self,
        histories: Histories,
        times: Ragged,
        rows: np.ndarray,
        exclude: dict[str, list[str]],
        allow: dict[str, list[str]],
    ) -> dict[str, tf.Tensor]:
        """The answer to one request, for the users of these rows."""
        request, model = self.request, self._model
        names = [histories.user_ids[row] for row in rows]
        inputs = {"item_ids": self._rectangle(histories.items.rows(rows))}
        excluded = [[item.encode("utf-8") for item in exclude.get(name, ())] for name in names]
        if request.drop_seen:  # the signature drops the items of the history itself
            met = histories.also_met.rows(rows)
            for row, of_row in enumerate(np.split(self._names[met.values], met.offsets[1:-1])):
                excluded[row] += of_row.tolist()
        inputs["excluded_item_ids"] = _with_common(excluded, request.exclude.for_all)
        allowed = [[item.encode("utf-8") for item in allow.get(name, ())] for name in names]
        inputs["allowed_item_ids"] = _with_common(allowed, request.allow.for_all)
        if model.takes_times:
            inputs["timestamps"] = tf.constant(_padded(times.rows(rows), _UNKNOWN_TIME))
            asked = _UNKNOWN_TIME if request.request_time is None else request.request_time
            inputs["request_time"] = tf.constant([asked], tf.int64)
        return model.signatures["recommend"](
            k=tf.constant([request.top_k]), drop_seen=tf.constant([request.drop_seen]), **inputs
        )

    def _rectangle(self, items: Ragged) -> tf.Tensor:
        """String [B, L], padded with ""."""
        return tf.constant(
            self._names[_padded(items, -1)].tolist(),
            tf.string,
            [len(items), int(items.lengths.max(initial=0))],
        )

    @functools.cached_property
    def _model(self) -> ServedModel:
        return self.load()

    @functools.cached_property
    def _names(self) -> np.ndarray:
        """The raw ids as bytes, and b"" at -1, for padding. Arrays of text would lose trailing NULs."""
        names = np.empty(len(self.item_ids) + 1, object)
        names[:] = [*(item_id.encode("utf-8") for item_id in self.item_ids), b""]
        return names

    @functools.cached_property
    def _known(self) -> np.ndarray:
        """Whether the model knows each of `item_ids`, bool [items]."""
        known = set(self._model.vocabulary.item_ids)
        return np.array([item_id in known for item_id in self.item_ids], bool)

    def __getstate__(self) -> dict:
        """Without what another process makes for itself."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}


class _Rows:
    """A file of rows: Parquet, or JSON lines."""

    def __init__(self, stream: BinaryIO, format_: Format):
        self._stream = stream
        self._writer = pq.ParquetWriter(stream, _SCHEMA, compression="zstd") if format_ == "parquet" else None

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, user_ids: list[str], ids: np.ndarray, scores: np.ndarray, version: str) -> None:
        """Appends users; their answers as from `PartScorer._answers`."""
        filled = ids != b""
        offsets = np.concatenate([[0], np.cumsum(filled.sum(axis=1))]).astype(np.int32)
        items = pa.array(ids[filled].tolist(), pa.binary()).cast(pa.string())
        columns = [
            pa.array(user_ids, pa.string()),
            pa.ListArray.from_arrays(offsets, items),
            pa.ListArray.from_arrays(offsets, pa.array(scores[filled], pa.float32())),
            pa.array([version] * len(user_ids), pa.string()),
        ]
        table = pa.Table.from_arrays(columns, schema=_SCHEMA)
        if self._writer is not None:
            self._writer.write_table(table)
            return
        for row in table.to_pylist():
            row["scores"] = [float(f"{score:.9g}") for score in row["scores"]]  # the digits of a float32
            self._stream.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")


def _batches_by_length(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Rows grouped by length, so that little is padded; a batch holds a bounded number of slots."""
    order, first = np.argsort(lengths, kind="stable"), 0
    while first < len(order):
        size = _ROWS_AT_ONCE
        while size > 1 and lengths[order[min(first + size, len(order)) - 1]] * size > _SLOTS_AT_ONCE:
            size //= 2
        yield order[first : first + size]
        first += size


def _padded(rows: Ragged, fill: int) -> np.ndarray:
    """int64 [B, longest row]."""
    padded = np.full([len(rows), int(rows.lengths.max(initial=0))], fill, np.int64)
    padded[np.arange(padded.shape[1]) < rows.lengths[:, None]] = rows.values
    return padded


def _with_common(lists: list[list[bytes]], common: Sequence[str]) -> tf.Tensor:
    """String [B, E] or [1, E]: the ids of each row and those of all rows."""
    shared = [item_id.encode("utf-8") for item_id in common]
    if not any(lists):
        lists = [[]]
    width = max(map(len, lists)) + len(shared)
    flat = [item_id for row in lists for item_id in [*row, *shared, *[b""] * (width - len(row) - len(shared))]]
    return tf.constant(flat, tf.string, [len(lists), width])
