"""Leave-one-out: what is trained on, and what is asked at validation and test (paper section 4.2)."""

import dataclasses

import numpy as np

from tfrecords.schema import Ragged, take_slices

MIN_EVALUATED_EVENTS = 3  # one to train on, one to validate, one to test


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


@dataclasses.dataclass(frozen=True)
class Split:
    """User sequences cut into training sequences (one for each user) and two sets of targets."""

    training: Ragged
    validation: Targets
    test: Targets


def leave_one_out(sequences: Ragged) -> Split:
    """The last item of each user is the test target, the one before it the validation target, the rest is training.

    The history at test includes the validation item. Users with fewer than three events are trained on, not evaluated.
    """
    lengths = sequences.lengths
    evaluated = lengths >= MIN_EVALUATED_EVENTS
    users = np.flatnonzero(evaluated)

    def targets(from_end: int) -> Targets:
        history_lengths = lengths[users] - from_end
        starts = sequences.offsets[users]
        item_ids = sequences.values[starts + history_lengths]
        return Targets(users, take_slices(sequences.values, starts, history_lengths), item_ids)

    training = take_slices(sequences.values, sequences.offsets[:-1], lengths - 2 * evaluated)
    return Split(training, validation=targets(2), test=targets(1))
