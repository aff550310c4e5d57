"""The vocabulary: the integer id of each item, and how often each occurs in training."""

import array
import dataclasses
import functools
import hashlib
import io
import json
import pathlib

import numpy as np

from tfrecords.errors import InputError

PAD_ID = 0
MASK_ID = 1
UNK_ID = 2
NUM_SPECIAL_IDS = 3  # items start here, by falling training count, ties by item id
VOCABULARY_FILE = "vocabulary.jsonl"


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Items in the order of their integer ids: `item_ids[i]` has the id `i + NUM_SPECIAL_IDS`.

    Attributes:
        item_ids: the raw ids, any non-empty unicode strings.
        counts: int64 [V - 3], training events of each item (0: the item occurs only in evaluation).
        titles: of each item; None if unknown.

    >>> vocabulary = Vocabulary(("film-a", "film-b"), np.array([7, 2]), (None, "The second film"))
    >>> vocabulary.ids_of(["film-b", "film-a", "no such film"])
    [4, 3, 2]
    """

    item_ids: tuple[str, ...]
    counts: np.ndarray
    titles: tuple[str | None, ...]

    def __post_init__(self) -> None:
        if not len(self.item_ids) == len(self.counts) == len(self.titles):
            raise ValueError(
                f"A vocabulary has a count and a title (or None) for each item. Received: "
                f"{len(self.item_ids)} items, {len(self.counts)} counts, {len(self.titles)} titles"
            )

    @property
    def size(self) -> int:
        """V: the number of items plus the special ids [PAD], [MASK] and [UNK].

        >>> Vocabulary(("film-a", "film-b"), np.array([7, 2]), (None, None)).size
        5
        """
        return len(self.item_ids) + NUM_SPECIAL_IDS

    def log_popularity(self) -> np.ndarray:
        """Log share of the training events, float32 [V], with one event added to each item and one for each special id.

        It orders the items by popularity and is finite for items without training events.

        >>> vocabulary = Vocabulary(("film-a", "film-b"), np.array([7, 2]), (None, None))
        >>> np.exp(vocabulary.log_popularity()).round(2)
        array([0.07, 0.07, 0.07, 0.57, 0.21], dtype=float32)
        """
        smoothed = np.concatenate([np.ones(NUM_SPECIAL_IDS), self.counts + 1.0])
        return np.log(smoothed / smoothed.sum()).astype(np.float32)

    def ids_of(self, item_ids: list[str]) -> list[int]:
        """Integer ids of raw item ids; an unknown one is `UNK_ID`.

        >>> Vocabulary.load("data").ids_of(["1", "10", "2", "unknown"])
        [3, 4, 5, 2]
        """
        return [self._indices.get(item_id, UNK_ID) for item_id in item_ids]

    @functools.cached_property
    def _indices(self) -> dict[str, int]:
        return {item_id: index for index, item_id in enumerate(self.item_ids, start=NUM_SPECIAL_IDS)}

    def to_bytes(self) -> bytes:
        """The file's content: one JSON object a line, in the order of the ids.

        >>> vocabulary = Vocabulary(("film-a", "film-b"), np.array([7, 2]), (None, "The second film"))
        >>> print(vocabulary.to_bytes().decode(), end="")
        {"item_id": "film-a", "count": 7}
        {"item_id": "film-b", "count": 2, "title": "The second film"}
        """
        content = io.BytesIO()  # line by line: a list of ten million lines would take a gigabyte
        for item_id, count, title in zip(self.item_ids, self.counts.tolist(), self.titles, strict=True):
            entry = {"item_id": item_id, "count": count} | ({} if title is None else {"title": title})
            content.write(f"{json.dumps(entry, ensure_ascii=False)}\n".encode())
        return content.getvalue()

    def sha256(self) -> str:
        """Hex digest of the file's content.

        >>> Vocabulary.load("data").sha256() == built.manifest.vocabulary_sha256
        True
        """
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @classmethod
    def load(cls, directory: str | pathlib.Path) -> "Vocabulary":
        """Reads `vocabulary.jsonl` of a data or model directory.

        Raises:
            InputError: the file is missing or a line is not an item; names the file and the line.

        >>> Vocabulary.load("data").item_ids
        ('1', '10', '2', '3', '4', '5', '6', '7', '8', '9')
        """
        path = pathlib.Path(directory) / VOCABULARY_FILE
        if not path.is_file():
            raise InputError(
                f"A data or model directory has a {VOCABULARY_FILE}. Received: {directory}, which has none. "
                "Fix: name a directory written by pipelines/make_tfrecords.py or train.py"
            )
        item_ids, counts, titles = list[str](), array.array("q"), list[str | None]()
        with path.open("rb") as stream:  # bytes: as text, lines would also end at characters that ids may contain
            for number, line in enumerate(stream, start=1):
                try:
                    entry = json.loads(line)
                    item_id, title = entry["item_id"], entry.get("title")
                    counts.append(int(entry["count"]))
                except (ValueError, KeyError, TypeError, OverflowError) as error:
                    raise InputError(
                        f"{path}, line {number} must hold an item id and a count. Received: "
                        f"{line[:80]!r} ({error}). Fix: rebuild the directory"
                    ) from None
                item_ids.append(item_id)
                titles.append(title)
        return cls(tuple(item_ids), np.array(counts, np.int64), tuple(titles))
