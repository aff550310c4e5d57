"""What a page shows, as the query of its address, so that a page can be shared and the back button works."""

import dataclasses
import re
import urllib.parse
from collections.abc import Sequence

DEFAULT_K, MAX_K = 10, 100
MAX_HISTORY = 1000  # items in an address; browsers and proxies limit its length


@dataclasses.dataclass(frozen=True)
class State:
    """The choices of a user of the page.

    Attributes:
        history: item ids, oldest first; None: the history of `user`, or none.
        excluded: items that are not recommended.
        k: how many items are recommended.
        keep_seen: whether items of the history may be recommended.
        user: id of a test user.

    >>> state = State(("1", "a&b"), k=20)
    >>> state.to_query()
    'h=1&h=a%2526b&k=20'
    >>> State.from_query([("h", "1"), ("h", "a%26b"), ("k", "20")]) == state
    True
    """

    history: tuple[str, ...] | None = None
    excluded: tuple[str, ...] = ()
    k: int = DEFAULT_K
    keep_seen: bool = False
    user: str | None = None

    @classmethod
    def from_query(cls, pairs: Sequence[tuple[str, str]]) -> "State":
        """Reads the names and values of a query. Values that make no sense count as absent; `k` is limited."""
        values: dict[str, list[str]] = {}
        for name, value in pairs:
            values.setdefault(name, []).append(value)
        history = tuple(decode(value) for value in values.get("h", []) if value)[-MAX_HISTORY:]
        user = values.get("user", [""])[-1].strip()
        k = values.get("k", [""])[-1]
        return cls(
            history=history if "h" in values else None,
            excluded=tuple(dict.fromkeys(decode(value) for value in values.get("x", []) if value))[-MAX_HISTORY:],
            k=min(max(int(k), 1), MAX_K) if re.fullmatch("[0-9]{1,9}", k) else DEFAULT_K,
            keep_seen=values.get("seen", [""])[-1] == "1",
            user=decode(user) if user else None,
        )

    def pairs(self) -> list[tuple[str, str]]:
        """The names and values of the query, without `k` and `seen`, which have controls on the page."""
        found = [("h", encode(item_id)) for item_id in (self.history or ())[-MAX_HISTORY:]]
        if self.history == () and self.user is not None:
            found.append(("h", ""))  # an emptied history, not that of the user
        found += [("x", encode(item_id)) for item_id in self.excluded]
        return found + ([] if self.user is None else [("user", encode(self.user))])

    def to_query(self) -> str:
        """The query of the page's address."""
        pairs = self.pairs()
        pairs += [("k", str(self.k))] if self.k != DEFAULT_K else []
        pairs += [("seen", "1")] if self.keep_seen else []
        return urllib.parse.urlencode(pairs)


def encode(value: str) -> str:
    r"""An id as the value of a form field. Forms change line ends, so all but common characters are percent-encoded.

    >>> encode("B00-1_x.y"), encode("line\nfeed"), decode(encode("50%"))
    ('B00-1_x.y', 'line%0Afeed', '50%')
    """
    return urllib.parse.quote(value, safe="")


def decode(value: str) -> str:
    """The id of a form field."""
    return urllib.parse.unquote(value, errors="replace")
