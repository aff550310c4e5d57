"""Packing keeps every masked slot that has a weight, in order, and pads to a few sizes."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.model.batch import pack_masked_slots
from tests.support.small_models import example_batch


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=9))
@settings(max_examples=15)
def test_packed_slots_are_those_with_a_weight(used: list[list[bool]]) -> None:
    weights = np.array(used, np.float32)
    item_ids = np.arange(3, 3 + weights.size, dtype=np.int32).reshape(weights.shape)
    packed = pack_masked_slots({"masked_item_ids": item_ids, "masked_weights": weights})
    index = packed["packed_index"].numpy()
    number = int(weights.sum())
    assert index[:number].tolist() == np.flatnonzero(weights).tolist()
    assert packed["masked_item_ids"].numpy()[0, :number].tolist() == item_ids[weights > 0].tolist()
    assert packed["masked_weights"].numpy().tolist() == [[1.0] * number + [0.0] * (len(index) - number)]
    step = -(-weights.size // 8)
    assert max(number, 1) <= len(index) < max(number, 1) + step
    assert len(index) % step == 0


def test_other_inputs_stay() -> None:
    batch = example_batch()
    packed = pack_masked_slots(batch)
    assert packed.keys() == batch.keys() | {"packed_index"}
    for name in ("item_ids", "valid_mask", "masked_positions"):
        np.testing.assert_array_equal(packed[name], batch[name])
