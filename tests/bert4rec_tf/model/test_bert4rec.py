"""The model against the paper's equations in NumPy, its padding, its dropout and its training step."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.losses import masked_item_loss
from tests.support.command_line import ROOT
from tests.support.ring_log import next_item_ring_batch, ring_batch
from tests.support.small_models import (
    CAUSAL,
    CAUSAL_DISTANCES,
    CAUSAL_NEWEST,
    DISTANCES,
    DROPPING,
    EMBEDDING_NORM,
    GATED,
    MAX_SEQ_LENGTH,
    NEIGHBOURS,
    NEWEST,
    PRE,
    PREFIX,
    PREFIX_TIMES,
    SMALL,
    TIMES,
    TWO_LAYERS,
    UNIT,
    VOCABULARY_SIZE,
    example_batch,
    inputs_of,
    oracle_logits,
    oracle_loss,
    paper_weights,
    prefix_batch,
    random_model,
    with_times,
)
from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS, PAD_ID, UNK_ID

EITHER_WAY = pytest.mark.parametrize("config", [TWO_LAYERS, CAUSAL], ids=["bidirectional", "causal"])
# The time that a slot asks for is always known here: dropout would hide it from some slots.
ONE_LAYER_WITH_TIMES = dataclasses.replace(TIMES, num_layers=1, request_time=1 - 1e-9)
GOLDEN_FILE = ROOT / "tests" / "golden" / "logits.json"


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        TWO_LAYERS,
        PRE,
        NEWEST,
        CAUSAL,
        dataclasses.replace(PRE, attention="causal"),
        CAUSAL_NEWEST,
        dataclasses.replace(PRE, head_projection=False),
        DISTANCES,
        CAUSAL_DISTANCES,
        EMBEDDING_NORM,
        dataclasses.replace(TWO_LAYERS, embedding_layer_norm=True),
        PREFIX,
        NEIGHBOURS,
        dataclasses.replace(NEIGHBOURS, attention="causal"),
        GATED,
        dataclasses.replace(GATED, attention="causal", feed_forward=False),
        UNIT,
        dataclasses.replace(PREFIX, item_vectors="unit"),
    ],
    ids=[
        "one block",
        "post",
        "pre",
        "from newest",
        "causal post",
        "causal pre",
        "causal from newest",
        "no projection",
        "distances",
        "causal distances",
        "causal, embeddings normed",
        "post, embeddings normed",
        "prefix at serving",
        "neighbours",
        "causal, neighbour before",
        "gated",
        "gated, causal, without feed-forward",
        "unit vectors",
        "prefix, unit vectors",
    ],
)
def test_logits_equal_the_papers_equations(config: ModelConfig) -> None:
    model, batch = random_model(config), example_batch()
    expected = oracle_logits(paper_weights(model), batch, config)
    np.testing.assert_allclose(model(inputs_of(batch))[:3], expected, atol=1e-4)
    assert np.ptp(expected[..., NUM_SPECIAL_IDS:]) > 1, "logits that hardly differ would test nothing"


@pytest.mark.parametrize(
    "config",
    [PREFIX, dataclasses.replace(GATED, attention="prefix"), CAUSAL],
    ids=["prefix", "gated", "causal"],
)
def test_a_prefix_is_seen_from_both_sides(config: ModelConfig) -> None:
    model, batch = random_model(config), prefix_batch()
    expected = oracle_logits(paper_weights(model), batch, config)
    np.testing.assert_allclose(model(inputs_of(batch))[:3], expected, atol=1e-4)
    without = oracle_logits(paper_weights(model), example_batch(), config)
    assert np.abs(expected - without)[..., NUM_SPECIAL_IDS:].max() > 0.1, "the prefix must matter"


model_of = functools.lru_cache(random_model)  # the examples share a model, which none of them changes


@given(st.data())
@settings(max_examples=20)
def test_a_change_reaches_the_slots_that_may_see_it(data: st.DataObject) -> None:
    model = model_of(dataclasses.replace(PREFIX, neighbours=0.0))
    items = st.integers(NUM_SPECIAL_IDS, VOCABULARY_SIZE - 1)
    window = np.array(data.draw(st.lists(items, min_size=1, max_size=MAX_SEQ_LENGTH)))
    prefix = data.draw(st.integers(0, len(window)))
    position = data.draw(st.integers(0, len(window) - 1))
    changed = window.copy()
    changed[position] = data.draw(items.filter(lambda item: item != window[position]))
    before, after = (
        model(whole_window(one) | {"prefix_lengths": tf.constant([[prefix]])})[0].numpy() for one in (window, changed)
    )
    for slot in range(len(window)):
        may_see = position <= slot or position < prefix
        if may_see:
            assert np.abs(before[slot] - after[slot]).max() > 1e-5, slot
        else:
            np.testing.assert_array_equal(before[slot], after[slot])


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_the_next_item_is_never_mixed_into_its_own_prediction(attention: str) -> None:
    model = random_model(dataclasses.replace(NEIGHBOURS, attention=attention))
    assert not any("neighbour_after" in variable.name for variable in model.trainable_variables)
    prefix = {"prefix_lengths": tf.constant([[2]])} if attention == "prefix" else {}
    before, after = (
        model(whole_window(np.array(window)) | prefix)[0].numpy() for window in ([3, 4, 5, 6, 7], [3, 4, 5, 6, 12])
    )
    np.testing.assert_array_equal(before[:4], after[:4])
    assert np.abs(before[4] - after[4]).max() > 1e-3


@pytest.mark.parametrize(
    "left_out",
    [{"positions": "none"}, {"layer_norm": "none"}, {"feed_forward": False}, {"residual": False}],
    ids=lambda left_out: next(iter(left_out)),
)
@pytest.mark.parametrize("config", [TWO_LAYERS, PRE], ids=["post", "pre"])
def test_ablations_equal_the_papers_equations_without_a_part(config: ModelConfig, left_out: dict) -> None:
    ablated, batch = dataclasses.replace(config, **left_out), example_batch()
    model = random_model(ablated)
    expected = oracle_logits(paper_weights(model), batch, ablated)
    np.testing.assert_allclose(model(inputs_of(batch))[:3], expected, rtol=1e-4, atol=1e-4)


def test_logits_equal_the_stored_ones() -> None:
    # Stored from the NumPy oracle, so a change that both implementations share is seen too. The weights are those of
    # random_model(TWO_LAYERS, seed=7), drawn in the stored order of the variables.
    golden = json.loads(GOLDEN_FILE.read_text())
    model, batch = random_model(TWO_LAYERS, seed=7), example_batch()
    names = [[variable.name, variable.shape.as_list()] for variable in model.trainable_variables]
    assert names == golden["variables"], "the stored logits were made with these variables, in this order"
    np.testing.assert_array_equal(batch["item_ids"], golden["item_ids"])
    np.testing.assert_array_equal(batch["masked_positions"], golden["masked_positions"])
    expected = np.array(golden["item_logits"])
    np.testing.assert_allclose(model(inputs_of(batch))[:3, :, NUM_SPECIAL_IDS:], expected, atol=1e-4)
    by_numpy = oracle_logits(paper_weights(model), batch, TWO_LAYERS)[..., NUM_SPECIAL_IDS:]
    np.testing.assert_allclose(by_numpy, expected, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [TWO_LAYERS, PRE, NEWEST, CAUSAL, CAUSAL_NEWEST, DISTANCES, PREFIX, NEIGHBOURS, GATED, UNIT, PREFIX_TIMES],
    ids=["post", "pre", "from newest", "causal", "both", "distances", "prefix", "neighbours", "gated", "unit", "times"],
)
def test_padding_never_changes_an_output(config: ModelConfig) -> None:
    model, batch = random_model(config), inputs_of(with_times(example_batch()))
    logits = model(batch)
    shorter = {**batch, "item_ids": batch["item_ids"][1:3, :4], "valid_mask": batch["valid_mask"][1:3, :4]}
    shorter["masked_positions"] = batch["masked_positions"][1:3]
    shorter["times"] = batch["times"][1:3, :5]
    np.testing.assert_allclose(model(shorter), logits[1:3], atol=1e-5)
    # Ids in the padding are multiplied by exactly 0.
    other_ids = {**batch, "item_ids": tf.where(batch["valid_mask"], batch["item_ids"], 11)}
    np.testing.assert_array_equal(model(other_ids)[:3], logits[:3])


@EITHER_WAY
def test_rows_are_independent_and_empty_rows_are_finite(config: ModelConfig) -> None:
    model, batch = random_model(config), inputs_of(example_batch())
    logits = model(batch).numpy()
    assert np.isfinite(logits).all()
    for row in range(4):
        single = {name: value[row : row + 1] for name, value in batch.items()}
        np.testing.assert_allclose(model(single)[0], logits[row], atol=1e-5)
    other_row = {**batch, "item_ids": tf.tensor_scatter_nd_update(batch["item_ids"], [[0]], [[6] * 7])}
    np.testing.assert_array_equal(model(other_row)[1:], logits[1:])
    assert np.abs(model(other_row)[0] - logits[0]).max() > 0.01


@pytest.fixture(scope="module", params=[CAUSAL, CAUSAL_NEWEST], ids=["from oldest", "from newest"])
def causal_model(request: pytest.FixtureRequest) -> Bert4Rec:
    return random_model(request.param)


def whole_window(items: np.ndarray) -> dict[str, tf.Tensor]:
    """One window, to be scored at each of its slots."""
    slots = tf.range(len(items))[None]
    return {"item_ids": tf.constant(items[None], tf.int32), "valid_mask": slots >= 0, "masked_positions": slots}


@given(st.data())
@settings(max_examples=10)
def test_causal_logits_do_not_depend_on_later_items(causal_model: Bert4Rec, data: st.DataObject) -> None:
    items = st.integers(NUM_SPECIAL_IDS, VOCABULARY_SIZE - 1)
    window = np.array(data.draw(st.lists(items, min_size=1, max_size=MAX_SEQ_LENGTH)))
    position = data.draw(st.integers(0, len(window) - 1))
    changed = window.copy()
    changed[position] = data.draw(items.filter(lambda item: item != window[position]))
    before, after = (causal_model(whole_window(one))[0].numpy() for one in (window, changed))
    np.testing.assert_array_equal(before[:position], after[:position])
    assert np.abs(before[position:] - after[position:]).max(axis=1).min() > 1e-4, (
        "the change must reach this slot and all later ones"
    )


def test_causal_next_item_scores_equal_those_of_the_last_slot(causal_model: Bert4Rec) -> None:
    scores = causal_model.score_next_item(tf.constant([[5, 9, 3, 4], [0, 7, 0, 8], [6, 0, 0, 0]]))
    for history, row in zip(([5, 9, 3, 4], [7, 8], [6]), scores, strict=True):
        np.testing.assert_allclose(row, causal_model(whole_window(np.array(history)))[0, -1], atol=1e-5)


def test_next_item_scores_equal_those_of_an_appended_mask() -> None:
    model = random_model(TWO_LAYERS)
    by_hand = {
        "item_ids": tf.constant([[5, 9, 3, MASK_ID], [7, MASK_ID, 0, 0], [MASK_ID, 0, 0, 0]]),
        "valid_mask": tf.sequence_mask([4, 2, 1], 4),
        "masked_positions": tf.constant([[3], [1], [0]]),
    }
    scores = model.score_next_item(tf.constant([[5, 9, 3], [7, PAD_ID, PAD_ID], [PAD_ID] * 3]))
    np.testing.assert_allclose(scores, model(by_hand)[:, 0], atol=1e-5)
    expected = oracle_logits(paper_weights(model), {name: value.numpy() for name, value in by_hand.items()}, TWO_LAYERS)
    np.testing.assert_allclose(scores, expected[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    "same",
    [
        [5, 9, 3, 0, 0, 0],
        [0, 0, 0, 5, 9, 3],
        [0, 5, 0, 9, 0, 3],
        [5, UNK_ID, 9, MASK_ID, 3, UNK_ID],
        [0, UNK_ID, 5, 9, MASK_ID, 3],
    ],
)
@EITHER_WAY
def test_next_item_skips_padding_and_special_ids(same: list[int], config: ModelConfig) -> None:
    model = random_model(config)
    expected = model.score_next_item(tf.constant([[5, 9, 3]]))
    np.testing.assert_allclose(model.score_next_item(tf.constant([same])), expected, atol=1e-5)


@EITHER_WAY
def test_next_item_uses_the_newest_items_that_fit(config: ModelConfig) -> None:
    model = random_model(config)
    history = np.random.default_rng(2).integers(NUM_SPECIAL_IDS, VOCABULARY_SIZE, 20)
    last = model.score_next_item(tf.constant([history[-(MAX_SEQ_LENGTH - 1) :]], tf.int32))
    with_gaps = np.insert(history, [14, 17, 20], PAD_ID)
    for longer in (history, with_gaps):
        np.testing.assert_allclose(model.score_next_item(tf.constant([longer], tf.int32)), last, atol=1e-5)
    one_less = model.score_next_item(tf.constant([history[-(MAX_SEQ_LENGTH - 2) :]], tf.int32))
    assert np.abs(one_less - last).max() > 0.01


@EITHER_WAY
def test_next_item_of_empty_histories(config: ModelConfig) -> None:
    model = random_model(config)
    no_column = model.score_next_item(tf.zeros([2, 0], tf.int32))
    assert no_column.shape == [2, VOCABULARY_SIZE]
    assert np.isfinite(no_column).all()
    for history in ([0, 0, 0], [UNK_ID, MASK_ID, 0]):
        np.testing.assert_allclose(model.score_next_item(tf.constant([history]))[0], no_column[0], atol=1e-5)


def test_dropout_needs_a_seed_or_training() -> None:
    model, batch = random_model(DROPPING), inputs_of(example_batch())
    plain = model(batch)
    np.testing.assert_array_equal(model(batch, training=False), plain)
    seeded = [model({**batch, "dropout_seed": tf.constant([3, step, 0])}) for step in (1, 1, 2)]
    np.testing.assert_array_equal(seeded[0], seeded[1])
    np.testing.assert_array_equal(model({**batch, "dropout_seed": tf.constant([3, 1, 0])}, training=True), seeded[0])
    unseeded = [model(batch, training=True) for _ in range(2)]
    different = [plain, seeded[0], seeded[2], *unseeded]
    for index, one in enumerate(different):
        for other in different[:index]:
            assert np.abs(one - other).max() > 0.01


def updates_of_one_step(
    config: ModelConfig, batch: dict[str, np.ndarray], jit_compile: bool
) -> tuple[float, list[np.ndarray]]:
    """The loss, and how far SGD at a learning rate of 1 moves each weight: minus its gradient."""
    model = random_model(config)
    before = [variable.numpy() for variable in model.trainable_variables]
    model.compile(tf.keras.optimizers.SGD(1.0), jit_compile=jit_compile)
    logs = model.fit(tf.data.Dataset.from_tensors(batch), verbose=0).history
    after = [variable.numpy() for variable in model.trainable_variables]
    return logs["loss"][0], [new - old for new, old in zip(after, before, strict=True)]


@pytest.mark.parametrize(
    ("config", "batch"),
    [
        (SMALL, example_batch()),
        pytest.param(PRE, example_batch(), marks=pytest.mark.slow),
        (CAUSAL, example_batch()),
        (dataclasses.replace(PREFIX, num_layers=1, block="gated"), prefix_batch()),
        pytest.param(NEIGHBOURS, example_batch(), marks=pytest.mark.slow),
        (dataclasses.replace(UNIT, num_layers=1), example_batch()),
        (ONE_LAYER_WITH_TIMES, with_times(example_batch())),
    ],
    ids=["post", "pre", "causal", "prefix, gated", "neighbours", "unit", "times"],
)
def test_one_update_is_the_gradient_of_the_mean_loss(config: ModelConfig, batch: dict[str, np.ndarray]) -> None:
    # The oracle's gradient along a random direction of each weight, by central differences in float64.
    loss, updates = updates_of_one_step(config, batch, jit_compile=False)
    model = random_model(config)
    values = [np.float64(variable.numpy()) for variable in model.trainable_variables]
    assert loss == pytest.approx(oracle_loss(paper_weights(model), batch, config), abs=1e-5)
    generator, epsilon = np.random.default_rng(3), 1e-5
    for index, (variable, update) in enumerate(zip(model.trainable_variables, updates, strict=True)):
        direction = generator.choice([-1.0, 1.0], variable.shape)
        losses = []
        for sign in (1, -1):
            moved = list(values)
            moved[index] = values[index] + sign * epsilon * direction
            losses.append(oracle_loss(paper_weights(model, moved), batch, config))
        slope = (losses[0] - losses[1]) / (2 * epsilon)
        assert -np.sum(update * direction) == pytest.approx(slope, abs=5e-5), variable.name


def test_a_training_step_has_the_loss_of_a_call_with_the_same_dropout() -> None:
    # The step packs the masked slots before the last feed-forward sublayer; packing must not change the dropout draws.
    batch, config = example_batch(), dataclasses.replace(DROPPING, num_layers=2)
    loss, _ = updates_of_one_step(config, batch, jit_compile=False)
    model = random_model(config)
    logits = model(inputs_of(batch) | {"dropout_seed": tf.constant([model.seed, 0, 0])})
    total, weight = masked_item_loss(logits, batch["masked_item_ids"], batch["masked_weights"])
    assert loss == pytest.approx(float(total / weight), abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [DROPPING, *(pytest.param(config, marks=pytest.mark.slow) for config in (PRE, CAUSAL_DISTANCES))],
    ids=["with dropout", "pre", "causal distances"],
)
def test_positions_are_optional(config: ModelConfig) -> None:
    windows = example_batch()
    without = {
        "item_ids": windows["item_ids"],
        "valid_mask": windows["valid_mask"],
        "masked_item_ids": np.roll(np.maximum(windows["item_ids"], NUM_SPECIAL_IDS), 1, axis=1),
        "masked_weights": windows["valid_mask"].astype(np.float32),
    }
    with_positions = without | {"masked_positions": np.tile(np.arange(7, dtype=np.int32), [4, 1])}
    loss, updates = updates_of_one_step(config, with_positions, jit_compile=False)
    same_loss, same_updates = updates_of_one_step(config, without, jit_compile=False)
    assert same_loss == pytest.approx(loss, abs=1e-6)
    for update, same in zip(updates, same_updates, strict=True):
        np.testing.assert_allclose(same, update, atol=1e-6)
    model = random_model(config)
    np.testing.assert_allclose(
        model({name: without[name] for name in ("item_ids", "valid_mask")}), model(inputs_of(with_positions)), atol=1e-6
    )


def test_empty_rows_change_nothing() -> None:
    batch = example_batch()
    without = {name: value[:3, :] for name, value in batch.items()}
    filled = {name: np.pad(value, [[0, 3], [0, 0]]) for name, value in batch.items()}
    loss, updates = updates_of_one_step(SMALL, without, jit_compile=False)
    filled_loss, filled_updates = updates_of_one_step(SMALL, filled, jit_compile=False)
    assert filled_loss == pytest.approx(loss, abs=1e-6)
    for update, filled_update in zip(updates, filled_updates, strict=True):
        np.testing.assert_allclose(filled_update, update, atol=1e-6)


def test_a_batch_without_a_masked_item_changes_no_weight() -> None:
    batch = {name: np.zeros_like(value) for name, value in example_batch().items()}
    loss, updates = updates_of_one_step(SMALL, batch, jit_compile=False)
    assert loss == 0
    assert all(np.all(update == 0) for update in updates)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [SMALL, DROPPING, CAUSAL],
    ids=["without dropout", "with dropout", "causal"],
)
def test_xla_computes_the_same_step(config: ModelConfig) -> None:
    loss, updates = updates_of_one_step(config, example_batch(), jit_compile=False)
    jit_loss, jit_updates = updates_of_one_step(config, example_batch(), jit_compile=True)
    assert jit_loss == pytest.approx(loss, abs=1e-5)
    for update, jit_update in zip(updates, jit_updates, strict=True):
        np.testing.assert_allclose(jit_update, update, atol=1e-5)


@pytest.mark.parametrize(
    ("attention", "batch", "masked_items", "items"),
    [
        ("bidirectional", ring_batch(), 64, 64 * 6),
        pytest.param("causal", next_item_ring_batch(), 64 * 5, 64 * 5, marks=pytest.mark.slow),
    ],
    ids=["bidirectional", "causal"],
)
def test_plain_fit_learns_a_tiny_log(
    attention: str, batch: dict[str, np.ndarray], masked_items: int, items: int
) -> None:
    config = ModelConfig(hidden_size=32, num_layers=1, initializer_range=0.2, attention=attention)
    model = build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    model.compile(tf.keras.optimizers.Adam(0.01))
    history = model.fit(tf.data.Dataset.from_tensor_slices(batch).batch(64).repeat(60), verbose=0, epochs=2).history
    assert history["loss"][-1] < 0.5
    assert history["masked_items"] == [masked_items, masked_items]
    assert history["items"] == [items, items]
    scores = model.score_next_item(tf.constant([[3, 4, 5], [8, 9, 10]]))
    assert np.argmax(scores, axis=1).tolist() == [6, 11]


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["bidirectional", "prefix"])
def test_eight_gated_blocks_learn(attention: str) -> None:
    config = ModelConfig(
        hidden_size=16,
        num_layers=8,
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm="pre",
        block="gated",
        attention=attention,
        neighbours=0.3,
        initializer_range=0.2,
        dense_initializer="glorot",
    )
    model = build_model(config, VOCABULARY_SIZE, MAX_SEQ_LENGTH)
    model.compile(tf.keras.optimizers.Adam(0.01))
    batch = ring_batch()
    if attention == "prefix":
        batch = next_item_ring_batch() | {"prefix_lengths": np.arange(64, dtype=np.int32)[:, None] % 6}
        batch["masked_weights"] = np.float32(np.arange(5) >= batch["prefix_lengths"] - 1)
    losses = model.fit(tf.data.Dataset.from_tensors(batch).repeat(100), verbose=0, epochs=2).history["loss"]
    assert losses[-1] < 0.2, "ten items, guessed: 2.3"


@pytest.mark.slow
def test_gates_keep_eight_blocks_close_to_the_oracle() -> None:
    config = dataclasses.replace(GATED, num_layers=8, attention="prefix", neighbours=0.3)
    model, batch = random_model(config), prefix_batch()
    np.testing.assert_allclose(
        model(inputs_of(batch))[:3], oracle_logits(paper_weights(model), batch, config), atol=1e-4
    )
