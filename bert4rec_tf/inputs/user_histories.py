"""Histories of users as raw item ids."""

import pathlib
from collections.abc import Collection, Iterator

import numpy as np

from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary


def iterate_raw_histories(
    data_dir: str, split: str, batch_users: int, max_users: int
) -> Iterator[tuple[list[list[str]], list[str]]]:
    """Histories and targets of a split's users, as raw ids. Histories are padded with "".

    Raises:
        InputError: damaged records, no records of this split, or records that were replaced while being read.
    """
    manifest = Manifest.load(data_dir)
    records = VerifiedRecords(data_dir, manifest, "run the same command again when the records are complete")
    with records.unchanged():
        names = [""] * NUM_SPECIAL_IDS + list(Vocabulary.load(data_dir).item_ids)
        for batch in evaluation_batches(data_dir, manifest, split, batch_users, max_users):
            rows = [[names[item] for item in row] for row in batch["item_ids"].numpy()]
            yield rows, [names[item] for item in batch["target_item_id"].numpy()]


_BATCH_USERS = 256


def read_histories(
    user_ids: Collection[str],
    data_dir: str | pathlib.Path,
    manifest: Manifest,
    split: str,
    max_items: int | None = None,
) -> dict[str, np.ndarray]:
    """The histories of some users of a split by raw user id: ids, int32 [any], oldest first.

    Only the newest `max_items` of each history are read; None: all.
    """
    wanted, found = {user_id.encode("utf-8") for user_id in user_ids}, {}
    for batch in evaluation_batches(data_dir, manifest, split, _BATCH_USERS, max_items=max_items):
        for user_id, history in zip(batch["user_id"].numpy(), batch["item_ids"].numpy(), strict=True):
            if user_id in wanted:
                found[user_id.decode("utf-8")] = history[history != PAD_ID]
        if len(found) == len(wanted):
            break
    return found
