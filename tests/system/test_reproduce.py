"""The commands in experiments/ on a small log, and the tables of results on the pages."""

import json
import pathlib

import pytest

from experiments import results_table
from tests.support import command_line


def test_pages_hold_the_current_tables() -> None:
    for path, tables in results_table.pages().items():
        text = path.read_text(encoding="utf-8")
        for name, rows in tables.items():
            assert results_table.with_table(text, name, rows) == text, "python experiments/results_table.py --write"


def test_short_tables_have_six_rows_of_the_full_ones() -> None:
    short, full, _ = results_table.pages().values()
    assert list(short) == ["results: beauty, short", "results: ml-1m, short"]
    for name, rows in short.items():
        few, many = rows.splitlines(), full[name.removesuffix(", short")].splitlines()
        assert few[:2] == many[:2]
        assert len(few[2:]) == 6
        assert few[2:] == [row for row in many if row in few[2:]]


def test_only_the_text_between_the_markers_is_replaced() -> None:
    once = results_table.with_table("before\n<!-- x -->\n<!-- end -->\nafter\n", "x", "| row |")
    assert once == "before\n<!-- x -->\n| row |\n<!-- end -->\nafter\n"
    assert results_table.with_table(once, "x", "| row |") == once
    for text in ("nothing", "<!-- x -->\nand no end"):
        with pytest.raises(SystemExit, match="must hold"):
            results_table.with_table(text, "x", "| row |")


def test_ablations_are_listed_beside_the_papers() -> None:
    def row(full: float, sampled: float) -> dict:
        return {"full": {"ndcg@10": full}, "sampled": {"ndcg@10": sampled}, "seconds": 90}

    run = {"dataset": "ml-1m", "ablations": {"as configured": row(0.1, 0.4), "layers = 1": row(0.09, 0.3)}}
    run["ablations"]["not in the paper"] = row(0.2, 0.5)
    assert results_table.ablations(run).splitlines()[2:] == [
        "| as configured | .476 | +0% | .400 | +0% | .100 | 1.5 |",
        "| layers = 1 | .441 | -7% | .300 | -25% | .090 | 1.5 |",
        "| not in the paper |  |  | .500 | +25% | .200 | 1.5 |",
    ]


def test_averages_of_the_same_kinds_of_models_share_a_row() -> None:
    def metrics(value: float, *names: str, validated: int = 10) -> dict:
        row = {"hr@10": value, "ndcg@10": value, "ci95": {"hr@10": [0.1, 0.9], "ndcg@10": [0.2, 0.8]}}
        counts = {"validated_users": validated, "evaluated_users": 10}
        members = [{"model_name": name} for name in names]
        return {"full": row, "sampled": row, "model": {"members": members}, "data": {"counts": counts}}

    found = results_table.averages(
        [metrics(0.3, "A", "B"), metrics(0.5, "A"), metrics(0.4, "B", "A"), metrics(0.2, "A", validated=1)]
    )
    assert found.splitlines()[2:] == [
        "| 1 A | 1 | held out | .500 [.100, .900] | .500 [.200, .800] | .500 [.100, .900] | .500 [.200, .800] |",
        "| 1 A | 1 | trained on | .200 [.100, .900] | .200 [.200, .800] | .200 [.100, .900] | .200 [.200, .800] |",
        "| 1 A, 1 B | 2 | held out | .350 [.300, .400] | .350 [.300, .400] | .350 [.300, .400] | .350 [.300, .400] |",
    ]


def tiny(path: pathlib.Path) -> list[str]:
    """Flags of a log and settings that take seconds."""
    rows = [f"u{user} i{(user + step) % 20}\n" for user in range(60) for step in range(8)]
    (path / "log.txt").write_text("".join(rows))
    settings = {
        "data": {"max_seq_length": 6, "num_negatives": 5},
        "model": {"hidden_size": 8, "num_layers": 1},
        "training": {"num_steps": 20, "batch_size": 16, "steps_per_epoch": 10, "jit_compile": False},
    }
    (path / "tiny.json").write_text(json.dumps(settings))
    flags = ["--dataset=ring", f"--input={path / 'log.txt'}", f"--config={path / 'tiny.json'}"]
    return [*flags, f"--work_dir={path / 'work'}", f"--results_dir={path / 'results'}"]


@pytest.mark.slow
def test_only_adds_ablations_of_the_same_settings(tmp_path: pathlib.Path) -> None:
    flags = [*tiny(tmp_path), "--steps=4"]
    results = tmp_path / "results" / "ablations-ring.json"
    command_line.run("experiments/ablations.py", *flags, "--only=d = 16")
    first = json.loads(results.read_text())["ablations"]
    printed = command_line.run("experiments/ablations.py", *flags, "--only=layers = 2,layers = 1")
    assert "as configured" not in printed, "it is there already"
    assert "layers = 1" not in printed, "as configured"
    added = json.loads(results.read_text())["ablations"]
    assert list(added) == ["as configured", "layers = 2", "d = 16"]
    assert {name: added[name] for name in first} == first
    printed = command_line.run("experiments/ablations.py", *flags, "--steps=5", "--only=layers = 3", code=2)
    assert "of the same settings" in printed
    assert json.loads(results.read_text())["ablations"] == added


@pytest.mark.slow
def test_reproduce_writes_one_result_for_each_seed(tmp_path: pathlib.Path) -> None:
    flags = [*tiny(tmp_path), "--seeds=2"]
    printed = command_line.run("experiments/reproduce.py", *flags)
    found = [json.loads((tmp_path / "results" / f"ring-tiny-seed{seed}.json").read_text()) for seed in (1, 2)]
    assert found[0]["data"]["manifest_sha256"] == found[1]["data"]["manifest_sha256"]
    for seed, run in enumerate(found, start=1):
        assert run["run"]["seed"] == run["model"]["config"]["training"]["seed"] == seed
        assert set(run["run"]["seconds"]) == {"records", "training", "evaluation"}
        assert 0 <= run["full"]["ndcg@10"] <= 1
        assert f"ring-tiny-seed{seed}: NDCG@10" in printed
    command_line.run("experiments/reproduce.py", *flags)
    again = json.loads((tmp_path / "results" / "ring-tiny-seed1.json").read_text())
    assert again["run"]["seconds"]["training"] == found[0]["run"]["seconds"]["training"], (
        "all of it, not the last call's"
    )
    assert again["full"] == found[0]["full"]
