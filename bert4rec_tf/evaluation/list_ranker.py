"""Ranks by the lists of another system, so that it is evaluated on the same users, targets and negatives."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.evaluation.metrics import MISSED_RANK, NO_RANK, TOP_K
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, UNK_ID, Vocabulary

# Raw user ids and their histories of raw item ids -> for each user the raw ids of items, best first.
ListsOf = Callable[[list[str], list[list[str]]], Sequence[Sequence[str]]]


@dataclasses.dataclass(frozen=True)
class ListRanker:
    """A `Ranker` of `evaluate` that finds the target in a list of items.

    Items of the history are passed over if `drop_seen`. An item that the records do not have keeps its place, as a
    recommendation that is wrong. A target that is in no place has MISSED_RANK. The rank among the negatives needs a
    list with the target and all negatives of the user; without them it is NO_RANK.

    Attributes:
        lists_of: the other system.
        vocabulary: of the records.
        drop_seen: `evaluation.drop_seen`.
        origin: names the lists in messages.
    """

    lists_of: ListsOf
    vocabulary: Vocabulary
    drop_seen: bool
    origin: str

    def __call__(self, batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Ranks a batch of `evaluation_batches`.

        Raises:
            InputError: another number of lists than of users, or an item twice in a list.
        """
        names = np.array([""] * NUM_SPECIAL_IDS + list(self.vocabulary.item_ids), object)
        user_ids = [user_id.decode("utf-8") for user_id in batch["user_id"].numpy()]
        histories = [names[row[row != PAD_ID]].tolist() for row in batch["item_ids"].numpy()]
        lists = self.lists_of(user_ids, histories)
        if len(lists) != len(user_ids):
            raise InputError(f"{self.origin} must return one list a user. Received: {len(lists)} for {len(user_ids)}")
        arrays = [batch[name].numpy() for name in ("seen_item_ids", "target_item_id", "negative_item_ids")]
        rows = [
            self._row(user_id, list(items), seen, int(target), negatives[negatives != PAD_ID])
            for user_id, items, seen, target, negatives in zip(user_ids, lists, *arrays, strict=True)
        ]
        full, sampled, repeats, recommended = zip(*rows, strict=True)
        return {
            "finite": tf.constant(True),
            "full": tf.constant(full, tf.int32),
            "sampled": tf.constant(sampled, tf.int32),
            "repeats": tf.constant(repeats, tf.bool),
            "recommended": tf.constant(np.stack(recommended), tf.int32),
        }

    def _row(
        self, user_id: str, items: list[str], seen: np.ndarray, target: int, negatives: np.ndarray
    ) -> tuple[int, int, bool, np.ndarray]:
        """The rank among all items and among the negatives, whether the target is a repeat, and the best items."""
        if len(set(items)) != len(items):
            twice = next(item for place, item in enumerate(items) if item in items[:place])
            received = f"{self.origin}, with {twice!r} twice for {user_id!r}"
            raise InputError(f"A list must have each item once. Received: {received}")
        ids = np.array(self.vocabulary.ids_of(items), np.int64).reshape(-1)
        places = {item: place for place, item in enumerate(ids.tolist()) if item != UNK_ID}
        shown = ids[~np.isin(ids, seen[seen != PAD_ID])] if self.drop_seen else ids
        repeats = bool(np.isin(target, seen))
        found = np.flatnonzero(shown == target)
        full = int(found[0]) + 1 if len(found) else MISSED_RANK
        sampled = NO_RANK
        if target in places and all(item in places for item in negatives.tolist()):
            sampled = 1 + sum(places[item] < places[target] for item in negatives.tolist())
        if repeats and self.drop_seen:
            full = sampled = MISSED_RANK
        best = shown[shown != UNK_ID][:TOP_K]
        return full, sampled, repeats, np.pad(best, [0, TOP_K - len(best)], constant_values=PAD_ID)
