"""A second runtime: OpenVINO gives the answers that a served model gives in TensorFlow."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.config import ModelConfig
from bert4rec_tf.model.bert4rec import build_model
from bert4rec_tf.serving.recommender import Recommender
from tests.support.integer_graph import IntegerGraph, openvino_answer
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

pytest.importorskip("openvino", reason="requirements-dev.txt installs OpenVINO")
ITEMS, LENGTH, USERS, K = 200, 12, 500, 10
VOCABULARY = Vocabulary(tuple(f"item {item}" for item in range(ITEMS)), np.arange(ITEMS, 0, -1), (None,) * ITEMS)
KINDS = {
    "the paper's": {},
    "prefix": {"attention": "prefix", "layer_norm": "pre", "positions": "none", "relative_distances": 5},
    "left to right, gated": {"attention": "causal", "layer_norm": "pre", "block": "gated", "neighbours": 0.3},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_openvino_gives_the_served_answers(kind: str, tmp_path: pathlib.Path) -> None:
    config = ModelConfig(hidden_size=16, num_heads=2, num_layers=2, initializer_range=0.5, **KINDS[kind])
    model = build_model(config, VOCABULARY.size, LENGTH, seed=3)
    IntegerGraph(model, VOCABULARY, K).save(tmp_path / "graph")
    answer = openvino_answer(tmp_path / "graph")
    served = Recommender(model, VOCABULARY, top_k=K).signatures()["serving_default"]
    generator = np.random.default_rng(1)
    names = np.array([""] * NUM_SPECIAL_IDS + list(VOCABULARY.item_ids))
    for length in (1, 7, 2 * LENGTH):  # shorter and longer than the model's context, with padding anywhere
        histories = generator.integers(NUM_SPECIAL_IDS, VOCABULARY.size, [USERS, length]).astype(np.int32)
        histories[generator.random(histories.shape) < 0.3] = PAD_ID
        scores, ids = answer(histories)
        expected = served(tf.constant(names[histories]))
        assert names[ids].tolist() == expected["item_ids"].numpy().astype(str).tolist()
        np.testing.assert_allclose(scores, expected["scores"], rtol=1e-4, atol=1e-4)
