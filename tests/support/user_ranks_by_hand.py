"""`UserRanks` of made-up users, for tests."""

import numpy as np

from bert4rec_tf.evaluation.user_ranks import UserRanks
from tfrecords.vocabulary import NUM_SPECIAL_IDS


def ranks_of_users(
    full: list[int],
    sampled: list[int] | None = None,
    trained_items: list[int] | None = None,
    history_lengths: list[int] | None = None,
    targets: list[int] | None = None,
    recommended: list[list[int]] | None = None,
    repeats: list[bool] | None = None,
) -> UserRanks:
    """Users "u0", "u1" ... with these ranks. Defaults: counts of 1, the first item as target, no repeats."""
    ones = [1] * len(full)
    columns = (full, sampled or full, trained_items or ones, history_lengths or ones)
    target_ids = targets or [NUM_SPECIAL_IDS] * len(full)
    best = np.array(recommended or [[]] * len(full), np.int32)
    arrays = [np.array(column, np.int32) for column in (*columns, target_ids)]
    is_repeat = np.array(repeats or [False] * len(full), bool)
    return UserRanks([f"u{number}" for number in range(len(full))], *arrays, is_repeat, best)
