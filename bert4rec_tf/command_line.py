"""How a command ends: its exit code, and one line for an error."""

import os
import sys
from collections.abc import Callable

from absl import logging

from tfrecords.errors import InputError, PeerLost, Stopped, disk_error


def command(main: Callable[[], None]) -> Callable[[list[str]], None]:
    """Wraps a command's `main` for `absl.app.run`: a user's mistake ends in one plain message and exit code 2."""

    def run(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)
        try:
            if argv[1:]:
                raise InputError(f"Arguments must be flags. Received: {' '.join(argv[1:])}. Fix: write --name=value")
            main()
        except InputError as error:
            sys.exit(_report(str(error), code=2))
        except OSError as error:  # a full disk, an unreadable input, a read-only directory
            sys.exit(_report(str(disk_error(error)), code=2))
        except Stopped as stopped:
            sys.exit(_report(str(stopped), code=stopped.exit_code))
        except PeerLost as lost:
            os._exit(_report(str(lost), code=lost.exit_code))  # TensorFlow would wait for its peers
        except KeyboardInterrupt:
            sys.exit(_report("interrupted; run the same command again", code=130))

    return run


def _report(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr, flush=True)
    return code
