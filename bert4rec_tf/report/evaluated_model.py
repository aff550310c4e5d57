"""The subject of a report: a model and its evaluation."""

import dataclasses
import datetime
import pathlib
from typing import Any

from bert4rec_tf.evaluation.comparison import Run
from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.model_dir import TrainedModel
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model, the records it was evaluated on, and the results.

    Attributes:
        model_dir: the directory of `trained`.
        data_dir: the directory of `manifest` and `vocabulary`; the report shows the titles of this vocabulary.
        trained, manifest, vocabulary: loaded from these directories.
        ranks: the ranks of all users, with the best items.
        metrics: from `metrics_json`, and "hardware".
        second_run: another evaluation of the same users, to show beside this one.
        evaluated_at: the time of the evaluation, UTC.
    """

    model_dir: pathlib.Path
    data_dir: pathlib.Path
    trained: TrainedModel
    manifest: Manifest
    vocabulary: Vocabulary
    ranks: UserRanks
    metrics: dict[str, Any]
    second_run: Run | None = None
    evaluated_at: datetime.datetime = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.timezone.utc)
    )

    def protocols(self) -> dict[str, str]:
        """The candidates of each protocol, in words."""
        return {"full": "all items", "sampled": f"{self.manifest.config.data.num_negatives} negatives"}
