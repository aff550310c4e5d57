"""ItemKNN (of `implicit`), EASE and SASRec, run by RecTools; the option "system" names one of them."""

import pathlib
import tempfile
from typing import Any

import numpy as np
import pandas as pd
import torch
from implicit.nearest_neighbours import CosineRecommender
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from rankings import THREADS, Split, Stopwatch, read_settings
from rectools import Columns
from rectools.dataset import Dataset, IdMap, Interactions
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel, SASRecModel

_PATIENCE = 5  # epochs without a better validation loss


def as_table(events: pd.DataFrame) -> pd.DataFrame:
    """Users and items as numbers; RecTools reads the order from times, so each event gets its row number as seconds."""
    table = pd.DataFrame({Columns.User: number_of.loc[events["user_id"]].to_numpy()})
    table[Columns.Item] = column_of.reindex(events["item_id"], fill_value=-1).to_numpy()
    times = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.arange(len(table)), unit="s")
    return table.assign(**{Columns.Weight: 1.0, Columns.Datetime: times})


def as_dataset(events: pd.DataFrame) -> Dataset:
    """A data set whose internal numbers are ours, so that all data sets number users and items in the same way."""
    maps = IdMap(np.arange(len(number_of))), IdMap(np.arange(len(split.items)))
    return Dataset(*maps, Interactions.from_raw(as_table(events), *maps))


class TimeLimit(Callback):
    """Ends the training when the time is up.

    Args:
        watch: has the limit.
    """

    def __init__(self, watch: Stopwatch):
        self._watch = watch

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        trainer.should_stop = trainer.should_stop or self._watch.is_over()


def fit_sasrec(split: Split, watch: Stopwatch, options: dict) -> tuple[SASRecModel, dict]:
    """SASRec with the weights of its best epoch by the loss of the validation targets."""
    seed_everything(split.settings["seed"], verbose=False)
    folder = pathlib.Path(tempfile.mkdtemp())

    def make_trainer() -> Trainer:
        best = ModelCheckpoint(folder, monitor="val_loss", save_weights_only=True)
        callbacks = [best, EarlyStopping("val_loss", patience=_PATIENCE), TimeLimit(watch)]
        return Trainer(
            max_epochs=1000, callbacks=callbacks, logger=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    marked = pd.concat([split.train.assign(held_out=False), split.validation().assign(held_out=True)])
    # Each user's events stay in order, and the held-out one is the last.
    marked = marked.sort_values("user_id", kind="stable", ignore_index=True)
    table = as_table(marked)
    held_out_times = table.loc[marked["held_out"], Columns.Datetime]
    model = SASRecModel(
        get_val_mask_func=lambda events, **_: events[Columns.Datetime].isin(held_out_times).to_numpy(),
        get_trainer_func=make_trainer,
        **options,
    )
    model.fit(Dataset.construct(table))
    trainer = model.fit_trainer
    report = {
        "epochs": trainer.current_epoch,
        "time_limit_reached": trainer.early_stopping_callback.stopped_epoch == 0,
    }
    best = trainer.checkpoint_callback
    if best.best_model_path:
        model.load_weights_from_checkpoint(best.best_model_path)
        report["validation_loss"] = float(best.best_model_score)
    return model, report


settings = read_settings()
split = Split(settings)
column_of = pd.Series(range(len(split.items)), index=split.items)
number_of = pd.Series({user: number for number, user in enumerate(dict.fromkeys(split.history["user_id"]))})
torch.set_num_threads(THREADS)
watch = Stopwatch(settings["minutes"])
options = settings.get("options", {})
report: dict[str, Any] = {}
if settings["system"] == "sasrec":
    model, report = fit_sasrec(split, watch, options)
else:
    models = {
        "itemknn": lambda: ImplicitItemKNNWrapperModel(CosineRecommender(**options, num_threads=THREADS)),
        "ease": lambda: EASEModel(**options),
    }
    model = models[settings["system"]]()
    model.fit(as_dataset(split.train.drop_duplicates()))
times = watch.times()

# Recommended is by the whole history. Its items that were not trained on are left out: the models do not know them.
events = split.history[split.history["item_id"].isin(set(split.items))]
if settings["system"] != "sasrec":
    events = events.drop_duplicates()
known = as_dataset(events)


def score(users: list[str]) -> np.ndarray:
    """All scores of the library; what it leaves out is last."""
    scores = np.full((len(users), len(split.items)), -np.inf)
    numbers = number_of.reindex(users, fill_value=-1).to_numpy()
    row_of = np.full(len(number_of) + 1, -1)
    row_of[numbers] = np.arange(len(users))
    found = model.recommend(
        numbers, known, k=len(split.items), filter_viewed=False, add_rank_col=False, on_unsupported_targets="ignore"
    )
    scores[row_of[found[Columns.User]], found[Columns.Item]] = found[Columns.Score]
    return scores


split.write_rankings(score)
split.write_report(**times, **report)
