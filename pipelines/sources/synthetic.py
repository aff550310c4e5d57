"""A synthetic log of tunable predictability, whose best possible recommender is known.

Each user follows a Markov chain over the items and visits no item twice: the next item is drawn from the last item's
row of `transitions()`, among the unseen items. The row of the last item, without the seen items, is therefore the best
possible ranking of the next item; a model can beat it only by luck. A row is the sum of three parts:

    successors    a few items that tend to follow this item, the most likely first
    theme         the other items of its theme (items come in themes of equal size)
    noise         any item, by popularity

An item hidden in the middle of a history can be predicted from both neighbours: it tends to follow the previous item,
and the next item tends to follow it. A bidirectional model can use this structure, a left-to-right model cannot.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tfrecords.errors import InputError


@dataclasses.dataclass(frozen=True)
class MarkovLog:
    """The parameters of the log; with `noise=1`, only popularity predicts the next item.

    Attributes:
        num_users, num_items, num_themes: sizes; themes are of equal size.
        min_events, max_events: the length of a history is drawn uniformly between them.
        successors: the probabilities of the items that follow an item, most likely first; the theme has the probability
            that they and `noise` leave.
        noise: the probability that an item is drawn by popularity.
        seed: of the whole log.
    """

    num_users: int = 4000
    num_items: int = 300
    num_themes: int = 20
    min_events: int = 20
    max_events: int = 40
    successors: tuple[float, ...] = (0.4, 0.2, 0.1)
    noise: float = 0.05
    seed: int = 1
    timestamp_unit: ClassVar[str] = "s"

    def __post_init__(self) -> None:
        if self.num_users < 1 or self.num_items < 1 or not 1 <= self.min_events <= self.max_events <= self.num_items:
            raise InputError(
                "A synthetic log needs users and items, and 1 <= min_events <= max_events <= num_items. "
                f"Received: {self}"
            )
        if self.seed < 0:
            raise InputError(f"`seed` must be at least 0. Received: {self}")
        if self.num_themes < 1 or self.num_items % self.num_themes:
            raise InputError(f"`num_items` must be a multiple of `num_themes`. Received: {self}")
        chances = (self.noise, *self.successors)
        if not (min(chances) >= 0 and sum(chances) <= 1):
            raise InputError(f"`noise` and `successors` must be chances that sum to at most 1. Received: {self}")

    @classmethod
    def from_text(cls, assignments: str, seed: int) -> "MarkovLog":
        """Reads `name=value,name=value`; the probabilities of `successors` are separated by `+`.

        Raises:
            InputError: an unknown name or a value of the wrong type.
        """
        types: dict[str, Any] = {field.name: type(field.default) for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {"seed": seed}
        for assignment in filter(None, assignments.split(",")):
            name, _, text = assignment.partition("=")
            try:
                kind = types[name]
                values[name] = tuple(map(float, text.split("+"))) if kind is tuple else kind(text)
            except (KeyError, ValueError):
                raise InputError(f"--dataset=synthetic: takes {', '.join(types)}. Received: {assignment!r}") from None
        return cls(**values)

    def description(self) -> dict[str, Any]:
        """The parameters, for the manifest; `MarkovLog.from_description` restores the log."""
        return {"format": "synthetic", **dataclasses.asdict(self), "successors": list(self.successors)}

    @classmethod
    def from_description(cls, source: dict[str, Any]) -> "MarkovLog":
        """The log that a manifest's source describes.

        Raises:
            InputError: the records were made from another log.
        """
        if source.get("format") != "synthetic":
            raise InputError(
                "The optimum is only known for --dataset=synthetic. "
                f"Received: records of format {source.get('format')!r}"
            )
        values = {name: value for name, value in source.items() if name not in ("format", "titles_sha256")}
        return cls(**values | {"successors": tuple(values["successors"])})

    def popularity(self) -> np.ndarray:
        """float64 [items], distribution of the first item and of the noise: Zipf's, over a random order of items."""
        ranks = np.random.default_rng([self.seed, 1]).permutation(self.num_items)
        return (1 / (ranks + 10)) / np.sum(1 / (ranks + 10))

    def transitions(self) -> np.ndarray:
        """float64 [items, items]: row i is the distribution of the item after item i, with seen items included."""
        random = np.random.default_rng([self.seed, 2])
        themes = random.permutation(self.num_items) % self.num_themes
        same_theme = (themes[:, None] == themes).astype(float)
        np.fill_diagonal(same_theme, 0)
        theme_sizes = np.maximum(same_theme.sum(axis=1, keepdims=True), 1)
        matrix = self.noise * np.tile(self.popularity(), (self.num_items, 1))
        matrix += (1 - self.noise - sum(self.successors)) * same_theme / theme_sizes
        for chance in self.successors:
            matrix[np.arange(self.num_items), random.permutation(self.num_items)] += chance
        return matrix / matrix.sum(axis=1, keepdims=True)

    def item_ids(self) -> list[str]:
        """The raw id of each item."""
        return [f"item-{index:04d}" for index in range(self.num_items)]

    def num_rows(self) -> None:
        """None: the number is not known before the log is made."""

    def batches(self) -> Iterator[pa.Table]:
        """The log, for the pipeline: all of it at once."""
        yield self.interactions()

    def interactions(self) -> pa.Table:
        """The log: columns user_id, item_id (strings) and timestamp (int64, seconds)."""
        random = np.random.default_rng([self.seed, 3])
        transitions, popularity = self.transitions(), self.popularity()
        lengths = random.integers(self.min_events, self.max_events + 1, self.num_users)
        everyone = np.arange(self.num_users)
        unseen = np.ones((self.num_users, self.num_items), bool)
        histories = np.zeros((self.num_users, self.max_events), np.int64)
        next_item_probabilities = np.tile(popularity, (self.num_users, 1))
        for event in range(self.max_events):
            cumulative = np.cumsum(next_item_probabilities * unseen, axis=1)
            draw = random.random((self.num_users, 1)) * cumulative[:, -1:]
            # Rounding of the sum must not lead beyond the last item that can be drawn.
            last = self.num_items - 1 - np.argmax(unseen[:, ::-1], axis=1)
            histories[:, event] = np.minimum(np.sum(cumulative <= draw, axis=1), last)
            unseen[everyone, histories[:, event]] = False
            next_item_probabilities = transitions[histories[:, event]]
        users, events = np.nonzero(np.arange(self.max_events) < lengths[:, None])
        names = np.array(self.item_ids())
        return pa.table(
            {
                "user_id": [f"user-{user:05d}" for user in users],
                "item_id": names[histories[users, events]].tolist(),
                "timestamp": events + 1_000_000_000,
            }
        )
