"""What each head attends to, averaged over users (paper section 4.8), from the model as it is."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.dropout import SeededDropout
from bert4rec_tf.report.charts import heat_map
from bert4rec_tf.report.html import Markup, element, together
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID

SLOTS = 20  # the newest of the window, [MASK] the last
_BATCH_USERS = 16


@dataclasses.dataclass(frozen=True)
class AttentionMaps:
    """Mean attention weights between the newest slots of the window, aligned at its end.

    Attributes:
        weights: float64 [layers, h, S, S], from the asking slot (row) to the attended one (column); the last slot asks
            for the next item: [MASK], or with causal attention the newest item. Rows sum to less than 1 where windows
            are longer than S.
        shown: float64 [layers, h], the share of the last slot's weight that falls on these S slots.
        users: how many.
        causal: whether slots see those before them alone.
    """

    weights: np.ndarray
    shown: np.ndarray
    users: int
    causal: bool


def attention_maps(model: Bert4Rec, histories: Sequence[np.ndarray], slots: int = SLOTS) -> AttentionMaps:
    """Averages the attention of every head over users.

    Every user has every slot: were some left out of the older ones, these would be means of other users.

    Args:
        model: of the histories.
        histories: at least one, each int [any], ids, oldest first.
        slots: S at most; fewer where a window is shorter.
    """
    windows = [_window(history, model) for history in histories]
    size = min(slots, *map(len, windows))
    sums = np.zeros([model.config.num_layers, model.config.num_heads, size, size])
    for first in range(0, len(windows), _BATCH_USERS):
        batch = windows[first : first + _BATCH_USERS]
        places = np.array([[len(window) - size] for window in batch]) + np.arange(size)
        for layer, weights in enumerate(attention_weights(model, batch, places)):
            sums[layer] += np.take_along_axis(weights, places[:, None, None, :], axis=3).sum(axis=0, dtype=np.float64)
    means = sums / len(windows)
    return AttentionMaps(means, means[:, :, -1].sum(axis=-1), len(windows), model.config.attention == "causal")


def attention_weights(model: Bert4Rec, windows: Sequence[np.ndarray], places: np.ndarray) -> list[np.ndarray]:
    """The weights after the softmax, as the model itself computes them.

    Args:
        model: any.
        windows: B of them, each int [at most N], ids.
        places: int [B, P], the slots that ask.

    Returns:
        For each layer float32 [B, h, P, L], with L the longest window.
    """
    longest = max(map(len, windows))
    item_ids = np.array([np.pad(window, (0, longest - len(window)), constant_values=PAD_ID) for window in windows])
    valid = np.arange(longest) < np.array([[len(window)] for window in windows])
    with _seen(model) as found:
        model.encode(tf.constant(item_ids, tf.int32), tf.constant(valid), tf.constant(places, tf.int32))
    # The last block computes the asking slots alone, the others all.
    return [*(np.take_along_axis(weights, places[:, None, :, None], axis=2) for weights in found[:-1]), found[-1]]


class _Noting(SeededDropout):
    """No dropout: shows what it would be applied to, and passes it on."""

    def __init__(self, note: Callable[[np.ndarray], None]):
        super().__init__(rate=0.0, salt=0)
        self._note = note

    def call(
        self, inputs: tf.Tensor, dropout_seed: tf.Tensor | None = None, slots: tf.Tensor | None = None
    ) -> tf.Tensor:
        self._note(inputs.numpy())
        return inputs


@contextlib.contextmanager
def _seen(model: Bert4Rec) -> Iterator[list[np.ndarray]]:
    """Notes what reaches the dropout of each block's attention, which is its weights, whatever their rule is."""
    found: list[np.ndarray] = []

    layers = [block.attention for block in model.encoder.blocks]
    kept = [layer.dropout for layer in layers]
    try:
        for layer in layers:
            layer.dropout = _Noting(found.append)
        yield found
    finally:
        for layer, dropout in zip(layers, kept, strict=True):
            layer.dropout = dropout


def _window(history: np.ndarray, model: Bert4Rec) -> np.ndarray:
    """What the model is asked with: the newest N - 1 items and [MASK], without which causal attention does."""
    items = np.asarray(history)
    items = items[items >= NUM_SPECIAL_IDS][-(model.max_seq_length - 1) :]
    return items if model.config.attention == "causal" and len(items) else np.append(items, MASK_ID)


_LABELLED_SLOTS = 5  # every so many, from the newest


def attention_section(maps: AttentionMaps) -> Markup:
    """A heat map for each head, by layer."""
    size, last = maps.weights.shape[-1], "0" if maps.causal else "M"
    names = [f"-{back}" if back and back % _LABELLED_SLOTS == 0 else "" for back in range(size - 1, 0, -1)] + [last]
    shown = []
    for layer, heads in enumerate(maps.weights, start=1):
        figures = []
        for head, weights in enumerate(heads, start=1):
            share = maps.shown[layer - 1, head - 1]
            caption = (
                f"Head {head}: {weights.min():.4f} to {weights.max():.4f}; {last} has {share:.0%} of its weight here"
            )
            drawn = heat_map(weights, names, f"attention of layer {layer}, head {head}")
            figures.append(element("figure", element("figcaption", caption), drawn))
        shown += [element("h3", f"Layer {layer}"), element("div", *figures, class_="heads")]
    users = f"{maps.users:,} user{'' if maps.users == 1 else 's'}"
    asks = "0 is the newest item, which asks" if maps.causal else "M is [MASK] in the place of the next item"
    says = (
        f"Mean attention weights over {users} of at least {size - 1} items, from the slot that asks (row) to the slot "
        f"attended to (column), for the newest {size} slots. {asks}, -5 the fifth "
        "item before it. Each map has its own scale; its smallest and largest mean stand above it, and where they "
        "hardly differ it has one shade."
    )
    return together(element("p", says, class_="soft"), *shown)
