"""The commands as users run them: processes, exit codes, files, and the steps from a log to a SavedModel."""

import html
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from bert4rec_tf.evaluation.evaluate import evaluate, make_ranker
from bert4rec_tf.evaluation.user_ranks import read_users, users_file
from bert4rec_tf.inputs.evaluation_batches import evaluation_batches
from bert4rec_tf.model_dir import load_model
from tests.support.command_line import ROOT, run
from tfrecords.manifest import Manifest

SETTINGS = [
    "--set=model.hidden_size=16",
    "--set=model.num_layers=1",
    "--set=training.batch_size=32",
    "--set=training.num_length_buckets=2",
    "--set=training.steps_per_epoch=20",
    "--set=training.learning_rate=0.003",
    "--set=training.warmup_steps=5",
    "--set=training.jit_compile=false",
]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("commands") / "data"
    run(
        "pipelines/make_tfrecords.py",
        "--dataset=synthetic:num_users=300,num_items=60,num_themes=6,min_events=3,max_events=20",
        "--set=data.max_seq_length=12",
        "--set=data.min_user_events=1",
        "--num_shards=2",
        f"--output_dir={path}",
    )
    return path


@pytest.fixture(scope="module")
def model_dir(data_dir: pathlib.Path) -> pathlib.Path:
    path = data_dir.with_name("model")
    flags = ["--set=training.num_steps=40", "--profile", *SETTINGS]
    printed = run("train.py", f"--data_dir={data_dir}", f"--model_dir={path}", *flags)
    assert "epoch 2, step 40" in printed
    return path


def train_again(data_dir: pathlib.Path, model_dir: pathlib.Path, *flags: str, code: int = 0) -> str:
    return run("train.py", f"--data_dir={data_dir}", f"--model_dir={model_dir}", *SETTINGS, *flags, code=code)


def test_training_writes_its_directory(model_dir: pathlib.Path, data_dir: pathlib.Path) -> None:
    history = [json.loads(line) for line in (model_dir / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in history] == [20, 40]
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=2e-4)
    assert 0 < history[-1]["validation"]["full"]["ndcg@10"] < 1
    assert all(0 < entry["input_wait_share"] < 1 for entry in history)
    assert json.loads((model_dir / "config.json").read_text())["data"]["max_seq_length"] == 12
    assert (model_dir / "manifest.json").read_bytes() == (data_dir / "manifest.json").read_bytes()
    assert list((model_dir / "tensorboard").glob("events.out.tfevents.*"))
    assert list((model_dir / "tensorboard/plugins/profile").glob("*/*.xplane.pb"))
    assert len((model_dir / "tensorboard/items.tsv").read_text().splitlines()) == 60


@pytest.mark.slow
def test_repeating_the_command_resumes_the_run(
    model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    assert "trained already" in train_again(data_dir, copy, "--set=training.num_steps=40")
    printed = train_again(data_dir, copy, "--set=training.num_steps=60")
    assert "from step 40" in printed
    assert "step 60" in printed
    assert "`model.hidden_size`" in train_again(data_dir, copy, "--set=model.hidden_size=32", code=2)


def start_training(data_dir: pathlib.Path, model_dir: pathlib.Path, *flags: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "train.py", f"--data_dir={data_dir}", f"--model_dir={model_dir}", *SETTINGS, *flags]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes background processes ignore Ctrl-C, and a child inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stderr is not None
    assert any(words in line for line in process.stderr), f"ended without {words!r}"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_training_saves_its_steps(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, number: signal.Signals, code: int
) -> None:
    flags = ["--set=training.num_steps=1000000"]
    process = start_training(data_dir, tmp_path / "model", *flags)
    try:
        wait_for(process, "epoch 1, step 20")
        time.sleep(3)  # the next round of steps may have a batch length to compile first
        process.send_signal(number)
        _, printed = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, printed
    assert f"stopped by {number.name} and saved" in printed
    assert "Traceback" not in printed
    saved = max(int(path.name.split("-")[1]) for path in (tmp_path / "model/checkpoints/latest").glob("ckpt-*"))
    assert saved > 20
    again = train_again(data_dir, tmp_path / "model", f"--set=training.num_steps={saved + 1}")
    assert f"from step {saved:,}" in again


def weights_of(model_dir: pathlib.Path, step: int) -> dict[str, bytes]:
    """Every variable of the latest checkpoint except the elapsed time."""
    reader = tf.train.load_checkpoint(str(model_dir / f"checkpoints/latest/ckpt-{step}/state"))
    names = [name for name in reader.get_variable_to_shape_map() if "elapsed" not in name and "_CHECKPOINT" not in name]
    return {name: reader.get_tensor(name).tobytes() for name in names}


def history_of(model_dir: pathlib.Path) -> list[tuple[int, dict]]:
    lines = (model_dir / "history.jsonl").read_text().splitlines()
    return [(entry["step"], entry["validation"]) for entry in map(json.loads, lines)]


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--masking=pregenerated", "--masking=resample", "--set=model.attention=causal",
                                  "--set=training.prefix_share=0.5", "--set=training.last_item_share=0.9",
                                  "--set=training.precision=mixed_float16"])  # fmt: skip
def test_a_run_resumed_after_kill_9_equals_an_uninterrupted_one(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, flag: str
) -> None:
    flags = ["--set=training.num_steps=70", "--set=training.steps_per_epoch=30", flag,
             "--set=training.checkpoint_minutes=0.001"]  # fmt: skip
    if "prefix" in flag:
        flags.append("--set=model.attention=prefix")
    train_again(data_dir, tmp_path / "uninterrupted", *flags)
    process = start_training(data_dir, tmp_path / "killed", *flags)
    saved = tmp_path / "killed/checkpoints/latest"
    deadline = time.monotonic() + 120
    while not any(int(path.name.split("-")[1]) % 30 for path in saved.glob("ckpt-*")):  # between two validations
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert "resuming" in train_again(data_dir, tmp_path / "killed", *flags)
    assert weights_of(tmp_path / "killed", 70) == weights_of(tmp_path / "uninterrupted", 70)
    assert history_of(tmp_path / "killed") == history_of(tmp_path / "uninterrupted")
    assert [step for step, _ in history_of(tmp_path / "uninterrupted")] == [30, 60, 70]


@pytest.mark.slow
def test_replicas_share_a_batch_evenly(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    odd = train_again(data_dir, tmp_path / "odd", "--strategy=mirrored", "--set=training.batch_size=33", code=2)
    assert "`training.batch_size` must be a multiple of the replicas" in odd


@pytest.mark.slow
def test_masks_are_resampled_in_training(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model_dir = tmp_path / "model"
    train_again(data_dir, model_dir, "--masking=resample", "--set=training.num_steps=20")
    assert json.loads((model_dir / "config.json").read_text())["training"]["masking"] == "resample"
    refused = train_again(data_dir, model_dir, "--masking=pregenerated", code=2)
    assert "`training.masking` must equal that of the run" in refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "name"), [("causal", "left to right, next item"), ("prefix", "BERT4Rec, random prefix")]
)
def test_a_model_of_next_items_is_trained_evaluated_and_served(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, attention: str, name: str
) -> None:
    model_dir, exported = tmp_path / "model", tmp_path / "exported"
    flags = [f"--set=model.attention={attention}", "--masking=resample", "--set=training.num_steps=20"]
    printed = train_again(data_dir, model_dir, *flags, f"--export_dir={exported}")
    assert [line for line in printed.splitlines() if line.startswith("training ")] == [f"training {name}"]
    assert json.loads((model_dir / "config.json").read_text())["model_name"] == name
    assert f"{Manifest.load(data_dir).records('train')} instances" in printed, "one per window"
    assert 0 < history_of(model_dir)[-1][1]["full"]["ndcg@10"] < 1
    assert "`model.attention` must equal that of the run" in train_again(
        data_dir, model_dir, "--masking=resample", code=2
    )
    (version,) = exported.glob("[0-9]*")
    assert json.loads((version / "assets.extra/metadata.json").read_text())["model_name"] == name
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    trained = load_model(model_dir)
    history = list(trained.vocabulary.item_ids[4:8])
    best, popular = serve(item_ids=tf.constant([history, ["", "", "", "no such item"]]))["item_ids"].numpy().astype(str)
    scores = trained.model.score_next_item(tf.constant([trained.vocabulary.ids_of(history)])).numpy()[0]
    names = ["", "", "", *trained.vocabulary.item_ids]
    assert best.tolist() == [names[item] for item in np.argsort(-scores) if names[item] not in history][: len(best)]
    assert popular.tolist() == list(trained.vocabulary.item_ids[: len(popular)])


@pytest.mark.slow
def test_a_run_starts_from_another_model(
    model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ["--set=training.num_steps=20", "--set=training.learning_rate=1e-9"]
    cold_dir, warm_dir = tmp_path / "cold", tmp_path / "warm"
    train_again(data_dir, cold_dir, *flags)
    printed = train_again(data_dir, warm_dir, *flags, f"--warm_start_from={model_dir}")
    assert "60 items carried over, 0 new, 0 no longer there" in printed
    before, cold, after = (
        max(metrics["full"]["ndcg@10"] for _, metrics in history_of(path)) for path in (model_dir, cold_dir, warm_dir)
    )
    assert after == pytest.approx(before, abs=1e-6), "the learning rate is too small to change the metric"
    assert after > cold
    assert "resuming" in train_again(data_dir, warm_dir, "--set=training.num_steps=40", flags[1])
    other = train_again(data_dir, tmp_path / "x", f"--warm_start_from={model_dir}", "--set=model.num_layers=2", code=2)
    assert "`model.num_layers` must equal that of the model to start from" in other
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_time_limit_ends_the_run_with_a_validation_and_a_decayed_learning_rate(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    flags = ["--set=training.num_steps=1000000", "--time_limit_minutes=0.5"]  # a busy machine compiles for 12 s of it
    train_again(data_dir, tmp_path / "model", *flags)
    last = json.loads((tmp_path / "model" / "history.jsonl").read_text().splitlines()[-1])
    assert last["step"] < 1_000_000
    # By the run's clock: the duration of the whole process depends on the machine.
    assert last["elapsed_seconds"] < 2 * 30, "the last call of steps and its validation must end in time"
    assert last["learning_rate"] < 0.003 * 0.2, "the learning rate must have decayed by the time limit"
    assert "trained already" in train_again(data_dir, tmp_path / "model", *flags)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--set=model.attention=causal"]], ids=["bidirectional", "causal"])
def test_the_last_stage_predicts_only_last_items(
    data_dir: pathlib.Path, tmp_path: pathlib.Path, more: list[str]
) -> None:
    made = {}
    for share in (0.0, 0.5):
        flags = ["--set=training.num_steps=40", f"--set=training.last_item_share={share}", *more]
        train_again(data_dir, tmp_path / f"{share}", *flags)
        made[share] = history_of(tmp_path / f"{share}")
    assert made[0.0][0] == made[0.5][0], "the first half is the same"
    assert (made[0.0][1] == made[0.5][1]) == bool(more), "a causal model has no such stage"


@pytest.mark.slow
def test_a_run_resumed_in_its_last_stage_keeps_its_validation_interval(
    data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    # With three batch lengths, a pass over these records takes another number of steps in the last stage.
    flags = ["--set=training.last_item_share=1", "--set=training.num_length_buckets=3",
             "--set=training.steps_per_epoch=null"]  # fmt: skip
    printed = [train_again(data_dir, tmp_path / "model", *flags, f"--set=training.num_steps={n}") for n in (10, 20)]
    assert "resuming" in printed[1]
    first, again = (re.findall(r"validation every (\d+) steps", text) for text in printed)
    assert len(first) == 1
    assert again == first


@pytest.mark.slow
def test_early_stopping_counts_only_in_the_last_stage(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = ["--set=training.num_steps=100", "--set=training.last_item_share=0.5", "--set=training.learning_rate=1e-12"]
    printed = train_again(data_dir, tmp_path / "model", *flags, "--set=training.early_stopping_epochs=1")
    assert "stopping early" in printed
    assert [step for step, _ in history_of(tmp_path / "model")] == [20, 40, 60], "the last stage begins at 50"


@pytest.mark.slow
def test_training_stops_early_without_improvement(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = [
        "--set=training.num_steps=1000",
        "--set=training.early_stopping_epochs=1",
        "--set=training.learning_rate=1e-12",
    ]
    assert "stopping early" in train_again(data_dir, tmp_path / "model", *flags)
    history = (tmp_path / "model" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in history] == [20, 40]
    assert load_model(tmp_path / "model").state["step"] == 20, "the best checkpoint is the first"
    assert "trained already" in train_again(data_dir, tmp_path / "model", *flags)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    flags = ["--set=training.num_steps=40", "--set=training.learning_rate=1e38"]
    printed = train_again(data_dir, tmp_path / "model", *flags, code=2)
    assert "must be finite" in printed
    assert "Fix: lower training.learning_rate" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--set=data.max_seq_length=50", "`data.max_seq_length` must match the records. Received: config=50"),
        ("--time_limit_minutes=0", "--time_limit_minutes must be above 0"),
    ],
)
def test_bad_settings_are_named(data_dir: pathlib.Path, tmp_path: pathlib.Path, flag: str, message: str) -> None:
    assert message in train_again(data_dir, tmp_path / "model", flag, code=2)
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_damaged_records_are_named(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    os.truncate(copy / "train" / "00001-of-00002.tfrecord", 0)
    printed = train_again(copy, tmp_path / "model", code=2)
    assert "train/00001-of-00002.tfrecord is damaged" in printed
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_evaluate_writes_the_contract(model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scores, files = {}, {name: tmp_path / "out" / f"{name}.json" for name in ("model", "popularity")}
    page = files["model"].with_suffix(".html")
    for name, flags in (
        ("popularity", ["--baseline=popularity"]),
        ("model", [f"--model_dir={model_dir}", f"--report={page}", f"--compare_with={files['popularity']}"]),
    ):
        printed = run("evaluate.py", *flags, f"--data_dir={data_dir}", f"--output={files[name]}")
        assert "NDCG@10 of all items by items of history: 1-4 0." in printed
        metrics = json.loads(files[name].read_text())
        assert metrics["users"] == Manifest.load(data_dir).counts["evaluated_users"]
        assert metrics["data"]["manifest_sha256"] == Manifest.load(data_dir).sha256()
        for protocol, counts in (("full", set()), ("sampled", {"users", "users_left_out"})):
            names = {"hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"}
            assert metrics[protocol].keys() == names | {"ci95"} | counts
            assert metrics[protocol]["ci95"].keys() == names
        assert metrics["sampled"]["users"] + metrics["sampled"]["users_left_out"] == metrics["users"]
        assert set(metrics["slices"]) == {"history_length", "target_popularity", "cold_targets", "repeats"}
        assert 0 < metrics["catalogue"]["coverage@10"] <= 1
        assert read_users(users_file(files[name])).num_rows == metrics["users"]
        scores[name] = metrics["full"]["ndcg@10"]
    report = html.unescape(page.read_text(encoding="utf-8"))
    assert f"<td>{scores['model']:.4f} <" in report
    assert f"{files['popularity']}'s {scores['popularity']:.4f}" in report
    assert f"popularity's {scores['popularity']:.4f}" in report
    assert report.count("<article") == 10
    assert "of step 40" in report or "of step 20" in report, "curves and weights belong to the run"


@pytest.mark.slow
def test_two_evaluations_are_compared(data_dir: pathlib.Path, tmp_path: pathlib.Path) -> None:
    scores, files = [], [tmp_path / f"{name}.json" for name in ("popularity", "optimum")]
    for file in files:
        run("evaluate.py", f"--baseline={file.stem}", f"--data_dir={data_dir}", f"--output={file}")
        scores.append(json.loads(file.read_text())["full"]["ndcg@10"])
    assert scores[1] > 2 * scores[0]
    compared = tmp_path / "compared" / "comparison.json"
    printed = run("evaluate.py", f"--compare={files[0]},{files[1]}", f"--output={compared}")
    difference = json.loads(compared.read_text())["full"]["ndcg@10"]
    assert (difference["a"], difference["b"]) == pytest.approx(scores)
    assert difference["p"] < 0.001
    assert f"full ndcg@10 {difference['a']:>11.4f} {difference['b']:>8.4f} {difference['difference']:>+8.4f}" in printed


@pytest.mark.slow
def test_evaluate_names_what_it_cannot_rank(
    model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    run("pipelines/make_tfrecords.py", "--dataset=synthetic:num_users=50", f"--output_dir={tmp_path / 'other'}")
    other = run("evaluate.py", f"--model_dir={model_dir}", f"--data_dir={tmp_path / 'other'}", code=2)
    assert "its own vocabulary" in other
    neither = run("evaluate.py", f"--data_dir={data_dir}", code=2)
    assert "Give one of --model_dir, --baseline, --scores and --ranker. Received: none" in neither
    assert "--split besides" in run("evaluate.py", "--compare=a.json,b.json", "--split=validation", code=2)
    second = [f"--model_dir={model_dir}", f"--data_dir={data_dir}", f"--compare_with={tmp_path / 'none.json'}"]
    assert "--compare_with needs --report" in run("evaluate.py", *second, code=2)
    absent = run("evaluate.py", *second, f"--report={tmp_path / 'report.html'}", code=2)
    assert "--compare_with takes files written by evaluate.py --output" in absent
    assert "--data_dir must name the records" in run("evaluate.py", f"--model_dir={model_dir}", code=2)
    twice = [f"--model_dir={model_dir}"] * 2
    repeated = run("evaluate.py", *twice, f"--data_dir={data_dir}", code=2)
    assert f"must differ. Received: {model_dir} more than once" in repeated
    reported = run("evaluate.py", *twice, f"--data_dir={data_dir}", f"--report={tmp_path / 'report.html'}", code=2)
    assert f"--report needs one model. Received: --model_dir={model_dir}, --model_dir={model_dir}" in reported
    assert "without a config.json" in run("evaluate.py", f"--data_dir={data_dir}", f"--model_dir={tmp_path}", code=2)


@pytest.mark.slow
def test_several_models_are_evaluated_and_exported_as_one(
    model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    second = shutil.copytree(model_dir, tmp_path / "second")
    models, data = [f"--model_dir={model_dir}", f"--model_dir={second}"], f"--data_dir={data_dir}"
    averaged = run("evaluate.py", *models, data, f"--output={tmp_path / 'average.json'}")
    metrics = [
        [line for line in printed.splitlines() if line.startswith("test, 300 users")]
        for printed in (averaged, run("evaluate.py", models[0], data))
    ]
    assert len(metrics[0]) == 2
    assert metrics[0] == metrics[1], "the mean of two equal models"
    described = json.loads((tmp_path / "average.json").read_text())["model"]
    assert described["model_name"] == "average of 2 models (BERT4Rec, Cloze; BERT4Rec, Cloze)"
    wrote = run("export.py", *models, f"--export_dir={tmp_path / 'exports'}")
    assert f"wrote {tmp_path / 'exports'}" in wrote
    recommended = run(
        "recommend.py", f"--export_dir={tmp_path / 'exports'}", data, f"--output={tmp_path / 'recommendations'}"
    )
    assert "users/s" in recommended


@pytest.mark.slow
def test_what_is_served_is_what_was_evaluated(
    model_dir: pathlib.Path, data_dir: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    top_k = 20
    printed = run("export.py", f"--model_dir={model_dir}", f"--export_dir={tmp_path}", f"--top_k={top_k}")
    (version,) = (path for path in tmp_path.iterdir() if path.name.isdigit())
    assert f"wrote {version}" in printed
    serve = tf.saved_model.load(str(version)).signatures["serving_default"]
    trained, manifest = load_model(model_dir), Manifest.load(data_dir)
    names = ["", "", "", *trained.vocabulary.item_ids]
    ranks = evaluate(make_ranker(trained.model.score_next_item), data_dir, manifest, "test")
    rank_of = dict(zip(ranks.user_ids, ranks.full.tolist(), strict=True))
    seen_at_least_once = 0
    for batch in evaluation_batches(data_dir, manifest, "test", batch_size=64):
        histories = [[names[item] for item in row] for row in batch["item_ids"].numpy()]
        answers = serve(item_ids=tf.constant(histories))["item_ids"].numpy().astype(str).tolist()
        for user, target, answer in zip(
            batch["user_id"].numpy(), batch["target_item_id"].numpy(), answers, strict=True
        ):
            rank = rank_of[user.decode()]
            assert (answer.index(names[target]) + 1 if names[target] in answer else top_k + 1) == min(rank, top_k + 1)
            seen_at_least_once += rank <= top_k
    assert seen_at_least_once > 10
    answer = run("deploy/client.py", f"--export_dir={tmp_path}", "--item_id=item-0001", "--item_id=no such item")
    assert "top 10" in answer
    assert "item-0001" not in answer.split("top 10")[1]
    newer = shutil.copytree(version, version.with_name("99999999999"))
    rolled_back = run("export.py", "rollback", f"--export_dir={tmp_path}")
    assert f"withdrew version {newer.name}; {version.name} is served again" in rolled_back
