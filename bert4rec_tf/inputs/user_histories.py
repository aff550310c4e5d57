"""Histories of users as raw item ids."""

import pathlib
from collections.abc import Collection, Iterator
from typing import NamedTuple

import numpy as np

from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary


class RawHistories(NamedTuple):
    """A batch of users.

    Attributes:
        item_ids: [B, L], raw ids, padded with "".
        targets: [B], raw ids.
        times: int64 [B, L], in seconds since the user's first event; -1 if the records have no times.
    """

    item_ids: list[list[str]]
    targets: list[str]
    times: np.ndarray


def iterate_raw_histories(data_dir: str, split: str, batch_users: int, max_users: int) -> Iterator[RawHistories]:
    """Histories and targets of a split's users.

    Raises:
        InputError: damaged records, no records of this split, or records that were replaced while being read.
    """
    manifest = Manifest.load(data_dir)
    records = VerifiedRecords(data_dir, manifest, "run the same command again when the records are complete")
    with records.unchanged():
        names = [""] * NUM_SPECIAL_IDS + list(Vocabulary.load(data_dir).item_ids)
        for batch in evaluation_batches(data_dir, manifest, split, batch_users, max_users):
            rows = [[names[item] for item in row] for row in batch["item_ids"].numpy()]
            targets = [names[item] for item in batch["target_item_id"].numpy()]
            yield RawHistories(rows, targets, batch["times"].numpy())


_BATCH_USERS = 256


class History(NamedTuple):
    """The events of a user, oldest first.

    Attributes:
        item_ids: int32 [any], integer ids.
        times: int64 [any], in seconds since the user's first event; -1 if the records have no times.
    """

    item_ids: np.ndarray
    times: np.ndarray


def read_histories(
    user_ids: Collection[str],
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    max_items: int | None = None,
) -> dict[str, History]:
    """The histories of some users of a split by raw user id.

    Only the newest `max_items` of each history are read; None: all.
    """
    wanted, found = {user_id.encode("utf-8") for user_id in user_ids}, {}
    for batch in evaluation_batches(data_dir, manifest, split, _BATCH_USERS, max_items=max_items):
        rows = (batch[name].numpy() for name in ("user_id", "item_ids", "times"))
        for user_id, history, times in zip(*rows, strict=True):
            if user_id in wanted:
                found[user_id.decode("utf-8")] = History(history[history != PAD_ID], times[history != PAD_ID])
        if len(found) == len(wanted):
            break
    return found
