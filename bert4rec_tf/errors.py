"""The one error that a user can mend, and how a command reports it."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """A mistake in what the user gave (flags, configuration, files). The message says the rule, the value, the fix."""


def report_input_errors(main: Callable[[list[str]], None]) -> Callable[[list[str]], None]:
    """Wraps a command's `main` so that mistakes end in one plain message and exit code 2, without a traceback."""

    def wrapped(argv: list[str]) -> None:
        try:
            main(argv)
        except InputError as error:
            sys.exit(_message(str(error), code=2))
        except OSError as error:  # a full disk, an unreadable input, a read-only directory
            sys.exit(_message(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), code=2))
        except KeyboardInterrupt:
            sys.exit(_message("interrupted; the same command again goes on from what is on disk", code=130))

    return wrapped


def _message(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
