"""A model for the explorer without TensorFlow graphs: its scores are a table, so that answers are known."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from bert4rec_tf.explorer.explored_model import ExploredModel, ModelError, NoSuchSignature
from bert4rec_tf.explorer.view import Explored
from bert4rec_tf.serving.nearest_items import NearestItems
from tfrecords.vocabulary import Vocabulary

MISSING_SCORE = -3.4e38
# Titles and ids with what HTML, forms and addresses treat in a special way.
TITLES = {
    "i0": "Alien (1979)",
    "i1": "Aliens (1986)",
    "i2": "Amélie",
    "<b>&\"'": "<script>alert(1)</script> & Co",
    "line\nfeed\r\ttab": "Über alles",
    "100%": None,
    "a+b/c?d=e#f": "A very long title that goes on and on " * 3,
    "日本": "七人の侍",
    "x" * 200: None,
    "i9": "The Alien Mind",
}
ITEM_IDS = tuple(TITLES)
VOCABULARY = Vocabulary(ITEM_IDS, np.array([90, 80, 80, 60, 50, 40, 30, 20, 10, 0]), tuple(TITLES.values()))


class TableModel(ExploredModel):
    """Scores an item by the sum over the known items of the history of `table[item of the history, item]`.

    Without a known item the scores are log popularity. Attention is the position of an item among the known ones,
    divided by their sum.

    Args:
        seed: of the table.
        has_attention: whether it was exported with attention.
        fails: with this message, if it is not "".
    """

    def __init__(self, seed: int = 1, has_attention: bool = True, fails: str = ""):
        self.name, self.max_k, self.vocabulary = f"table {seed}", 1000, VOCABULARY
        draw = np.random.default_rng(seed)
        self.nearest_items = NearestItems(draw.normal(size=(len(ITEM_IDS), 4)))
        self.table = draw.normal(size=(len(ITEM_IDS), len(ITEM_IDS))).astype(np.float32)
        self.has_attention, self.fails, self.calls = has_attention, fails, 0

    @property
    def version(self) -> str:
        return "7"

    def scores(self, history: list[str]) -> np.ndarray:
        known = [ITEM_IDS.index(item_id) for item_id in history if item_id in ITEM_IDS]
        popularity = np.log((VOCABULARY.counts + 1) / 1000).astype(np.float32)
        return self.table[known].sum(axis=0) if known else popularity

    def _call(self, signature: str, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        self.calls += 1
        if self.fails:
            raise ModelError(self.fails)
        rows = inputs["item_ids"]
        assert len({len(row) for row in rows}) == 1, "a rectangle"
        if signature == "recommend":
            scores = self.scores(rows[0])
            left_out = {*inputs["excluded_item_ids"][0], *(rows[0] if inputs["drop_seen"][0] else [])}
            order = [at for at in np.argsort(-scores, kind="stable") if ITEM_IDS[at] not in left_out]
            best = order[: inputs["k"][0]]
            ids = [ITEM_IDS[at].encode() for at in best]
            return {"item_ids": np.array([[*ids, b""]], object), "scores": np.append(scores[best], MISSING_SCORE)[None]}
        if signature == "rank":
            candidates = inputs["candidate_item_ids"][0]
            known = [item_id in ITEM_IDS for item_id in candidates]
            at = [ITEM_IDS.index(item_id) if item_id in ITEM_IDS else 0 for item_id in candidates]
            scores = np.stack([np.where(known, self.scores(row)[at], MISSING_SCORE) for row in rows])
            return {"scores": scores, "known": np.array([known] * len(rows))}
        if not self.has_attention:
            raise NoSuchSignature(signature)
        known = np.array([item_id in ITEM_IDS for item_id in rows[0]])
        weights = np.where(known, np.cumsum(known), 0) / max(np.cumsum(known)[known].sum(), 1)
        return {"weights": np.stack([np.zeros([2, len(known)]), np.stack([weights, weights])])[None]}


def served(explored: Explored) -> Iterator[str]:
    """Serves a page in a thread while the generator is suspended; gives its address without the last slash."""
    from bert4rec_tf.explorer.server import address, listen, make_server

    listening: socket.socket = listen("127.0.0.1", 0)
    server = make_server(explored, listening)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield address(listening).rstrip("/")
    finally:
        server.should_exit = True
        thread.join()
