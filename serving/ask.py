"""Asks an exported SavedModel for recommendations, with nothing of the project loaded: what TF Serving would answer.

python serving/ask.py --export_dir=exports/ml-1m --item_id=2858 --item_id=593
"""

import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags

_EXPORT = flags.DEFINE_string("export_dir", None, "the directory with versions below it", required=True)
_ITEMS = flags.DEFINE_multi_string("item_id", [], "an item of the history; repeatable, newest last")
_SHOWN_ITEMS = 5


def main(argv: list[str]) -> None:
    """Loads the newest version, asks its `serving_default` signature and prints the answer with titles."""
    del argv
    root = pathlib.Path(_EXPORT.value)
    versions = sorted((path for path in root.glob("*") if path.name.isdigit()), key=lambda path: int(path.name))
    if not versions:
        sys.exit(f"error: --export_dir must hold a version written by export.py. Received: {root}")
    titles = _titles(versions[-1])
    recommend = tf.saved_model.load(str(versions[-1])).signatures["serving_default"]
    answer = recommend(item_ids=tf.constant([_ITEMS.value], tf.string, [1, len(_ITEMS.value)]))
    print(f"version {versions[-1].name}; a history of {len(_ITEMS.value)} items, the newest last:")
    if len(_ITEMS.value) > _SHOWN_ITEMS:
        print("              ...")
    for item_id in _ITEMS.value[-_SHOWN_ITEMS:]:
        print(f"              {titles.get(item_id, item_id)}")
    print(f"top {answer['item_ids'].shape[1]}:")
    for place, (raw, score) in enumerate(
        zip(answer["item_ids"][0].numpy(), answer["scores"][0].numpy(), strict=True), 1
    ):
        item_id = raw.decode("utf-8")
        print(f"{place:>4} {score:>8.3f} {titles.get(item_id, item_id)}")


def _titles(version: pathlib.Path) -> dict[str, str]:
    lines = (version / "assets.extra" / "vocabulary.jsonl").read_bytes().split(b"\n")[:-1]
    entries = [json.loads(line) for line in lines]
    return {entry["item_id"]: f"{entry['item_id']}  {entry.get('title', '')}".rstrip() for entry in entries}


if __name__ == "__main__":
    app.run(main)
