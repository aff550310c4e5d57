"""A small log, and the configuration of a short run on it."""

from typing import Any

from pipelines.sources.synthetic import MarkovLog

CONFIG: dict[str, dict[str, Any]] = {
    "data": {"max_seq_length": 8, "min_user_events": 1, "num_negatives": 5, "num_shards": 2},
    "model": {"hidden_size": 8, "num_layers": 1, "initializer_range": 0.5},
    "training": {"num_steps": 4, "batch_size": 16, "num_length_buckets": 1, "jit_compile": False},
}
LOG = MarkovLog(num_users=40, num_items=15, num_themes=3, min_events=5, max_events=9).interactions()
