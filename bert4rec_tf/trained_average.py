"""Several model directories as one model, which averages their scores."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from bert4rec_tf.config import Config
from bert4rec_tf.model.averaged_model import AveragedModel
from bert4rec_tf.model.folding import fold_item_vectors
from bert4rec_tf.model_dir import TrainedModel, load_model
from tfrecords.errors import InputError
from tfrecords.item_features import ItemFeatures
from tfrecords.manifest import Manifest
from tfrecords.settings import MODEL_NAME
from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TrainedAverage:
    """Several trained models of the same items. Settings and records are those of the first one.

    Attributes:
        members: the models.
        model: averages their scores.
    """

    members: tuple[TrainedModel, ...]
    model: AveragedModel

    @property
    def vocabulary(self) -> Vocabulary:
        """Of all members."""
        return self.members[0].vocabulary

    @property
    def config(self) -> Config:
        """Of the first member; its section `evaluation` holds for the average."""
        return self.members[0].config

    @property
    def manifest(self) -> Manifest:
        """Of the first member's records."""
        return self.members[0].manifest

    @property
    def item_features(self) -> ItemFeatures | None:
        """Of the first member that was trained with item features; None: no member was."""
        return next((member.item_features for member in self.members if member.item_features is not None), None)

    def description(self) -> dict[str, Any]:
        """Its name, the settings of the first member, and the description of each member, as JSON values."""
        names = "; ".join(member.config.model.model_name for member in self.members)
        named = {MODEL_NAME: f"average of {len(self.members)} models ({names})", "config": self.config.to_dict()}
        return named | {"members": [member.description() for member in self.members]}

    def check_vocabulary(self, vocabulary: Vocabulary, received: str) -> None:
        """See `TrainedModel.check_vocabulary`."""
        self.members[0].check_vocabulary(vocabulary, received)


def load_models(
    models: Sequence[str | pathlib.Path | TrainedModel], load: Callable[[str | pathlib.Path], TrainedModel] = load_model
) -> TrainedModel | TrainedAverage:
    """Loads one model directory, or several as their average.

    Args:
        models: one or more model directories, on this machine or in an object store. A model that is loaded already is
            taken as it is.
        load: loads a model directory.

    Raises:
        InputError: no model, a model that is named twice, models of different items, or a directory that `load`
            refuses.
    """
    if not models:
        raise InputError("At least one model is needed. Received: none. Fix: name one or more model directories")
    names = [
        f"model {number}" if isinstance(model, TrainedModel) else os.fspath(model).rstrip("/")
        for number, model in enumerate(models, 1)
    ]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(
            f"Models whose scores are averaged must differ. Received: {repeated} more than once. Fix: name it once"
        )
    first, *others = members = [model if isinstance(model, TrainedModel) else load(model) for model in models]
    if not others:
        return first
    for name, other in zip(names[1:], others, strict=True):
        if other.vocabulary.item_ids != first.vocabulary.item_ids:
            raise InputError(
                f"Models whose scores are averaged must have the same items. Received: {names[0]} and {name}, which "
                "differ. Fix: train them on the same records"
            )
    return TrainedAverage(tuple(members), AveragedModel([fold_item_vectors(member.model) for member in members]))
