"""The counter-based generator: a pure function that looks random."""

import numpy as np
import pytest

from tfrecords.hashed_random import hashed_bits, hashed_uniform

COUNTERS = np.arange(100_000)


def test_equal_parts_give_equal_bits_in_any_array() -> None:
    bits = hashed_bits(7, COUNTERS, 3)
    np.testing.assert_array_equal(bits, hashed_bits(7, COUNTERS, 3))
    assert bits[1234] == hashed_bits(7, 1234, 3)
    np.testing.assert_array_equal(hashed_bits(7, COUNTERS.astype(np.int32), 3), bits)


def test_parts_broadcast() -> None:
    rows, columns = np.arange(3)[:, None], np.arange(4)
    bits = hashed_bits(1, rows, columns)
    assert (bits.shape, bits.dtype) == ((3, 4), np.uint64)
    for row in range(3):
        np.testing.assert_array_equal(bits[row], hashed_bits(1, row, columns))


@pytest.mark.parametrize(
    ("one", "other"), [((1, 2), (2, 1)), ((0,), (1,)), ((1,), (1, 0)), ((0, 0), (0,)), ((2**63, 1), (2**63 + 1, 1))]
)
def test_other_parts_give_other_bits(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    assert hashed_bits(*one) != hashed_bits(*other)


@pytest.mark.parametrize("parts", [(COUNTERS,), (5, COUNTERS), (COUNTERS, 5), (COUNTERS << 40, 1)])
def test_counters_do_not_collide_and_every_bit_is_balanced(parts: tuple[np.ndarray | int, ...]) -> None:
    bits = hashed_bits(*parts)
    assert len(np.unique(bits)) == len(COUNTERS)
    shares = np.array([np.mean(bits >> np.uint64(bit) & np.uint64(1)) for bit in range(64)])
    np.testing.assert_allclose(shares, 0.5, atol=5 * 0.5 / np.sqrt(len(COUNTERS)))


def test_uniform_is_uniform() -> None:
    uniform = hashed_uniform(3, COUNTERS)
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert uniform.mean() == pytest.approx(1 / 2, abs=5 * np.sqrt(1 / 12 / len(COUNTERS)))
    assert uniform.var() == pytest.approx(1 / 12, rel=0.02)
    tenths = np.bincount((10 * uniform).astype(int), minlength=10)
    np.testing.assert_allclose(tenths, len(COUNTERS) / 10, atol=5 * np.sqrt(0.09 * len(COUNTERS)))


def test_neighbouring_counters_are_uncorrelated() -> None:
    uniform = hashed_uniform(3, COUNTERS)
    assert abs(np.corrcoef(uniform[:-1], uniform[1:])[0, 1]) < 5 / np.sqrt(len(COUNTERS))
    assert abs(np.corrcoef(uniform, hashed_uniform(4, COUNTERS))[0, 1]) < 5 / np.sqrt(len(COUNTERS))
