"""The comparison with the other systems of Table 2."""

import json
import pathlib
import runpy
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.command_line import ROOT, run

pytest.importorskip("pandas", reason="pandas is installed on Python 3.11 and later")


FOLDER = ROOT / "experiments" / "systems"


def write_events(path: pathlib.Path, events: list[tuple[str, str]]) -> None:
    users, items = zip(*events, strict=True)
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": list(range(len(users)))}), path)


@pytest.fixture
def settings(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Of a script, on a log of four users. Item x was never trained on."""
    trained = {"ann": "a b c b", "bo": "a b d", "cy": "a c a", "dee": "d d e f"}
    write_events(tmp_path / "train.parquet", [(user, item) for user in trained for item in trained[user].split()])
    write_events(tmp_path / "validation.parquet", [("ann", "a"), ("bo", "b"), ("cy", "x"), ("dee", "a")])
    write_events(tmp_path / "test.parquet", [("ann", "d"), ("bo", "e"), ("cy", "b"), ("dee", "x")])
    negatives = {"ann": ["e", "f"], "bo": ["c", "f"], "cy": ["d", "e"], "dee": ["b", "c"]}
    columns = {"user_id": list(negatives), "split": ["test"] * 4, "item_ids": list(negatives.values())}
    pq.write_table(pa.table(columns), tmp_path / "negatives.parquet")
    monkeypatch.syspath_prepend(FOLDER)
    given = {"output": "best", "candidates_output": "candidates", "report": "report", "split_dir": "."}
    paths = {name: str(tmp_path / path) for name, path in given.items()}
    return paths | {"split": "test", "top_k": 3, "seed": 1, "minutes": 1}


def lists(path: str) -> dict[str, list[str]]:
    return {row["user_id"]: row["item_ids"] for row in pq.read_table(path).to_pylist()}


def test_the_markov_chain_ranks_by_what_followed_and_then_by_popularity(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["markov_chain.py", json.dumps(settings)])
    runpy.run_path(str(FOLDER / "markov_chain.py"))
    best = lists(settings["output"])
    # After a come b twice and c once, after b c and d. By popularity: a 4, b and d 3, c 2, e and f 1.
    assert (best["ann"][0], set(best["ann"])) == ("d", {"d", "e", "f"})
    assert best["bo"][0] == "c"
    assert (set(best["cy"][:2]), len(best["cy"])) == ({"b", "d"}, 3)  # x is not known, so by popularity
    assert best["dee"] == ["b", "c"]
    candidates = lists(settings["candidates_output"])
    assert candidates["ann"][0] == "d"
    assert candidates["bo"][0] == "c"
    assert set(candidates["bo"]) == {"c", "e", "f"}
    assert candidates["dee"] == ["b", "c", "x"], "what was not trained on is last"
    assert json.loads(pathlib.Path(settings["report"]).read_text()).keys() == {"seconds", "wall_seconds"}


def test_equal_scores_favour_no_item(settings: dict[str, Any]) -> None:
    rankings = runpy.run_path(str(FOLDER / "rankings.py"))
    first = set()
    for seed in range(40):
        split = rankings["Split"](settings | {"seed": seed})
        split.write_rankings(lambda users: np.zeros((len(users), 6)))
        first.add(lists(settings["candidates_output"])["ann"][0])
    assert first == {"d", "e", "f"}


def test_scores_that_are_not_numbers_are_refused(settings: dict[str, Any]) -> None:
    split = runpy.run_path(str(FOLDER / "rankings.py"))["Split"](settings)
    with pytest.raises(SystemExit, match="need finite scores of 6 items"):
        split.write_rankings(lambda users: np.full((len(users), 6), np.nan))


@pytest.mark.slow
def test_the_whole_comparison_on_a_small_log(tmp_path: pathlib.Path) -> None:
    rows = [f"u{user} i{(user * 7 + event * (1 + user % 2)) % 23}" for user in range(60) for event in range(7)]
    (tmp_path / "log.txt").write_text("\n".join(rows) + "\n")
    (tmp_path / "results").mkdir()
    command = [
        ROOT / "experiments/table2.py", "--dataset=small", f"--input={tmp_path / 'log.txt'}",
        f"--work_dir={tmp_path / 'work'}", f"--results_dir={tmp_path / 'results'}", "--set=data.num_negatives=5",
        "--set=training.num_steps=5", "--set=training.jit_compile=false", "--set=model.hidden_size=8",
        "--set=model.num_heads=1", "--leave_out=Caser=too slow", "--system_minutes=0.1",
    ]  # fmt: skip
    printed = run(*command)
    result = json.loads((tmp_path / "results/table2-small.json").read_text())
    rows = {row["name"]: row for row in result["systems"]}
    names = (
        "BERT4Rec, POP, first-order Markov chain, ItemKNN, EASE, BPR-MF, NCF, FPMC, GRU4Rec, GRU4Rec+, Caser, SASRec"
    )
    assert list(rows) == names.split(", ")
    for name in ("BERT4Rec", "POP", "first-order Markov chain", "SASRec"):
        for protocol in ("full", "sampled"):
            assert 0 < rows[name][protocol]["ndcg@10"] <= 1
            assert len(rows[name][protocol]["ci95"]["ndcg@10"]) == 2
    for name in ("POP", "first-order Markov chain"):
        lead = rows[name]["bert4rec_minus_this"]["sampled"]
        expected = rows["BERT4Rec"]["sampled"]["ndcg@10"] - rows[name]["sampled"]["ndcg@10"]
        assert lead["difference"] == pytest.approx(expected)
    assert rows["EASE"]["error"] == "not run: no --rectools_python"
    assert rows["Caser"]["error"] == "not run: too slow"
    assert rows["FPMC"]["error"] == "not run: no --recbole_python"
    assert rows["GRU4Rec+"]["error"].startswith("not run: its code")
    assert "wrote " in printed
    assert "Nothing to do" in run(*command), "what is there is kept"
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    run(*command, f"--bert4rec={tmp_path / 'work/BERT4Rec.json'}", f"--recbole_python={killed}")
    again = json.loads((tmp_path / "results/table2-small.json").read_text())
    assert again["systems"][0]["full"] == result["systems"][0]["full"]
    assert {row["name"]: row.get("error") for row in again["systems"]}["FPMC"] == "failed: ended by SIGKILL"
