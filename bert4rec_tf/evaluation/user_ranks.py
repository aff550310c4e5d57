"""The result of an evaluation for each user, and the Parquet file beside metrics.json that keeps it."""

import dataclasses
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bert4rec_tf.evaluation.metrics import NO_RANK, ranking_metrics, sampled_metrics
from tfrecords.errors import InputError, writing
from tfrecords.files import replacing
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("full_rank", pa.int32()),
        ("sampled_rank", pa.int32()),
        ("repeat", pa.bool_()),
        ("history_length", pa.int32()),
        ("target_item_id", pa.string()),
        ("target_popularity", pa.int64()),
        ("recommended", pa.list_(pa.string())),
    ]
)


@dataclasses.dataclass(frozen=True)
class UserRanks:
    """The rank of each user's target, from 1, and the properties of the user that results are grouped by.

    Attributes:
        user_ids: raw ids, in the order of the files.
        full: int [users], the rank among all items that may be recommended; MISSED_RANK for a target that may not.
        sampled: int [users], the rank among the target and its stored negatives; MISSED_RANK as in `full`, NO_RANK for
            a user with too few negatives.
        trained_items: int [users], the number of the user's items that were trained on.
        history_lengths: int [users], the number of items in the history.
        targets: int [users], ids.
        repeats: bool [users], whether the target is in the user's own history.
        recommended: int [users, K], ids of the best items that may be recommended, best first, padded with PAD_ID; K is
            0 if they were not computed.
    """

    user_ids: list[str]
    full: np.ndarray
    sampled: np.ndarray
    trained_items: np.ndarray
    history_lengths: np.ndarray
    targets: np.ndarray
    repeats: np.ndarray
    recommended: np.ndarray

    def select(self, mask: np.ndarray) -> "UserRanks":
        """The users where `mask`, bool [users], is true."""
        user_ids = [user_id for user_id, selected in zip(self.user_ids, mask, strict=True) if selected]
        arrays = [getattr(self, field.name)[mask] for field in dataclasses.fields(self)[1:]]
        return UserRanks(user_ids, *arrays)

    def metrics(self) -> dict[str, Any]:
        """The number of users, `ranking_metrics` over all items, and `sampled_metrics`."""
        return {
            "users": len(self.full),
            "full": ranking_metrics(self.full),
            "sampled": sampled_metrics(self.sampled),
        }


def users_file(metrics_file: str | pathlib.Path) -> pathlib.Path:
    """The path of a metrics file's users: `metrics.users.parquet` beside `metrics.json`."""
    path = pathlib.Path(metrics_file)
    return path.with_name(f"{path.name.removesuffix('.json')}.users.parquet")


def users_table(ranks: UserRanks, vocabulary: Vocabulary) -> pa.Table:
    """One row for each user, with raw ids and the target's training count; NO_RANK becomes null.

    Args:
        ranks: the users, in the order of the rows.
        vocabulary: of the records.
    """
    item_ids = pa.array(vocabulary.item_ids, pa.string())
    is_item = ranks.recommended != PAD_ID
    offsets = np.concatenate([[0], np.cumsum(is_item.sum(axis=1))])
    recommended = item_ids.take(pa.array(ranks.recommended[is_item] - NUM_SPECIAL_IDS))
    targets = ranks.targets - NUM_SPECIAL_IDS
    columns = [
        pa.array(ranks.user_ids, pa.string()),
        pa.array(ranks.full, pa.int32()),
        pa.array(ranks.sampled, pa.int32(), mask=ranks.sampled == NO_RANK),
        pa.array(ranks.repeats, pa.bool_()),
        pa.array(ranks.history_lengths, pa.int32()),
        item_ids.take(pa.array(targets)),
        pa.array(vocabulary.counts[targets], pa.int64()),
        pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), recommended),
    ]
    return pa.table(columns, schema=_SCHEMA)


def write_users(path: pathlib.Path, ranks: UserRanks, vocabulary: Vocabulary) -> None:
    """Writes `users_table` as Parquet, by rename.

    Args:
        path: from `users_file`.
        ranks: the users, in the order of the rows.
        vocabulary: of the records.
    """
    with writing(path), replacing(path) as stream:
        pq.write_table(users_table(ranks, vocabulary), stream)


def read_users(path: pathlib.Path) -> pa.Table:
    """Reads a file of `write_users`, sorted by user id.

    Raises:
        InputError: there is no such file, or `write_users` did not write it.
    """
    if not path.is_file():
        raise InputError(
            f"A metrics file needs its users beside it. Received: no {path}. "
            "Fix: run evaluate.py with --output again, or copy both files"
        )
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table = table.select(_SCHEMA.names).cast(_SCHEMA).sort_by("user_id")
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise InputError(
            f"{path} must be written by evaluate.py. Received: {str(error).splitlines()[0]:.200}. "
            "Fix: run evaluate.py with --output again"
        ) from None
    return table
