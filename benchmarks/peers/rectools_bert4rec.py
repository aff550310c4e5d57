"""Times the training steps of RecTools' BERT4Rec; run by `training_speed.py` in an environment that has RecTools.

Its only argument is a JSON object of settings (see `training_speed.py`); the last line that it prints is one, too.
"""

import json
import sys
import time
from typing import Any

import pandas as pd
import pytorch_lightning as lightning
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel

ends: list[float] = []  # of each step; not an attribute of the callback, since RecTools copies trainer and callbacks


class StepTimes(lightning.Callback):
    """Stores when each training step ended."""

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Called by the trainer."""
        ends.append(time.perf_counter())


if len(sys.argv) != 2:
    sys.exit(f"error: the only argument must be a JSON object. Received: {sys.argv[1:]}. Fix: run training_speed.py")
settings = json.loads(sys.argv[1])


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
model.fit(Dataset.construct(log))
warm = settings["warm_up_steps"]
steps = len(ends) - 1 - warm
print(json.dumps({"sequences_per_second": steps * settings["batch_size"] / (ends[-1] - ends[warm])}))
