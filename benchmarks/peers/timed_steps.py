"""What the scripts of this folder share: their one argument, a training loop for torch, and the printed speeds."""

import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any


def read_settings() -> dict[str, Any]:
    """The JSON object that is the only argument, see `training_speed.py`."""
    if len(sys.argv) != 2:
        sys.exit(
            "error: the only argument must be a JSON object. "
            f"Received: {sys.argv[1:]}. Fix: run training_speed.py or recommend_speed.py"
        )
    return json.loads(sys.argv[1])


def train(batches: Iterable[Any], loss_of: Callable[[Any], Any], optimizer: Any, steps: int) -> list[float]:
    """Makes at most `steps` updates; returns when each of them ended."""
    ends: list[float] = []
    for batch in batches:
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()
        ends.append(time.perf_counter())
        if len(ends) == steps:
            break
    return ends


def print_users_per_second(recommend: Callable[[], Any], users: int) -> None:
    """Times one call that recommends to all users, and prints the speed as a JSON object."""
    started = time.perf_counter()
    recommend()
    print(json.dumps({"users_per_second": users / (time.perf_counter() - started)}))


def print_speed(ends: list[float], settings: dict[str, Any]) -> None:
    """Prints the speed of the steps after the first `warm_up_steps` ones, as a JSON object."""
    warm = settings["warm_up_steps"]
    steps = len(ends) - 1 - warm
    print(json.dumps({"sequences_per_second": steps * settings["batch_size"] / (ends[-1] - ends[warm])}))
