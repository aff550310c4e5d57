"""Runs every step from a synthetic log to recommendations, with the commands that a user types.

python examples/demo.py
"""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # Python puts this script's folder on the path. The packages are in the folder above.

from pipelines.sources.synthetic import MarkovLog
from tfrecords.manifest import Manifest

OUTPUT = pathlib.Path("demo_output")
DATA, MODEL, EXPORT = f"{OUTPUT}/data", f"{OUTPUT}/model", f"{OUTPUT}/export"


def main() -> None:
    """Runs every command, then prints the metrics beside the known optimum."""
    started = time.monotonic()
    os.chdir(ROOT)
    shutil.rmtree(OUTPUT, ignore_errors=True)  # the demo always starts from nothing
    run(f"pipelines/make_tfrecords.py --dataset=synthetic --config=configs/demo.json --output_dir={DATA}")
    # Without a time limit, which the learning rate would follow: the table is the same on a slow machine.
    run(f"train.py --data_dir={DATA} --model_dir={MODEL} --config=configs/demo.json")
    run(f"evaluate.py --baseline=popularity --data_dir={DATA} --output={OUTPUT}/popularity.json")
    run(f"evaluate.py --model_dir={MODEL} --data_dir={DATA} --output={OUTPUT}/metrics.json")
    run(f"evaluate.py --baseline=optimum --data_dir={DATA} --output={OUTPUT}/optimum.json")
    run(f"export.py --model_dir={MODEL} --export_dir={EXPORT}")
    history, next_item = first_history()
    run(f"deploy/client.py --export_dir={EXPORT} " + " ".join(f"--item_id={item_id}" for item_id in history))
    print(f"the item that this user took next: {next_item}\n")
    print_table()
    print(f"\nthe demo took {(time.monotonic() - started) / 60:.1f} minutes; the files are in {OUTPUT}/")


def run(command: str) -> None:
    """Prints a command and runs it in a process of its own; ends the demo if the command fails."""
    shortened = command if len(command) < 200 else f"{command[:197]}..."
    print(f"\n$ python {shortened}", flush=True)
    finished = subprocess.run([sys.executable, *shlex.split(command)], check=False)
    if finished.returncode:
        sys.exit(finished.returncode)


def first_history() -> tuple[list[str], str]:
    """The first user's items without the last one, and the last one."""
    log = MarkovLog.from_description(Manifest.load(DATA).source).interactions().to_pylist()
    item_ids = [event["item_id"] for event in log if event["user_id"] == log[0]["user_id"]]
    return item_ids[:-1], item_ids[-1]


def print_table() -> None:
    """Prints the metrics of popularity, of the model, and of the best possible model, over all test users and items."""
    rows = {
        "popularity": "popularity.json",
        "BERT4Rec, trained just now": "metrics.json",
        "the best any model could reach": "optimum.json",
    }
    names = ("hr@1", "hr@10", "ndcg@10", "mrr")
    print(f"{'test users, ranked among all items':<36}" + "".join(f"{name.upper():>10}" for name in names))
    for label, file in rows.items():
        full = json.loads((OUTPUT / file).read_text())["full"]
        print(f"{label:<36}" + "".join(f"{full[name]:>10.4f}" for name in names))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
