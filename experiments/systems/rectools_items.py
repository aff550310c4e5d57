"""ItemKNN, EASE and BPR-MF of `implicit` and RecTools, run by RecTools; the option "system" names one of them."""

import pandas as pd
from implicit.bpr import BayesianPersonalizedRanking
from implicit.nearest_neighbours import CosineRecommender
from predictions import read_events, read_settings, users_to_rank, write_predictions
from rectools import Columns
from rectools.dataset import Dataset, Interactions
from rectools.models import EASEModel, ImplicitBPRWrapperModel, ImplicitItemKNNWrapperModel


def as_table(events: pd.DataFrame) -> pd.DataFrame:
    """Each user's items once, without times, which these models do not read."""
    table = events.drop_duplicates().rename(columns={"user_id": Columns.User, "item_id": Columns.Item})
    return table.assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.Timestamp("2000-01-01")})


settings = read_settings()
train, history = read_events(settings)
options = settings.get("options", {})
models = {
    "itemknn": lambda: ImplicitItemKNNWrapperModel(CosineRecommender(**({"K": 100} | options))),
    "ease": lambda: EASEModel(**({"regularization": 500.0} | options)),
    "bpr": lambda: ImplicitBPRWrapperModel(
        BayesianPersonalizedRanking(
            **({"factors": 64, "iterations": 200, "random_state": settings["seed"]} | options), num_threads=2
        )
    ),
}
model = models[settings["system"]]()
# Both datasets number users and items in the same way. Fitted are the training events; the item models recommend by the
# whole history, and all of it counts as seen.
# Items without a training event are left out: these models cannot use them.
known = Dataset.construct(as_table(history[history["item_id"].isin(set(train["item_id"]))]))
events = Interactions.from_raw(as_table(train), known.user_id_map, known.item_id_map)
model.fit(Dataset(known.user_id_map, known.item_id_map, events))
external = set(known.user_id_map.external_ids)
users = [user for user in users_to_rank(settings) if user in external]
rows = model.recommend(users, known, k=settings["top_k"], filter_viewed=True)
lists = rows.sort_values(Columns.Rank).groupby(Columns.User, sort=False)[Columns.Item].agg(list)
ranked = users_to_rank(settings)
write_predictions(settings, ranked, [lists.get(user, []) for user in ranked])
