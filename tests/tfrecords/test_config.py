"""The sections `data` and `masking`: refused values are named."""

from typing import Any

import pytest

from tfrecords.config import MaskingConfig, RecordsConfig
from tfrecords.errors import InputError


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"data": {"seed": None}}, "data.seed"),
        ({"data": {"seed": 2**63}}, "seed"),
        ({"data": {"max_seq_length": 1}}, "max_seq_length"),
        ({"data": {"sliding_window": -0.1}}, "sliding_window"),
        ({"data": {"min_rating": float("nan")}}, "min_rating"),
        ({"data": {"min_rating": float("inf")}}, "min_rating"),
        ({"data": {"validation_share": 0}}, "validation_share"),
        ({"data": {"validation_share": 1.1}}, "validation_share"),
        ({"data": {"train_since": float("nan")}}, "train_since"),
        ({"data": {"train_since": float("-inf")}}, "train_since"),
        ({"data": {"train_since": "2003-01-01"}}, "data.train_since"),
        ({"masking": {"masking_rates": []}}, "masking_rates"),
        ({"masking": {"masking_rates": 1.5}}, "masking_rates"),
        ({"masking": {"masking_rates": [0.1, "x"]}}, "masking.masking_rates"),
        ({"masking": {"max_predictions": 0}}, "max_predictions"),
        ({"masking": {"random_item_rate": 0.6, "kept_item_rate": 0.5}}, "kept_item_rate"),
        ({"masking": {"duplicate_factor": 0, "last_item_instances": 0}}, "duplicate_factor"),
    ],
)
def test_invalid_values_of_records_are_refused_by_name(values: Any, named: str) -> None:
    with pytest.raises(InputError) as error:
        RecordsConfig.from_dict(values, "here.json")
    assert named in str(error.value)
    assert "here.json" in str(error.value)


def test_instances_of_a_window() -> None:
    assert MaskingConfig(duplicate_factor=4, last_item_instances=2).instances_per_window == 6
