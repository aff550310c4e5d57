"""The page as a web application: HTML from templates, and no address but its own."""

import dataclasses
import functools
import urllib.parse
from typing import Any

import jinja2

from bert4rec_tf.explorer.state import MAX_HISTORY, State, decode
from bert4rec_tf.explorer.view import Explored, matches, page_values
from bert4rec_tf.report.markup import page_templates
from tfrecords.errors import InputError

try:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import RedirectResponse, Response
    from starlette.routing import Route
except ImportError:
    raise InputError(
        "explore.py needs starlette and uvicorn. Received: an environment without them. Fix: pip install -r "
        "requirements-explore.txt, on Python 3.11 or later"
    ) from None

LOOPBACK = ("127.0.0.1", "localhost")
_HEADERS = {
    # The browser takes everything from this address, even if an item title contains HTML.
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(explored: Explored, host: str = LOOPBACK[0]) -> Starlette:
    """The application.

    Args:
        explored: the models and their items.
        host: that the server listens on. On loopback, requests to other names are refused, so that no web site can read
            the page through a name of its own.
    """
    pages = _Pages(explored)
    routes = [
        Route("/", pages.show),
        Route("/act", pages.act),
        Route("/user", pages.user),
        Route("/random", pages.random_user),
        Route("/matches", pages.matches),
        Route("/style.css", pages.style),
        Route("/explorer.js", pages.script),
        Route("/favicon.ico", lambda _: Response(status_code=204)),
    ]
    allowed = list(LOOPBACK) if host in LOOPBACK else ["*"]
    return Starlette(routes=routes, middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=allowed)])


class _Pages:
    """The answers to requests. Starlette runs these functions in threads, several at a time."""

    def __init__(self, explored: Explored):
        self._explored = explored

    def show(self, request: Request) -> Response:
        """The page of a state; `q`: text to search for."""
        return self._page(_state(request), request.query_params.get("q", ""))

    def act(self, request: Request) -> Response:
        """Changes the state as the button `do` demands, and leads to its page."""
        state, query = _state(request), request.query_params.get("q", "")
        action, _, argument = request.query_params.get("do", "").partition("=")
        if action == "search":
            return _redirect(state, query)
        if action == "add" and not argument and query.strip():
            found = matches(self._explored, query)["items"]
            if not found:
                return self._page(state, query, f"No item matches “{query.strip()}”.")
            argument = found[0]["code"]
        return _redirect(_changed(state, self._explored.history(state), action, argument))

    def user(self, request: Request) -> Response:
        """The page of a test user."""
        chosen = request.query_params.get("user", "").strip()
        return _redirect(State.from_query([*_kept(request), ("user", urllib.parse.quote(chosen, safe=""))]))

    def random_user(self, request: Request) -> Response:
        """The page of a random test user."""
        if self._explored.users is None:
            return _redirect(_state(request))
        chosen = self._explored.users.draw().user_id
        return _redirect(State.from_query([*_kept(request), ("user", urllib.parse.quote(chosen, safe=""))]))

    def matches(self, request: Request) -> Response:
        """The matches of a search, as a part of the page."""
        found = matches(self._explored, request.query_params.get("q", ""))
        return _html(_templates().get_template("matches.html").render(matches=found))

    def style(self, _: Request) -> Response:
        """The style of the report, and that of this page."""
        text = "".join(_templates().get_template(name).render() for name in ("style.css", "explorer.css"))
        return Response(text, media_type="text/css", headers=_HEADERS)

    def script(self, _: Request) -> Response:
        """The page's script."""
        text = _templates().get_template("explorer.js").render()
        return Response(text, media_type="text/javascript", headers=_HEADERS)

    def _page(self, state: State, query: str, message: str = "") -> Response:
        if not message and state.history is not None and len(state.history) == MAX_HISTORY:
            message = f"An address holds at most {MAX_HISTORY:,} items of a history: older ones are left out."
        values = page_values(self._explored, state, query, message)
        text = _templates().get_template("page.html").render(**values)
        return _html(text, 502 if values["failed"] else 200)


def _changed(state: State, history: tuple[str, ...], action: str, argument: str) -> State:
    """The state after an action; the same one if the action makes no sense."""
    item_id = decode(argument)
    change: dict[str, Any] = {}
    if action == "add" and item_id:
        change = {"history": (*history, item_id)[-MAX_HISTORY:]}
    elif action == "remove" and argument.isdecimal() and int(argument) < len(history):
        at = int(argument)
        change = {"history": (*history[:at], *history[at + 1 :])[-MAX_HISTORY:]}
    elif action == "exclude" and item_id and item_id not in state.excluded:
        change = {"excluded": (*state.excluded, item_id)}
    elif action == "allow":
        change = {"excluded": tuple(each for each in state.excluded if each != item_id)}
    elif action == "clear":
        change = {"history": None, "user": None}
    return dataclasses.replace(state, **change)


def _state(request: Request) -> State:
    return State.from_query(request.query_params.multi_items())


def _kept(request: Request) -> list[tuple[str, str]]:
    """What stays when another user is chosen."""
    return [(name, value) for name, value in request.query_params.multi_items() if name in ("x", "k", "seen")]


def _redirect(state: State, query: str = "") -> Response:
    pairs = state.to_query() + (f"&{urllib.parse.urlencode({'q': query})}" if query.strip() else "")
    return RedirectResponse(f"/?{pairs.lstrip('&')}" if pairs else "/", 303, _HEADERS)


def _html(text: str, status: int = 200) -> Response:
    return Response(text, status, _HEADERS, "text/html")


@functools.cache
def _templates() -> jinja2.Environment:
    return page_templates("bert4rec_tf.explorer", "bert4rec_tf.report")
