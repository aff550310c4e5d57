"""Splits sequences into training, validation and test: leave-one-out (paper section 4.2) or by time."""

import dataclasses

import numpy as np

from tfrecords.config import DataConfig
from tfrecords.hashed_random import hashed_uniform
from tfrecords.ragged import Ragged, take_slices

MIN_EVALUATED_EVENTS = 3  # leave-one-out: one to train on, one to validate, one to test
_VALIDATED = 2**40  # separates the draws of validated users from those of windows and negatives
_EVALUATED = 2**41


@dataclasses.dataclass(frozen=True)
class Targets:
    """The targets of one split: predict `targets[i]` from row i of `histories`.

    Attributes:
        users: int64 [rows], the row of the sequences that each target belongs to.
        histories: all of the user's events before the target, oldest first.
        targets: int64 [rows].
    """

    users: np.ndarray
    histories: Ragged
    targets: np.ndarray

    def rows(self, first: int, last: int) -> "Targets":
        """The rows from `first` (inclusive) to `last` (exclusive)."""
        indices = np.arange(first, min(last, len(self.users)))
        return Targets(self.users[indices], self.histories.rows(indices), self.targets[indices])


@dataclasses.dataclass(frozen=True)
class Split:
    """User sequences split into training sequences (one per user) and two sets of targets.

    The values are those of the sequences that were split: items, or numbers of events.
    """

    training: Ragged
    validation: Targets
    test: Targets


def evaluated_share(data: DataConfig, num_users: int) -> float:
    """The share of a log's users that `data.evaluation_users` is; 1 if all are evaluated.

    >>> evaluated_share(DataConfig(evaluation_users=500), num_users=2000)
    0.25
    """
    return 1.0 if data.evaluation_users is None else min(data.evaluation_users / num_users, 1.0)


def split_sequences(
    sequences: Ragged, early_events: np.ndarray, user_keys: np.ndarray, data: DataConfig, share: float = 1.0
) -> Split:
    """Splits by `data.split`; draws the users who are evaluated, and those of them who are validated.

    Args:
        sequences: events of each user, oldest first.
        early_events: int64 [users], number of events before `data.split_time`.
        user_keys: uint64 [users].
        data: of the pipeline.
        share: of the users who are evaluated, see `evaluated_share`.
    """
    evaluated = hashed_uniform(data.seed, user_keys, _EVALUATED) < share
    validated = evaluated & (hashed_uniform(data.seed, user_keys, _VALIDATED) < data.validation_share)
    if data.split == "temporal":
        return temporal(sequences, early_events, evaluated, validated)
    return leave_one_out(sequences, evaluated, validated)


def leave_one_out(sequences: Ragged, evaluated: np.ndarray, drawn: np.ndarray) -> Split:
    """The last item of each user is the test target, the one before it the validation target, the rest is training.

    Only users in `evaluated` and `drawn`, bool [users], are tested and validated; the others are trained on these
    targets. The history at test includes the validation target. Users with fewer than three events are only trained on.
    """
    lengths = sequences.lengths
    tested = (lengths >= MIN_EVALUATED_EVENTS) & evaluated
    validated = tested & drawn
    test_users, validation_users = np.flatnonzero(tested), np.flatnonzero(validated)
    return Split(
        take_slices(sequences.values, sequences.offsets[:-1], lengths - tested - validated),
        validation=_targets(sequences, validation_users, lengths[validation_users] - 2),
        test=_targets(sequences, test_users, lengths[test_users] - 1),
    )


def temporal(sequences: Ragged, early_events: np.ndarray, evaluated: np.ndarray, drawn: np.ndarray) -> Split:
    """Events before the split time are for training; each user's last item among them is the validation target.

    Only users in `drawn`, bool [users], are validated; the rest are trained on their validation target. Users with a
    single event before the split time are trained on it. The test target is the last item of each user with events at
    or after the split time, of those in `evaluated`, bool [users]. Its history is everything before it, including items
    after the split time. Some of these users have no training events. (This split is not from the paper.)
    """
    lengths = sequences.lengths
    validated = (early_events >= 2) & drawn
    validation_users = np.flatnonzero(validated)
    test_users = np.flatnonzero((lengths > early_events) & (lengths >= 2) & evaluated)
    return Split(
        take_slices(sequences.values, sequences.offsets[:-1], early_events - validated),
        validation=_targets(sequences, validation_users, early_events[validation_users] - 1),
        test=_targets(sequences, test_users, lengths[test_users] - 1),
    )


def _targets(sequences: Ragged, users: np.ndarray, offsets: np.ndarray) -> Targets:
    """For each user, the event at an offset of the sequence as the target, and all events before it as the history."""
    starts = sequences.offsets[users]
    return Targets(users, take_slices(sequences.values, starts, offsets), sequences.values[starts + offsets])
