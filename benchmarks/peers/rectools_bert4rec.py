"""Times the training steps of RecTools' BERT4Rec, or its recommendations to all users.

Run by `training_speed.py` and `recommend_speed.py` in an environment that has RecTools. Its only argument is a JSON
object of settings (see these scripts); the last line that it prints is one, too.
"""

import time
from typing import Any

import pandas as pd
import pytorch_lightning as lightning
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel
from timed_steps import print_speed, print_users_per_second, read_settings

ends: list[float] = []  # of each step; not an attribute of the callback, since RecTools copies trainer and callbacks


class StepTimes(lightning.Callback):
    """Stores when each training step ended."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Called by the trainer."""
        ends.append(time.perf_counter())


settings = read_settings()


def make_trainer() -> lightning.Trainer:
    """RecTools' own trainer, with a fixed number of steps and `StepTimes`."""
    return lightning.Trainer(
        max_steps=settings["steps"],
        accelerator="cpu",
        callbacks=[StepTimes()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )


# The log is in time order for each user, and has no timestamps.
log = pd.read_csv(settings["log"], sep=" ", names=[Columns.User, Columns.Item])
log[Columns.Datetime] = pd.Timestamp("2000-01-01") + pd.to_timedelta(range(len(log)), unit="s")
log[Columns.Weight] = 1.0
lightning.seed_everything(1)
model = BERT4RecModel(
    n_factors=settings["hidden_size"],
    n_blocks=settings["num_layers"],
    n_heads=settings["num_heads"],
    session_max_len=settings["max_seq_length"],
    mask_prob=settings["masking_rate"],
    dropout_rate=settings["dropout"],
    batch_size=settings["batch_size"],
    loss="softmax",
    get_trainer_func=make_trainer,
)
dataset = Dataset.construct(log)
model.fit(dataset)
if "top_k" in settings:
    users = log[Columns.User].unique()
    print_users_per_second(lambda: model.recommend(users, dataset, k=settings["top_k"], filter_viewed=True), len(users))
else:
    print_speed(ends, settings)
