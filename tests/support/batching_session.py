"""TF Serving's batching session: it concatenates simultaneous runs along their rows and splits the answers.

The rules are those of tensorflow_serving/batching/batching_session.cc and of TensorFlow's shared_batch_scheduler.h: the
same runs are refused, and batches are padded with the same rows. Not imitated: padding of variable lengths, priorities,
and the limit of the queue.
"""

import dataclasses
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[dict[str, str], dict[str, np.ndarray]], dict[str, np.ndarray]]
_DEFAULTS = {
    "max_batch_size": 1000, "batch_timeout_micros": 0, "enable_large_batch_splitting": False,
    "max_execution_batch_size": None, "pad_variable_length_inputs": False, "num_batch_threads": 1,
    "max_enqueued_batches": 10,
}  # fmt: skip


class RequestError(Exception):
    """An error status: its name in gRPC, and its message."""

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


def parse(text: str) -> dict[str, Any]:
    """Parses `BatchingParameters` in text format; fields that are not set take the server's defaults."""
    found: dict[str, Any] = dict(_DEFAULTS) | {"allowed_batch_sizes": []}
    text = re.sub(r"#[^\n]*", "", text)
    left = re.sub(r"(\w+)\s*(?::\s*(\w+)|\{\s*value:\s*(\w+)\s*\})", lambda match: _take(found, match), text)
    assert not left.strip(), left
    return found


def _take(found: dict[str, Any], match: re.Match) -> str:
    name, text = match[1], match[2] or match[3]
    value: bool | int | None = {"true": True, "false": False}.get(text)
    value = int(text) if value is None else value
    # Values of protobuf's wrapper types are in braces, other values are not.
    assert (match[2] is not None) == (name in ("allowed_batch_sizes", "pad_variable_length_inputs")), name
    if name == "allowed_batch_sizes":
        found[name].append(value)
    else:
        assert name in found, name
        found[name] = value
    return ""


@dataclasses.dataclass
class _Piece:
    """A run, or a part of one that was split."""

    feeds: dict[str, np.ndarray]
    rows: int
    outputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class _Batch:
    def __init__(self, fetches: dict[str, str]):
        self.fetches, self.pieces = fetches, list[_Piece]()
        self.full, self.done = threading.Event(), threading.Event()
        self.error: Exception | None = None

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)


class BatchingSession:
    """Batches the runs of a session.

    Args:
        run: the function of the wrapped session. It takes names of outputs and values of inputs, and returns values of
            outputs.
        settings: see `parse`.

    Attributes:
        executed: the number of rows of each run of the wrapped session, padding included.
    """

    def __init__(self, run: Run, settings: dict[str, Any]):
        self._run, self._settings, self._lock = run, settings, threading.Lock()
        self._open: dict[tuple, _Batch] = {}
        self._sizes, max_batch_size = settings["allowed_batch_sizes"], settings["max_batch_size"]
        if self._sizes and self._sizes[-1] != max_batch_size:
            raise RequestError(
                "INVALID_ARGUMENT",
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was "
                f"{self._sizes[-1]}; expected {max_batch_size}",
            )
        self._splits = settings["enable_large_batch_splitting"]
        max_executed = settings["max_execution_batch_size"] if self._splits else None
        self._max_executed = max_executed or max_batch_size
        self.executed: list[int] = []

    def run(self, fetches: dict[str, str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs the wrapped session in a batch with other runs.

        Raises:
            RequestError: inputs that cannot be batched. Errors of the wrapped session are raised as they are.
        """
        pieces, batches = self._schedule(fetches, feeds, _rows(feeds))
        for batch in batches:
            batch.done.wait()
        for batch in batches:
            if batch.error:
                raise batch.error
        try:
            return {alias: np.concatenate([piece.outputs[alias] for piece in pieces]) for alias in fetches}
        except ValueError as error:  # the answers of two batches have different widths
            raise RequestError("INVALID_ARGUMENT", f"Tensor concat operation failed: {error}") from None

    def waiting(self) -> bool:
        """Whether an open batch waits for more runs."""
        with self._lock:
            return bool(self._open)

    def _schedule(
        self, fetches: dict[str, str], feeds: dict[str, np.ndarray], rows: int
    ) -> tuple[list[_Piece], list[_Batch]]:
        limit = self._settings["max_batch_size"]
        if rows > limit:
            raise RequestError("INVALID_ARGUMENT", f"Task size {rows} is larger than maximum input batch size {limit}")
        key = frozenset(feeds), frozenset(fetches.items())
        pieces, batches = list[_Piece](), list[_Batch]()
        with self._lock:
            batch = self._open.get(key)
            room = self._max_executed - (batch.rows if batch else 0)
            start = 0
            while start < rows or not pieces:
                size = rows if rows <= room or not self._splits else min(room or self._max_executed, rows - start)
                part = {name: value[start : start + size] for name, value in feeds.items()}
                if batch is None or batch.rows + size > self._max_executed:
                    batch = self._new_batch(key, fetches)
                batch.pieces.append(_Piece(part, size))
                pieces.append(batch.pieces[-1])
                batches.append(batch)
                start, room = start + size, self._max_executed - batch.rows
                if not room:
                    self._close(key)
                    batch = None
        return pieces, batches

    def _new_batch(self, key: tuple, fetches: dict[str, str]) -> _Batch:
        if key in self._open:
            self._close(key)
        batch = self._open[key] = _Batch(fetches)
        threading.Thread(target=self._process, args=(key, batch), daemon=True).start()
        return batch

    def _close(self, key: tuple) -> None:
        self._open.pop(key).full.set()

    def _process(self, key: tuple, batch: _Batch) -> None:
        batch.full.wait(self._settings["batch_timeout_micros"] / 1e6)
        with self._lock:
            if self._open.get(key) is batch:
                self._close(key)
        try:
            self._execute(batch)
        except Exception as error:
            batch.error = error
        batch.done.set()

    def _execute(self, batch: _Batch) -> None:
        padding = next((size for size in self._sizes if size >= batch.rows), batch.rows) - batch.rows
        merged = {}
        for name in batch.pieces[0].feeds:
            values = [piece.feeds[name] for piece in batch.pieces]
            if any(value.shape[1:] != values[0].shape[1:] for value in values):
                raise RequestError(
                    "FAILED_PRECONDITION",
                    f"Tensors with name '{name}' from different tasks have different shapes and padding is turned "
                    "off. Set pad_variable_length_inputs to true, or ensure that all tensors with the same name have "
                    "equal dimensions starting with the first dim.",
                )
            # The padding repeats the first row of the last task.
            merged[name] = np.concatenate([*values, *[values[-1][:1]] * padding])
        total = batch.rows + padding
        self.executed.append(total)
        outputs = self._run(batch.fetches, merged)
        for value in outputs.values():
            if not value.ndim or len(value) != total:
                raise RequestError(
                    "FAILED_PRECONDITION",
                    "Batched output tensor has 0 dimensions"
                    if not value.ndim
                    else "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of "
                    "the input tensors",
                )
        start = 0
        for piece in batch.pieces:
            piece.outputs = {alias: value[start : start + piece.rows] for alias, value in outputs.items()}
            start += piece.rows


def _rows(feeds: dict[str, np.ndarray]) -> int:
    if not all(np.ndim(value) for value in feeds.values()):
        raise RequestError("INVALID_ARGUMENT", "Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in feeds.values()}
    if len(sizes) != 1:
        raise RequestError("INVALID_ARGUMENT", "Batching Run() input tensors must have equal 0th-dimension size")
    return sizes.pop()
