"""The items that the page can name and find: titles, popularity, and a search by title."""

import dataclasses
import heapq
import unicodedata
from collections.abc import Mapping

import numpy as np

from tfrecords.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Matches:
    """What a search found.

    Attributes:
        item_ids: the best matches, best first.
        total: the number of all matches.
    """

    item_ids: list[str]
    total: int


class Catalogue:
    """Items by their raw ids. It may be empty: a server tells neither items nor titles.

    Args:
        vocabulary: of the model; None: only `titles` are known.
        titles: titles by item id, for items without a title in `vocabulary`.

    >>> vocabulary = Vocabulary(("a", "b", "c"), np.array([7, 7, 2]), ("Alien (1979)", None, "Amélie"))
    >>> catalogue = Catalogue(vocabulary, {"b": "The Alien Mind"})
    >>> catalogue.name("b"), catalogue.name("c"), catalogue.name("unknown")
    ('The Alien Mind', 'Amélie', 'unknown')
    >>> catalogue.popularity("c")
    (2, 3)
    """

    def __init__(self, vocabulary: Vocabulary | None, titles: Mapping[str, str] | None = None):
        further = titles or {}
        if vocabulary is None:
            self.item_ids: tuple[str, ...] = tuple(further)
            self._counts = None
            found = dict(further)
        else:
            self.item_ids, self._counts = vocabulary.item_ids, np.asarray(vocabulary.counts)
            known = zip(vocabulary.item_ids, vocabulary.titles, strict=True)
            found = {item_id: text for item_id, title in known if (text := title or further.get(item_id))}
        self._titles = found
        self.index_of = {item_id: index for index, item_id in enumerate(self.item_ids)}
        self._falling = None if self._counts is None else -np.sort(-self._counts)
        self._texts = [f"{_plain(found.get(item_id, ''))}\n{_plain(item_id)}" for item_id in self.item_ids]

    def __len__(self) -> int:
        return len(self.item_ids)

    def __contains__(self, item_id: str) -> bool:
        return item_id in self.index_of

    def name(self, item_id: str) -> str:
        """The title of an item, or its id if it has no title."""
        return self._titles.get(item_id, item_id)

    def has_title(self, item_id: str) -> bool:
        """Whether the item has a title."""
        return item_id in self._titles

    def popularity(self, item_id: str) -> tuple[int, int] | None:
        """Training events of an item and its rank by them, equal for equal counts; None if they are unknown."""
        if self._counts is None or self._falling is None or item_id not in self.index_of:
            return None
        count = int(self._counts[self.index_of[item_id]])
        return count, 1 + int(np.searchsorted(-self._falling, -count, side="left"))

    def search(self, text: str, limit: int = 10) -> Matches:
        """The items whose title or id holds every word of a text, whatever its case and accents.

        Items of the very id come first, then titles that begin with the text, titles with a word that begins with it,
        and all others, each by popularity.

        >>> vocabulary = Vocabulary(("a", "b", "c"), np.array([7, 5, 2]), ("Alien", "The Alien Mind", "Amélie"))
        >>> Catalogue(vocabulary).search("alien").item_ids
        ['a', 'b']
        >>> Catalogue(vocabulary).search("AMELIE")
        Matches(item_ids=['c'], total=1)
        """
        wanted = _plain(text).strip()
        words = wanted.split()
        if not words:
            return Matches([], 0)
        found = []
        for index, entry in enumerate(self._texts):
            if all(word in entry for word in words):
                title, _, item_id = entry.partition("\n")
                order = 3
                if item_id == wanted:
                    order = 0
                elif title.startswith(wanted):
                    order = 1
                elif f" {wanted}" in title:
                    order = 2
                found.append((order, index))
        return Matches([self.item_ids[index] for _, index in heapq.nsmallest(limit, found)], len(found))


def _plain(text: str) -> str:
    """Text without case, accents and line ends, to compare."""
    text = text.casefold().replace("\n", " ")
    if text.isascii():
        return text
    return "".join(char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char))
