"""Training and evaluation by one call each."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import tensorflow as tf

from bert4rec_tf.api.auto_recipe import AUTO, training_settings
from bert4rec_tf.api.evaluation_records import EvaluationRecords
from bert4rec_tf.api.recipes import ConfigLike, settings_of
from bert4rec_tf.api.records import Path
from bert4rec_tf.config import EvaluationConfig
from bert4rec_tf.evaluation.user_ranks import users_table
from bert4rec_tf.model_dir import TrainedModel
from bert4rec_tf.training import trainer
from bert4rec_tf.training.strategy import make_strategy
from tfrecords.manifest import Manifest

if TYPE_CHECKING:
    import pandas as pd


def train(
    data_dir: Path,
    model_dir: Path,
    config: ConfigLike = None,
    *,
    strategy: str | tf.distribute.Strategy = "default",
    time_limit_minutes: float | None = None,
    warm_start_from: Path | None = None,
) -> TrainedModel | None:
    """Trains a model on the records of `build_records`, as `train.py` does. The same call again resumes the run.

    Args:
        data_dir: from `build_records`, here or in an object store.
        model_dir: new, or of an earlier call with the same configuration and records; here or in an object store.
        config: its sections `model`, `training` and `evaluation` are used: a `Config`, a dict of sections, the path of
            a JSON file, the name of a recipe, or "auto", which chooses by the records. Sections `data` and `masking`,
            where given, must be those of the records.
        strategy: "default", "mirrored" or another of `train.py --strategy`, or a `tf.distribute` strategy.
        time_limit_minutes: of the whole run, earlier calls included; the learning rate's decay is fitted to it.
        warm_start_from: a model directory to start from.

    Returns:
        The model with the weights of its best validation; None in a process that is not the chief.

    Raises:
        InputError: settings that do not fit the records or the model directory, or damaged records.
        Stopped: Ctrl-C or SIGTERM; the run is saved, and the same call resumes it.

    The same call after the end of the run loads its model:

    >>> trained = train("data", "model", config)
    training BERT4Rec, random prefix
    model is trained already. ...
    >>> trained.state["step"]
    60
    """
    if isinstance(strategy, str):
        strategy = make_strategy(strategy)
    start = None if warm_start_from is None else os.fspath(warm_start_from)
    settings = training_settings(Manifest.load(data_dir), {}) if config == AUTO else settings_of(config)
    return trainer.train(os.fspath(data_dir), os.fspath(model_dir), settings, strategy, time_limit_minutes, start)


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How well the held-out items were ranked.

    Attributes:
        metrics: the content of `evaluate.py`'s metrics.json: "full" over all items, "sampled" over the negatives, with
            intervals, slices and the catalogue's metrics.
        users: one row a user: the ranks of the target and the recommended items.

    >>> print(evaluation)
    20 users, all items: hr@10 1.0000, ndcg@10 1.0000
    >>> sorted(evaluation.metrics["full"])
    ['ci95', 'hr@1', 'hr@10', 'hr@5', 'mrr', 'ndcg@10', 'ndcg@5']
    >>> evaluation.users.num_rows
    20
    """

    metrics: dict[str, Any]
    users: pa.Table

    def to_pandas(self) -> "pd.DataFrame":
        """The table of users as a pandas frame, which needs pandas.

        >>> evaluation.to_pandas()[["user_id", "full_rank", "target_item_id"]].head(2)
          user_id  full_rank target_item_id
        0  user-0          1              6
        1  user-1          1              7
        """
        return self.users.to_pandas()

    def __str__(self) -> str:
        full = ", ".join(f"{name} {self.metrics['full'][name]:.4f}" for name in ("hr@10", "ndcg@10"))
        return f"{self.metrics['users']:,} users, all items: {full}"


def evaluate(
    model: Path | TrainedModel | Literal["popularity"] | Sequence[Path | TrainedModel],
    data_dir: Path,
    *,
    split: Literal["test", "validation"] = "test",
    drop_seen: bool | None = None,
    target_time: bool | None = None,
) -> Evaluation:
    """Ranks the held-out item of each user, as `evaluate.py` does.

    Args:
        model: a model directory, here or in an object store; what `train` returned; several of them, whose scores are
            averaged; or "popularity", the baseline.
        data_dir: the records that it was trained on.
        split: whose items are ranked. Models are chosen on "validation", and reported on "test".
        drop_seen: whether items of the history are left out of the ranking; None: as the model was configured.
        target_time: whether a model with `model.request_time` is told the time of the target; None: as it was
            configured. Of several models the first one's settings decide.

    Raises:
        InputError: a model of another vocabulary, damaged records, or `target_time` for a model without
            `model.request_time`.

    >>> print(evaluate("popularity", "data", split="validation"))
    20 users, all items: hr@10 1.0000, ndcg@10 0.6936
    """
    records = EvaluationRecords.open(data_dir, "call it again when the records are complete")
    models = [model] if isinstance(model, str | os.PathLike | TrainedModel) else model
    system = "popularity" if model == "popularity" else records.load_models(models)
    rules = EvaluationConfig() if isinstance(system, str) else system.config.evaluation
    given = {"drop_seen": drop_seen, "target_time": target_time}
    rules = dataclasses.replace(rules, **{name: value for name, value in given.items() if value is not None})
    ranks, metrics = records.evaluate(system, split, rules)
    return Evaluation(metrics, users_table(ranks, records.vocabulary))
