"""The configuration of a data directory: two frozen sections, `data` and `masking`.

The string below a field is its meaning. `docs/configuration.md` has a table of all fields, which
`docs/configuration_tables.py` makes of these strings.
"""

import dataclasses
import math
from typing import Literal

from tfrecords.settings import Sections, check_field

MAX_SHARDS = 99_999  # five digits in a file name


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """From a raw log to user sequences and their split (paper section 4.1).

    >>> DataConfig(max_seq_length=50).sliding_window
    0.5
    >>> DataConfig(max_seq_length=1)
    Traceback (most recent call last):
    tfrecords.errors.InputError: `max_seq_length` must be at least 2. Received: 1
    """

    max_seq_length: int = 200
    """N of the paper: items in one window. At serving the appended [MASK] counts as one of them."""
    max_bad_fraction: float = 0.001
    """Largest share of a log's rows that may be unreadable. Such rows are set aside in `bad_rows.jsonl`."""
    min_rating: float | None = None
    """Events that are rated lower are dropped. None: all are kept."""
    min_user_events: int = 5
    """Users with fewer events are dropped, as are items below `min_item_events`, until all have enough."""
    min_item_events: int = 1
    """Items with fewer events are dropped, as are users below `min_user_events`, until all have enough."""
    duplicates: Literal["exact", "first", "last", "keep"] = "exact"
    """Repeated events. "exact": one of the events with the same user, item and timestamp is kept. "first", "last": one
    event per user and item is kept. "keep": all are kept."""
    tie_order: Literal["hash", "item_id", "input"] = "hash"
    """Order of a user's events with equal timestamps. "hash": by a hash of seed, user and item. "item_id": by item id;
    the target is then the largest id of its tie, which a model may guess. Neither depends on the order of the input.
    "input": as in the input."""
    split: Literal["leave_one_out", "temporal"] = "leave_one_out"
    """"leave_one_out": each user's last item is the test target, the one before it the validation target (the paper).
    "temporal": the model is trained on events before `split_time`. The test target is the last item of each user who
    has events at or after `split_time`."""
    split_time: float | None = None
    """Only with split=temporal: where the split is, in seconds since 1970 (UTC), even if the log has another unit. The
    flag `--split_time` takes dates too."""
    validation_share: float = 1.0
    """Share of users whose validation target is held out. The rest are trained on theirs (the authors' code trains on
    all of them; Petrov & Macdonald, RecSys 2022, hold out those of 2,048 users). Every test target is held out."""
    evaluation_users: int | None = None
    """About how many users are validated and tested, a random sample of all. The events of the others are all trained
    on (with split=temporal, those before `split_time`). None: all users (the paper)."""
    train_since: float | None = None
    """Only windows that have an event at or after this time (seconds since 1970) are trained on; None: all. Everything
    else is that of the whole log: vocabulary, counts, split, evaluated users."""
    sliding_window: float = 0.5
    """Step between the windows of a history longer than N, as a proportion of N; 0: only the newest window."""
    num_negatives: int = 100
    """Negatives of each evaluated user, drawn by popularity (paper section 4.2)."""
    num_shards: int | None = None
    """Files of each split. None: 8, or one per million events if that is more."""
    seed: int = 1
    """Seed of all random draws of the records."""

    def __post_init__(self) -> None:
        check_field(self, "max_seq_length", 2 <= self.max_seq_length, "at least 2")
        check_field(self, "max_bad_fraction", 0 <= self.max_bad_fraction <= 1, "from 0 to 1")
        check_field(self, "min_rating", self.min_rating is None or math.isfinite(self.min_rating), "a finite number")
        check_field(self, "min_user_events", 1 <= self.min_user_events, "at least 1")
        check_field(self, "min_item_events", 1 <= self.min_item_events, "at least 1")
        check_field(
            self,
            "split_time",
            (self.split == "temporal") == (self.split_time is not None and math.isfinite(self.split_time)),
            "a finite number with split=temporal, and null without",
        )
        check_field(self, "validation_share", 0 < self.validation_share <= 1, "above 0 and at most 1")
        check_field(self, "evaluation_users", self.evaluation_users is None or 1 <= self.evaluation_users, "at least 1")
        check_field(self, "train_since", self.train_since is None or math.isfinite(self.train_since), "a finite number")
        check_field(self, "sliding_window", 0 <= self.sliding_window <= 1, "from 0 to 1")
        check_field(self, "num_negatives", 0 <= self.num_negatives, "at least 0")
        check_field(
            self,
            "num_shards",
            self.num_shards is None or 1 <= self.num_shards <= MAX_SHARDS,
            f"from 1 to {MAX_SHARDS}",
        )
        check_field(self, "seed", 0 <= self.seed < 2**63, "from 0 to 2**63 - 1")


@dataclasses.dataclass(frozen=True)
class MaskingConfig:
    """The Cloze objective's instances (paper section 3.6).

    >>> MaskingConfig(masking_rates=(0.2, 0.6), max_predictions=30).masking_rates
    (0.2, 0.6)
    """

    masking_rates: tuple[float, ...] = (0.2,)
    """The paper's masking proportion. If there are several, each instance draws one of them."""
    duplicate_factor: int = 10
    """Randomly masked instances of each window."""
    last_item_instances: int = 1
    """Further instances of each window in which only the last item is masked."""
    max_predictions: int | None = None
    """Most masked items of one instance. None: no limit."""
    random_item_rate: float = 0.0
    """Share of masked slots that show a random item (BERT: 0.1; the paper: 0)."""
    kept_item_rate: float = 0.0
    """Share of masked slots that show the item itself (BERT: 0.1; the paper: 0)."""

    def __post_init__(self) -> None:
        rates_fit = bool(self.masking_rates) and all(0 <= rate <= 1 for rate in self.masking_rates)
        check_field(self, "masking_rates", rates_fit, "one or several numbers from 0 to 1")
        check_field(self, "duplicate_factor", 0 <= self.duplicate_factor, "at least 0")
        check_field(self, "last_item_instances", 0 <= self.last_item_instances, "at least 0")
        some = self.instances_per_window > 0
        check_field(self, "duplicate_factor", some, "at least 1 where last_item_instances is 0")
        check_field(self, "max_predictions", self.max_predictions is None or self.max_predictions >= 1, "at least 1")
        check_field(self, "random_item_rate", 0 <= self.random_item_rate <= 1, "from 0 to 1")
        check_field(
            self,
            "kept_item_rate",
            0 <= self.kept_item_rate <= 1 - self.random_item_rate,
            "from 0 to 1 - random_item_rate",
        )

    @property
    def instances_per_window(self) -> int:
        """How many masked instances each window has.

        >>> MaskingConfig(duplicate_factor=4, last_item_instances=1).instances_per_window
        5
        """
        return self.duplicate_factor + self.last_item_instances


@dataclasses.dataclass(frozen=True)
class RecordsConfig(Sections):
    """All settings that determine the records of a data directory; the manifest stores them."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    masking: MaskingConfig = dataclasses.field(default_factory=MaskingConfig)
