"""The served model: takes histories of item ids and returns the best next items."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import tensorflow as tf

from bert4rec_tf.model.averaged_model import NextItemModel
from bert4rec_tf.model.event_times import UNKNOWN_TIME
from bert4rec_tf.serving.category_filters import CategoryFilters, top_unhidden
from bert4rec_tf.serving.exact_index import ExactIndex
from bert4rec_tf.serving.id_table import NumbersInVariable
from bert4rec_tf.serving.item_scores import MISSING_SCORE, has_known_item, item_scores, top_candidates
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.row_blocks import compute_in_blocks
from tfrecords.item_features import ItemFeatures
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, UNK_ID, Vocabulary

Answer = dict[str, tf.Tensor]
Ids: TypeAlias = tf.Tensor | tf.RaggedTensor
ScoresAndIds = tuple[tf.Tensor, tf.Tensor]  # each [B, k]
DEFAULT_MAX_K = 1000
_IDS = functools.partial(tf.TensorSpec, [None, None], tf.string)
_FLOATS_PER_ID = 16  # temporary memory to sort and look up an id of a list
_LISTS = ("item_ids", "excluded_item_ids", "allowed_item_ids")


class _Requests(NamedTuple):
    """The histories of a request.

    Attributes:
        item_ids: int32 [B, L], integer ids.
        timestamps: int64 [B, L], negative if unknown; None: the model takes no times.
        request_time: int64 [B], negative if unknown; None: the model takes no times.
    """

    item_ids: Ids
    timestamps: Ids | None = None
    request_time: tf.Tensor | None = None


class _Input(NamedTuple):
    """An input of a signature, and what it is if a request leaves it out; None: it is required."""

    spec: tf.TensorSpec
    default: tf.Tensor | None = None


class Recommender(tf.Module):
    """The content of a SavedModel: the tables, the model, the index, and the signatures of `signatures()`.

    In all signatures B and L are dynamic, "" is padding, anywhere in a row, and unknown ids are ignored. `item_ids` is
    a history, string [B, L], newest last: the last N - 1 known items are the context, and all known items are seen. A
    history without a known item gets the most popular items. No answer holds [PAD], [MASK], [UNK], or an item twice.
    Empty entries at the end of an answer hold "" and `MISSING_SCORE`, -3.4e38; every score is finite.

    A model with times also takes `timestamps`, int64 of the shape of `item_ids`, and `request_time`, int64 [B] or [1],
    in seconds since 1970 and negative if unknown, in all signatures but `serving_default`. A request without
    them is answered as one whose times are all unknown, as `serving_default` always is.

    Args:
        model: built, with its weights.
        vocabulary: the model's vocabulary.
        top_k: K of `serving_default` and `examples`, and the default `k` of `recommend`.
        index: searches the items; None: an exact index.
        max_k: the largest `k` that `recommend` takes; None: `DEFAULT_MAX_K`, or `top_k` if that is larger.
        item_features: of the items of the vocabulary; with categorical ones, `recommend` takes filters too.
    """

    def __init__(
        self,
        model: NextItemModel,
        vocabulary: Vocabulary,
        top_k: int,
        index: ExactIndex | InvertedFileIndex | None = None,
        max_k: int | None = None,
        item_features: ItemFeatures | None = None,
    ):
        super().__init__(name="recommender")
        # Tracks only the weights: a tracked Keras model would save graphs of its own, as large as the signatures.
        self._weights = model.variables
        # A function of its own, so that all signatures share one graph of the model.
        self.takes_times = model.uses_times
        specs = [
            tf.TensorSpec([None, None], tf.int32),
            tf.TensorSpec([None, None], tf.int64),
            tf.TensorSpec([None], tf.int64),
        ]
        specs = specs if self.takes_times else specs[:1]
        options = {"input_signature": specs, "autograph": False}
        self._encode_next_item = tf.function(model.encode_next_item, **options)
        self._attend_to_history = tf.function(model.attend_to_history, **options)
        self._encoder_floats = model.floats_per_history
        self._query_size = model.item_table.shape[1]
        self._attention_shape = [None, *model.attention_shape, None]
        self.top_k, self.max_k = top_k, max_k or max(top_k, DEFAULT_MAX_K)
        self._num_items = len(vocabulary.item_ids)
        raw_ids = [""] * NUM_SPECIAL_IDS + list(vocabulary.item_ids)
        self._raw_ids = tf.Variable(tf.constant(raw_ids), trainable=False, name="raw_ids")
        self._table = tf.lookup.StaticHashTable(NumbersInVariable(self._raw_ids, NUM_SPECIAL_IDS), UNK_ID)
        self.scores = item_scores(model, vocabulary)
        self.index = index or ExactIndex(self.scores)
        self._filters = None
        if item_features is not None and item_features.categorical():
            self._filters = CategoryFilters(item_features)

    def signatures(self) -> dict[str, Callable]:
        """The functions to save, by the name of their signature.

        Inputs that a request to `recommend` leaves out take their defaults over gRPC and in TensorFlow's sessions, but
        not over REST.
        """
        histories = [_Input(_IDS("item_ids"))]
        lists = [
            _Input(tf.TensorSpec(None, tf.int32, "k"), tf.constant([self.top_k])),
            _Input(tf.TensorSpec(None, tf.bool, "drop_seen"), tf.constant([True])),
            *map(_optional_strings, ("excluded_item_ids", "allowed_item_ids")),
        ]
        filters = [] if self._filters is None else list(map(_optional_strings, ("allowed_values", "excluded_values")))
        times = [
            _Input(tf.TensorSpec([None, None], tf.int64, "timestamps"), tf.constant([], tf.int64, [1, 0])),
            _Input(tf.TensorSpec([None], tf.int64, "request_time"), tf.constant([UNKNOWN_TIME], tf.int64)),
        ]
        times = times if self.takes_times else []
        candidates = _Input(_IDS("candidate_item_ids"))
        return {
            "serving_default": _signature(self._serving_default, histories),
            "recommend": _signature(self.recommend, [*histories, *lists, *filters, *times]),
            "rank": _signature(self.rank, [*histories, candidates, *times]),
            "examples": _signature(self._examples, [_Input(tf.TensorSpec([None], tf.string, "examples"))]),
            "encode": _signature(self.encode, [*histories, *times]),
            "attention": _signature(self.attention, [*histories, *times]),
        }

    def _serving_default(self, item_ids: tf.Tensor) -> Answer:
        """The K best items that are not in the history: item_ids, string [B, K], and scores, float32 [B, K]."""
        return self._with_fixed_k(self._requests(item_ids), None, None)

    def _examples(self, examples: tf.Tensor) -> Answer:
        """`serving_default` for serialised tf.train.Example, string [B].

        The bytes features are item_ids, excluded_item_ids and allowed_item_ids, of any lengths; a missing feature is
        empty. A model with times also reads the int64 features timestamps, as many as item_ids, and request_time.
        """
        kinds = {name: tf.io.RaggedFeature(tf.string) for name in _LISTS}
        if self.takes_times:
            kinds["timestamps"] = tf.io.RaggedFeature(tf.int64)
            kinds["request_time"] = tf.io.FixedLenFeature([], tf.int64, UNKNOWN_TIME)
        features = tf.io.parse_example(examples, kinds)
        times = features.get("timestamps"), features.get("request_time")
        lists = (self._ids_of(features[name]) for name in _LISTS[1:])
        return self._with_fixed_k(self._requests(features["item_ids"], *times), *lists)

    def recommend(
        self,
        item_ids: tf.Tensor,
        k: tf.Tensor,
        drop_seen: tf.Tensor,
        excluded_item_ids: tf.Tensor,
        allowed_item_ids: tf.Tensor,
        allowed_values: tf.Tensor | None = None,
        excluded_values: tf.Tensor | None = None,
        timestamps: tf.Tensor | None = None,
        request_time: tf.Tensor | None = None,
    ) -> Answer:
        """The best of the items that each row may be answered with.

        Args:
            item_ids: string [B, L].
            k: int32, one number, or one for each row; from 1 to `max_k`. A larger one than the number of items counts
                as that number.
            drop_seen: bool, one, or one for each row: whether items of the history are left out.
            excluded_item_ids: string [B, E] or [1, E], items to leave out.
            allowed_item_ids: string [B, A] or [1, A]. A row with an id is answered with its allowed items only.
            allowed_values: string [B, F] or [1, F], "feature=category": of each feature that is named, an answered item
                has one of the named categories. Only for items with categories, like `excluded_values`.
            excluded_values: string [B, G] or [1, G], "feature=category": no answered item has one of them.
            timestamps: int64 [B, L], the time of each event of `item_ids`, or no column. Only for models with times.
            request_time: int64 [B] or [1], when the items will be shown. Only for models with times.

        Returns:
            item_ids: string [B, max k], best first.
            scores: float32 [B, max k], logits; log popularity for a history without a known item.

        Raises:
            tf.errors.InvalidArgumentError: `k` below 1 or above `max_k`, or shapes that do not fit.
        """
        rows = tf.shape(item_ids)[0]
        at_least = tf.debugging.assert_positive(k, "`k` must be at least 1")
        at_most = tf.debugging.assert_less_equal(
            k, self.max_k, f"`k` must be at most {self.max_k}, which is --max_k of the export"
        )
        with tf.control_dependencies([at_least, at_most]):
            k = tf.minimum(tf.reshape(k, [-1]), self._num_items)
        row_k = tf.broadcast_to(k, [rows])
        answer = self._best(
            self._requests(item_ids, timestamps, request_time),
            tf.broadcast_to(tf.reshape(drop_seen, [-1]), [rows]),
            self._ids_of_lists(excluded_item_ids, "excluded_item_ids", rows),
            self._ids_of_lists(allowed_item_ids, "allowed_item_ids", rows),
            tf.where(tf.size(k) > 0, tf.reduce_max(k), 1),  # an empty batch has no maximum k
            row_k,
            self._checked_values(allowed_values, excluded_values, rows),
        )
        within_k = tf.range(tf.shape(answer["item_ids"])[1])[None, :] < row_k[:, None]
        return {
            "item_ids": tf.where(within_k, answer["item_ids"], ""),
            "scores": tf.where(within_k, answer["scores"], MISSING_SCORE),
        }

    def rank(
        self,
        item_ids: tf.Tensor,
        candidate_item_ids: tf.Tensor,
        timestamps: tf.Tensor | None = None,
        request_time: tf.Tensor | None = None,
    ) -> Answer:
        """Scores the given items after a history, including seen ones.

        Args:
            item_ids: string [B, L].
            candidate_item_ids: string [B, C] or [1, C].
            timestamps: see `recommend`.
            request_time: see `recommend`.

        Returns:
            scores: float32 [B, C], in the order given; `MISSING_SCORE` for an unknown item.
            known: bool [B, C], whether the model knows the item.

        Raises:
            tf.errors.InvalidArgumentError: shapes that do not fit.
        """
        rows = tf.shape(item_ids)[0]
        requests = self._requests(item_ids, timestamps, request_time)
        candidates = self._ids_of_lists(candidate_item_ids, "candidate_item_ids", rows)

        def rank_rows(first: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            ids = _select_or_repeat_rows(candidates, first, last)
            block, query = self._encode_rows(requests, first, last)
            known = ids >= NUM_SPECIAL_IDS
            scores = self.scores.score(query, has_known_item(block), ids)
            return tf.where(known, _make_finite(scores), MISSING_SCORE), known

        floats = self._floats_per_row(requests.item_ids, candidates)
        specs = (tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.bool))
        return dict(zip(("scores", "known"), compute_in_blocks(rank_rows, rows, floats, specs), strict=True))

    def encode(
        self, item_ids: tf.Tensor, timestamps: tf.Tensor | None = None, request_time: tf.Tensor | None = None
    ) -> Answer:
        """Queries of histories, for a search outside of this model.

        Args:
            item_ids: string [B, L].
            timestamps: see `recommend`.
            request_time: see `recommend`.

        Returns:
            vectors: float32 [B, D]; an item's score is the inner product with its vector, plus its bias.
        """
        requests = self._requests(item_ids, timestamps, request_time)
        shape = [None, self._query_size]
        return {"vectors": self._of_rows(requests, lambda *rows: self._encode_rows(requests, *rows)[1], shape)}

    def attention(
        self, item_ids: tf.Tensor, timestamps: tf.Tensor | None = None, request_time: tf.Tensor | None = None
    ) -> Answer:
        """How much the answer attends to each item of the history.

        Args:
            item_ids: string [B, L].
            timestamps: see `recommend`.
            request_time: see `recommend`.

        Returns:
            weights: float32 [B, layers, h, L], of the slot that predicts; 0 for padding, for unknown items and for
                items before the context. What is missing to a sum of 1 is the weight of [MASK].
        """
        requests = self._requests(item_ids, timestamps, request_time)
        weights = self._of_rows(
            requests, lambda *rows: self._attend_to_history(*_model_inputs(requests, *rows)), self._attention_shape
        )
        return {"weights": weights}

    def _of_rows(
        self, requests: _Requests, compute: Callable[[tf.Tensor, tf.Tensor], tf.Tensor], shape: list[int | None]
    ) -> tf.Tensor:
        """Computes a float32 result for all rows, block by block.

        Args:
            requests: of the rows.
            compute: takes the first row of a block and the row after its last one.
            shape: of the result.
        """
        rows, floats = _num_rows(requests.item_ids), self._floats_per_row(requests.item_ids)
        specs = (tf.TensorSpec(shape, tf.float32),)
        (result,) = compute_in_blocks(lambda first, last: (compute(first, last),), rows, floats, specs)
        return tf.ensure_shape(result, shape)

    def _requests(
        self, item_ids: Ids, timestamps: Ids | None = None, request_time: tf.Tensor | None = None
    ) -> _Requests:
        """Histories of raw ids as integer ids, with checked times if the model takes any."""
        ids = self._ids_of(item_ids)
        if not self.takes_times:
            return _Requests(ids)
        rows = _num_rows(ids)
        if timestamps is None:
            timestamps = tf.constant([], tf.int64, [1, 0])
        if request_time is None:
            request_time = tf.constant([UNKNOWN_TIME], tf.int64)
        with tf.control_dependencies(
            [_check_same_slots(timestamps, ids), _check_rows(request_time, "request_time", rows)]
        ):
            return _Requests(ids, _identity(timestamps), tf.broadcast_to(request_time, [rows]))

    def _encode_rows(self, requests: _Requests, first: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The histories of rows `first` to `last - 1`, int32 [last - first, L], and their queries, float32 [.., D]."""
        inputs = _model_inputs(requests, first, last)
        return inputs[0], self._encode_next_item(*inputs)

    def _with_fixed_k(self, requests: _Requests, excluded: Ids | None, allowed: Ids | None) -> Answer:
        """`recommend` with the export's K, without seen items; takes integer ids."""
        k = min(self.top_k, self._num_items)
        answer = self._best(requests, None, excluded, allowed, tf.constant(k))
        missing = [[0, 0], [0, self.top_k - k]]
        padded = {
            "item_ids": tf.pad(answer["item_ids"], missing, constant_values=""),
            "scores": tf.pad(answer["scores"], missing, constant_values=MISSING_SCORE),
        }
        return {name: tf.ensure_shape(values, [None, self.top_k]) for name, values in padded.items()}

    def _best(
        self,
        requests: _Requests,
        drop_seen: tf.Tensor | None,
        excluded: Ids | None,
        allowed: Ids | None,
        k: tf.Tensor,
        row_k: tf.Tensor | None = None,
        values: tuple[tf.Tensor, tf.Tensor] | None = None,
    ) -> Answer:
        """The k best items of each row.

        Args:
            requests: of B rows.
            drop_seen: bool [B]; None: true for all rows.
            excluded: int32 [B, E] or [1, E]; None: no item.
            allowed: int32 [B, A] or [1, A]; None: all items.
            k: int32.
            row_k: int32 [B], how many of the k items each row needs; None: all.
            values: allowed and excluded values, string [B, F] or [1, F] each; None: there are no filters.
        """

        def search_rows(first: tf.Tensor, last: tf.Tensor) -> ScoresAndIds:
            block, query = self._encode_rows(requests, first, last)
            known = has_known_item(block)
            dropped = block if drop_seen is None else tf.where(drop_seen[first:last, None], block, PAD_ID)
            if excluded is not None:
                dropped = tf.concat([dropped, _select_or_repeat_rows(excluded, first, last)], axis=1)
            block_k = None if row_k is None else row_k[first:last]

            def search_all() -> ScoresAndIds:
                scores, ids = self.index.top(query, known, dropped, k, block_k)
                return scores, ids

            if allowed is None:
                return search_all()
            candidates = _select_or_repeat_rows(allowed, first, last)
            restricted = tf.reduce_any(candidates != PAD_ID, axis=1)

            def search_allowed() -> ScoresAndIds:
                found = top_candidates(candidates, query, known, dropped, k, self.scores)
                scores, ids = (tf.where(restricted[:, None], *pair) for pair in zip(found, search_all(), strict=True))
                return scores, ids

            def search_unfiltered() -> ScoresAndIds:
                return tf.cond(tf.reduce_any(restricted), search_allowed, search_all)

            if values is None or self._filters is None:
                return search_unfiltered()
            filters, block_values = self._filters, [_select_or_repeat_rows(each, first, last) for each in values]

            def search_filtered() -> ScoresAndIds:
                hidden = filters.hidden(*block_values)
                return top_unhidden(self.scores.score_all(query, known), hidden, dropped, candidates, k)

            has_filter = tf.reduce_any(tf.concat(block_values, axis=1) != "")
            return tf.cond(has_filter, search_filtered, search_unfiltered)

        histories = requests.item_ids
        floats = self._floats_per_row(histories, excluded, allowed) + self.index.floats_per_row
        if values is not None and self._filters is not None:
            floats += self._filters.floats_per_row
        specs = (tf.TensorSpec([None, None], tf.float32), tf.TensorSpec([None, None], tf.int32))
        scores, ids = compute_in_blocks(search_rows, _num_rows(histories), floats, specs)
        scores = _make_finite(scores)
        return {"item_ids": tf.where(scores > MISSING_SCORE, tf.gather(self._raw_ids, ids), ""), "scores": scores}

    def _ids_of(self, item_ids: Ids) -> Ids:
        """Raw ids, string, to integer ids, int32 of the same shape."""
        if isinstance(item_ids, tf.RaggedTensor):
            return item_ids.with_values(self._ids_of(item_ids.values))
        return tf.where(item_ids == "", PAD_ID, self._table.lookup(item_ids))

    def _checked_values(
        self, allowed: tf.Tensor | None, excluded: tf.Tensor | None, rows: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor] | None:
        """The filters of a request, with their number of rows checked; None if the items have no categories."""
        if self._filters is None or allowed is None or excluded is None:
            return None
        with tf.control_dependencies(
            [_check_rows(allowed, "allowed_values", rows), _check_rows(excluded, "excluded_values", rows)]
        ):
            return tf.identity(allowed), tf.identity(excluded)

    def _ids_of_lists(self, item_ids: tf.Tensor, name: str, rows: tf.Tensor) -> tf.Tensor:
        """`_ids_of` for [B, E] or [1, E]; checks the number of rows."""
        with tf.control_dependencies([_check_rows(item_ids, name, rows)]):
            return self._ids_of(tf.identity(item_ids))

    def _floats_per_row(self, *lists: Ids | None) -> tf.Tensor | int:
        """The approximate memory of the encoder and of the lists for a row, in float32, int64."""
        # A dense history is not counted, since the request itself takes more memory for it.
        counted = [ids for ids in lists[1:] if ids is not None] + [ids for ids in lists[:1] if _is_ragged(ids)]
        return self._encoder_floats + sum(_FLOATS_PER_ID * tf.cast(_width(ids), tf.int64) for ids in counted)


def _model_inputs(requests: _Requests, first: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """What the model takes for rows `first` to `last - 1`: the histories, and their times if it takes any."""
    block = _select_rows(requests.item_ids, first, last)
    if requests.timestamps is None or requests.request_time is None:
        return (block,)
    times, unknown = requests.timestamps, tf.constant(UNKNOWN_TIME, tf.int64)
    if isinstance(times, tf.RaggedTensor):
        times = times[first:last].to_tensor(unknown)
        missing = tf.shape(block)[1] - tf.shape(times)[1]  # columns, where the longest history has no times
        times = tf.pad(times, [[0, 0], [0, missing]], constant_values=unknown)
    else:
        times = tf.cond(tf.shape(times)[1] == 0, lambda: tf.fill(tf.shape(block), unknown), lambda: times[first:last])
    return block, times, requests.request_time[first:last]


def _optional_strings(name: str) -> _Input:
    return _Input(_IDS(name), tf.constant([], tf.string, [1, 0]))


def _signature(function: Callable[..., Answer], inputs: Sequence[_Input]) -> Callable:
    """The function as one to save. Its Python signature has the defaults, which TensorFlow stores with the model."""
    names = [each.spec.name for each in inputs]
    defaults = {each.spec.name: each.default for each in inputs if each.default is not None}

    def call(*values: tf.Tensor, **named: tf.Tensor) -> Answer:
        return function(**defaults | dict(zip(names, values, strict=False)) | named)

    kind, required = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    call.__name__ = function.__name__.removeprefix("_")
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, kind, default=required if each.default is None else each.default)
            for name, each in zip(names, inputs, strict=True)
        ]
    )
    return tf.function(call, input_signature=[each.spec for each in inputs], autograph=False)


def _check_same_slots(timestamps: Ids, item_ids: Ids) -> tf.Operation:
    """Each history has as many times as items, or there are none at all."""
    if isinstance(timestamps, tf.RaggedTensor):
        found, expected = timestamps.row_lengths(), item_ids.row_lengths()
        fit = tf.reduce_all((found == expected) | (found == 0))
    else:
        fit = (tf.shape(timestamps)[1] == 0) | tf.reduce_all(tf.shape(timestamps) == tf.shape(item_ids))
    return tf.debugging.assert_equal(fit, True, "`timestamps` must have the shape of `item_ids`, or no column")


def _identity(values: Ids) -> Ids:
    if isinstance(values, tf.RaggedTensor):
        return values.with_values(tf.identity(values.values))
    return tf.identity(values)


def _check_rows(lists: tf.Tensor, name: str, rows: tf.Tensor) -> tf.Operation:
    num_rows = tf.shape(lists)[0]
    fit = (num_rows == 1) | (num_rows == rows)
    return tf.debugging.assert_equal(fit, True, f"`{name}` must have one row, or as many as `item_ids`")


def _is_ragged(ids: Ids) -> bool:
    return isinstance(ids, tf.RaggedTensor)


def _num_rows(ids: Ids) -> tf.Tensor:
    return ids.nrows(tf.int32) if _is_ragged(ids) else tf.shape(ids)[0]


def _width(ids: Ids) -> tf.Tensor:
    return ids.bounding_shape(axis=1) if _is_ragged(ids) else tf.shape(ids)[1]


def _select_rows(ids: Ids, first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Rows `first` to `last - 1` of [B, L]: int32 [last - first, L]."""
    return ids[first:last].to_tensor(PAD_ID) if _is_ragged(ids) else ids[first:last]


def _select_or_repeat_rows(ids: Ids, first: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Rows `first` to `last - 1` of [B, E], or repeats of the one row of [1, E]: int32 [last - first, E]."""
    if _is_ragged(ids):
        return _select_rows(ids, first, last)
    one_for_all = tf.shape(ids)[0] == 1
    selected = ids[tf.where(one_for_all, 0, first) : tf.where(one_for_all, 1, last)]
    return tf.broadcast_to(selected, [last - first, tf.shape(ids)[1]])


def _make_finite(scores: tf.Tensor) -> tf.Tensor:
    """Bounds scores, since JSON has no infinity and huge weights can overflow; `MISSING_SCORE` for NaN."""
    bounded = tf.clip_by_value(scores, MISSING_SCORE, -MISSING_SCORE)
    return tf.where(tf.math.is_nan(scores), MISSING_SCORE, bounded)
