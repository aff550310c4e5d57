"""The decision of the quality gate, for given figures."""

import pytest

from bert4rec_tf.serving.quality_gate import Comparison
from tfrecords.errors import InputError


@pytest.mark.parametrize(
    ("candidate", "served", "ci95", "refused"),
    [
        (0.1810, 0.1902, [-0.014, -0.004], True),  # a large and significant drop
        (0.1810, 0.1902, [-0.019, 0.001], False),  # not significant
        (0.1890, 0.1902, [-0.002, -0.001], False),  # significant, but small
        (0.1950, 0.1902, [-0.001, 0.011], False),
        (0.1, 0.0, [0.02, 0.2], False),
        (0.0, 0.2, [-0.6, 0.0], True),  # no hit at all
    ],
)
def test_large_significant_drops_are_refused(candidate: float, served: float, ci95: list[float], refused: bool) -> None:
    comparison = Comparison(6040, candidate, served, candidate - served, ci95, "7")
    if not refused:
        comparison.check(0.02)
        return
    with pytest.raises(InputError, match=r"^New model rejected: NDCG@10 .* of version 7 .*Fix: ") as error:
        comparison.check(0.02)
    if candidate:
        assert str(error.value) == (
            "New model rejected: NDCG@10 0.1810 against 0.1902 of version 7 (-4.8%), over 6,040 users of the "
            "validation split (95% interval of the difference -0.0140 to -0.0040). --max_regression=0.02 allows "
            "-2.0%. Nothing was published. Fix: train a better model, or raise --max_regression"
        )
