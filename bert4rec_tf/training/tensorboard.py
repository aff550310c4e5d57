"""What TensorBoard shows besides scalars: the item embeddings, and a profile of the steps."""

import csv
import json
import pathlib

import numpy as np
import tensorflow as tf

from bert4rec_tf.training.steps import StepSums
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


class Profiler:
    """Writes a trace of some steps for TensorBoard's profiler, once the first steps have compiled what they need.

    Args:
        directory: of the TensorBoard logs.
    """

    _FIRST, _NUMBER = 20, 10

    def __init__(self, directory: pathlib.Path):
        self._directory, self._steps, self._runs = str(directory), 0, False
        self._last: int | None = None

    def after_steps(self, sums: StepSums) -> None:
        """Starts once 20 steps are made, and stops 10 later or with the call that holds the tenth."""
        self._steps += sums.steps
        if self._last is None and self._steps >= self._FIRST:
            tf.profiler.experimental.start(self._directory)
            self._runs, self._last = True, self._steps + self._NUMBER
        elif self._runs and self._last is not None and self._steps >= self._last:
            self.close()

    def close(self) -> None:
        """Writes what there is."""
        if self._runs:
            tf.profiler.experimental.stop()
            self._runs = False


MAX_ITEMS = 10_000  # the most popular; the projector runs in a browser
_CONFIG = """embeddings {
  tensor_name: "item embeddings"
  tensor_path: "items.tsv"
  metadata_path: "items_metadata.tsv"
}
"""


def write_projector(directory: pathlib.Path, item_table: np.ndarray, vocabulary: Vocabulary) -> None:
    """Writes what TensorBoard's projector reads: `items.tsv`, `items_metadata.tsv`, `projector_config.pbtxt`.

    Args:
        directory: of the TensorBoard logs.
        item_table: float32 [V, D].
        vocabulary: the same V; titles stand where they are known, ids elsewhere, both escaped as in JSON.
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
    """No tab and no line end, which would break the table."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
