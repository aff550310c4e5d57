"""Loads an exported version for `mlflow.pyfunc`, which finds `_load_pyfunc` by its name."""

import pathlib
from typing import Any

import numpy as np
import tensorflow as tf


class SavedModel:
    """An exported version, as `mlflow.pyfunc` calls it.

    Args:
        directory: of the SavedModel.
    """

    def __init__(self, directory: str | pathlib.Path):
        self._loaded = tf.saved_model.load(str(directory))  # the signature lives as long as the model

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> dict[str, np.ndarray]:
        """Recommends by the signature `serving_default`.

        Args:
            model_input: a mapping with `item_ids`, text [B, L], the newest item last; "" is padding.
            params: none are read.

        Returns:
            item_ids: text [B, K], best first.
            scores: float32 [B, K].
        """
        item_ids = np.asarray(model_input["item_ids"]).astype(str)
        answer = self._loaded.signatures["serving_default"](item_ids=tf.constant(item_ids))
        found = answer["item_ids"].numpy()
        return {"item_ids": np.char.decode(found.astype(bytes), "utf-8"), "scores": answer["scores"].numpy()}


def _load_pyfunc(path: str) -> SavedModel:
    return SavedModel(path)
