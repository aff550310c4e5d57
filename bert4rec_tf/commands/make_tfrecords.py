"""The console command `bert4rec-make-tfrecords`."""

import runpy


def run() -> None:
    """Runs `pipelines/make_tfrecords.py` as the main module, which handles Ctrl-C from its first import on."""
    runpy.run_module("pipelines.make_tfrecords", run_name="__main__", alter_sys=True)
