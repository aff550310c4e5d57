"""TensorBoard's data besides scalars: the item embeddings, and a profile of some steps."""

import csv
import json
import pathlib

import numpy as np
import tensorflow as tf

from bert4rec_tf.training.steps import StepSums
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


class Profiler:
    """Writes a trace of ten steps for TensorBoard's profiler, after the first steps, which include compilation.

    Args:
        directory: the folder of the TensorBoard logs.
    """

    _FIRST, _NUMBER = 20, 10

    def __init__(self, directory: pathlib.Path):
        self._directory, self._steps, self._is_tracing = str(directory), 0, False
        self._last: int | None = None

    def after_steps(self, sums: StepSums) -> None:
        """Starts the trace after 20 steps, and ends it with the call that makes the tenth step after that."""
        self._steps += sums.steps
        if self._last is None and self._steps >= self._FIRST:
            tf.profiler.experimental.start(self._directory)
            self._is_tracing, self._last = True, self._steps + self._NUMBER
        elif self._is_tracing and self._last is not None and self._steps >= self._last:
            self.close()

    def close(self) -> None:
        """Ends a trace that is being recorded, and writes it."""
        if self._is_tracing:
            tf.profiler.experimental.stop()
            self._is_tracing = False


MAX_ITEMS = 10_000  # the most popular ones only, because the projector runs in a browser
_CONFIG = """embeddings {
  tensor_name: "item embeddings"
  tensor_path: "items.tsv"
  metadata_path: "items_metadata.tsv"
}
"""


def write_projector(directory: pathlib.Path, item_table: np.ndarray, vocabulary: Vocabulary) -> None:
    """Writes the files of TensorBoard's projector: `items.tsv`, `items_metadata.tsv`, `projector_config.pbtxt`.

    Args:
        directory: the folder of the TensorBoard logs.
        item_table: float32 [V, D].
        vocabulary: gives each item's title, or its id if it has no title; both are escaped as in JSON.
    """
    number = min(MAX_ITEMS, len(vocabulary.item_ids))
    np.savetxt(
        directory / "items.tsv", item_table[NUM_SPECIAL_IDS : NUM_SPECIAL_IDS + number], fmt="%.6g", delimiter="\t"
    )
    with (directory / "items_metadata.tsv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
        writer.writerow(["item", "item_id", "count"])
        rows = zip(vocabulary.item_ids, vocabulary.titles, vocabulary.counts.tolist(), strict=True)
        for _, (item_id, title, count) in zip(range(number), rows, strict=False):
            writer.writerow([_escaped(title or item_id), _escaped(item_id), count])
    (directory / "projector_config.pbtxt").write_text(_CONFIG, encoding="utf-8")


def _escaped(text: str) -> str:
    """Escapes tabs and line ends, which would break the table."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
