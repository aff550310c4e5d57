"""The item embeddings in two dimensions, and the groups that colour them."""

import csv
import dataclasses
import pathlib
from collections import Counter

import numpy as np

from bert4rec_tf.evaluation.slices import popularity_groups
from bert4rec_tf.report.charts import dots
from bert4rec_tf.report.html import Markup, element, together
from tfrecords.errors import InputError, check_local
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

MAX_ITEMS = 1000
_NAMED_GROUPS = 8  # as many as can be told apart by colour
_FIFTHS = ("head", "2nd fifth", "3rd fifth", "4th fifth", "tail")  # of the training events
_REST = "other or unknown"


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """Items in the plane.

    Attributes:
        places: float64 [items, 2], along the two principal axes of the most popular items' embeddings.
        variance: float64 [2], each axis's share of the variance.
        groups: names, in the order of the legend.
        group_of: int [items], index into `groups`.
    """

    places: np.ndarray
    variance: np.ndarray
    groups: list[str]
    group_of: np.ndarray

    @property
    def rest(self) -> str | None:
        """The group of what has no group of its own, the last one; None where there is none."""
        return _REST if self.groups[-1] == _REST else None


def item_map(item_table: np.ndarray, vocabulary: Vocabulary, item_groups: dict[str, str] | None = None) -> ItemMap:
    """Places the 1,000 most popular items by principal component analysis.

    Args:
        item_table: float32 [V, D].
        vocabulary: the same V.
        item_groups: group by raw item id, from `read_item_groups`; None: the fifths of `popularity_groups`.
    """
    number = min(MAX_ITEMS, len(vocabulary.item_ids))
    places, variance = principal_plane(item_table[NUM_SPECIAL_IDS : NUM_SPECIAL_IDS + number])
    if item_groups is None:
        return ItemMap(places, variance, list(_FIFTHS), popularity_groups(vocabulary.counts)[:number])
    given = [item_groups.get(item_id) for item_id in vocabulary.item_ids[:number]]
    counted = Counter(group for group in given if group is not None)
    named = sorted(counted, key=lambda group: (-counted[group], group))[:_NAMED_GROUPS]
    of = np.array([named.index(group) if group in named else len(named) for group in given])
    return ItemMap(places, variance, [*named, _REST] if len(named) in of else named, of)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two directions of most variance.

    Args:
        vectors: float [n, D], at least one.

    Returns:
        Coordinates, float64 [n, 2], and each axis's share of the variance, float64 [2]. An axis points to where its
        largest coefficient is positive, so that the same table always gives the same picture.
    """
    centred = np.float64(vectors) - np.mean(vectors, axis=0, dtype=np.float64)
    left, values, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0] < 0, -1, 1)
    missing = max(0, 2 - len(values))
    places = np.pad(left * values * signs, [(0, 0), (0, missing)])[:, :2]
    return places, np.pad(values**2 / max(1e-30, (values**2).sum()), (0, missing))[:2]


def read_item_groups(path: str, vocabulary: Vocabulary) -> dict[str, str]:
    """Reads a TSV file with the columns `item_id` and `genre` (or `genres`), in UTF-8.

    Of several genres with "|" between them the first counts.

    Returns:
        Group by raw item id; of several rows of one item the last counts.

    Raises:
        InputError: the file cannot be read, lacks a column, or names no item of the vocabulary.
    """
    check_local("item_groups", path)
    try:
        with pathlib.Path(path).open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
            names = rows.fieldnames or []
            column = next((name for name in ("genre", "genres") if name in names), None)
            if column is None or "item_id" not in names:
                raise InputError(
                    f"--item_groups must name a TSV file with the columns item_id and genre. Received: {path} with "
                    f"{', '.join(names) or 'none'}. Fix: name them so in the first line"
                )
            found = {row["item_id"]: (row[column] or "").partition("|")[0].strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--item_groups must name a readable TSV file in UTF-8. Received: {path} ({error}). Fix: name another"
        ) from None
    groups = {item_id: genre for item_id, genre in found.items() if genre}
    if not groups.keys() & set(vocabulary.item_ids):
        raise InputError(
            f"--item_groups must name items of --data_dir. Received: {path} with {len(groups)} items, none of them "
            "known. Fix: take the item ids of the log"
        )
    return groups


def items_section(places: ItemMap, vocabulary: Vocabulary, by_popularity: bool) -> Markup:
    """The items as dots, with a legend."""
    number = len(places.places)
    counted = np.bincount(places.group_of, minlength=len(places.groups)).tolist()
    colours = "p" if by_popularity else "g"
    # The rest is always grey.
    kinds = [8 if group == places.rest else index for index, group in enumerate(places.groups)]
    legend = [
        element("li", element("i", class_=f"{colours}{kind}"), f"{name} ({count:,})")
        for kind, name, count in zip(kinds, places.groups, counted, strict=True)
        if count
    ]
    titles = [
        f"{item_name(vocabulary, item)}, {places.groups[group]}, {count:,} events"
        for item, group, count in zip(
            range(NUM_SPECIAL_IDS, NUM_SPECIAL_IDS + number), places.group_of.tolist(), vocabulary.counts, strict=False
        )
    ]
    drawn = dots(places.places, [kinds[group] for group in places.group_of], titles, colours, "map of the items")
    first, second = places.variance
    says = (
        f"The embeddings of the {number:,} most popular items in the plane of their two principal axes, which hold "
        f"{first:.1%} and {second:.1%} of the variance; colours by {'popularity' if by_popularity else 'genre'}. "
        "A dot under the pointer tells its title."
    )
    return together(
        element("p", says, class_="soft"), element("ul", *legend, class_="legend"), element("div", drawn, class_="map")
    )


def item_name(vocabulary: Vocabulary, item: int) -> str:
    """An item's title, or its id where it has none."""
    if item < NUM_SPECIAL_IDS:
        return "unknown item"
    return vocabulary.titles[item - NUM_SPECIAL_IDS] or vocabulary.item_ids[item - NUM_SPECIAL_IDS]
