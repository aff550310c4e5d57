"""Measures the time and the memory of a training step for a small and a large catalogue.

python benchmarks/large_catalogues.py
"""

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
_BATCH, _LENGTH, _PREDICTIONS = 128, 50, 15
_STEPS = 20


@command
def main() -> None:
    """Measures each case in its own process, so that the memory of one case does not count for another."""
    for loss in _LOSSES.value:
        found = {}
        for items in map(int, _SIZES.value):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                seconds, beyond, tables = found[items] = pool.apply(measure, (loss, items))
            print(
                f"{loss}, {items:,} items: {1e3 * seconds:.1f} ms a step, {beyond / 2**20:,.0f} MiB beyond "
                f"{tables / 2**20:,.0f} MiB of weights and moments",
                flush=True,
            )
        (few, few_bytes, _), (many, many_bytes, _) = found[min(found)], found[max(found)]
        print(
            f"{loss}: {many / few:.2f} times the time, {many_bytes / few_bytes:.2f} times the memory beyond the tables"
        )


def measure(loss: Literal["softmax", "sampled_softmax", "gbce"], items: int) -> tuple[float, float, float]:
    """Measures one case.

    Returns:
        The median seconds of a step, the bytes that the process grew by without weights and moments, and the bytes of
        weights and moments.
    """
    import numpy as np
    import tensorflow as tf

    from bert4rec_tf.config import ModelConfig, TrainingConfig
    from bert4rec_tf.model.bert4rec import build_model
    from bert4rec_tf.model.sampled_loss import SampledLoss
    from bert4rec_tf.training.optimizer import make_optimizer
    from tfrecords.vocabulary import MASK_ID, NUM_SPECIAL_IDS

    size, random = items + NUM_SPECIAL_IDS, np.random.default_rng(1)
    tf.linalg.matmul(tf.ones([256, 256]), tf.ones([256, 256]))  # allocates what TensorFlow needs in any case
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    training = TrainingConfig(loss=loss, batch_size=_BATCH)
    # Popularity falls with the rank, as in a real catalogue.
    log_popularity = -np.log(np.arange(1, size + 1)).astype(np.float32)
    model = build_model(ModelConfig(dropout=0.2, attention_dropout=0.2), size, _LENGTH)
    optimizer = make_optimizer(training, tf.Variable(1000, dtype=tf.int64))
    optimizer.build(model.trainable_variables)
    sampled = None if loss == "softmax" else SampledLoss(training, log_popularity)
    model.compile(optimizer, jit_compile=True, sampled_loss=sampled)
    step = tf.function(model.update_weights)
    popular = np.exp(log_popularity[NUM_SPECIAL_IDS:].astype(np.float64))
    popular /= popular.sum()
    seconds = []
    for _ in range(_STEPS + 3):
        item_ids = NUM_SPECIAL_IDS + random.choice(items, [_BATCH, _LENGTH], p=popular)
        positions = np.sort(random.permuted(np.tile(np.arange(_LENGTH), [_BATCH, 1]), axis=1)[:, :_PREDICTIONS], axis=1)
        masked = np.take_along_axis(item_ids, positions, axis=1)
        np.put_along_axis(item_ids, positions, MASK_ID, axis=1)
        batch = {
            "item_ids": tf.constant(item_ids, tf.int32),
            "valid_mask": tf.ones([_BATCH, _LENGTH], tf.bool),
            "masked_positions": tf.constant(positions, tf.int32),
            "masked_item_ids": tf.constant(masked, tf.int32),
            "masked_weights": tf.ones([_BATCH, _PREDICTIONS]),
        }
        started = time.perf_counter()
        float(step(batch)["loss"])
        seconds.append(time.perf_counter() - started)
    tables = sum(4 * int(np.prod(variable.shape)) for variable in [*model.variables, *optimizer.variables])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return statistics.median(seconds[3:]), grown - tables, tables


if __name__ == "__main__":
    app.run(main)
