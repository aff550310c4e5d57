"""From a pandas frame to recommendations, in about a minute on a CPU.

python examples/python_api.py
"""

import pathlib
import sys
import tempfile
from typing import Any

# In a checkout, Python finds the packages by this line. After `pip install .` it is not needed.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import pandas as pd

import bert4rec_tf
from pipelines.sources.synthetic import MarkovLog

# What is left out keeps its default; docs/configuration.md lists all settings. Instead of a dict, every call below also
# takes the name of a recipe, such as "bert4rec-dense".
CONFIG: dict[str, dict[str, Any]] = {
    # The model reads the newest 20 events of a history. Users with fewer than 5 events are dropped.
    "data": {"max_seq_length": 20, "min_user_events": 5},
    # The Cloze objective: each window is stored with these shares of its items masked, and twice with only its last
    # item masked. "attention": "causal" would train left to right instead.
    "masking": {"masking_rates": [0.2, 0.4], "duplicate_factor": 4, "last_item_instances": 2},
    "model": {
        "hidden_size": 32,
        "layer_norm": "pre",
        "dense_initializer": "glorot",
        "head_projection": False,
        "output_bias": "log_popularity",
    },
    # The model of the best validation is kept, so more steps do no harm. 400 are enough for this small log. By
    # default, training compiles with XLA and has batches of several lengths. In so short a run both cost more time
    # than they save.
    "training": {
        "num_steps": 400,
        "batch_size": 128,
        "learning_rate": 0.003,
        "steps_per_epoch": 100,
        "jit_compile": False,
        "num_length_buckets": 1,
    },
}


def main(directory: pathlib.Path) -> None:
    """Builds records, trains, evaluates and recommends, in files below `directory`."""
    # 1. The log: one row an event. Take your own frame here: pd.read_csv("log.csv"), a query's result, …
    # Columns with other names are named in the call: build_records(…, user_column="customer").
    log = make_log()
    print(log.head(3), f"\n{len(log):,} events, {log.user_id.nunique():,} users, {log.item_id.nunique():,} items\n")

    # 2. Records: the log is checked, split and written once. Each user's last item is the test target, the item before
    # it the validation target. Ids may be text or integers; titles are optional.
    titles = {item_id: f"Title of {item_id}" for item_id in log.item_id.unique()}
    built = bert4rec_tf.build_records(log, directory / "data", CONFIG, titles=titles, timestamp_unit="s")
    print(f"{built.instances:,} training instances\n")

    # 3. Training: Ctrl-C saves the run, and the same call resumes it. The result is also on disk, in `model`.
    bert4rec_tf.train(directory / "data", directory / "model", CONFIG)

    # 4. Evaluation: is the model better than the most popular items?
    popularity = bert4rec_tf.evaluate("popularity", directory / "data")
    model = bert4rec_tf.evaluate(directory / "model", directory / "data")
    table = pd.DataFrame({"popularity": popularity.metrics["full"], "model": model.metrics["full"]})
    print(table.loc[["hr@1", "hr@10", "ndcg@10", "mrr"]].astype(float).round(4), "\n")

    # 5. Recommendations: any history will do, also one that the log does not have. Unknown items are ignored.
    recommender = bert4rec_tf.Recommender.load(directory / "model")
    history = log[log.user_id == "user-00000"].item_id.tolist()
    print(recommender.recommend([history], k=5).to_pandas(), "\n")
    # Only these items, and not that one; an item of the history may be recommended again.
    shelf = log.item_id.unique()[:50].tolist()
    print(recommender.recommend([history], k=3, allow=shelf, exclude=shelf[:1], drop_seen=False).to_pandas(), "\n")
    # The items of a list, ordered for this user; and the items most like an item.
    print(recommender.rank([history], shelf[:3]).to_pandas(), "\n")
    print(recommender.similar_items([history[-1]], k=3).to_pandas(), "\n")

    # 6. Export: a SavedModel for TensorFlow Serving, which answers the same without this package.
    version = bert4rec_tf.export(directory / "model", directory / "export", bert4rec_tf.ExportOptions(top_k=5))
    served = bert4rec_tf.Recommender.load(directory / "export")
    print(f"exported {version.name}:", served.recommend([history], k=5).item_ids)


def make_log() -> pd.DataFrame:
    """A synthetic log with the columns user_id, item_id and timestamp, in which items tend to follow one another."""
    return MarkovLog(num_users=2000, num_items=200).interactions().to_pandas()


if __name__ == "__main__":  # needed by `build_records(…, num_workers=4)`, whose processes import this file
    with tempfile.TemporaryDirectory() as temporary:  # name a directory of your own to keep the model
        main(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
