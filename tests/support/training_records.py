"""A small log, its configuration, and its windows and batches as lists."""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.config import Config
from bert4rec_tf.inputs.objectives import Objective, training_instances
from pipelines.sources.synthetic import MarkovLog
from tests.support.parsed_record import parse
from tfrecords.manifest import LengthCount, Manifest
from tfrecords.schema import MASKED_WINDOW
from tfrecords.vocabulary import Vocabulary

LOG = MarkovLog(num_users=60, num_items=40, num_themes=4, min_events=1, max_events=30)
CONFIG = Config.from_dict(
    {
        "data": {"max_seq_length": 12, "min_user_events": 1, "num_shards": 3, "num_negatives": 5},
        "masking": {"masking_rates": [0.2, 0.5], "duplicate_factor": 2},
    }
)
BATCH_SIZE = 16
Batch = dict[str, np.ndarray]


def histogram_of(manifest: Manifest, objective: Objective) -> Sequence[LengthCount]:
    return training_instances(manifest, objective).length_histogram()


def assert_same(received: list[Batch], expected: list[Batch]) -> None:
    assert len(received) == len(expected)
    for batch, expected_batch in zip(received, expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        for name, values in batch.items():
            np.testing.assert_array_equal(values, expected_batch[name])


def records_of(batches: list[Batch]) -> list[tuple[tuple[int, ...], ...]]:
    """The rows that hold items: the shown items, the slots to predict, and the items of these slots.

    A batch without masked positions predicts all slots.
    """
    found = []
    for batch in batches:
        every_slot = np.broadcast_to(np.arange(batch["item_ids"].shape[1]), batch["item_ids"].shape)
        names = ("item_ids", "valid_mask", "masked_positions", "masked_item_ids", "masked_weights")
        whole = {"masked_positions": every_slot} | batch
        for items, valid, slots, masked, weights in zip(*(whole[name] for name in names), strict=True):
            if valid.any():
                used = weights > 0
                found.append((tuple(items[valid].tolist()), tuple(slots[used].tolist()), tuple(masked[used].tolist())))
    return found


def sequences_of(data_dir: pathlib.Path) -> dict[str, list[int]]:
    """Each user's integer item ids, straight from the log."""
    table, vocabulary = LOG.interactions(), Vocabulary.load(data_dir)
    sequences: dict[str, list[int]] = {}
    ids = vocabulary.ids_of(table["item_id"].to_pylist())
    for user, item in zip(table["user_id"].to_pylist(), ids, strict=True):
        sequences.setdefault(user, []).append(item)
    return sequences


def times_of(user: str) -> list[int]:
    """The seconds from a user's first event to each event, straight from the log."""
    table = LOG.interactions()
    rows = zip(table["user_id"].to_pylist(), table["timestamp"].to_pylist(), strict=True)
    times = [time for found, time in rows if found == user]
    return [time - times[0] for time in times]


def stored_windows(data_dir: pathlib.Path) -> list[tuple[int, ...]]:
    records = tf.data.TFRecordDataset([str(path) for path in sorted(data_dir.glob("train/*"))])
    return [tuple(parse(MASKED_WINDOW, record)["item_ids"].numpy().tolist()) for record in records]
