"""Starts a command, from a script of the checkout or from a console command of the wheel."""

import sys
from collections.abc import Callable

from absl import app, flags


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
