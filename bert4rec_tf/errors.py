"""The one error that a user can mend, and how a command reports it."""

import sys
from collections.abc import Callable

from absl import logging


class InputError(ValueError):
    """A mistake in what the user gave (flags, configuration, files). The message says the rule, the value, the fix."""


def command(main: Callable[[], None]) -> Callable[[list[str]], None]:
    """Makes a command's `main` what `absl.app.run` takes: a mistake ends in one plain message and exit code 2."""

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            if argv[1:]:
                raise InputError(f"Only flags are taken. Received: {' '.join(argv[1:])}")
            main()
        except InputError as error:
            sys.exit(_report(str(error), code=2))
        except OSError as error:  # a full disk, an unreadable input, a read-only directory
            sys.exit(_report(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), code=2))
        except KeyboardInterrupt:
            sys.exit(_report("interrupted; the same command again goes on from what is on disk", code=130))

    return run


def _report(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
