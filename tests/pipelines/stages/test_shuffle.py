"""Records are sorted by their keys, whether they fit in memory or not."""

import pathlib
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.stages import shuffle
from pipelines.stages.shuffle import ShuffledRecords

RECORDS = st.lists(st.lists(st.tuples(st.sampled_from([0, 1, 7, 2**63, 2**64 - 1]), st.binary(max_size=9)), max_size=5))


@given(RECORDS, st.integers(0, 30))
def test_the_order_is_that_of_a_stable_sort(chunks: list[list[tuple[int, bytes]]], run_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(shuffle, "_RUN_BYTES", run_bytes)
        records = ShuffledRecords(directory)
        for chunk in chunks:
            records.add(np.array([key for key, _ in chunk], np.uint64), [record for _, record in chunk])
        everything = [pair for chunk in chunks for pair in chunk]
        assert list(records) == [record for _, record in sorted(everything, key=lambda pair: pair[0])]
        assert not list(pathlib.Path(directory).iterdir()), "a killed run must not leave anything"


def test_waiting_records_are_not_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(shuffle, "_RUN_BYTES", 1000)
    records, most = ShuffledRecords(tmp_path), 0
    for number in range(100):
        records.add(np.array([number % 7], np.uint64), [b"x" * 90])
        most = max(most, sum(map(len, records._records)))
    assert most <= 1000
    assert len(list(records)) == 100
