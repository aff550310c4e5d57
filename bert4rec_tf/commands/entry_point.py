"""Starts a command, from a script of the checkout or from a console command of the wheel."""

import functools
import gc
import importlib
import signal
import sys
from collections.abc import Callable

from absl import app, flags

from tfrecords.interruption import end_process


def start(name: str) -> None:
    """Imports a command's module and runs it.

    The import loads TensorFlow, which takes seconds. Ctrl-C meanwhile ends the process with one line.

    Args:
        name: of a module in `bert4rec_tf.commands`, which has a function `run`.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, end_process)
    gc.disable()  # the import leaves hardly any garbage; without these lines, it takes about a quarter longer
    module = importlib.import_module(f"bert4rec_tf.commands.{name}")
    gc.freeze()  # later collections skip what was imported
    gc.enable()
    signal.signal(signal.SIGINT, before)
    module.run()


# The console commands of the wheel.
train = functools.partial(start, "train")
evaluate = functools.partial(start, "evaluate")
export = functools.partial(start, "export")
recommend = functools.partial(start, "recommend")
search = functools.partial(start, "search")
explore = functools.partial(start, "explore")


def run_main(main: Callable[[list[str]], None], module: str, argv: list[str] | None = None) -> None:
    """Parses the flags and runs a command.

    absl lists only the flags of the main module in `--help`, so those of the command's module are added to it.

    Args:
        main: wrapped by `bert4rec_tf.command_line.command`.
        module: the name of the module that defines the flags.
        argv: program name and arguments; None: those of the process.
    """
    for flag in flags.FLAGS.get_key_flags_for_module(module):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.run(main, argv)
