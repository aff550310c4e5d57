"""What is trained on, and what is asked at validation and test: leave-one-out (paper section 4.2) or by time."""

import dataclasses

import numpy as np

from tfrecords.config import DataConfig
from tfrecords.hashed_random import hashed_uniform
from tfrecords.ragged import Ragged, take_slices

MIN_EVALUATED_EVENTS = 3  # leave-one-out: one to train on, one to validate, one to test
_VALIDATED = 2**40  # sets the draw of the validated users apart from those of windows and negatives


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


def split_sequences(sequences: Ragged, early_events: np.ndarray, user_keys: np.ndarray, data: DataConfig) -> Split:
    """Splits by `data.split`; who is validated is drawn by user.

    Args:
        sequences: items of each user, oldest first.
        early_events: int64 [users], how many of them came before `data.split_time`.
        user_keys: uint64 [users].
        data: of the pipeline.
    """
    drawn = hashed_uniform(data.seed, user_keys, _VALIDATED) < data.validation_share
    return temporal(sequences, early_events, drawn) if data.split == "temporal" else leave_one_out(sequences, drawn)


def leave_one_out(sequences: Ragged, drawn: np.ndarray) -> Split:
    """The last item of each user is the test target, the one before it the validation target, the rest is training.

    Only who is `drawn`, bool [users], is validated; the others' validation target is trained on. The history at test
    includes it. Users with fewer than three events are trained on, not evaluated.
    """
    lengths = sequences.lengths
    tested = lengths >= MIN_EVALUATED_EVENTS
    validated = tested & drawn
    test_users, validation_users = np.flatnonzero(tested), np.flatnonzero(validated)
    return Split(
        take_slices(sequences.values, sequences.offsets[:-1], lengths - tested - validated),
        validation=_targets(sequences, validation_users, lengths[validation_users] - 2),
        test=_targets(sequences, test_users, lengths[test_users] - 1),
    )


def temporal(sequences: Ragged, early_events: np.ndarray, drawn: np.ndarray) -> Split:
    """What came before a moment is trained on, and its last item of each user is the validation target.

    Only who is `drawn`, bool [users], is validated; the others' validation target is trained on, as is the event of
    users with one before the moment. The test target is the last item of each user who came at or after the moment,
    its history all before it, later items too: among them are users of whom nothing was trained on. (No part of the
    paper.)
    """
    lengths = sequences.lengths
    validated = (early_events >= 2) & drawn
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
