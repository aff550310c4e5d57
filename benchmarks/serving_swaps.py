"""Sends requests from four clients while a hundred versions replace each other, some of them broken.

The server is the double of TF Serving's protocol that the tests use.

python benchmarks/serving_swaps.py --work_dir=/tmp/swaps
"""

import os
import pathlib
import shutil
import sys
import threading
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags

from bert4rec_tf.command_line import command
from deploy import client
from tests.support.serving_double import ServingDouble
from tests.support.tiny_version import write_version

_WORK = flags.DEFINE_string("work_dir", None, "directory for the versions; must not contain any yet", required=True)
_SWAPS = flags.DEFINE_integer("swaps", 100, "number of versions that replace another one")
_CLIENTS, _KINDS, _BROKEN_EVERY = 4, 4, 10


@command
def main() -> None:
    """Exits with 1 if a request failed, or if an answer has items of another version than it names."""
    work = pathlib.Path(_WORK.value)
    root = work / "shop"
    root.mkdir(parents=True)
    kinds = [write_version(work / f"kind-{number}", f"kind-{number}-") for number in range(_KINDS)]
    shutil.copytree(kinds[1], root / "1")
    server = ServingDouble(root, "shop", poll_seconds=0.05, max_num_load_retries=0)
    stopping, errors, answers = threading.Event(), [], []

    def send_requests(address: str) -> None:
        while not stopping.is_set():
            inputs = client.recommend_inputs([f"kind-{number}-3" for number in range(_KINDS)], k=5)
            try:
                answers.append(client.recommend(client.Request(address, "shop", inputs, timeout=30, retries=0)))
            except client.ServingError as error:
                errors.append(str(error))

    # Answers over REST do not name their version. They are counted, and their items must be of one version.
    addresses = [server.grpc_address] * (_CLIENTS - 1) + [server.rest_address]
    clients = [threading.Thread(target=send_requests, args=[address]) for address in addresses]
    for thread in clients:
        thread.start()
    started, broken = time.monotonic(), 0
    for swap in range(1, _SWAPS.value + 1):
        version = swap + 1
        copied = shutil.copytree(kinds[version % _KINDS], root / f".tmp-{version}")
        is_broken = swap % _BROKEN_EVERY == 0
        if is_broken:
            (copied / "variables" / "variables.data-00000-of-00001").write_bytes(b"")
        copied.rename(root / str(version))
        if is_broken:
            broken += 1
            time.sleep(0.3)  # the server tries to load it, and keeps the previous version
        else:
            server.wait_for(version)
    stopping.set()
    for thread in clients:
        thread.join()
    server.stop()
    wrong = [answer for answer in answers if not is_of_its_version(answer)]
    print(
        f"{_SWAPS.value} swaps ({broken} of them to broken versions) in {time.monotonic() - started:.0f} s, "
        f"{_CLIENTS} clients, {len(answers):,} answers of {len({answer.version for answer in answers})} versions: "
        f"{len(errors)} errors, {len(wrong)} answers of another version than they name"
    )
    sys.exit(1 if errors or wrong or len(answers) < _SWAPS.value else 0)


def is_of_its_version(answer: client.Answer) -> bool:
    """Whether all items are of one version, which is the one that the answer names, if it names one."""
    kinds = {item_id.rpartition("-")[0] for item_id in answer.item_ids}
    return len(kinds) == 1 and (answer.version is None or kinds == {f"kind-{int(answer.version) % _KINDS}"})


if __name__ == "__main__":
    app.run(main)
