"""`explore.py` and `bert4rec-explore`: a page on this machine that shows what a model recommends, and why."""

import contextlib
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import flags

from bert4rec_tf.command_line import command
from bert4rec_tf.commands.entry_point import run_main
from pipelines.sources.titles import read_titles
from tfrecords.errors import Stopped, check_local
from tfrecords.interruption import stopped_at_once

_EXPORT = flags.DEFINE_string(
    "export_dir",
    None,
    "directory written by export.py, whose newest version recommends, or one version of it; with --server, where items "
    "and titles are read from",
)
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "model directory written by train.py, instead of an export")
_SERVER = flags.DEFINE_string("server", None, "address of a TF Serving, host:port for gRPC, instead of an export")
_MODEL = flags.DEFINE_string(
    "model", None, "with --server, the model's name there; default: the name of --export_dir, or `default`"
)
_COMPARE = flags.DEFINE_string(
    "compare_with",
    None,
    "a second version to show beside the first: a directory as for --export_dir or --model_dir, the number of a "
    "version in --export_dir, or with --server a version's number or label",
)
_DATA = flags.DEFINE_string(
    "data_dir", None, "directory of records, whose test users are shown with the items that they took next"
)
_TITLES = flags.DEFINE_string(
    "item_titles", None, "text file with a header and the columns item_id and title, for items that have no title yet"
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "address of this machine to listen on; the default is reachable only here"
)
_PORT = flags.DEFINE_integer("port", 8600, "port to listen on; 0: any free one", lower_bound=0, upper_bound=65_535)


@command
def main() -> None:
    """Serves the page until Ctrl-C."""
    for flag in (_EXPORT, _MODEL_DIR, _DATA, _TITLES):
        check_local(flag.name, flag.value)
    with stopped_at_once("while it loaded the model; nothing was changed"), _without_start_lines():
        from bert4rec_tf.explorer.page import LOOPBACK  # starlette and uvicorn are optional packages
        from bert4rec_tf.explorer.server import address, listen, make_server
        from bert4rec_tf.explorer.source import Source

        source = Source(_EXPORT.value, _MODEL_DIR.value, _SERVER.value, _MODEL.value, _COMPARE.value)
        listening = listen(_HOST.value, _PORT.value)
        explored = source.open(_DATA.value, read_titles(_TITLES.value))
        explored.warm_up()
    if _HOST.value not in LOOPBACK:
        print(f"warning: everyone who reaches {_HOST.value} can read this page", flush=True)
    # A signal is how the page ends, and no error.
    with contextlib.suppress(Stopped), stopped_at_once("as it should"):
        server = make_server(explored, listening)
        print(f"{address(listening)} shows the model; Ctrl-C ends it", flush=True)
        server.run(sockets=[listening])
    print("ended")


@contextlib.contextmanager
def _without_start_lines() -> Iterator[None]:
    """Hides what TensorFlow's C++ code writes to stderr when it starts, which no setting hides; Python still writes."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    stderr, sys.stderr = sys.stderr, os.fdopen(kept, "w", buffering=1, closefd=False)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        sys.stderr = stderr
        os.close(kept)
        os.close(nowhere)


def run() -> None:
    """Runs the command."""
    run_main(main, __name__)
