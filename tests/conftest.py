"""Settings for all tests: environment variables, random seeds, and an optional shuffled order."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # `make test` already runs one process per core
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import random
import sys

import numpy as np
import pytest
from hypothesis import settings

import bert4rec_tf  # noqa: F401

# No deadline: two test processes share the cores, so the time of an example varies. Each run has the same examples.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")

# Graphs are millions of objects that live for long. Looking through them less often saves a tenth of the tests' time.
gc.set_threshold(50_000, 20, 50)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order_seed", type=int, help="shuffles the test files, and the tests within each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "tensorflow" in sys.modules and config.getoption("markexpr") == "not slow":
        # Optimising graphs that run only a few times takes a fifth of the time of `make test`. Graphs are optimised in
        # slow tests, in subprocesses, and in sessions like those of TF Serving.
        sys.modules["tensorflow"].config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    seed = config.getoption("order_seed")
    if seed is None:
        return
    draw = random.Random(seed)
    draw.shuffle(items)
    # Files stay together, because many have fixtures that take long to make.
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(key=lambda item: files.index(item.path))


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # what was imported stays


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeds the global generators before each test, so that the order of tests does not matter."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    # A fixture of a module is made by the first of its tests that runs, before `seeded`.
    _seed()


def _seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002, this seeds the global generator
    if tensorflow := sys.modules.get("tensorflow"):  # tests without TensorFlow do not import it
        tensorflow.random.set_seed(1)
