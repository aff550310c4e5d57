"""A small log to evaluate on, its optimum, and the ranks of its users."""

import pathlib

from bert4rec_tf.config import Config
from bert4rec_tf.evaluation.baselines import transition_scorer
from bert4rec_tf.evaluation.evaluate import Scorer, evaluate, make_ranker
from bert4rec_tf.evaluation.user_ranks import UserRanks
from pipelines.sources.synthetic import MarkovLog
from tfrecords.config import DataConfig, MaskingConfig
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary

LOG = MarkovLog(num_users=200, num_items=60, num_themes=6, min_events=5, max_events=20)
CONFIG = Config(
    data=DataConfig(max_seq_length=12, min_user_events=3, num_negatives=15, num_shards=2),
    masking=MaskingConfig(duplicate_factor=1),
)


def optimum(vocabulary: Vocabulary) -> Scorer:
    return transition_scorer(LOG.transitions(), vocabulary, LOG.item_ids())


def ranks_of(
    data_dir: pathlib.Path, scorer: Scorer, split: str = "test", max_users: int | None = None, top_k: int = 0
) -> UserRanks:
    return evaluate(make_ranker(scorer, top_k), data_dir, Manifest.load(data_dir), split, max_users)
