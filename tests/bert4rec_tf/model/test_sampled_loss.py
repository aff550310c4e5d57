"""Losses over a sample of the items: against NumPy, against the full softmax, their draws, and what a step touches."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig, TrainingConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.model.losses import gbce_beta, gbce_loss, sampled_softmax_loss
from bert4rec_tf.model.sampled_loss import SampledLoss
from bert4rec_tf.training.optimizer import make_optimizer
from tests.support.numpy_bert4rec import log_softmax
from tests.support.ring_log import next_item_ring_batch, ring_batch
from tfrecords.vocabulary import NUM_SPECIAL_IDS

WEIGHTS = np.array([1, 1, 0, 1], np.float32)
LOSSES = ["sampled_softmax", "gbce"]


def sampler(loss: str, popularity: list[float], sampled_items: int = 4) -> SampledLoss:
    """`popularity` of the items, the special ids before them left out."""
    shares = np.concatenate([np.ones(NUM_SPECIAL_IDS), popularity])
    config = TrainingConfig(loss=loss, sampled_items=sampled_items)
    return SampledLoss(config, np.log(shares / shares.sum()).astype(np.float32))


def test_sampling_all_other_items_gives_the_full_softmax() -> None:
    logits, item_ids = np.random.default_rng(1).normal(0, 2, [4, 9]), np.array([2, 0, 5, 8])
    others = np.stack([np.delete(row, item) for row, item in zip(logits, item_ids, strict=True)])
    positives = logits[np.arange(4), item_ids]
    total = sampled_softmax_loss(*as_tensors(positives, others, np.zeros(8), WEIGHTS))
    expected = -np.sum(log_softmax(logits)[np.arange(4), item_ids] * WEIGHTS)
    np.testing.assert_allclose(total, expected, rtol=1e-5)


@pytest.mark.parametrize("sampled_items", [3, 30])
def test_the_expected_denominator_is_the_full_one(sampled_items: int) -> None:
    popularity = [8.0, 4.0, 2.0, 1.0, 1.0, 0.5]
    loss = sampler("sampled_softmax", popularity, sampled_items)
    logits, positive = np.array([0.0] * NUM_SPECIAL_IDS + [0.3, -1.0, 0.5, 1.2, -0.4, 0.9]), NUM_SPECIAL_IDS + 3

    @tf.function
    def loss_of(step: tf.Tensor) -> tf.Tensor:
        drawn = loss.draw(step)
        batch = {"masked_item_ids": tf.constant([[positive]]), "masked_weights": tf.ones([1, 1]), **drawn}
        scores = tf.constant(logits, tf.float32)
        return loss(scores[positive : positive + 1], tf.gather(scores, drawn["sampled_item_ids"])[None, :], batch)[0]

    estimates = [np.exp(float(loss_of(tf.constant(step))) + logits[positive]) for step in range(1500)]
    expected = np.exp(logits[NUM_SPECIAL_IDS:]).sum()
    assert np.mean(estimates) == pytest.approx(expected, abs=4.5 * np.std(estimates) / np.sqrt(1500))
    assert np.std(estimates) / np.sqrt(1500) < 0.06 * expected, "otherwise the line above would test nothing"


def test_gbce_is_the_papers_equation() -> None:
    generator = np.random.default_rng(1)
    positives, negatives = generator.normal(0, 2, [4]), generator.normal(0, 2, [4, 6])

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    each = -(np.log(sigmoid(positives) ** 0.3) + np.log(1 - sigmoid(negatives)).sum(axis=1))
    positives_, negatives_, weights_ = as_tensors(positives, negatives, WEIGHTS)
    np.testing.assert_allclose(gbce_loss(positives_, negatives_, 0.3, weights_), np.sum(each * WEIGHTS), rtol=1e-5)


def test_gbces_power() -> None:
    assert gbce_beta(0.0, negatives=10, items=101) == pytest.approx(1), "plain binary cross-entropy"
    assert gbce_beta(1.0, negatives=10, items=101) == pytest.approx(0.1), "the share of the items that is drawn"
    assert gbce_beta(0.75, negatives=256, items=3417) == pytest.approx(256 / 3416 * (0.75 * (1 - 3416 / 256)) + 1)
    assert gbce_beta(0.5, negatives=500, items=10) == pytest.approx(1)


@pytest.mark.parametrize(("loss", "expected"), [("sampled_softmax", [0.5, 0.25, 0.125, 0.125]), ("gbce", [0.25] * 4)])
def test_draws_follow_their_distribution_without_special_ids(loss: str, expected: list[float]) -> None:
    made, number = sampler(loss, [8, 4, 2, 2], sampled_items=20_000), 20_000
    drawn = made.draw(tf.constant(5))
    counts = np.bincount(drawn["sampled_item_ids"], minlength=7)
    assert counts[:NUM_SPECIAL_IDS].sum() == 0
    assert len(counts) == 7
    for count, share in zip(counts[NUM_SPECIAL_IDS:], expected, strict=True):
        assert count == pytest.approx(number * share, abs=4.5 * np.sqrt(number * share))
    shares = np.array(expected)[drawn["sampled_item_ids"].numpy() - NUM_SPECIAL_IDS]
    np.testing.assert_allclose(drawn["log_expected_counts"], np.log(number * shares), rtol=1e-5)
    np.testing.assert_array_equal(made.draw(tf.constant(5))["sampled_item_ids"], drawn["sampled_item_ids"])
    assert np.any(made.draw(tf.constant(6))["sampled_item_ids"] != drawn["sampled_item_ids"])


def test_the_last_of_many_items_can_be_drawn() -> None:
    # A share of 1e-9 at the end of the line is lost in single precision.
    made = sampler("sampled_softmax", [1e9] + [1.0] * 4, sampled_items=10)
    assert np.all(np.diff(made._cumulative.numpy()[NUM_SPECIAL_IDS:]) > 0)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_drawn_item_that_is_the_masked_one_does_not_count(loss: str) -> None:
    made = sampler(loss, [1.0] * 4, sampled_items=2)
    batch = {
        "masked_item_ids": tf.constant([[5]]),
        "masked_weights": tf.ones([1, 1]),
        "sampled_item_ids": tf.constant([5, 4]),
        "log_expected_counts": tf.zeros([2]),
    }
    totals = [float(made(tf.constant([0.5]), tf.constant([[logit, 1.0]]), batch)[0]) for logit in (0.5, 40.0)]
    assert totals[0] == pytest.approx(totals[1])


def ring_model(
    loss: str, jit_compile: bool = False, attention: str = "bidirectional"
) -> tuple[Bert4Rec, dict[str, np.ndarray]]:
    """A model over 40 items, and a batch over ten of them."""
    config = ModelConfig(hidden_size=32, num_layers=1, initializer_range=0.2, attention=attention)
    model = build_model(config, 43, 8)
    training = TrainingConfig(loss=loss, sampled_items=16, learning_rate=0.01, warmup_steps=0, schedule="constant")
    optimizer = make_optimizer(training, tf.Variable(1000, dtype=tf.int64))
    made = SampledLoss(training, np.log(np.concatenate([np.ones(13), np.full(30, 0.02)])).astype(np.float32))
    model.compile(optimizer, jit_compile=jit_compile, sampled_loss=None if loss == "softmax" else made)
    return model, ring_batch() if attention == "bidirectional" else next_item_ring_batch()


@pytest.mark.parametrize(
    ("loss", "jit_compile"),
    [
        (LOSSES[0], False),
        *(
            pytest.param(loss, jit_compile, marks=pytest.mark.slow)
            for loss, jit_compile in itertools.product(LOSSES, [True, False])
            if (loss, jit_compile) != (LOSSES[0], False)
        ),
    ],
)
def test_a_step_updates_only_the_rows_of_its_items(loss: str, jit_compile: bool) -> None:
    model, batch = ring_model(loss, jit_compile)
    before = model.embedding.item_table.numpy(), model.head.output_bias.numpy()
    drawn = model._sampled_loss.draw(tf.constant(0))["sampled_item_ids"].numpy()
    model.fit(tf.data.Dataset.from_tensors(batch), verbose=0)
    changed = np.any(model.embedding.item_table.numpy() != before[0], axis=1)
    of_batch = np.union1d(np.union1d(batch["item_ids"], batch["masked_item_ids"]), drawn)
    np.testing.assert_array_equal(np.flatnonzero(changed), of_batch)
    scored = np.union1d(batch["masked_item_ids"], drawn)
    np.testing.assert_array_equal(np.flatnonzero(model.head.output_bias.numpy() != before[1]), scored)
    assert len(of_batch) < 43, "otherwise this tests nothing"


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_it_learns(loss: str, attention: str) -> None:
    model, batch = ring_model(loss, jit_compile=True, attention=attention)
    model.fit(tf.data.Dataset.from_tensors(batch).repeat(1250), verbose=0)
    inputs = {name: tf.constant(values) for name, values in batch.items()}
    assert np.mean(np.argmax(model(inputs), axis=2) == batch["masked_item_ids"]) > 0.9


def as_tensors(*values: np.ndarray) -> list[tf.Tensor]:
    return [tf.constant(value, tf.float32) for value in values]
