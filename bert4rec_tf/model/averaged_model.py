"""Several models of the same items as one: the mean of their logits."""

from collections.abc import Sequence
from typing import TypeAlias

import tensorflow as tf

from bert4rec_tf.model.bert4rec import Bert4Rec
from bert4rec_tf.model.masked_item_head import hide_special_ids


class AveragedModel(tf.Module):
    """Scores an item by the mean of its logits in M models.

    The softmax of these means is the normalised geometric mean of the models' probabilities. The paper has no such
    model. The mean logit is an inner product again: of the M queries side by side, each divided by M, with the M
    vectors of the item side by side. An index therefore searches the mean as it searches a single model.

    Args:
        models: of the same items, with their vectors in `item_table` (see `fold_item_vectors`). Their sizes, objectives
            and window lengths N may differ. A copy of their item tables is made.

    Attributes:
        item_table: float32 [V, D], where D is the sum of the models' hidden sizes.
        output_bias: float32 [V], the mean of the models' biases.
        max_seq_length: the largest N.
        uses_times, takes_request_time: whether any of the models does.
        attention_shape: (M, 1), see `attend_to_history`.
        floats_per_history: the sum over the models.

    >>> both = AveragedModel([trained.model, trained.model])
    >>> both.item_table.shape
    TensorShape([13, 32])
    >>> histories = tf.constant([[3, 5, 6]])
    >>> np.allclose(both.score_next_item(histories), trained.model.score_next_item(histories), atol=1e-4)
    True
    """

    def __init__(self, models: Sequence[Bert4Rec]):
        super().__init__(name="averaged_model")
        self._models = list(models)
        tables, biases = [model.item_table for model in models], [model.output_bias for model in models]
        self.item_table = tf.Variable(tf.concat(tables, axis=1), trainable=False, name="item_table")
        self.output_bias = tf.Variable(tf.add_n(biases) / len(biases), trainable=False, name="output_bias")
        self.max_seq_length = max(model.max_seq_length for model in models)
        self.uses_times = any(model.uses_times for model in models)
        self.takes_request_time = any(model.takes_request_time for model in models)
        self.attention_shape = (len(self._models), 1)
        self.floats_per_history = sum(model.floats_per_history for model in models)

    def score_next_item(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Scores every item as the next one: float32 [B, V], -1e9 for special ids. See `Bert4Rec.score_next_item`.

        >>> AveragedModel([trained.model, trained.model]).score_next_item(tf.constant([[3, 5, 6]])).shape
        TensorShape([1, 13])
        """
        queries = self.encode_next_item(histories, times, request_times)
        return tf.matmul(queries, self.item_table, transpose_b=True) + hide_special_ids(self.output_bias)

    def encode_next_item(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """The query of the next item, float32 [B, D]. See `Bert4Rec.encode_next_item`.

        >>> AveragedModel([trained.model, trained.model]).encode_next_item(tf.constant([[3, 5, 6]])).shape
        TensorShape([1, 32])
        """
        queries = [model.encode_next_item(histories, times, request_times) for model in self._models]
        return tf.concat(queries, axis=1) / len(queries)

    def attend_to_history(
        self, histories: tf.Tensor, times: tf.Tensor | None = None, request_times: tf.Tensor | None = None
    ) -> tf.Tensor:
        """How much the slots that predict the next item attend to each item. See `Bert4Rec.attend_to_history`.

        Returns:
            float32 [B, M, 1, L]: for each model the mean over its layers and heads, whose numbers may differ.

        >>> AveragedModel([trained.model, trained.model]).attend_to_history(tf.constant([[0, 3, 5, 6]])).shape
        TensorShape([1, 2, 1, 4])
        """
        weights = [model.attend_to_history(histories, times, request_times) for model in self._models]
        return tf.stack([tf.reduce_mean(of_model, axis=[1, 2]) for of_model in weights], axis=1)[:, :, None]


NextItemModel: TypeAlias = Bert4Rec | AveragedModel
