"""What each head of the model attends to, averaged over users (paper section 4.8)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from bert4rec_tf.inputs.user_histories import History
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.event_times import UNKNOWN_TIME, times_from_first
from bert4rec_tf.report.charts import Chart, heat_map
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

SLOTS = 20  # the newest slots of the window; the last one holds [MASK]
BATCH_USERS = 16


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Mean attention weights between the newest slots of the window, aligned at its end.

    Attributes:
        weights: float64 [layers, h, S, S], from the query's slot (row) to the attended one (column). The last slot
            predicts the next item: it holds [MASK], or in a model of next items the newest item. Rows sum to less than
            1 if windows are longer than S.
        shown: float64 [layers, h], the share of the last slot's weight that falls on these S slots.
        users: the number of users.
        predicts_next_items: whether the last slot holds the newest item instead of [MASK].
    """

    weights: np.ndarray
    shown: np.ndarray
    users: int
    predicts_next_items: bool


def attention_maps(model: Bert4Rec, histories: Sequence[History], slots: int = SLOTS) -> AttentionMaps:
    """Averages the attention of every head over users.

    Only the slots that all users have are averaged; otherwise old slots would average fewer users.

    Args:
        model: of the histories.
        histories: at least one.
        slots: S at most; fewer if a window is shorter.
    """
    windows = [window_of(history, model) for history in histories]
    size = min(slots, *(len(window.item_ids) for window in windows))
    sums = np.zeros([model.config.num_layers, model.config.num_heads, size, size])
    for first in range(0, len(windows), BATCH_USERS):
        batch = windows[first : first + BATCH_USERS]
        positions = np.array([[len(window.item_ids) - size] for window in batch]) + np.arange(size)
        for layer, weights in enumerate(attention_weights(model, batch, positions)):
            newest = np.take_along_axis(weights, positions[:, None, None, :], axis=3)
            sums[layer] += newest.sum(axis=0, dtype=np.float64)
    means = sums / len(windows)
    return AttentionMaps(means, means[:, :, -1].sum(axis=-1), len(windows), model.config.predicts_next_items)


def attention_weights(model: Bert4Rec, windows: Sequence[History], query_positions: np.ndarray) -> list[np.ndarray]:
    """The model's attention weights after the softmax.

    Args:
        model: any.
        windows: B windows of at most N items.
        query_positions: int [B, P], the slots that attend.

    Returns:
        For each layer float32 [B, h, P, L], with L the longest window.
    """
    longest = max(len(window.item_ids) for window in windows)
    item_ids, times = (
        np.array([np.pad(values, (0, longest - len(values)), constant_values=padding) for values in rows])
        for rows, padding in (
            ([window.item_ids for window in windows], PAD_ID),
            ([window.times for window in windows], UNKNOWN_TIME),
        )
    )
    weights = model.attention_weights(
        tf.constant(item_ids, tf.int32),
        tf.constant(item_ids != PAD_ID),
        tf.constant(query_positions, tf.int32),
        times_from_first(tf.constant(times, tf.int64)),
    )
    return [layer.numpy() for layer in weights]


def window_of(history: History, model: Bert4Rec) -> History:
    """The model's input for the next item: the newest N - 1 items and, unless it predicts next items, [MASK]."""
    known = history.item_ids >= NUM_SPECIAL_IDS
    items, times = (np.asarray(values)[known][-(model.max_seq_length - 1) :] for values in history)
    if model.config.predicts_next_items and len(items):
        return History(items, times)
    return History(np.append(items, MASK_ID), np.append(times, UNKNOWN_TIME))


_LABEL_STEP = 5  # slots from one axis label to the next


def attention_content(maps: AttentionMaps, ages: list[Chart]) -> dict[str, Any]:
    """A heat map for each head, by layer, and the charts of ages, for `templates/attention.html`."""
    size, last = maps.weights.shape[-1], "0" if maps.predicts_next_items else "M"
    names = [f"-{back}" if back and back % _LABEL_STEP == 0 else "" for back in range(size - 1, 0, -1)] + [last]
    layers = []
    for layer, heads in enumerate(maps.weights):
        charts = []
        for head, weights in enumerate(heads):
            share = f"{last} has {maps.shown[layer, head]:.0%} of its weight here"
            caption = f"Head {head + 1}: {weights.min():.4f} to {weights.max():.4f}; {share}"
            alt_text = f"attention of layer {layer + 1}, head {head + 1}"
            charts.append(Chart(caption, heat_map(weights, names, alt_text)))
        layers.append(charts)
    shown = {"users": maps.users, "size": size, "ends_with_mask": not maps.predicts_next_items}
    return {"layers": layers, "ages": ages, **shown}
