"""Histories of users as raw item ids."""

from collections.abc import Iterator

from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary


def histories_of(
    data_dir: str, split: str, batch_users: int, max_users: int
) -> Iterator[tuple[list[list[str]], list[str]]]:
    """Histories and targets of a split's users, as raw ids, the histories padded with "".

    Raises:
        InputError: damaged records, none of this split, or records that were replaced while they were read.
    """
    manifest = Manifest.load(data_dir)
    records = VerifiedRecords(data_dir, manifest, "run the same command again when the records are complete")
    with records.unchanged():
        names = [""] * NUM_SPECIAL_IDS + list(Vocabulary.load(data_dir).item_ids)
        for batch in evaluation_batches(data_dir, manifest, split, batch_users, max_users):
            rows = [[names[item] for item in row] for row in batch["item_ids"].numpy()]
            yield rows, [names[item] for item in batch["target_item_id"].numpy()]
