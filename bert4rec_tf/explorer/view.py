"""What the page shows for a state, as plain values for the template."""

import dataclasses
from typing import Any

import numpy as np

from bert4rec_tf.explorer.catalogue import Catalogue
from bert4rec_tf.explorer.explanation import MAX_LEFT_OUT, left_out_effects, similar_items, target_rank
from bert4rec_tf.explorer.explored_model import ExploredModel, ModelError
from bert4rec_tf.explorer.held_out_users import HeldOutUser, HeldOutUsers
from bert4rec_tf.explorer.state import State, encode
from bert4rec_tf.report.number_format import counted

SEARCH_SHOWN = 10
_K_CHOICES = (5, 10, 20, 50, 100)
_NEWEST_SHOWN = 12
_REASONS = 5
_BAR_WIDTH = 100


@dataclasses.dataclass(frozen=True)
class Explored:
    """What the page is about.

    Attributes:
        models: the model, and the one that it is compared with, if any.
        catalogue: the items that can be named and found.
        users: test users; None: there are no records.
    """

    models: tuple[ExploredModel, ...]
    catalogue: Catalogue
    users: HeldOutUsers | None = None

    def user(self, state: State) -> HeldOutUser | None:
        """The test user of a state, if there is such a user."""
        return None if self.users is None or state.user is None else self.users.users.get(state.user)

    def history(self, state: State) -> tuple[str, ...]:
        """The history of a state: its own, or that of its test user."""
        if state.history is not None:
            return state.history
        user = self.user(state)
        return () if user is None else user.history

    def warm_up(self) -> None:
        """Asks each model once, since the first answers of a graph take seconds."""
        for model in self.models:
            page_values(dataclasses.replace(self, models=(model,)), State(self.catalogue.item_ids[:2]))


def page_values(explored: Explored, state: State, query: str = "", message: str = "") -> dict[str, Any]:
    """The values of `templates/page.html`.

    Args:
        explored: the models and their items.
        state: of the page.
        query: text of the search field, to show its matches.
        message: what to tell the user of the page.
    """
    history = explored.history(state)
    columns = [_column(explored, model, state, history) for model in explored.models]
    _compare(columns)
    return {
        "state": state,
        "hidden": state.pairs(),
        "k_choices": sorted({*_K_CHOICES, state.k}),
        "models": columns,
        "history": _history(explored, history, columns),
        "newest_shown": _NEWEST_SHOWN,
        "excluded": [_named(explored.catalogue, item_id) for item_id in state.excluded],
        "user": _user(explored, state, history),
        "has_users": explored.users is not None,
        "users_note": _users_note(explored.users),
        "items": len(explored.catalogue),
        "max_left_out": MAX_LEFT_OUT,
        "query": query,
        "matches": matches(explored, query),
        "message": message,
        "summary": _summary(columns, history),
        "failed": any(column["error"] for column in columns),
    }


def matches(explored: Explored, query: str) -> dict[str, Any]:
    """The values of `templates/matches.html`: the items that a search finds. Without a catalogue, the text is an id."""
    query = query.strip()
    if not len(explored.catalogue):
        found, total = ([query] if query else []), int(bool(query))
    else:
        searched = explored.catalogue.search(query, SEARCH_SHOWN)
        found, total = searched.item_ids, searched.total
    return {
        "query": query,
        "items": [_named(explored.catalogue, item_id) for item_id in found],
        "total": total,
        "words": "1 match" if total == 1 else f"{total:,} matches",
    }


def _named(catalogue: Catalogue, item_id: str) -> dict[str, Any]:
    popularity = catalogue.popularity(item_id)
    words = ""
    if popularity is not None:
        count, rank = popularity
        words = f"{counted(count, 'event')}, #{rank:,}" if count else "no training event"
    return {
        "id": item_id,
        "code": encode(item_id),
        "name": catalogue.name(item_id),
        "has_title": catalogue.has_title(item_id),
        "popularity": words,
    }


def _column(explored: Explored, model: ExploredModel, state: State, history: tuple[str, ...]) -> dict[str, Any]:
    """The recommendations of a model, with their reasons; or its error."""
    column: dict[str, Any] = {"name": model.name, "items": [], "attention": None, "error": "", "target": None}
    try:
        found = model.recommend(history, state.k, state.keep_seen, state.excluded)
        effects = left_out_effects(model, history, [item_id for item_id, _ in found])
        column["attention"] = model.attention(history) if history else None
        user = explored.user(state)
        if user is not None:
            column["target"] = _target(explored, model, state, history, user)
    except ModelError as error:
        return column | {"error": str(error), "version": model.version}
    column["version"] = model.version
    target = "" if user is None else user.target
    for row, (item_id, score) in enumerate(found):
        column["items"].append(
            {
                "rank": row + 1,
                "score": score,
                "is_target": item_id == target,
                "is_seen": item_id in history,
                "reasons": _reasons(explored.catalogue, history, {at: each[row] for at, each in effects.items()}),
                "similar": [
                    {"name": explored.catalogue.name(each.item_id), "cosine": each.cosine}
                    for each in similar_items(model, item_id, _REASONS)
                ],
                "nearest_seen": _nearest_seen(explored.catalogue, model, item_id, history),
                **_named(explored.catalogue, item_id),
            }
        )
    return column


def _target(
    explored: Explored, model: ExploredModel, state: State, history: tuple[str, ...], user: HeldOutUser
) -> dict[str, Any]:
    items = explored.catalogue.item_ids
    rank = target_rank(model, history, user.target, items, state.keep_seen, state.excluded)
    return {"rank": rank, "is_rank": isinstance(rank, int)}


def _reasons(catalogue: Catalogue, history: tuple[str, ...], effects: dict[int, float]) -> list[dict[str, Any]]:
    """The events whose absence changes the score most, largest first, with the length of their bars."""
    largest = sorted(effects.items(), key=lambda pair: -abs(pair[1]))[:_REASONS]
    longest = max((abs(float(effect)) for _, effect in largest), default=0.0) or 1.0
    return [
        {
            "name": catalogue.name(history[position]),
            "effect": float(effect),
            "bar": round(_BAR_WIDTH * abs(float(effect)) / longest, 1),
        }
        for position, effect in sorted(largest, key=lambda pair: -pair[1])
    ]


def _nearest_seen(
    catalogue: Catalogue, model: ExploredModel, item_id: str, history: tuple[str, ...]
) -> dict[str, Any] | None:
    """The item of the history that is nearest to an item."""
    index = model.indices.get(item_id)
    others = [seen for seen in dict.fromkeys(history) if seen in model.indices and seen != item_id]
    if model.nearest_items is None or index is None or not others:
        return None
    cosines = model.nearest_items.cosines(index, np.array([model.indices[seen] for seen in others]))
    best = int(np.argmax(cosines))
    return {"name": catalogue.name(others[best]), "cosine": float(cosines[best])}


def _compare(columns: list[dict[str, Any]]) -> None:
    """Adds to each recommendation its rank in the other model, and to each model the number of shared items."""
    if len(columns) < 2:
        return
    ranks = [{item["id"]: item["rank"] for item in column["items"]} for column in columns]
    shared = len(ranks[0].keys() & ranks[1].keys())
    for column, others in zip(columns, reversed(ranks), strict=True):
        column["shared"] = shared
        for item in column["items"]:
            item["other_rank"] = others.get(item["id"])


def _history(explored: Explored, history: tuple[str, ...], columns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events, newest first, with the attention of each model to them."""
    known = [column["attention"] for column in columns if column["attention"] is not None]
    longest = max((float(weights.max()) for weights in known if weights.size), default=0.0) or 1.0
    rows = []
    for position in range(len(history) - 1, -1, -1):
        item_id = history[position]
        weights = [float(each[position]) for each in known]
        rows.append(
            {
                "position": position,
                "is_known": not len(explored.catalogue) or item_id in explored.catalogue,
                "attention": [{"share": weight, "bar": round(_BAR_WIDTH * weight / longest, 1)} for weight in weights],
                **_named(explored.catalogue, item_id),
            }
        )
    return rows


def _user(explored: Explored, state: State, history: tuple[str, ...]) -> dict[str, Any] | None:
    if state.user is None or explored.users is None:
        return None
    user = explored.user(state)
    if user is None:
        return {"id": state.user, "is_known": False}
    return {
        "id": user.user_id,
        "is_known": True,
        "target": _named(explored.catalogue, user.target) if user.target else None,
        "is_changed": history != user.history,
    }


def _users_note(users: HeldOutUsers | None) -> str:
    if users is None:
        return ""
    shown = counted(len(users.users), "test user")
    return shown if users.total == len(users.users) else f"the first {len(users.users):,} of {users.total:,} test users"


def _summary(columns: list[dict[str, Any]], history: tuple[str, ...]) -> str:
    """The result in a sentence, which screen readers announce."""
    first = columns[0]
    if first["error"]:
        return "The model gave no answer."
    words = f"{counted(len(first['items']), 'recommendation')} for a history of {counted(len(history), 'item')}"
    return f"{words}. First: {first['items'][0]['name']}" if first["items"] else words
