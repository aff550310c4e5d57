"""What is trained on, and what is asked at validation and test: leave-one-out (paper section 4.2) or by time."""

import dataclasses

import numpy as np

from bert4rec_tf.config import DataConfig
from tfrecords.schema import Ragged, take_slices

MIN_EVALUATED_EVENTS = 3  # leave-one-out: one to train on, one to validate, one to test


@dataclasses.dataclass(frozen=True)
class Targets:
    """What one split asks: predict `item_ids[i]` from `histories` row i.

    Attributes:
        users: int64 [rows], which row of the sequences each belongs to.
        histories: all of the user's items before the target, oldest first.
        item_ids: int64 [rows].
    """

    users: np.ndarray
    histories: Ragged
    item_ids: np.ndarray

    def rows(self, first: int, last: int) -> "Targets":
        """The rows from `first` to before `last`."""
        places = np.arange(first, min(last, len(self.users)))
        return Targets(self.users[places], self.histories.rows(places), self.item_ids[places])


@dataclasses.dataclass(frozen=True)
class Split:
    """User sequences cut into training sequences (one for each user) and two sets of targets."""

    training: Ragged
    validation: Targets
    test: Targets


def split_sequences(sequences: Ragged, early_events: np.ndarray, data: DataConfig) -> Split:
    """Splits by `data.split`.

    Args:
        sequences: items of each user, oldest first.
        early_events: int64 [users], how many of them came before `data.split_time`.
        data: of the pipeline.
    """
    return temporal(sequences, early_events) if data.split == "temporal" else leave_one_out(sequences)


def leave_one_out(sequences: Ragged) -> Split:
    """The last item of each user is the test target, the one before it the validation target, the rest is training.

    The history at test includes the validation item. Users with fewer than three events are trained on, not evaluated.
    """
    lengths = sequences.lengths
    evaluated = lengths >= MIN_EVALUATED_EVENTS
    users = np.flatnonzero(evaluated)
    return Split(
        take_slices(sequences.values, sequences.offsets[:-1], lengths - 2 * evaluated),
        validation=_targets(sequences, users, lengths[users] - 2),
        test=_targets(sequences, users, lengths[users] - 1),
    )


def temporal(sequences: Ragged, early_events: np.ndarray) -> Split:
    """What came before a moment is trained on, and its last item of each user is the validation target.

    Users with one event before the moment are trained on, not validated. The test target is the last item of each user
    who came at or after the moment, its history all before it, later items too: among them are users of whom nothing
    was trained on. (No part of the paper.)
    """
    lengths = sequences.lengths
    validated = early_events >= 2
    validation_users = np.flatnonzero(validated)
    test_users = np.flatnonzero((lengths > early_events) & (lengths >= 2))
    return Split(
        take_slices(sequences.values, sequences.offsets[:-1], early_events - validated),
        validation=_targets(sequences, validation_users, early_events[validation_users] - 1),
        test=_targets(sequences, test_users, lengths[test_users] - 1),
    )


def _targets(sequences: Ragged, users: np.ndarray, places: np.ndarray) -> Targets:
    """Each user's item at a place, and all before it."""
    starts = sequences.offsets[users]
    return Targets(users, take_slices(sequences.values, starts, places), sequences.values[starts + places])
