"""Several model directories as one model."""

import dataclasses
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.model_dir import load_model
from bert4rec_tf.trained_average import TrainedAverage, load_models
from tests.support.model_dirs import CONFIG, VOCABULARY, trained_dir
from tfrecords.errors import InputError
from tfrecords.vocabulary import VOCABULARY_FILE, Vocabulary


@pytest.fixture
def model_dirs(tmp_path: pathlib.Path) -> list[pathlib.Path]:
    first = trained_dir(tmp_path)
    return [first, shutil.copytree(first, tmp_path / "second")]


def test_one_directory_is_a_model_and_several_are_an_average(model_dirs: list[pathlib.Path]) -> None:
    alone = load_models(model_dirs[:1])
    assert not isinstance(alone, TrainedAverage)
    averaged = load_models(model_dirs)
    assert isinstance(averaged, TrainedAverage)
    assert len(averaged.members) == 2
    assert averaged.vocabulary.item_ids == VOCABULARY.item_ids
    assert averaged.config == CONFIG
    histories = tf.constant([[3, 4], [5, 0]])
    scores = [model.model.score_next_item(histories).numpy()[:, 3:] for model in (alone, averaged)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-6)


def test_loaded_models_and_directories_are_averaged_alike(model_dirs: list[pathlib.Path]) -> None:
    loaded = load_model(model_dirs[1])
    averaged = load_models([model_dirs[0], loaded])
    assert isinstance(averaged, TrainedAverage)
    assert averaged.members[1] is loaded
    assert load_models([loaded]) is loaded


def test_the_description_has_each_model(model_dirs: list[pathlib.Path]) -> None:
    described = json.loads(json.dumps(load_models(model_dirs).description()))
    assert described["model_name"] == "average of 2 models (BERT4Rec, Cloze; BERT4Rec, Cloze)"
    assert described["config"] == CONFIG.to_dict()
    assert [member["training"]["step"] for member in described["members"]] == [1, 1]


def test_item_features_are_those_of_the_first_model_with_any(model_dirs: list[pathlib.Path]) -> None:
    averaged, features = load_models(model_dirs), object()
    assert isinstance(averaged, TrainedAverage)
    assert averaged.item_features is None
    second = dataclasses.replace(averaged.members[1], item_features=features)  # type: ignore[arg-type]
    both = dataclasses.replace(averaged, members=(averaged.members[0], second))
    assert both.item_features is features


def test_what_cannot_be_averaged_is_named(model_dirs: list[pathlib.Path]) -> None:
    first, second = model_dirs
    with pytest.raises(InputError, match="At least one model is needed"):
        load_models([])
    with pytest.raises(InputError, match=f"must differ. Received: {first} more than once"):
        load_models([first, second, f"{first}/"])
    other = Vocabulary(("a\tb", "c\n", "d"), np.array([3, 2, 1]), (None,) * 3)
    (second / VOCABULARY_FILE).write_bytes(other.to_bytes())
    with pytest.raises(InputError, match=f"must have the same items. Received: {first} and {second}, which differ"):
        load_models(model_dirs)
    with pytest.raises(InputError, match="Received: model 1 and model 2"):
        load_models([load_model(first), load_model(second)])
    with pytest.raises(InputError, match="its own vocabulary"):
        load_models([first]).check_vocabulary(other, "other records")
