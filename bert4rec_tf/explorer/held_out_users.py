"""Users of the test split: their histories, and the items that they took next."""

import dataclasses
import pathlib
import random

from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from tfrecords.errors import InputError
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

MAX_USERS = 10_000
_BATCH_USERS = 256


@dataclasses.dataclass(frozen=True)
class HeldOutUser:
    """A test user.

    Attributes:
        user_id: raw.
        history: item ids, oldest first.
        target: the item that the user took next; "" if it is no item of the records.
    """

    user_id: str
    history: tuple[str, ...]
    target: str


@dataclasses.dataclass(frozen=True)
class HeldOutUsers:
    """The first test users of a data directory, by raw id.

    Attributes:
        users: at most `MAX_USERS`.
        total: how many test users the records have.
        vocabulary: of the records.
    """

    users: dict[str, HeldOutUser]
    total: int
    vocabulary: Vocabulary

    @classmethod
    def read(cls, data_dir: str | pathlib.Path, max_users: int = MAX_USERS) -> "HeldOutUsers":
        """Reads the test split.

        Raises:
            InputError: no data directory, or no test users.
        """
        manifest, vocabulary = Manifest.load(data_dir), Vocabulary.load(data_dir)
        names = [""] * NUM_SPECIAL_IDS + list(vocabulary.item_ids)
        users = {}
        for batch in evaluation_batches(data_dir, manifest, "test", _BATCH_USERS, max_users):
            rows = (batch[name].numpy().tolist() for name in ("user_id", "item_ids", "target_item_id"))
            for name, items, target in zip(*rows, strict=True):
                user_id = name.decode("utf-8", "replace")
                history = tuple(names[item] for item in items if item >= NUM_SPECIAL_IDS)
                users[user_id] = HeldOutUser(user_id, history, names[target])
        if not users:
            raise InputError(
                f"--data_dir must have test users. Received: {data_dir}, which has none. "
                "Fix: build the records with a test split, or leave out --data_dir"
            )
        return cls(users, sum(shard.records for shard in manifest.shards("test")), vocabulary)

    def draw(self) -> HeldOutUser:
        """A random user."""
        return random.choice(list(self.users.values()))
