"""An exported version whose model takes times and whose items have categories."""

import pathlib

from bert4rec_tf.serving.recommender import Recommender
from tests.support.made_up_features import COUNTS, made_up_features
from tests.support.small_models import PREFIX_TIMES, random_model
from tests.support.tiny_version import TOP_K, save_version
from tfrecords.vocabulary import Vocabulary


def write_version_with_times_and_categories(path: pathlib.Path) -> None:
    """Writes a version that takes times, with random weights and the items and categories of `made_up_features`."""
    features, model = made_up_features(), random_model(PREFIX_TIMES)
    vocabulary = Vocabulary(features.item_ids, COUNTS, (None,) * len(COUNTS))
    recommender = Recommender(model, vocabulary, TOP_K, item_features=features)
    save_version(path, recommender, vocabulary, model.max_seq_length, with_filters=True, with_times=True)
