"""BPR, NeuMF, FPMC, GRU4Rec and Caser of RecBole; the option "model" names one of them.

RecBole splits the log itself: each user's last event is the test target, the one before it the validation target. A
check keeps that this is the split that was given. Its trainer makes the epochs; the best one is chosen by NDCG@10 of
validation users over all items.
"""

import copy
import pathlib
import sys
import tempfile
from typing import Any

import numpy as np
import pandas as pd
import torch
from rankings import THREADS, Split, Stopwatch, read_settings
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.interaction import Interaction
from recbole.utils import get_model, get_trainer, init_seed

_PATIENCE = 5  # validations without a better one
_VALIDATION_USERS = 2000  # of each epoch; NeuMF, which scores one pair at a time, has a tenth of them
_SHARE_OF_EVALUATION = 0.25  # at most this share of the time is spent on validations


class TimeLimitError(Exception):
    """The time limit was reached within an epoch."""


def prepare(split: Split, options: dict[str, Any]) -> tuple[Any, ...]:
    """Configuration, dataset, and the batches to train on."""
    settings = split.settings
    folder = pathlib.Path(tempfile.mkdtemp())
    (folder / "log").mkdir()
    targets = pd.read_parquet(f"{settings['split_dir']}/test.parquet", columns=["user_id", "item_id"])
    validation = split.validation()
    if len(validation) != len(targets) or settings["split"] != "test":
        sys.exit(f"error: RecBole's split needs a validation target of each tested user: {len(validation):,} have one")
    events = pd.concat([split.train, validation, targets], ignore_index=True)
    names = events.rename(columns={"user_id": "user_id:token", "item_id": "item_id:token"})
    names.assign(**{"timestamp:float": range(len(names))}).to_csv(folder / "log/log.inter", sep="\t", index=False)
    config = Config(
        model=options["model"],
        dataset="log",
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": str(folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "use_gpu": False,
            "show_progress": False,
            "seed": settings["seed"],
            "state": "ERROR",
            **({"train_neg_sample_args": None} if options.get("loss_type") == "CE" else {}),
            **{name: value for name, value in options.items() if name != "model"},
        },
    )
    init_seed(config["seed"], reproducibility=True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    return config, dataset, train


settings = read_settings()
split = Split(settings)
options = settings["options"]
torch.set_num_threads(THREADS)
config, dataset, train = prepare(split, options)
is_sequential = "item_id_list" in train.dataset.inter_feat.columns
# A sequential model has an event of training for each event after a user's first one.
expected = len(split.train) - (split.train["user_id"].nunique() if is_sequential else 0)
if len(train.dataset) != expected:
    sys.exit(f"error: RecBole must train on the events of the split: {len(train.dataset):,} instead of {expected:,}")
columns = torch.tensor(dataset.token2id("item_id", split.items))
model = get_model(config["model"])(config, train.dataset).to(config["device"])
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)


def score_with(histories: dict[str, np.ndarray], users: list[str]) -> np.ndarray:
    """The scores of `split.items` for users with these histories."""
    batch = {"user_id": torch.tensor(dataset.token2id("user_id", np.array(users)))}
    if is_sequential:
        length = config["MAX_ITEM_LIST_LENGTH"]
        rows = [histories[user][-length:] for user in users]
        batch["item_id_list"] = torch.tensor(np.stack([np.pad(row, (0, length - len(row))) for row in rows]))
        batch["item_length"] = torch.tensor([len(row) for row in rows])
    interaction = Interaction(batch)
    with torch.no_grad():
        try:
            scores = model.full_sort_predict(interaction).view(len(users), -1)[:, columns]
        except NotImplementedError:  # NeuMF scores pairs; those of one user at a time, because of the memory they take
            scores = torch.empty(len(users), len(columns))
            for row in range(len(users)):
                pairs = interaction[row : row + 1].repeat_interleave(len(columns))
                pairs.update(Interaction({"item_id": columns}))
                scores[row] = model.predict(pairs)
    return scores.numpy().astype(np.float64)


def ids_of(events: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each user's items as RecBole's numbers."""
    numbers = events.assign(item_id=dataset.token2id("item_id", events["item_id"].to_numpy(str)))
    return {user: rows.to_numpy() for user, rows in numbers.groupby("user_id", sort=False)["item_id"]}


trained_on, whole = ids_of(split.train), ids_of(split.history)
seen_columns = {user: np.flatnonzero(np.isin(columns.numpy(), items)) for user, items in trained_on.items()}
target_column = {item: column for column, item in enumerate(split.items.tolist())}
validation = split.validation()
number = _VALIDATION_USERS // (10 if config["model"] == "NeuMF" else 1)
validation = validation.sample(min(number, len(validation)), random_state=settings["seed"])


def validate() -> float:
    """NDCG@10 of the validation users over the items that they have not seen."""
    model.eval()
    gains = []
    for first in range(0, len(validation), 100):
        block = validation.iloc[first : first + 100]
        scores = score_with(trained_on, block["user_id"].tolist())
        for row, user, item in zip(scores, block["user_id"], block["item_id"], strict=True):
            column = target_column.get(item)
            row[seen_columns[user]] = -np.inf
            rank = np.inf if column is None or row[column] == -np.inf else 1 + (row > row[column]).sum()
            gains.append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
    return float(np.mean(gains))


watch = Stopwatch(settings["minutes"])
calculate_loss = model.calculate_loss


def timed_loss(interaction: Interaction) -> torch.Tensor:
    """The model's loss; ends an epoch whose time is up."""
    if watch.is_over():
        raise TimeLimitError
    return calculate_loss(interaction)


best, best_epoch, best_state, epoch, timed_out = -1.0, 0, None, 0, False
worse, spent = 0, 0.0
while not timed_out and worse < _PATIENCE:
    try:
        # `fit` has no time limit, and would validate all users of NeuMF pair by pair.
        trainer._train_epoch(train, epoch, loss_func=timed_loss)
        epoch += 1
    except TimeLimitError:
        timed_out = True
    began = watch.seconds()
    # Where validations are slow, some epochs have none.
    if timed_out or spent <= _SHARE_OF_EVALUATION * began:
        ndcg = validate()
        spent += watch.seconds() - began
        print(f"epoch {epoch}, {watch.seconds():.0f} s: validation NDCG@10 {ndcg:.4f}", flush=True)
        worse += 1
        if ndcg > best:
            worse, best, best_epoch, best_state = 0, ndcg, epoch, copy.deepcopy(model.state_dict())
times = watch.times()
model.load_state_dict(best_state)
model.eval()
split.write_rankings(lambda users: score_with(whole, users))
split.write_report(**times, epochs=epoch, best_epoch=best_epoch, validation_ndcg=best, time_limit_reached=timed_out)
