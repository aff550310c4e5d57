"""The steps from a data directory to metrics, which `evaluate.py` and `bert4rec_tf.evaluate` share."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from bert4rec_tf.config import EvaluationConfig
from bert4rec_tf.evaluation.baselines import baseline_scorer
from bert4rec_tf.evaluation.evaluate import Scorer, choose_times, evaluate, make_ranker
from bert4rec_tf.evaluation.list_ranker import ListRanker, ListsOf
from bert4rec_tf.evaluation.metrics import TOP_K
from bert4rec_tf.evaluation.results import metrics_json
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.model_dir import TrainedModel
from bert4rec_tf.trained_average import TrainedAverage, load_models
from pipelines.sources.synthetic import MarkovLog
from tfrecords.item_features import ItemFeatures
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.record_store import local_records
from tfrecords.store_cache import showing
from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class OtherSystem:
    """A recommender that is no model of this package.

    Attributes:
        origin: names it in messages.
        description: the content of metrics.json's "model".
        lists_of: what it recommends.
        reads_histories: whether `lists_of` looks at the histories.
    """

    origin: str
    description: dict[str, Any]
    lists_of: ListsOf
    reads_histories: bool


@dataclasses.dataclass(frozen=True)
class EvaluationRecords:
    """A data directory whose files were compared with its manifest.

    Attributes:
        data_dir: the directory.
        manifest, vocabulary: loaded from it.
        verified: the files, which must not change while they are read.
    """

    data_dir: str
    manifest: Manifest
    vocabulary: Vocabulary
    verified: VerifiedRecords

    @classmethod
    def open(cls, data_dir: str | pathlib.Path, fix: str) -> "EvaluationRecords":
        """Opens a data directory.

        Args:
            data_dir: made by `build_records`, here or in an object store, of which a copy is read.
            fix: what to do if the records change meanwhile, for the message.

        Raises:
            InputError: no data directory, or a damaged one.
        """
        local = local_records(data_dir)
        with showing(str(data_dir), local):
            manifest = Manifest.load(local)
            verified = VerifiedRecords(local, manifest, fix)
            return cls(os.fspath(local), manifest, Vocabulary.load(local), verified)

    def load_models(self, models: Sequence[str | pathlib.Path | TrainedModel]) -> TrainedModel | TrainedAverage:
        """Loads one model of the same vocabulary, or several as their average. Loaded models are taken as they are.

        Raises:
            InputError: no model, or a model of other items.
        """
        trained = load_models(models)
        named = next((os.fspath(model) for model in models if not isinstance(model, TrainedModel)), "the model")
        trained.check_vocabulary(self.vocabulary, f"{named} and {self.data_dir}")
        return trained

    def evaluate(
        self, system: TrainedModel | TrainedAverage | OtherSystem | str, split: str, rules: EvaluationConfig
    ) -> tuple[UserRanks, dict[str, Any]]:
        """Ranks the held-out item of each user.

        Args:
            system: a model with this vocabulary, an average of such models, another system, or the name of a baseline.
            split: "test" or "validation".
            rules: how targets are ranked.

        Returns:
            The ranks of all users, and the content of metrics.json without "hardware".

        Raises:
            InputError: the records changed or lack times, "optimum" on a log whose optimum is unknown,
                "category_popularity" of items without categories, or `evaluation.target_time` with a system that
                takes no request time.
        """
        if isinstance(system, OtherSystem):
            return self._evaluate_lists(system, split, rules)
        scorer: Scorer
        if isinstance(system, TrainedModel | TrainedAverage):
            model = system.model
            scorer, description, max_items = model.score_next_item, system.description(), model.max_seq_length - 1
            takes = model.uses_times, model.takes_request_time
        else:
            scorer = baseline_scorer(
                system,
                self.vocabulary,
                lambda: MarkovLog.from_description(self.manifest.source),
                lambda: ItemFeatures.load(self.data_dir),
            )
            description, max_items = {"baseline": system}, 1  # no baseline reads more than the last item
            takes = False, False
        times = choose_times(*takes, self.manifest.has_times, rules.target_time)
        with self.verified.unchanged():
            ranker = make_ranker(scorer, TOP_K, rules.drop_seen, times)
            ranks = evaluate(ranker, self.data_dir, self.manifest, split, max_items=max_items)
        choices = rules.drop_seen, rules.target_time
        return ranks, metrics_json(ranks, description, self.manifest, self.vocabulary, split, *choices)

    def _evaluate_lists(
        self, system: OtherSystem, split: str, rules: EvaluationConfig
    ) -> tuple[UserRanks, dict[str, Any]]:
        choose_times(False, False, self.manifest.has_times, rules.target_time)
        ranker = ListRanker(system.lists_of, self.vocabulary, rules.drop_seen, system.origin)
        max_items = None if system.reads_histories else 1
        with self.verified.unchanged():
            ranks = evaluate(ranker, self.data_dir, self.manifest, split, max_items=max_items)
        return ranks, metrics_json(ranks, system.description, self.manifest, self.vocabulary, split, rules.drop_seen)
