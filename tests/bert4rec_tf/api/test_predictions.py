"""Predictions from files and functions."""

import json
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bert4rec_tf
from bert4rec_tf.api.predictions import Predictions, ranking_function
from bert4rec_tf.inputs.user_histories import read_histories
from bert4rec_tf.model_dir import load_model
from tests.support.command_line import run
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS

LISTS = {"ann": ["b", "a", "c"], "bo": ["c"], "7": ["a", "b"]}
ROWS = [(user, item, -place) for user, items in LISTS.items() for place, item in enumerate(items)][::-1]


def write_lists(path: pathlib.Path) -> None:
    pq.write_table(pa.table({"user_id": list(LISTS), "item_ids": list(LISTS.values())}), path)


def write_jsonl(path: pathlib.Path) -> None:
    path.write_text("".join(json.dumps({"user_id": user, "item_ids": items}) + "\n" for user, items in LISTS.items()))


def write_scores(delimiter: str) -> Callable[[pathlib.Path], None]:
    lines = [delimiter.join(map(str, row)) for row in [("user_id", "item_id", "score"), *ROWS]]
    return lambda path: path.write_text("\n".join(lines) + "\n") and None


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("p.parquet", write_lists),
        ("p.jsonl", write_jsonl),
        ("p.csv", write_scores(",")),
        ("p.tsv", write_scores("\t")),
    ],
)
def test_files_of_lists_or_scores(tmp_path: pathlib.Path, name: str, write: Callable[[pathlib.Path], None]) -> None:
    write(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "p.*"):
        predictions = Predictions.read(str(path))
        assert predictions.lists_of(["bo", "ann", "7"], [[], [], []]) == [LISTS["bo"], LISTS["ann"], LISTS["7"]]
        assert predictions.description["items_of_a_list"] == {"fewest": 1, "most": 3}
    with pytest.raises(InputError, match=r"Every evaluated user must have a list. Received: .*, without 'cy'"):
        predictions.lists_of(["bo", "cy"], [[], []])


def test_equal_scores_rank_by_item_id(tmp_path: pathlib.Path) -> None:
    (tmp_path / "p.csv").write_text("user_id,item_id,score\nu,b,1\nu,a,1\nu,c,2\n")
    assert Predictions.read(str(tmp_path / "p.csv")).lists_of(["u"], [[]]) == [["c", "a", "b"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user_id,item\n1,2\n", r"--scores must have the columns user_id and .* Received: .* with user_id, item"),
        ("user_id,item_id,score\nu,a,nan\nu,b,1\n", r"a finite score in each row. Received: .* with 1 rows without"),
        ("user_id,item_id,score\nu,a,\n", r"a finite score in each row"),
        ("user_id,item_id,score\nu,a,high\n", r"--scores must be readable files. Received: .*p.csv \("),
    ],
)  # fmt: skip
def test_faulty_files_are_named(tmp_path: pathlib.Path, content: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(content)
    with pytest.raises(InputError, match=message):
        Predictions.read(str(tmp_path / "p.csv"))


def test_a_user_has_one_list(tmp_path: pathlib.Path) -> None:
    pq.write_table(pa.table({"user_id": ["u", "u"], "item_ids": [["a"], ["b"]]}), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"Each user must have one list. Received: .* with several for 'u'"):
        Predictions.read(str(tmp_path / "p.parquet"))
    with pytest.raises(InputError, match=r"--scores must name files. Received: absent.csv"):
        Predictions.read("absent.csv")


def test_functions_are_found_from_the_current_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    (tmp_path / "my_ranker.py").write_text(
        "import numpy as np\ndef rank(users, histories): return [np.array(history) for history in histories]\n"
    )
    assert ranking_function("my_ranker:rank")(["u"], [["1", "2"]]) == [["1", "2"]]
    for name, message in (("my_ranker", "MODULE:FUNCTION"), ("my_ranker:no", "imported"), ("absent:f", "imported")):
        with pytest.raises(InputError, match=message):
            ranking_function(name)


@pytest.mark.slow
def test_a_models_scores_as_a_file_give_the_models_metrics(
    data_dir: pathlib.Path, model_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run("evaluate.py", f"--model_dir={model_dir}", f"--data_dir={data_dir}", f"--output={tmp_path / 'model.json'}")
    trained = load_model(model_dir)
    rows: dict[str, list[Any]] = {"user_id": [], "item_ids": []}
    users = pq.read_table(tmp_path / "model.users.parquet")["user_id"].to_pylist()
    histories = read_histories(users, data_dir, trained.manifest, "test")
    for user in users:
        scores = trained.model.score_next_item(histories[user].item_ids[None])[0, NUM_SPECIAL_IDS:].numpy()
        rows["user_id"].append(user)
        rows["item_ids"].append([trained.vocabulary.item_ids[item] for item in np.argsort(-scores, kind="stable")])
    pq.write_table(pa.table(rows), tmp_path / "scores.parquet")
    printed = run(
        "evaluate.py",
        f"--scores={tmp_path / 'scores.parquet'}",
        f"--data_dir={data_dir}",
        f"--output={tmp_path / 'lists.json'}",
    )
    assert "100 negatives" in printed or "5 negatives" in printed
    by_model, by_lists = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("model", "lists"))
    for part in ("full", "sampled", "slices", "catalogue", "repeats"):
        assert by_lists[part] == by_model[part], part
    assert by_lists["model"]["scores"] == "scores.parquet"
    printed = run("evaluate.py", f"--compare={tmp_path / 'model.json'},{tmp_path / 'lists.json'}")
    assert "full ndcg@10" in printed
    assert bert4rec_tf.evaluate(model_dir, data_dir).metrics["full"] == by_model["full"]
