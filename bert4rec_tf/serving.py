"""The model as it is served: histories of item ids in, other items out."""

import functools
from collections.abc import Callable

import tensorflow as tf

from bert4rec_tf.inverted_file import InvertedFileIndex
from bert4rec_tf.model import Bert4Rec
from bert4rec_tf.retrieval import MISSING_SCORE, ExactIndex, ItemScores, top_of
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, PAD_ID, UNK_ID, Vocabulary

Answer = dict[str, tf.Tensor]
_IDS = functools.partial(tf.TensorSpec, [None, None], tf.string)
_LISTS = ("item_ids", "excluded_item_ids", "allowed_item_ids")


class Recommender(tf.Module):
    """What a SavedModel holds: the tables, the model, the index, and the signatures of `signatures()`.

    In all of them B and L are dynamic, "" is padding, anywhere in a row, and unknown ids are passed over. `item_ids` is
    a history, string [B, L], newest last: of its known items the last N - 1 count as context, and all as seen. Without
    a known item, popularity answers. No answer holds [PAD], [MASK], [UNK], or an item twice. Places that are left over
    hold "" and `MISSING_SCORE`, -3.4e38; every score is finite.

    Args:
        model: built, with its weights.
        vocabulary: of the model.
        top_k: K of `serving_default` and `examples`, and where `recommend` is not told another.
        index: over the items; None: exact.
    """

    def __init__(
        self, model: Bert4Rec, vocabulary: Vocabulary, top_k: int, index: ExactIndex | InvertedFileIndex | None = None
    ):
        super().__init__(name="recommender")
        # Not the model itself: a Keras model brings graphs of its own along, as large as the signatures again.
        self._weights = model.variables
        self._encode_next_item = model.encode_next_item
        self.top_k = top_k
        self._num_items = len(vocabulary.item_ids)
        # The raw ids stand in the graph, as constants: no asset file is looked up at serving, and ids may hold tabs and
        # line ends.
        raw_ids = list(vocabulary.item_ids)
        self._raw_ids = tf.constant([""] * NUM_SPECIAL_IDS + raw_ids)
        ids = tf.range(NUM_SPECIAL_IDS, vocabulary.size, dtype=tf.int32)
        keys = tf.constant(raw_ids, tf.string, [len(raw_ids)])
        self._table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, ids), UNK_ID)
        self.scores = item_scores(model, vocabulary)
        self.index = index or ExactIndex(self.scores)

    def signatures(self) -> dict[str, Callable]:
        """The functions to save, by the name of their signature.

        What `recommend` is not given takes its default over gRPC and in TensorFlow's sessions, but not over REST.
        """

        @tf.function(input_signature=[_IDS("item_ids")])
        def serving_default(item_ids: tf.Tensor) -> Answer:
            """The K best items that are not in the history: item_ids, string [B, K], and scores, float32 [B, K]."""
            return self.with_fixed_k(item_ids, item_ids[:, :0], None)

        @tf.function(
            input_signature=[
                _IDS("item_ids"),
                tf.TensorSpec(None, tf.int32, "k"),
                tf.TensorSpec(None, tf.bool, "drop_seen"),
                _IDS("excluded_item_ids"),
                _IDS("allowed_item_ids"),
            ]
        )
        def recommend(
            item_ids: tf.Tensor,
            k: tf.Tensor = tf.constant([self.top_k]),  # noqa: B008, saved as the signature's default
            drop_seen: tf.Tensor = tf.constant([True]),  # noqa: B008
            excluded_item_ids: tf.Tensor = tf.constant([], tf.string, [1, 0]),  # noqa: B008
            allowed_item_ids: tf.Tensor = tf.constant([], tf.string, [1, 0]),  # noqa: B008
        ) -> Answer:
            return self.recommend(item_ids, k, drop_seen, excluded_item_ids, allowed_item_ids)

        @tf.function(input_signature=[_IDS("item_ids"), _IDS("candidate_item_ids")])
        def rank(item_ids: tf.Tensor, candidate_item_ids: tf.Tensor) -> Answer:
            return self.rank(item_ids, candidate_item_ids)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "examples")])
        def examples(examples: tf.Tensor) -> Answer:
            """As `serving_default`, from serialised tf.train.Example, string [B].

            Its bytes features are item_ids, excluded_item_ids and allowed_item_ids, of any lengths; a missing one is
            empty.
            """
            features = tf.io.parse_example(examples, {name: tf.io.RaggedFeature(tf.string) for name in _LISTS})
            return self.with_fixed_k(*(features[name].to_tensor("") for name in _LISTS))

        @tf.function(input_signature=[_IDS("item_ids")])
        def encode(item_ids: tf.Tensor) -> Answer:
            """`vectors`, float32 [B, D]: an item's score is the inner product with its vector, plus its bias."""
            return {"vectors": self._encode_next_item(self._ids_of(item_ids))}

        functions = (serving_default, recommend, rank, examples, encode)
        return {function.__name__: function for function in functions}

    def recommend(
        self,
        item_ids: tf.Tensor,
        k: tf.Tensor,
        drop_seen: tf.Tensor,
        excluded_item_ids: tf.Tensor,
        allowed_item_ids: tf.Tensor,
    ) -> Answer:
        """The best items of those that may be answered.

        Args:
            item_ids: string [B, L].
            k: int32, one number, or one for each row; at least 1. Past the number of items it is that number.
            drop_seen: bool, one, or one for each row: whether items of the history are left out.
            excluded_item_ids: string [B, E] or [1, E], left out as well.
            allowed_item_ids: string [B, A] or [1, A]. A row with an id in it is answered with these items alone.

        Returns:
            item_ids: string [B, max k], best first.
            scores: float32 [B, max k], logits; log popularity for a history without a known item.

        Raises:
            tf.errors.InvalidArgumentError: `k` below 1, or shapes that do not fit.
        """
        rows = tf.shape(item_ids)[:1]
        histories = self._ids_of(item_ids)
        with tf.control_dependencies([tf.debugging.assert_positive(k, "`k` must be at least 1")]):
            k = tf.minimum(tf.reshape(k, [-1]), self._num_items)
        drop_seen = tf.broadcast_to(tf.reshape(drop_seen, [-1]), rows)
        seen = tf.where(drop_seen[:, None], histories, PAD_ID)
        answer = self._best(
            histories,
            tf.concat([seen, self._ids_of_lists(excluded_item_ids, rows)], axis=1),
            tf.broadcast_to(allowed_item_ids, tf.concat([rows, tf.shape(allowed_item_ids)[1:]], axis=0)),
            tf.where(tf.size(k) > 0, tf.reduce_max(k), 1),  # of no rows none
            tf.broadcast_to(k, rows),
        )
        within = tf.range(tf.shape(answer["item_ids"])[1])[None, :] < tf.broadcast_to(k, rows)[:, None]
        return {
            "item_ids": tf.where(within, answer["item_ids"], ""),
            "scores": tf.where(within, answer["scores"], MISSING_SCORE),
        }

    def rank(self, item_ids: tf.Tensor, candidate_item_ids: tf.Tensor) -> Answer:
        """Scores given items after a history, seen ones too.

        Args:
            item_ids: string [B, L].
            candidate_item_ids: string [B, C] or [1, C].

        Returns:
            scores: float32 [B, C], in the order given; `MISSING_SCORE` for what is not known.
            known: bool [B, C], whether the model knows the item.
        """
        histories = self._ids_of(item_ids)
        candidates = self._ids_of_lists(candidate_item_ids, tf.shape(item_ids)[:1])
        known = candidates >= NUM_SPECIAL_IDS
        scores = self.scores.of(self._encode_next_item(histories), knows_an_item(histories), candidates)
        return {"scores": tf.where(known, _bounded(scores), MISSING_SCORE), "known": known}

    def with_fixed_k(
        self, item_ids: tf.Tensor, excluded_item_ids: tf.Tensor, allowed_item_ids: tf.Tensor | None
    ) -> Answer:
        """`recommend` with the export's K, seen items dropped; `allowed_item_ids` may be None."""
        histories = self._ids_of(item_ids)
        dropped = tf.concat([histories, self._ids_of_lists(excluded_item_ids, tf.shape(item_ids)[:1])], axis=1)
        found = min(self.top_k, self._num_items)
        answer = self._best(histories, dropped, allowed_item_ids, tf.constant(found))
        missing = [[0, 0], [0, self.top_k - found]]
        filled = {
            "item_ids": tf.pad(answer["item_ids"], missing, constant_values=""),
            "scores": tf.pad(answer["scores"], missing, constant_values=MISSING_SCORE),
        }
        return {name: tf.ensure_shape(values, [None, self.top_k]) for name, values in filled.items()}

    def _best(
        self,
        histories: tf.Tensor,
        dropped: tf.Tensor,
        allowed_item_ids: tf.Tensor | None,
        k: tf.Tensor,
        row_k: tf.Tensor | None = None,
    ) -> Answer:
        query, known = self._encode_next_item(histories), knows_an_item(histories)

        def of_all() -> tuple[tf.Tensor, tf.Tensor]:
            scores, ids = self.index.top(query, known, dropped, k, row_k)
            return scores, ids

        def of_the_allowed() -> tuple[tf.Tensor, tf.Tensor]:
            found = top_of(self._ids_of(allowed_item_ids), query, known, dropped, k, self.scores)
            return tuple(tf.where(restricted[:, None], *pair) for pair in zip(found, of_all(), strict=True))

        if allowed_item_ids is None:
            scores, ids = of_all()
        else:
            restricted = tf.reduce_any(allowed_item_ids != "", axis=1)
            scores, ids = tf.cond(tf.reduce_any(restricted), of_the_allowed, of_all)
        scores = _bounded(scores)
        return {"item_ids": tf.where(scores > MISSING_SCORE, tf.gather(self._raw_ids, ids), ""), "scores": scores}

    def _ids_of(self, item_ids: tf.Tensor) -> tf.Tensor:
        """String -> int32, of the same shape."""
        return tf.where(item_ids == "", PAD_ID, self._table.lookup(item_ids))

    def _ids_of_lists(self, item_ids: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """String [B, E] or [1, E] -> int32 [B, E]."""
        return tf.broadcast_to(self._ids_of(item_ids), tf.concat([rows, tf.shape(item_ids)[1:]], axis=0))


def item_scores(model: Bert4Rec, vocabulary: Vocabulary) -> ItemScores:
    """What the items of a model score."""
    return ItemScores(model.embedding.item_table, model.head.output_bias, vocabulary.log_popularity())


def _bounded(scores: tf.Tensor) -> tf.Tensor:
    """Scores as JSON can hold them, also where huge weights make a sum overflow: finite, `MISSING_SCORE` for NaN."""
    bounded = tf.clip_by_value(scores, MISSING_SCORE, -MISSING_SCORE)
    return tf.where(tf.math.is_nan(scores), MISSING_SCORE, bounded)


def knows_an_item(histories: tf.Tensor) -> tf.Tensor:
    """Which histories, int32 [B, L], hold an item of the vocabulary. Returns bool [B]."""
    return tf.reduce_any(histories >= NUM_SPECIAL_IDS, axis=1)
