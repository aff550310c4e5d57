"""The comparison with simpler systems."""

import json
import pathlib
import runpy
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import ROOT, run

pytest.importorskip("pandas", reason="pandas is installed on Python 3.11 and later")


def write_events(path: pathlib.Path, events: list[tuple[str, str]]) -> None:
    users, items = zip(*events, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": list(range(len(users)))}), path)


def test_the_markov_chain_ranks_by_what_followed_and_then_by_popularity(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = {"ann": "a b c b", "bo": "a b d", "cy": "a c", "dee": "d d e"}
    write_events(tmp_path / "train.parquet", [(user, item) for user in trained for item in trained[user].split()])
    write_events(tmp_path / "validation.parquet", [("ann", "a"), ("bo", "b"), ("cy", "x"), ("dee", "a")])
    write_events(tmp_path / "test.parquet", [("ann", "d"), ("bo", "e"), ("cy", "b"), ("dee", "b")])
    settings = {"split_dir": str(tmp_path), "output": str(tmp_path / "out"), "split": "test", "top_k": 3, "seed": 1}
    folder = ROOT / "experiments" / "systems"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "argv", ["markov_chain.py", json.dumps(settings)])
    runpy.run_path(str(folder / "markov_chain.py"))
    found = {row["user_id"]: row["item_ids"] for row in pq.read_table(tmp_path / "out").to_pylist()}
    # After a come b twice and c once; after b come c and d. By popularity: a, b, d three times, c twice, e once.
    assert found == {
        "ann": ["d", "e"],
        "bo": ["c", "e"],
        "cy": ["b", "d", "e"],  # x was never trained on
        "dee": ["b", "c"],
    }


@pytest.mark.slow
def test_the_whole_comparison_on_a_small_log(tmp_path: pathlib.Path) -> None:
    rows = [f"u{user} i{(user * 7 + event * (1 + user % 2)) % 23}" for user in range(60) for event in range(7)]
    (tmp_path / "log.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "results").mkdir()
    command = [
        ROOT / "experiments/table2.py", "--dataset=small", f"--input={tmp_path / 'log.txt'}",
        f"--work_dir={tmp_path / 'work'}", f"--results_dir={tmp_path / 'results'}", "--set=data.num_negatives=5",
        "--set=training.num_steps=5", "--set=training.jit_compile=false", "--set=model.hidden_size=8",
        "--set=model.num_heads=1",
    ]  # fmt: skip
    printed = run(*command)
    result = json.loads((tmp_path / "results/table2-small.json").read_text())
    names = ["BERT4Rec", "POP", "first-order Markov chain", "ItemKNN", "EASE", "BPR-MF"]
    assert [row["name"] for row in result["systems"]] == names
    for row in result["systems"][:3]:
        assert 0 <= row["full"]["ndcg@10"] <= 1
    for row in result["systems"][1:3]:
        assert row["bert4rec_minus_this"].keys() == {"difference", "ci95", "p"}
    for row in result["systems"][3:]:
        assert row["error"] == "not run: no --rectools_python"
    assert "wrote " in printed
    assert "Nothing to do" in run(*command), "what is there is kept"
