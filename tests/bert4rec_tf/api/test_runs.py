"""Training and evaluation by one call each."""

import pathlib

import numpy as np
import pytest

import bert4rec_tf


@pytest.mark.slow
def test_an_evaluation_has_metrics_and_users(model_dir: pathlib.Path, data_dir: pathlib.Path) -> None:
    found = bert4rec_tf.evaluate(model_dir, data_dir)
    assert found.metrics["users"] == found.users.num_rows == 40
    ranks = found.users["full_rank"].to_numpy()
    assert found.metrics["full"]["hr@10"] == pytest.approx(np.mean(ranks <= 10))
    assert "40 users" in str(found)
    popular = bert4rec_tf.evaluate("popularity", data_dir, split="validation")
    assert popular.metrics["model"] == {"baseline": "popularity"}
    loaded = bert4rec_tf.load_model(model_dir)
    other = bert4rec_tf.evaluate(loaded, data_dir)
    assert other.users.equals(found.users)
    averaged = bert4rec_tf.evaluate([model_dir, loaded], data_dir)
    assert averaged.users["full_rank"].equals(found.users["full_rank"]), "the mean of two equal models"
    assert len(averaged.metrics["model"]["members"]) == 2
