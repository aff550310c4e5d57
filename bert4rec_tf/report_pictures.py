"""The report's sections that show the model at work: attention, the map of the items, users with their items."""

import numpy as np

from bert4rec_tf.attention_maps import AttentionMaps
from bert4rec_tf.charts import dots, heat_map
from bert4rec_tf.item_map import ItemMap
from bert4rec_tf.markup import Markup, element, together
from bert4rec_tf.metrics import MISSED_RANK, NO_RANK
from bert4rec_tf.user_ranks import Ranks
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

HISTORY_SHOWN = 10
_LABELLED_SLOTS = 5  # every so many, from the newest


def attention_section(maps: AttentionMaps) -> Markup:
    """A heat map for each head, by layer."""
    size, last = maps.weights.shape[-1], "0" if maps.causal else "M"
    names = [f"-{back}" if back and back % _LABELLED_SLOTS == 0 else "" for back in range(size - 1, 0, -1)] + [last]
    shown = []
    for layer, heads in enumerate(maps.weights, start=1):
        figures = []
        for head, weights in enumerate(heads, start=1):
            share = maps.shown[layer - 1, head - 1]
            caption = (
                f"Head {head}: {weights.min():.4f} to {weights.max():.4f}; {last} has {share:.0%} of its weight here"
            )
            drawn = heat_map(weights, names, f"attention of layer {layer}, head {head}")
            figures.append(element("figure", element("figcaption", caption), drawn))
        shown += [element("h3", f"Layer {layer}"), element("div", *figures, class_="heads")]
    users = f"{maps.users:,} user{'' if maps.users == 1 else 's'}"
    asks = "0 is the newest item, which asks" if maps.causal else "M is [MASK] in the place of the next item"
    says = (
        f"Mean attention weights over {users} of at least {size - 1} items, from the slot that asks (row) to the slot "
        f"attended to (column), for the newest {size} slots. {asks}, -5 the fifth "
        "item before it. Each map has its own scale; its smallest and largest mean stand above it, and where they "
        "hardly differ it has one shade."
    )
    return together(element("p", says, class_="soft"), *shown)


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
        f"{_name(vocabulary, item)}, {places.groups[group]}, {count:,} events"
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


def users_section(rows: list[int], ranks: Ranks, histories: dict[str, np.ndarray], vocabulary: Vocabulary) -> Markup:
    """A card for each of some users.

    Args:
        rows: of the users, in `ranks`.
        ranks: with the best items.
        histories: the newest items at least, int [any], ids, oldest first, by raw user id.
        vocabulary: of the ids.
    """
    cards = []
    for row in rows:
        among = "too few" if ranks.sampled[row] == NO_RANK else f"{ranks.sampled[row]:,} among the"
        history, target = histories[ranks.user_ids[row]], ranks.targets[row]
        recommended = [item for item in ranks.recommended[row] if item != PAD_ID]
        newest, length = history[-HISTORY_SHOWN:], ranks.history_lengths[row]
        rank = f"rank {ranks.full[row]:,} of all items, {among} negatives"
        if ranks.full[row] == MISSED_RANK:
            rank = "missed: the target stands in the history, and items of the history are not recommended"
        cards.append(
            element(
                "article",
                element("h3", "User ", element("span", ranks.user_ids[row], class_="title")),
                element("p", "Next was ", _titled(vocabulary, target, hit=target in recommended)),
                element("p", rank),
                element("h4", f"The last {len(newest)} of {length:,} items, newest last"),
                _listed([_titled(vocabulary, item) for item in newest], start=int(length) - len(newest) + 1),
                element("h4", "Recommended"),
                _listed([_titled(vocabulary, item, hit=item == target) for item in recommended]),
                class_="user",
            )
        )
    says = (
        f"{len(rows)} users whose ranks are spread evenly on a logarithmic scale, from the best to the worst served: "
        "no fair sample, but one of everything. A hit is marked."
    )
    return together(element("p", says, class_="soft"), element("div", *cards, class_="users"))


def _listed(items: list[Markup], start: int = 1) -> Markup:
    return element("ol", *(element("li", item) for item in items), start=None if start == 1 else start)


def _titled(vocabulary: Vocabulary, item: int, hit: bool = False) -> Markup:
    shown = element("span", _name(vocabulary, item), class_="title")
    return element("mark", shown, " ✓") if hit else shown


def _name(vocabulary: Vocabulary, item: int) -> str:
    if item < NUM_SPECIAL_IDS:
        return "unknown item"
    return vocabulary.titles[item - NUM_SPECIAL_IDS] or vocabulary.item_ids[item - NUM_SPECIAL_IDS]
