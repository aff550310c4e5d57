"""Random numbers as a pure function of their purpose.

A draw depends only on its key and its counter, never on earlier draws. The records are therefore the same for any
number of workers and any order in which they run. The generator is SplitMix64's finaliser (Steele,
Lea & Flood, OOPSLA 2014) applied to a key and a counter.
"""

import numpy as np

# The purpose of a draw is the second part of its key, after the seed. Other kinds of draws have a user's key there.
# Users' keys have 60 bits, so that no two kinds of draws share their bits.
TIES, NEGATIVES, RARE_NEGATIVES = (2**60 + number for number in range(3))
# SplitMix64's constants: the increment before each round, and the two multipliers in it.
INCREMENT = np.uint64(0x9E3779B97F4A7C15)
FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)


def hashed_bits(*parts: np.ndarray | int) -> np.ndarray:
    """64 random bits per combination of the parts.

    Args:
        parts: integers or integer arrays that broadcast against each other.

    Returns:
        uint64, of the parts' broadcast shape (at least one element long); equal parts give equal bits.
    """
    bits = np.zeros(1, np.uint64)
    for part in parts:
        bits = _mix((bits ^ np.asarray(part).astype(np.uint64)) + INCREMENT)
    return bits


def hashed_uniform(*parts: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1) per combination of the parts: the upper 53 of their `hashed_bits`."""
    return (hashed_bits(*parts) >> np.uint64(11)) * 2.0**-53


def portable_key_sql(column: str) -> str:
    """SQL for the key of a text column: 60 bits that do not depend on machine or engine."""
    return f"('0x' || substr(md5({column}), 1, 15))::BIGINT"


def hashed_bits_sql(query: str, columns: str) -> str:
    """SQL that adds one part to `hashed_bits`, with the same result.

    Args:
        query: its column `bits`, UBIGINT, is the hash of the earlier parts, xor the new part.
        columns: the other columns of the query, which are kept.

    Returns:
        A query with the same columns.
    """
    # DuckDB has no product that wraps around. The queries are nested so that each value is computed once.
    for bits, operation, constant in (
        ("bits", "+", INCREMENT),
        ("xor(bits, bits >> 30)", "*", FIRST_MULTIPLIER),
        ("xor(bits, bits >> 27)", "*", SECOND_MULTIPLIER),
    ):
        wrapped = f"({bits}::UHUGEINT {operation} {constant}::UHUGEINT & {2**64 - 1}::UHUGEINT)::UBIGINT"
        query = f"SELECT {columns}, {wrapped} AS bits FROM ({query})"
    return f"SELECT {columns}, xor(bits, bits >> 31) AS bits FROM ({query})"


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * FIRST_MULTIPLIER
    bits = (bits ^ (bits >> np.uint64(27))) * SECOND_MULTIPLIER
    return bits ^ (bits >> np.uint64(31))
