"""Measures the time and the memory of a training step for a small and a large catalogue, and with item features.

python benchmarks/large_catalogues.py
python benchmarks/large_catalogues.py --item_features
"""

import dataclasses
import multiprocessing
import os
import pathlib
import resource
import statistics
import sys
import time
from typing import Literal

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command

_SIZES = flags.DEFINE_list("items", ["10000", "1000000"], "numbers of items to compare")
_LOSSES = flags.DEFINE_list("losses", ["sampled_softmax", "gbce"], "values of training.loss to measure")
_FEATURES = flags.DEFINE_bool(
    "item_features", False, "compare items of five features with items without any, instead of numbers of items"
)
_MASKED = 0.3  # share of the slots
_STEPS = 20


@command
def main() -> None:
    """Measures each case in its own process, so that the memory of one case does not count for another."""
    sizes = list(map(int, _SIZES.value))
    for loss in _LOSSES.value:
        if _FEATURES.value:
            for items in sizes:
                without, with_features = _measured(loss, items), _measured(loss, items, features=True)
                memory = [beyond + tables for _, beyond, tables in (without, with_features)]
                print(
                    f"{loss}, {items:,} items, five features: {with_features[0] / without[0]:.2f} times the time, "
                    f"{memory[1] / memory[0]:.2f} times the memory with weights and moments"
                )
            continue
        found = {items: _measured(loss, items) for items in sizes}
        (few, few_bytes, _), (many, many_bytes, _) = found[min(found)], found[max(found)]
        print(
            f"{loss}: {many / few:.2f} times the time, {many_bytes / few_bytes:.2f} times the memory beyond the tables"
        )


def _measured(loss: str, items: int, features: bool = False) -> tuple[float, float, float]:
    """`measure` in a process of its own, and printed."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        seconds, beyond, tables = pool.apply(measure, (loss, items, features))
    print(
        f"{loss}, {items:,} items{' of five features' if features else ''}: {1e3 * seconds:.1f} ms a step, "
        f"{beyond / 2**20:,.0f} MiB beyond {tables / 2**20:,.0f} MiB of weights and moments",
        flush=True,
    )
    return seconds, beyond, tables


def measure(
    loss: Literal["softmax", "sampled_softmax", "gbce"],
    items: int,
    features: bool,
    length: int = 50,
    batch_size: int = 128,
    hidden_size: int = 64,
) -> tuple[float, float, float]:
    """Measures one case.

    Args:
        loss: the training loss.
        items: their number.
        features: whether they have five: a brand of 10,000, a category of 1,000, up to four tags of 200, a number, and
            a vector of 64.
        length: N.
        batch_size: windows of N items.
        hidden_size: d.

    Returns:
        The median seconds of a step, the bytes that the process grew by without weights and moments, and the bytes of
        weights and moments.
    """
    import numpy as np
    import tensorflow as tf

    from bert4rec_tf.config import ModelConfig, TrainingConfig
    from bert4rec_tf.model.bert4rec import build_model
    from bert4rec_tf.model.item_features import FeatureArrays
    from bert4rec_tf.model.sampled_loss import SampledLoss
    from bert4rec_tf.training.optimizer import make_optimizer
    from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

    size, random = items + NUM_SPECIAL_IDS, np.random.default_rng(1)
    tf.linalg.matmul(tf.ones([256, 256]), tf.ones([256, 256]))  # allocates what TensorFlow needs in any case
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    training = TrainingConfig(loss=loss, batch_size=batch_size)
    # Popularity falls with the rank, as in a real catalogue.
    log_popularity = -np.log(np.arange(1, size + 1)).astype(np.float32)
    config, arrays = ModelConfig(hidden_size=hidden_size, dropout=0.2, attention_dropout=0.2), None
    predictions = round(_MASKED * length)
    if features:
        config = dataclasses.replace(config, item_features="sum")
        arrays = FeatureArrays(
            categories=tuple(
                random.integers(0, rows, [size, width], np.int32) for rows, width in ((10_002, 1), (1_002, 1), (202, 4))
            ),
            category_rows=(10_002, 1_002, 202),
            numbers=random.standard_normal([size, 1], np.float32),
            numbers_present=np.ones([size, 1], np.float32),
            vectors=(random.standard_normal([size, 64], np.float32),),
            cold=np.zeros(size, bool),
        )
    model = build_model(config, size, length, item_features=arrays)
    del arrays
    optimizer = make_optimizer(training, tf.Variable(1000, dtype=tf.int64))
    optimizer.build(model.trainable_variables)
    sampled = None if loss == "softmax" else SampledLoss(training, log_popularity)
    model.compile(optimizer, jit_compile=True, sampled_loss=sampled)
    step = tf.function(model.update_weights, autograph=False)
    popular = np.exp(log_popularity[NUM_SPECIAL_IDS:].astype(np.float64))
    popular /= popular.sum()
    seconds = []
    for _ in range(_STEPS + 3):
        item_ids = NUM_SPECIAL_IDS + random.choice(items, [batch_size, length], p=popular)
        slots = np.tile(np.arange(length), [batch_size, 1])
        positions = np.sort(random.permuted(slots, axis=1)[:, :predictions], axis=1)
        masked = np.take_along_axis(item_ids, positions, axis=1)
        np.put_along_axis(item_ids, positions, MASK_ID, axis=1)
        batch = {
            "item_ids": tf.constant(item_ids, tf.int32),
            "valid_mask": tf.ones([batch_size, length], tf.bool),
            "masked_positions": tf.constant(positions, tf.int32),
            "masked_item_ids": tf.constant(masked, tf.int32),
            "masked_weights": tf.ones([batch_size, predictions]),
        }
        started = time.perf_counter()
        float(step(batch)["loss"])
        seconds.append(time.perf_counter() - started)
    tables = sum(4 * int(np.prod(variable.shape)) for variable in [*model.variables, *optimizer.variables])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return statistics.median(seconds[3:]), grown - tables, tables


if __name__ == "__main__":
    app.run(main)
