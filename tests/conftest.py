"""Set before any test imports TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # `make test` has a process for each of two cores already
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

import bert4rec_tf  # noqa: F401

# Two cores with other tests beside: how long an example takes says nothing.
settings.register_profile("repository", deadline=None)
settings.load_profile("repository")
