"""Embeddings of windows against the sum of two table rows."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model.embeddings import ItemAndPositionEmbedding
from tests.support.small_models import MAX_SEQ_LENGTH, SMALL, VOCABULARY_SIZE
from tests.support.variable_reads import is_read_without_a_copy
from tfrecords.vocabulary import PAD_ID

WINDOWS = np.array([[5, 9, 3, 7], [4, 8, PAD_ID, PAD_ID], [PAD_ID] * 4])


@pytest.mark.parametrize(
    ("positions", "position_of_slot"),
    [
        ("from_oldest", [[0, 1, 2, 3], [0, 1], []]),
        ("from_newest", [[3, 2, 1, 0], [1, 0], []]),
        ("none", [[None] * 4, [None] * 2, []]),
    ],
)
def test_an_embedding_is_the_sum_of_item_and_position(positions: str, position_of_slot: list[list[int | None]]) -> None:
    config = dataclasses.replace(SMALL, positions=positions)
    embedding = ItemAndPositionEmbedding(VOCABULARY_SIZE, MAX_SEQ_LENGTH, config, seed=1)
    found = embedding(tf.constant(WINDOWS), tf.constant(WINDOWS != PAD_ID)).numpy()
    assert found.shape == (3, 4, SMALL.hidden_size)
    assert np.isfinite(found).all()
    assert (positions == "none") == (len(embedding.weights) == 1)
    for row, its_positions in enumerate(position_of_slot):
        for slot, position in enumerate(its_positions):
            expected = embedding.item_table.numpy()[WINDOWS[row, slot]]
            if position is not None:
                expected = expected + embedding.position_table.numpy()[position]
            np.testing.assert_allclose(found[row, slot], expected, atol=1e-6)


def test_a_layer_norm_follows_the_sum() -> None:
    config = dataclasses.replace(SMALL, embedding_layer_norm=True)
    embedding = ItemAndPositionEmbedding(VOCABULARY_SIZE, MAX_SEQ_LENGTH, config, seed=1)
    found = embedding(tf.constant(WINDOWS), tf.constant(WINDOWS != PAD_ID)).numpy()
    np.testing.assert_allclose(found.mean(axis=2), 0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=2), 1, atol=1e-3)


def test_an_answer_leaves_the_item_table_readable_without_a_copy() -> None:
    # A gather from the variable itself makes TensorFlow copy the whole table at each later read: of a million items at
    # each request.
    embedding = ItemAndPositionEmbedding(VOCABULARY_SIZE, MAX_SEQ_LENGTH, SMALL, seed=1)
    embedding(tf.constant(WINDOWS), tf.constant(WINDOWS != PAD_ID))
    assert is_read_without_a_copy(embedding.item_table)
    tf.gather(embedding.item_table, [0])
    assert not is_read_without_a_copy(embedding.item_table)


def test_the_item_table_of_a_model_to_be_loaded_starts_at_zero() -> None:
    embedding, drawn = (  # the starting weights depend on the name
        ItemAndPositionEmbedding(VOCABULARY_SIZE, MAX_SEQ_LENGTH, SMALL, seed=1, draw_items=draw, name="embedding")
        for draw in (False, True)
    )
    for layer in (embedding, drawn):
        layer(tf.constant(WINDOWS), tf.constant(WINDOWS != PAD_ID))
    assert not embedding.item_table.numpy().any()
    np.testing.assert_array_equal(embedding.position_table, drawn.position_table)
