"""The first-order Markov chain: items by how often they followed the user's last item, then by popularity."""

import numpy as np
from rankings import Split, Stopwatch, read_settings

settings = read_settings()
split = Split(settings)
watch = Stopwatch(settings["minutes"])
codes = np.searchsorted(split.items, split.train["item_id"].to_numpy(str))
follows = split.train["user_id"].to_numpy()[1:] == split.train["user_id"].to_numpy()[:-1]
popularity = np.bincount(codes, minlength=len(split.items)).astype(float)
pairs, numbers = np.unique(np.stack([codes[:-1][follows], codes[1:][follows]]), axis=1, return_counts=True)
starts = np.searchsorted(pairs[0], np.arange(len(split.items) + 1))
last = split.history.groupby("user_id", sort=False)["item_id"].last()
code_of = {item: code for code, item in enumerate(split.items.tolist())}
times = watch.times()


def score(users: list[str]) -> np.ndarray:
    """A pair that was seen once more counts more than any popularity."""
    scores = np.tile(popularity, (len(users), 1))
    for row, user in zip(scores, users, strict=True):
        code = code_of.get(last.get(user))
        if code is not None:
            following = slice(starts[code], starts[code + 1])
            row[pairs[1, following]] += numbers[following] * (popularity.max() + 1)
    return scores


split.write_rankings(score)
split.write_report(**times)
