"""An exported version whose model takes times and whose items have categories."""

import pathlib

import tensorflow as tf

from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.warmup import write_warm_up
from tests.support.made_up_features import COUNTS, made_up_features
from tests.support.small_models import PREFIX_TIMES, random_model
from tests.support.tiny_version import TOP_K
from tfrecords.vocabulary import Vocabulary


def write_version_with_times_and_categories(path: pathlib.Path) -> None:
    """Writes a version that takes times, with random weights and the items and categories of `made_up_features`."""
    features, model = made_up_features(), random_model(PREFIX_TIMES)
    vocabulary = Vocabulary(features.item_ids, COUNTS, (None,) * len(COUNTS))
    recommender = Recommender(model, vocabulary, TOP_K, item_features=features)
    building = path.with_name(f".tmp-{path.name}")
    tf.saved_model.save(recommender, str(building), signatures=recommender.signatures())
    (building / "assets.extra").mkdir()
    (building / "assets.extra" / "vocabulary.jsonl").write_bytes(vocabulary.to_bytes())
    write_warm_up(building, vocabulary, model.max_seq_length, with_filters=True, with_times=True)
    building.rename(path)
