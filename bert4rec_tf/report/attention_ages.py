"""How much of its attention a prediction gives to events by their age."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bert4rec_tf.inputs.user_histories import History
from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.report.attention_maps import BATCH_USERS, attention_weights, window_of
from bert4rec_tf.report.charts import Chart, Measured, bars

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# Each group begins at an age in seconds, and ends where the next one begins.
AGES = {
    "below 1 minute": 0,
    "1 to 60 minutes": _MINUTE,
    "1 to 24 hours": _HOUR,
    "1 to 7 days": _DAY,
    "7 to 30 days": 7 * _DAY,
    "30 days to 1 year": 30 * _DAY,
    "1 year and more": 365 * _DAY,
}
_Z95 = 1.96


@dataclasses.dataclass(frozen=True)
class AttentionAges:
    """Attention of the slot that predicts, by the time from an attended event to the newest event.

    Attributes:
        weights: float64 [users, layers, ages], the mean over the heads of the weight of a group of events.
        events: float64 [users, ages], the share of the window's events in the group.
    """

    weights: np.ndarray
    events: np.ndarray


def attention_ages(model: Bert4Rec, histories: Sequence[History]) -> AttentionAges | None:
    """Sums the weights of the events of each age, for every user; None if no history has times.

    Args:
        model: of the histories.
        histories: at least one.
    """
    windows = [window_of(history, model) for history in histories]
    windows = [window for window in windows if (window.times >= 0).any()]
    if not windows:
        return None
    starts = list(AGES.values())
    weights = np.zeros([len(windows), model.config.num_layers, len(starts)])
    events = np.zeros([len(windows), len(starts)])
    for first in range(0, len(windows), BATCH_USERS):
        batch = windows[first : first + BATCH_USERS]
        positions = np.array([[len(window.item_ids) - 1] for window in batch])
        layers = attention_weights(model, batch, positions)
        for row, window in enumerate(batch):
            known = np.flatnonzero(window.times >= 0)
            ages = window.times[known].max() - window.times[known]
            groups = np.searchsorted(starts, ages, side="right") - 1
            events[first + row] = np.bincount(groups, minlength=len(starts)) / len(known)
            for layer, values in enumerate(layers):
                attended = values[row, :, 0, known].mean(axis=1, dtype=np.float64)
                weights[first + row, layer] = np.bincount(groups, attended, len(starts))
    return AttentionAges(weights, events)


def ages_charts(ages: AttentionAges | None) -> list[Chart]:
    """For each layer the mean weights of the ages that occur, with 95% intervals over users."""
    if ages is None:
        return []
    charts, shares = [], ages.events.mean(axis=0)
    for layer in range(ages.weights.shape[1]):
        rows = []
        for group, name in enumerate(AGES):
            if shares[group]:
                values = ages.weights[:, layer, group]
                mean, error = float(values.mean()), _Z95 * float(values.std()) / len(values) ** 0.5
                rows.append(
                    Measured(f"{name} · {shares[group]:.0%} of events", mean, max(mean - error, 0), mean + error)
                )
        caption = f"Layer {layer + 1}: weight by the age of events"
        charts.append(Chart(caption, bars(rows, caption)))
    return charts
