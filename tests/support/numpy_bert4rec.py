"""BERT4Rec's equations (arXiv 1904.06690, section 3) in plain NumPy, one sequence and one head at a time.

Weights are named as in the paper, float64, with D the hidden size, h heads and blocks counted from 0:

    E [V, D]  P [N, D]                                   item and position embeddings; P_from_newest instead of P
                                                         where positions count from the newest item
    0.W_Q 0.W_K 0.W_V [h, D, D / h]  0.b_Q ... [h, D / h]  0.W_O [D, D]  0.b_O [D]
    0.b_distance [2 K + 1, h]                            added to a score for the distance from -K to K, optional
    0.b_time [73, h]  request_gap [73, D]                for the time between two events, added to a score, and for the
                                                         time until the predicted item, added to the input; optional
    0.W_1 [D, F]  0.b_1 [F]  0.W_2 [F, D]  0.b_2 [D]     position-wise feed-forward
    0.W_gate_1 0.W_gate_2 [D, D]  0.b_gate_1 ... [D]     gates of the attention and of the feed-forward, optional
    before after [D]                                     times the embeddings beside a slot, optional
    0.norm_1 0.norm_2, final_norm [2, D]                 layer norms: scale, then shift; final_norm with "pre" only;
    norm_0 [2, D]                                        on the embeddings, optional
    W_P [D, D]  b_P [D]  b_O [V]                         output layer; without the first two, no projection
"""

import math
from collections.abc import Sequence

import numpy as np

Weights = dict[str, np.ndarray]

_NUM_SPECIAL_IDS, _MASK_ID, _UNKNOWN_GAP = 3, 1, 72
_SPECIAL_LOGIT = -1e9


def masked_logits(
    weights: Weights,
    item_ids: np.ndarray,
    valid: np.ndarray,
    positions: np.ndarray,
    layer_norm: str,
    prefix: int | None = None,
    residual: bool = True,
    times: Sequence[tuple[int | None, int | None]] | None = None,
) -> np.ndarray:
    """Logits [P, V] at `positions` of one sequence: `item_ids` int [L], `valid` bool [L], all `positions` valid.

    With a `prefix`, what comes after the query's slot scores minus infinity, unless it is one of the first `prefix`
    slots; 0 is the masked attention of Vaswani et al., 2017, section 3.2.3. Without one, every slot attends to all.
    Positions, layer norms and feed-forward sublayers whose weights are missing are left out (Table 5). `times`: see
    `times_of_slots`; None: all are unknown.
    """
    # Padding affects nothing, so it is removed here.
    slots = np.flatnonzero(valid)
    times = [(None, None)] * len(slots) if times is None else times
    hidden = _embedded(weights, item_ids[slots], slots, [gap for _, gap in times])
    for part in _blocks(weights):
        hidden = _after(hidden, part | {"times": [time for time, _ in times]}, layer_norm, prefix, residual)
    if layer_norm == "pre":
        hidden = _norm(hidden, weights["final_norm"])
    at_masks = hidden[np.searchsorted(slots, positions)]
    if "W_P" in weights:
        at_masks = _gelu(at_masks @ weights["W_P"] + weights["b_P"])
    logits = at_masks @ weights["E"].T + weights["b_O"]
    logits[:, :_NUM_SPECIAL_IDS] = _SPECIAL_LOGIT
    return logits


def times_of_slots(item_ids: list[int], times: list[int], next_items: bool) -> list[tuple[int | None, int | None]]:
    """For each slot its time, and the seconds from it to the item that the slot predicts; None if unknown.

    Args:
        item_ids: of the slots, without padding.
        times: of their events, a [MASK]'s being that of its item; for next items then that of the last one to predict.
        next_items: whether slots predict the item after them.
    """
    known = [None if time < 0 else time for time in times]
    found = []
    for slot, item in enumerate(item_ids):
        own, asked = known[slot], None
        if next_items:
            asked = known[slot + 1] if slot + 1 < len(known) else None
        elif item == _MASK_ID:
            own, asked = known[slot - 1] if slot else None, known[slot]
        found.append((own, None if own is None or asked is None else max(asked - own, 0)))
    return found


def attention_of_blocks(
    weights: Weights,
    item_ids: np.ndarray,
    layer_norm: str,
    prefix: int | None = None,
    times: Sequence[tuple[int | None, int | None]] | None = None,
) -> list[np.ndarray]:
    """Attention weights [h, L, L] of each block over one sequence without padding; arguments as in `masked_logits`."""
    times = [(None, None)] * len(item_ids) if times is None else times
    hidden, found = _embedded(weights, item_ids, np.arange(len(item_ids)), [gap for _, gap in times]), []
    for part in _blocks(weights):
        part = part | {"times": [time for time, _ in times]}
        states = hidden if layer_norm == "post" else _norm(hidden, part["norm_1"])
        found.append(_attention_weights(states, part, prefix))
        hidden = _after(hidden, part, layer_norm, prefix, residual=True)
    return found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _embedded(weights: Weights, item_ids: np.ndarray, slots: np.ndarray, gaps: list[int | None]) -> np.ndarray:
    items = weights["E"][item_ids]
    embedded = items + _positions(weights, slots)
    for slot in range(len(items)):
        if "before" in weights and slot > 0:
            embedded[slot] += weights["before"] * items[slot - 1]
        if "after" in weights and slot + 1 < len(items):
            embedded[slot] += weights["after"] * items[slot + 1]
        if "request_gap" in weights:
            embedded[slot] += weights["request_gap"][_gap_bucket(gaps[slot])]
    return _norm(embedded, weights["norm_0"]) if "norm_0" in weights else embedded


def _positions(weights: Weights, slots: np.ndarray) -> np.ndarray:
    if "P" in weights:
        return weights["P"][slots]
    return weights["P_from_newest"][slots[::-1]] if "P_from_newest" in weights else np.zeros([len(slots), 1])


def _blocks(weights: Weights) -> list[Weights]:
    found, block = [], 0
    while f"{block}.W_Q" in weights:
        found.append({name.removeprefix(f"{block}."): w for name, w in weights.items() if name.startswith(f"{block}.")})
        block += 1
    return found


def _after(hidden: np.ndarray, part: Weights, layer_norm: str, prefix: int | None, residual: bool) -> np.ndarray:
    sublayers = [("1", lambda x: _attention(x, part, prefix))]
    if "W_1" in part:
        sublayers.append(("2", lambda x: _feed_forward(x, part)))
    for number, sublayer in sublayers:
        norm = f"norm_{number}"
        states = _norm(hidden, part[norm]) if layer_norm == "pre" else hidden
        changed = sublayer(states)
        if f"W_gate_{number}" in part:
            changed = changed / (1 + np.exp(-(states @ part[f"W_gate_{number}"] + part[f"b_gate_{number}"])))
        hidden = hidden + changed if residual else changed
        if layer_norm == "post":
            hidden = _norm(hidden, part[norm])
    return hidden


def _attention(hidden: np.ndarray, part: Weights, prefix: int | None) -> np.ndarray:
    heads = []
    for head, weights in enumerate(_attention_weights(hidden, part, prefix)):
        value = hidden @ part["W_V"][head] + part["b_V"][head]
        heads.append(weights @ value)
    return np.concatenate(heads, axis=1) @ part["W_O"] + part["b_O"]


def _attention_weights(hidden: np.ndarray, part: Weights, prefix: int | None) -> np.ndarray:
    heads = []
    for head in range(len(part["W_Q"])):
        query = hidden @ part["W_Q"][head] + part["b_Q"][head]
        key = hidden @ part["W_K"][head] + part["b_K"][head]
        scores = query @ key.T / math.sqrt(key.shape[1])
        if "b_distance" in part:
            for query_slot, key_slot in np.ndindex(scores.shape):
                max_distance = len(part["b_distance"]) // 2
                distance = max(-max_distance, min(key_slot - query_slot, max_distance))
                scores[query_slot, key_slot] += part["b_distance"][max_distance + distance, head]
        if "b_time" in part:
            for query_slot, key_slot in np.ndindex(scores.shape):
                pair = part["times"][query_slot], part["times"][key_slot]
                gap = None if None in pair else abs(pair[0] - pair[1])
                scores[query_slot, key_slot] += part["b_time"][_gap_bucket(gap), head]
        for query_slot, key_slot in np.ndindex(scores.shape):
            if prefix is not None and key_slot > query_slot and key_slot >= prefix:
                scores[query_slot, key_slot] = -np.inf
        heads.append(np.exp(log_softmax(scores)))
    return np.stack(heads)


def _gap_bucket(gap: int | None) -> int:
    return _UNKNOWN_GAP if gap is None else math.floor(math.log(max(1, gap)) / 0.301)


def _feed_forward(hidden: np.ndarray, part: Weights) -> np.ndarray:
    return _gelu(hidden @ part["W_1"] + part["b_1"]) @ part["W_2"] + part["b_2"]


def _gelu(x: np.ndarray) -> np.ndarray:
    normal_cdf = np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))
    return x * normal_cdf(x)


def _norm(x: np.ndarray, scale_and_shift: np.ndarray) -> np.ndarray:
    scale, shift = scale_and_shift
    centred = x - x.mean(axis=1, keepdims=True)
    return scale * centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12) + shift
