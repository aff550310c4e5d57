"""What a report is about."""

import dataclasses
import pathlib
from typing import Any

from bert4rec_tf.evaluation.user_ranks import UserRanks
from bert4rec_tf.model_dir import TrainedModel
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model, the records it was asked, and what came out.

    Attributes:
        model_dir: of `trained`.
        data_dir: of `manifest` and `vocabulary`, whose titles are shown.
        trained, manifest, vocabulary: loaded from there.
        ranks: with the best items.
        metrics: from `metrics_json`, and "hardware".
    """

    model_dir: pathlib.Path
    data_dir: pathlib.Path
    trained: TrainedModel
    manifest: Manifest
    vocabulary: Vocabulary
    ranks: UserRanks
    metrics: dict[str, Any]

    def protocols(self) -> dict[str, str]:
        """What each protocol ranks the target among."""
        return {"full": "all items", "sampled": f"{self.manifest.config.data.num_negatives} negatives"}
