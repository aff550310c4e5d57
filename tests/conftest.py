"""What holds for every test: set before any imports TensorFlow, seeded before each, in a shuffled order if told so."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # `make test` has a process for each of two cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import sys

import numpy as np
import pytest
from hypothesis import settings

import bert4rec_tf  # noqa: F401

# Two cores with other tests beside: how long an example takes says nothing. The examples are the same in every run.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order_seed", type=int, help="shuffles the test files, and the tests within each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "tensorflow" in sys.modules and config.getoption("markexpr") == "not slow":
        # Optimising graphs that run a few times takes a fifth of the time of `make test`. The slow tests have their
        # graphs optimised, and so has what runs in a process of its own or in a session as TF Serving's.
        sys.modules["tensorflow"].config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    seed = config.getoption("order_seed")
    if seed is None:
        return
    draw = random.Random(seed)
    draw.shuffle(items)
    # Files stay together, for many have fixtures that take long to make.
    files = list(dict.fromkeys(item.path for item in items))
    items.sort(key=lambda item: files.index(item.path))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Starts every test from the same global generators, whatever ran before."""
    _seed()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup() -> None:
    # A module's fixture is made in the first of its tests to run, whichever that is, and before `seeded`.
    _seed()


def _seed() -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002, the global generator is the one to seed
    if tensorflow := sys.modules.get("tensorflow"):  # a test that does not need it should not wait for it
        tensorflow.random.set_seed(1)
