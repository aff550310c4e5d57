"""Batch shapes with the least padding."""

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from bert4rec_tf.inputs.length_buckets import choose_buckets
from tfrecords.manifest import LengthCount

HISTOGRAMS = st.dictionaries(
    st.integers(1, 30), st.tuples(st.integers(1, 20), st.integers(1, 9)), min_size=1, max_size=6
).map(lambda rows: [LengthCount(length, *rows[length]) for length in sorted(rows)])


@given(HISTOGRAMS, st.integers(1, 7))
def test_buckets_leave_the_least_padding(histogram: list[LengthCount], number: int) -> None:
    def padded(ends: list[int]) -> int:
        return sum(row.instances * min(end for end in ends if end >= row.length) for row in histogram)

    *shorter, longest = (row.length for row in histogram)
    choices = (list(ends) for count in range(number) for ends in combinations(shorter, count))
    buckets = choose_buckets(histogram, number)
    lengths = [bucket.length for bucket in buckets]
    assert padded(lengths) == min(padded([*ends, longest]) for ends in choices)
    assert len(buckets) <= number
    assert lengths == sorted(set(lengths))
    for low, bucket in zip([0, *lengths], buckets, strict=False):
        rows = [row for row in histogram if low < row.length <= bucket.length]
        assert bucket.instances == sum(row.instances for row in rows)
        assert bucket.predictions == max(row.max_predictions for row in rows)
