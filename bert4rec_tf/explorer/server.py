"""Serves the page on this machine until a signal ends it."""

import socket

import uvicorn

from bert4rec_tf.explorer.page import make_app
from bert4rec_tf.explorer.view import Explored
from tfrecords.errors import InputError

_MAX_REQUEST_BYTES = 1 << 20  # an address with a long history
_SECONDS_TO_END = 2


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any free port.

    Raises:
        InputError: the port is in use or not allowed, or the host is none of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host and --port must be free on this machine. Received: {host}:{port} ({error}). "
            "Fix: another --port, or --port=0 for any free one"
        ) from None


def make_server(explored: Explored, listening: socket.socket) -> uvicorn.Server:
    """A server of the page; `run(sockets=[listening])` answers requests until SIGINT or SIGTERM, and raises it again.

    Args:
        explored: what the page is about.
        listening: from `listen`.
    """
    config = uvicorn.Config(
        make_app(explored, listening.getsockname()[0]),
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        http="h11",
        h11_max_incomplete_event_size=_MAX_REQUEST_BYTES,
        timeout_graceful_shutdown=_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def address(listening: socket.socket) -> str:
    """The page's address."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"
