"""The report's map of items: their embeddings in two dimensions, coloured by group."""

import csv
import dataclasses
import pathlib
from collections import Counter
from typing import Any

import numpy as np

from bert4rec_tf.evaluation.slices import POPULARITY_NAMES, popularity_groups
from bert4rec_tf.report.charts import dots
from bert4rec_tf.report.item_neighbours import NEIGHBOURS, SharedCategories
from bert4rec_tf.report.slices_section import head_and_tail
from tfrecords.errors import InputError, check_local
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

MAX_ITEMS = 1000
_MAX_NAMED_GROUPS = 8  # the number of colours that are easy to distinguish
_NAMED_ITEMS = 3  # of each group, in the legend
_REST = "other or unknown"


@dataclasses.dataclass(frozen=True)
class ItemMap:
    """Items in the plane.

    Attributes:
        coordinates: float64 [items, 2], along the two principal axes of the most popular items' embeddings.
        variance: float64 [2], each axis's share of the variance.
        groups: names, in the order of the legend.
        group_of: int [items], index into `groups`.
    """

    coordinates: np.ndarray
    variance: np.ndarray
    groups: list[str]
    group_of: np.ndarray

    @property
    def rest(self) -> str | None:
        """The last group, if it holds the items without a named group; else None."""
        return _REST if self.groups[-1] == _REST else None


def item_map(item_table: np.ndarray, vocabulary: Vocabulary, item_groups: dict[str, str] | None = None) -> ItemMap:
    """Projects the 1,000 most popular items on their two principal components.

    Args:
        item_table: float32 [V, D].
        vocabulary: of the same V.
        item_groups: group by raw item id, from `read_item_groups`; None: the fifths of `popularity_groups`.
    """
    number = min(MAX_ITEMS, len(vocabulary.item_ids))
    coordinates, variance = principal_plane(item_table[NUM_SPECIAL_IDS : NUM_SPECIAL_IDS + number])
    if item_groups is None:
        return ItemMap(coordinates, variance, list(POPULARITY_NAMES), popularity_groups(vocabulary.counts)[:number])
    group_names = [item_groups.get(item_id) for item_id in vocabulary.item_ids[:number]]
    counts = Counter(name for name in group_names if name is not None)
    named = sorted(counts, key=lambda name: (-counts[name], name))[:_MAX_NAMED_GROUPS]
    group_of = np.array([named.index(name) if name in named else len(named) for name in group_names])
    groups = [*named, _REST] if len(named) in group_of else named
    return ItemMap(coordinates, variance, groups, group_of)


def principal_plane(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projects vectors on the two directions of most variance.

    Args:
        vectors: float [n, D], at least one.

    Returns:
        Coordinates, float64 [n, 2], and each axis's share of the variance, float64 [2]. The largest coefficient of an
        axis is positive, so that the same table always gives the same picture.
    """
    centred = np.float64(vectors) - np.mean(vectors, axis=0, dtype=np.float64)
    left, values, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.where(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1)[:, 0] < 0, -1, 1)
    missing = max(0, 2 - len(values))
    coordinates = np.pad(left * values * signs, [(0, 0), (0, missing)])[:, :2]
    return coordinates, np.pad(values**2 / max(1e-30, (values**2).sum()), (0, missing))[:2]


def read_item_groups(path: str, vocabulary: Vocabulary) -> dict[str, str]:
    """Reads a TSV file with the columns `item_id` and `genre` (or `genres`), in UTF-8.

    If a row has several genres, separated by "|", the first one is used.

    Returns:
        Group by raw item id. If an item has several rows, the last one is used.

    Raises:
        InputError: the file cannot be read, lacks a column, or has no item of the vocabulary.
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
                    f"{', '.join(names) or 'none'}. Fix: write these names in the first line"
                )
            found = {row["item_id"]: (row[column] or "").partition("|")[0].strip() for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"--item_groups must name a readable TSV file in UTF-8. Received: {path} ({error}). Fix: name another file"
        ) from None
    groups = {item_id: genre for item_id, genre in found.items() if genre}
    if not groups.keys() & set(vocabulary.item_ids):
        raise InputError(
            f"--item_groups must name items of --data_dir. Received: {path} with {len(groups)} items, none of them "
            "known. Fix: use the item ids of the log"
        )
    return groups


def items_content(
    items: ItemMap, vocabulary: Vocabulary, by_popularity: bool, shared: list[SharedCategories]
) -> dict[str, Any]:
    """The items as dots, with a legend, and how often neighbours share categories, for `templates/items.html`."""
    number = len(items.coordinates)
    class_prefix = "p" if by_popularity else "g"
    # Colour 8, which is grey, is for the items without a named group.
    colours = [8 if group == items.rest else index for index, group in enumerate(items.groups)]
    names = [item_name(vocabulary, NUM_SPECIAL_IDS + index) for index in range(number)]
    titles = [
        f"{name}, {items.groups[group]}, {count:,} events"
        for name, group, count in zip(names, items.group_of.tolist(), vocabulary.counts, strict=False)
    ]
    groups = []
    for group, name in enumerate(items.groups):
        members = np.flatnonzero(items.group_of == group)
        if len(members):
            colour, shown = f"{class_prefix}{colours[group]}", [names[index] for index in members[:_NAMED_ITEMS]]
            groups.append({"name": name, "count": len(members), "colour": colour, "titles": shown})
    colour_of_items = [colours[group] for group in items.group_of]
    return {
        "number": number,
        "variance": items.variance,
        "popularity": head_and_tail(vocabulary.counts) if by_popularity else "",
        "groups": groups,
        "neighbours": NEIGHBOURS,
        "shared": [
            (each.feature, f"{each.near:.0%} of the nearest items share one, {each.random:.0%} of random items")
            for each in shared
        ],
        "svg": dots(items.coordinates, colour_of_items, titles, class_prefix, "map of the items"),
    }


def item_name(vocabulary: Vocabulary, item: int) -> str:
    """An item's title, or its id if it has no title."""
    if item < NUM_SPECIAL_IDS:
        return "unknown item"
    return vocabulary.titles[item - NUM_SPECIAL_IDS] or vocabulary.item_ids[item - NUM_SPECIAL_IDS]
