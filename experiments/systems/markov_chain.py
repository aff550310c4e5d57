"""The first-order Markov chain: items by how often they followed the user's last item, then by popularity."""

import numpy as np
from predictions import read_events, read_settings, users_to_rank, write_predictions

settings = read_settings()
train, history = read_events(settings)
items, codes = np.unique(train["item_id"], return_inverse=True)
follows = train["user_id"].to_numpy()[1:] == train["user_id"].to_numpy()[:-1]
popularity = np.bincount(codes, minlength=len(items))
by_popularity = np.argsort(-popularity, kind="stable")
pairs, numbers = np.unique(np.stack([codes[:-1][follows], codes[1:][follows]]), axis=1, return_counts=True)
order = np.lexsort((-popularity[pairs[1]], -numbers, pairs[0]))
pairs = pairs[:, order]
starts = np.searchsorted(pairs[0], np.arange(len(items) + 1))
last = history.groupby("user_id", sort=False)["item_id"].last()
seen = history.groupby("user_id", sort=False)["item_id"].agg(set)
code_of = {item: code for code, item in enumerate(items.tolist())}
lists = []
for user in users_to_rank(settings):
    code, met = code_of.get(last.get(user)), seen.get(user, set())
    following = [] if code is None else pairs[1, starts[code] : starts[code + 1]].tolist()
    others = by_popularity[: settings["top_k"] + len(met) + len(following)].tolist()
    ranked = dict.fromkeys([*following, *others])  # each once, in this order
    lists.append([items[item] for item in ranked if items[item] not in met][: settings["top_k"]])
write_predictions(settings, users_to_rank(settings), lists)
