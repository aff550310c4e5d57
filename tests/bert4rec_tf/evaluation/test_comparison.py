"""The paired bootstrap against its known properties, and the checks of what may be compared."""

import json
import math
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bert4rec_tf.evaluation import comparison
from bert4rec_tf.evaluation.comparison import compare_runs, holm, paired_bootstrap
from bert4rec_tf.evaluation.metrics import NO_RANK, ranking_gains, ranking_metrics
from bert4rec_tf.evaluation.user_ranks import UserRanks, read_users, users_file, write_users
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.errors import InputError
from tfrecords.vocabulary import PAD_ID, Vocabulary

NAMES = ["hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"]
ITEMS = Vocabulary(("é", "b", "c"), np.array([5, 2, 0]), (None,) * 3)


def write_run(path: pathlib.Path, ranks: UserRanks, sha256: str = "0" * 64, split: str = "test") -> pathlib.Path:
    metrics = {"split": split, **ranks.metrics(), "data": {"manifest_sha256": sha256}}
    path.write_text(json.dumps(metrics))
    write_users(users_file(path), ranks, ITEMS)
    return path


def some_ranks(seed: int, users: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).geometric(0.1, users)


def bootstrap(a: np.ndarray, b: np.ndarray, resamples: int = 2000, seed: int = 1) -> dict[str, dict]:
    return paired_bootstrap(ranking_gains(a), ranking_gains(b), resamples, seed)


def test_a_run_does_not_differ_from_itself() -> None:
    found = bootstrap(some_ranks(1), some_ranks(1))
    assert list(found) == NAMES
    for row in found.values():
        assert row["a"] == row["b"]
        assert (row["difference"], row["ci95"], row["p"]) == (0, [0, 0], 1)


def test_a_run_that_is_better_for_most_users_is_significant() -> None:
    ranks = some_ranks(1) + 1
    found = bootstrap(ranks, np.where(np.arange(400) % 4, ranks - 1, ranks))
    for name, row in found.items():
        low, high = row["ci95"]
        assert 0 < low < row["difference"] < high, name
        assert row["p"] == 2 / 2001, name  # the floor of a two-sided p
    for name, row in bootstrap(np.where(np.arange(400) % 4, ranks - 1, ranks), ranks).items():
        assert row["difference"] == pytest.approx(-found[name]["difference"])
        assert row["ci95"] == pytest.approx([-end for end in reversed(found[name]["ci95"])])
        assert row["p"] == found[name]["p"]


def test_interval_and_p_are_near_the_normal_approximation() -> None:
    a, b = some_ranks(2, 2000), np.maximum(1, some_ranks(3, 2000) - (np.arange(2000) % 12 == 0))
    found = bootstrap(a, b, resamples=10_000)
    for name, row in found.items():
        differences = ranking_gains(b)[name] - ranking_gains(a)[name]
        error = differences.std(ddof=1) / np.sqrt(len(differences))
        low, high = row["ci95"]
        assert row["difference"] == pytest.approx(differences.mean())
        assert high - low == pytest.approx(2 * 1.96 * error, rel=0.05)
        assert (low + high) / 2 == pytest.approx(row["difference"], abs=0.1 * error)
        if name == "mrr":  # the others are often 0 exactly, which counts for both sides
            assert row["p"] == pytest.approx(math.erfc(abs(row["difference"]) / error / math.sqrt(2)), abs=0.02)
            assert 0.01 < row["p"] < 0.2


def test_the_bootstrap_is_paired() -> None:
    # Users differ far more than the runs do; only pairing shows the difference of the runs.
    ranks = np.where(np.arange(1000) % 2, 1, 1000)
    better = np.where(np.arange(1000) % 100 == 0, 1, ranks)
    row = bootstrap(ranks, better)["hr@1"]
    assert row["difference"] == pytest.approx(0.01)
    assert row["ci95"][0] > 0
    assert ranking_metrics(ranks)["ci95"]["hr@1"][1] > row["b"]


def test_all_resamples_of_two_users() -> None:
    # The differences are 1 and -0.5, so the resampled means are 1, -0.5 and, twice as often, 0.25.
    found = paired_bootstrap({"x": np.array([0.0, 0.5])}, {"x": np.array([1.0, 0.0])}, 20_000)["x"]
    assert found["ci95"] == [-0.5, 1]
    assert found["p"] == pytest.approx(2 * 0.25, abs=0.02)


def test_resampled_means_are_distributed_as_those_of_single_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compares with the plain bootstrap; the second pass joins cells on the grid, as for many users."""
    generator = np.random.default_rng(1)
    a, b = (1 + (generator.pareto(0.6, 500) * 4).astype(int) for _ in range(2))
    differences = np.stack([ranking_gains(b)[name] - ranking_gains(a)[name] for name in NAMES], axis=1)
    plain = np.stack([differences[generator.integers(500, size=500)].mean(axis=0) for _ in range(4000)])
    for max_cells in (4096, 10):
        monkeypatch.setattr(comparison, "_MAX_CELLS", max_cells)
        _, sizes = comparison._cells(differences)
        assert sizes.sum() == 500
        resampled = comparison._resampled_means(differences, 4000, seed=1)
        error = plain.std(axis=0)
        assert np.abs(resampled.mean(axis=0) - differences.mean(axis=0)).max() < 4 * error.max() / np.sqrt(4000)
        np.testing.assert_allclose(resampled.std(axis=0), error, rtol=0.06)
        for quantile in (2.5, 50, 97.5):
            ends = (np.percentile(means, quantile, axis=0) for means in (resampled, plain))
            np.testing.assert_allclose(*ends, atol=0.15 * error.max())
        covariance = np.cov(resampled.T)
        np.testing.assert_allclose(covariance, np.cov(plain.T), atol=0.1 * covariance.max())


def test_joined_cells_keep_means_and_nearly_all_of_the_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(1)
    values = np.stack([generator.normal(size=20_000), 1e-6 * generator.exponential(size=20_000)], axis=1)
    means, sizes = comparison._cells(np.round(values, 3))
    assert len(sizes) < 20_000
    means, sizes = comparison._cells(values)
    assert len(sizes) < 20_000
    np.testing.assert_allclose(sizes @ means / 20_000, values.mean(axis=0), rtol=1e-12, atol=1e-18)
    kept = sizes @ (means - values.mean(axis=0)) ** 2 / 20_000
    assert np.all(kept > (1 - 4e-6) * values.var(axis=0))


def test_many_users_have_a_bounded_number_of_cells() -> None:
    a, b = some_ranks(1, 200_000), some_ranks(2, 200_000)
    differences = np.stack([ranking_gains(b)[name] - ranking_gains(a)[name] for name in NAMES], axis=1)
    assert len(comparison._cells(differences)[1]) <= comparison._MAX_CELLS


def test_holms_correction_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9, 1]) == [1, 1, 1]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holms_correction_equals_that_of_statsmodels() -> None:
    """The expected values are those of `multipletests(p, method="holm")` of statsmodels 0.15.0."""
    p = [0.0002, 0.0031, 0.04, 0.04, 0.0007, 0.21, 0.0051, 0.93, 0.012, 0.0006, 0.05, 0.44]
    expected = [0.0024, 0.0279, 0.24, 0.24, 0.007, 0.63, 0.0408, 0.93, 0.084, 0.0066, 0.24, 0.88]
    assert holm(p) == pytest.approx(expected)


def test_intervals_equal_those_of_scipy() -> None:
    """The expected values are those of `bootstrap((b - a,), np.mean, n_resamples=100_000, method="percentile")`.

    SciPy 1.17.1, with the seed 1. The tolerance is a tenth of its standard error.
    """
    users = np.arange(500)
    found = bootstrap(1 + users * 7919 % 60, 1 + (users * 104_729 + users**2) % 53, resamples=100_000)
    for name, difference, ends, error in (
        ("ndcg@10", 0.0490079619, [0.0230974971, 0.0750636679], 0.0132645),
        ("hr@10", 0.104, [0.054, 0.154], 0.0253110),
    ):
        assert found[name]["difference"] == pytest.approx(difference)
        assert found[name]["ci95"] == pytest.approx(ends, abs=0.1 * error)


def test_p_values_of_both_protocols_are_corrected_together(tmp_path: pathlib.Path) -> None:
    full, sampled = some_ranks(1, 300).tolist(), some_ranks(2, 300).tolist()
    better = [max(1, rank - 2) if user % 3 == 0 else rank for user, rank in enumerate(full)]
    a, b = ranks_of_users(full, sampled), ranks_of_users(better, sampled)
    found = compare_runs([write_run(tmp_path / "a.json", a), write_run(tmp_path / "b.json", b)])
    rows = [found[protocol][name] for protocol in ("full", "sampled") for name in NAMES]
    assert [row["p_holm"] for row in rows] == holm([row["p"] for row in rows])
    assert min(row["p"] for row in rows) == 2 / 10_001
    assert min(row["p_holm"] for row in rows) == 12 * 2 / 10_001


def test_runs_with_different_drop_seen_are_refused(tmp_path: pathlib.Path) -> None:
    paths = [write_run(tmp_path / name, ranks_of_users([1, 2, 3])) for name in ("a.json", "b.json")]
    for path, rule in zip(paths, (True, False), strict=True):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"drop_seen": rule}))
    with pytest.raises(InputError, match=r"Received: True in .*a.json and False in .*b.json. Fix: .* --drop_seen"):
        compare_runs(paths)


def test_draws_are_a_function_of_the_seed() -> None:
    a, b = some_ranks(1), some_ranks(2)
    assert bootstrap(a, b) == bootstrap(a, b)
    assert bootstrap(a, b) != bootstrap(a, b, seed=2)


def test_compared_runs_are_paired_by_user_id(tmp_path: pathlib.Path) -> None:
    a = ranks_of_users(some_ranks(1, 60).tolist(), some_ranks(2, 60).tolist(), targets=[3, 4, 5] * 20)
    order = np.random.default_rng(4).permutation(60)
    columns = (a.full, a.sampled, a.trained_items, a.history_lengths, a.targets, a.repeats, a.recommended)
    same = UserRanks([a.user_ids[user] for user in order], *(column[order] for column in columns))
    paths = [write_run(tmp_path / "a.json", a), write_run(tmp_path / "b.json", same)]
    found = compare_runs(paths)
    assert (found["users"], found["split"], found["manifest_sha256"]) == (60, "test", "0" * 64)
    assert [found["a"], found["b"]] == list(map(str, paths))
    for protocol in ("full", "sampled"):
        assert list(found[protocol]) == NAMES
        assert {row["p"] for row in found[protocol].values()} == {1}
        assert found[protocol]["mrr"]["a"] == pytest.approx(a.metrics()[protocol]["mrr"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_users_without_a_sampled_rank_are_compared_over_all_items_only(tmp_path: pathlib.Path) -> None:
    a = ranks_of_users([1, 2, 3, 4], [1, NO_RANK, 3, NO_RANK])
    b = ranks_of_users([2, 2, 3, 4], [1, NO_RANK, 1, NO_RANK])
    paths = [write_run(tmp_path / "a.json", a), write_run(tmp_path / "b.json", b)]
    assert read_users(users_file(paths[0]))["sampled_rank"].to_pylist() == [1, None, 3, None]
    found = compare_runs(paths)
    assert (found["users"], found["sampled_users"]) == (4, 2)
    assert found["full"]["mrr"]["a"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert [found["sampled"]["mrr"][run] for run in "ab"] == pytest.approx([(1 + 1 / 3) / 2, 1])
    nobody = write_run(tmp_path / "nobody.json", ranks_of_users([1, 2, 3, 4], [NO_RANK] * 4))
    found = compare_runs([nobody, paths[1]])
    assert (found["sampled_users"], found["sampled"]) == (0, {})
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_users_file_keeps_every_user(tmp_path: pathlib.Path) -> None:
    ranks = ranks_of_users(
        [7, 1, 2], [2, 1, 3], history_lengths=[9, 300, 1], targets=[5, 3, 4],
        recommended=[[3, 4], [PAD_ID, PAD_ID], [5, PAD_ID]], repeats=[False, True, False],
    )  # fmt: skip
    path = users_file(tmp_path / "seed=1.metrics.json")
    assert path == tmp_path / "seed=1.metrics.users.parquet"
    assert users_file("metrics") == pathlib.Path("metrics.users.parquet")
    write_users(path, ranks, ITEMS)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    expected = {
        "user_id": (["u0", "u1", "u2"], pa.string()),
        "full_rank": ([7, 1, 2], pa.int32()),
        "sampled_rank": ([2, 1, 3], pa.int32()),
        "repeat": ([False, True, False], pa.bool_()),
        "history_length": ([9, 300, 1], pa.int32()),
        "target_item_id": (["c", "é", "b"], pa.string()),
        "target_popularity": ([0, 5, 2], pa.int64()),
        "recommended": ([["é", "b"], [], ["c"]], pa.list_(pa.string())),
    }
    with pq.ParquetFile(path) as file:
        table = file.read()
    assert table.column_names == list(expected)
    for name, (values, kind) in expected.items():
        assert table[name].to_pylist() == values
        assert read_users(path)[name].to_pylist() == values
        assert read_users(path)[name].type == kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": [3, 4, 4]}, "same targets. Received: for user 'u2' 'c' in .*a.json and 'b' in"),
        ({"full": [1, 2]}, "same users. Received: 3 in .* and 2 in .*; not in both: 'u2'"),
        ({"sha256": "1" * 64}, "same records. Received: .*a.json of test, manifest 000000000000, and .* 111111111111"),
        ({"split": "validation"}, "same split.* Received: .*a.json of test.* b?.*of validation"),
    ],
)
def test_runs_of_different_data_are_refused(tmp_path: pathlib.Path, change: dict, message: str) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    write_run(paths[0], ranks_of_users([1, 2, 3], targets=[3, 4, 5]))
    full = change.get("full", [1, 2, 3])
    targets = change.get("targets", [3, 4, 5])[: len(full)]
    other = {name: value for name, value in change.items() if name in ("sha256", "split")}
    write_run(paths[1], ranks_of_users(full, targets=targets), **other)
    with pytest.raises(InputError, match=f"(?s){message}.*Fix: "):
        compare_runs(paths)


def test_files_that_cannot_be_compared_are_named(tmp_path: pathlib.Path) -> None:
    ranks = ranks_of_users([1, 2, 3])
    good = write_run(tmp_path / "good.json", ranks)
    for files in ([], [good], [good] * 3):
        with pytest.raises(InputError, match=f"--compare takes two runs. Received: {len(files)}. Fix: --compare="):
            compare_runs(files)
    with pytest.raises(InputError, match=r"Received: .*absent.json, which is not a file"):
        compare_runs([good, tmp_path / "absent.json"])
    other = write_run(tmp_path / "other.json", ranks)
    for content in ("{", "[]", json.dumps({"split": "test"})):
        other.write_text(content)
        with pytest.raises(InputError, match=r"other.json must be metrics written by evaluate.py"):
            compare_runs([good, other])
    write_run(other, ranks)
    users_file(other).unlink()
    with pytest.raises(InputError, match=r"Received: no .*other.users.parquet. Fix: run evaluate.py with --output"):
        compare_runs([good, other])
    users_file(other).write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"other.users.parquet must be written by evaluate.py"):
        compare_runs([good, other])
    pq.write_table(pa.table({"user_id": ["u0"]}), users_file(other))
    with pytest.raises(InputError, match=r"other.users.parquet must be written by evaluate.py"):
        compare_runs([good, other])
    write_users(users_file(other), ranks_of_users([1, 2, 4]), ITEMS)
    with pytest.raises(InputError, match=r"other.users.parquet must hold the users of .*other.json"):
        compare_runs([good, other])
