"""Makes a log over a million items and trains a model on it, for `serving_index.py`.

python benchmarks/million_items.py --work_dir=/tmp/million
"""

import pathlib
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from absl import app, flags

ROOT = pathlib.Path(__file__).parents[1]
_WORK = flags.DEFINE_string("work_dir", None, "for log, records and model", required=True)
_STEPS = flags.DEFINE_integer("steps", 12_000, "of training")
_USERS, _EVENTS = 500_000, 50
_THEMES, _ITEMS_OF_A_THEME, _THEMES_OF_A_FIELD = 1_020, 1_000, 20
_STAYS, _STAYS_IN_FIELD = 0.9, 0.8


def main(_: list[str]) -> None:
    """Log, records, model: each only where it is missing."""
    work = pathlib.Path(_WORK.value)
    work.mkdir(parents=True, exist_ok=True)
    log = work / "log.parquet"
    if not log.exists():
        write_log(log)
    settings = ["data.max_seq_length=50", "data.sliding_window=0", "data.num_negatives=0"]
    settings += ["masking.masking_rates=0.6", "masking.duplicate_factor=1"]
    settings += ["model.hidden_size=64", "model.num_layers=2", "model.num_heads=2", "model.layer_norm=pre"]
    settings += [
        "model.attention_dropout=0",
        "training.warmup_steps=500",
        "training.loss=sampled_softmax",
        "training.sampled_items=1024",
    ]
    settings += [f"training.num_steps={_STEPS.value}", "training.batch_size=128", "training.learning_rate=0.004"]
    settings += ["training.steps_per_epoch=2500", "training.validation_users=256"]
    assignments = [f"--set={setting}" for setting in settings]
    run("pipelines/make_tfrecords.py", f"--input={log}", "--user_column=user_id", "--item_column=item_id",
        "--timestamp_column=timestamp", f"--output_dir={work / 'data'}", *assignments)  # fmt: skip
    run("train.py", f"--data_dir={work / 'data'}", f"--model_dir={work / 'model'}", "--masking=resample", *assignments)


def run(*command: str) -> None:
    """Runs a command of the project; ends with it if it fails."""
    done = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def write_log(path: pathlib.Path) -> None:
    """Users walk over themes: most steps stay in the theme, most others in its field; items of a theme by Zipf."""
    random = np.random.default_rng(1)
    chances = 1 / (np.arange(_ITEMS_OF_A_THEME) + 5.0)
    theme, events = random.integers(_THEMES, size=_USERS), []
    for _ in range(_EVENTS):
        stays, in_field = random.random(_USERS) < _STAYS, random.random(_USERS) < _STAYS_IN_FIELD
        anywhere = random.integers(_THEMES, size=_USERS)
        near = theme - theme % _THEMES_OF_A_FIELD + random.integers(_THEMES_OF_A_FIELD, size=_USERS)
        theme = np.where(stays, theme, np.where(in_field, near, anywhere))
        item = random.choice(_ITEMS_OF_A_THEME, size=_USERS, p=chances / chances.sum())
        events.append(theme * _ITEMS_OF_A_THEME + item)
    items = np.stack(events, axis=1).ravel()
    users, times = np.repeat(np.arange(_USERS), _EVENTS), np.tile(np.arange(_EVENTS), _USERS)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), path)


if __name__ == "__main__":
    app.run(main)
