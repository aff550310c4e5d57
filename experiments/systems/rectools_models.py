"""ItemKNN (of `implicit`) and EASE, run by RecTools; the option "system" names one of them."""

import numpy as np
import pandas as pd
from implicit.nearest_neighbours import CosineRecommender
from rankings import THREADS, Split, Stopwatch, read_settings
from rectools import Columns
from rectools.dataset import Dataset, IdMap, Interactions
from rectools.models import EASEModel, ImplicitItemKNNWrapperModel


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


settings = read_settings()
split = Split(settings)
column_of = pd.Series(range(len(split.items)), index=split.items)
number_of = pd.Series({user: number for number, user in enumerate(dict.fromkeys(split.history["user_id"]))})
watch = Stopwatch(settings["minutes"])
options = settings.get("options", {})
models = {
    "itemknn": lambda: ImplicitItemKNNWrapperModel(CosineRecommender(**options, num_threads=THREADS)),
    "ease": lambda: EASEModel(**options),
}
model = models[settings["system"]]()
model.fit(as_dataset(split.train.drop_duplicates()))
times = watch.times()

# Recommended is by the whole history. Its items that were not trained on are left out: the models do not know them.
known = as_dataset(split.history[split.history["item_id"].isin(set(split.items))].drop_duplicates())


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
split.write_report(**times)
