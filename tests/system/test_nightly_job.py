"""The nightly job: its steps with stubs of the commands, three nights with the real ones, and the same as a flow."""

import fcntl
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.support.command_line import ROOT, run
from tests.support.serving_double import RequestError, ServingDouble

JOB = ROOT / "examples/nightly_job.sh"
FLOW = ROOT / "examples/nightly_flow.py"
DAY = 86_400
FIRST_DAY = 1_767_225_600  # 2026-01-01
CONFIG: dict[str, dict[str, Any]] = {
    "data": {"max_seq_length": 12, "min_user_events": 3, "num_shards": 2},
    "masking": {"duplicate_factor": 0, "last_item_instances": 1},
    "model": {"attention": "causal", "hidden_size": 16, "num_layers": 1, "layer_norm": "pre"},
    "training": {"num_steps": 60, "batch_size": 32, "num_length_buckets": 1, "learning_rate": 0.01, "warmup_steps": 5,
                 "steps_per_epoch": 30, "jit_compile": False},
}  # fmt: skip
LIMITS = {"coverage": {"min": 0.8}, "overlap": {"min": 0.1}}
VARIABLES = {"RECOMMENDATIONS": "recommendations", "LIMITS": "limits.json", "POLL_SECONDS": "0.5", "DAYS": "4"}
# Stands for Python: prints the command, and keeps labels as export.py does. It fails for the command in FAILS, and
# kills the job before or after the one in KILLS.
STUB = r"""#!/bin/sh
name=$(basename "$1")
shift
echo "$name $*"
case "$1" in promote|withdraw) name=$1;; esac
[ "$KILLS" != "before $name" ] || { kill -9 $PPID; exit; }
[ "$name" != "$FAILS" ] || exit "${CODE:-1}"
label() { sed -n "s/.*\"$1\" value: \([0-9]*\).*/\1/p" exports/models.config 2> /dev/null; }
set_labels() {
  mkdir -p exports
  [ -z "$1" ] || printf 'version_labels { key: "stable" value: %s }\n' "$1" > exports/models.config
  [ -z "$2" ] || printf 'version_labels { key: "canary" value: %s }\n' "$2" >> exports/models.config
}
stable=$(label stable)
case "$name $*" in
  *--label=canary*) set_labels "$stable" $((stable - 1)); echo $((stable - 1)) > exports/.canary;;
  export.py*) set_labels $((${stable:-0} + 10)) "";;
  promote*) [ -z "$(label canary)" ] || set_labels $((stable + 10)) "";;
  withdraw*) set_labels "$stable" "";;
  recommend.py*)
    for flag in "$@"; do
      case "$flag" in --output=*) mkdir -p "${flag#--output=}"; touch "${flag#--output=}/_SUCCESS";; esac
    done;;
esac
[ "$KILLS" != "after $name" ] || kill -9 $PPID
"""
EVERY = ["make_tfrecords.py", "train.py", "evaluate.py", "export.py"]
WITH_CANARY = [*EVERY, "recommend.py", "export.py promote"]


def nightly_job(
    directory: pathlib.Path, night: str, *, code: int = 0, config: str = "config.json", step: str = "", **variables: str
) -> str:
    """Runs the job of a night in `directory`, with the checkout's scripts; gives what it printed."""
    done = subprocess.run(
        job_command(config, step), cwd=directory, env=job_environment(night, variables), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    printed = done.stdout
    assert done.returncode == code, printed
    assert "Traceback" not in printed
    return printed


def job_command(config: str = "config.json", step: str = "") -> list[str]:
    return ["bash", str(JOB), "logs/*.csv", "work", "exports", config, *([step] if step else [])]


def job_environment(night: str, variables: dict[str, str]) -> dict[str, str]:
    return os.environ | {"PATH": "/usr/bin:/bin", "PYTHON": sys.executable, "NIGHT": night, **variables}


class StubbedJob:
    """The job with stubs of its commands."""

    def __init__(self, directory: pathlib.Path, **variables: str):
        self.directory = directory
        self.variables = {"PYTHON": str(directory / "python"), "FAILS": "", "KILLS": "", **variables}
        (directory / "python").write_text(STUB)
        (directory / "python").chmod(0o755)

    def __call__(self, night: str, *, code: int = 0, step: str = "", **variables: str) -> tuple[list[str], str]:
        """The commands that a night ran, and what it printed."""
        printed = nightly_job(self.directory, night, code=code, step=step, **self.variables | variables)
        lines = [line.split() for line in printed.splitlines()]
        called = [" ".join(word for word in line[:2] if not word.startswith("-")) for line in lines if ".py" in line[0]]
        return called, printed

    def label(self, name: str) -> str:
        found = re.findall(rf'"{name}" value: (\d+)', (self.directory / "exports/models.config").read_text())
        return found[0] if found else ""

    def latest(self) -> str:
        return (self.directory / "work/latest").readlink().name


def test_the_job_stops_or_continues_at_each_failure(tmp_path: pathlib.Path) -> None:
    job = StubbedJob(tmp_path)
    called, printed = job("2026-01-01", FAILS="make_tfrecords.py", CODE="2", code=2)
    assert called == EVERY[:1]
    assert "the records were not built" in printed
    called, printed = job("2026-01-01", FAILS="evaluate.py")
    assert called == EVERY
    assert "the evaluation failed; the job continues" in printed
    assert "--train_since" not in printed
    assert "--warm_start_from" not in printed
    assert job.latest() == "2026-01-01"
    assert job("2026-01-01") == ([], "nightly_job 2026-01-01: served already, as version 10; nothing to do\n")

    called, printed = job("2026-01-02", FAILS="train.py", code=1)
    assert called == EVERY[:2]
    assert "--train_since=2025-12-18" in printed
    assert "--warm_start_from=work/latest/model" in printed
    assert "the training did not finish" in printed
    called, printed = job("2026-01-02", FAILS="export.py", CODE="2", code=2)
    assert called == EVERY
    assert "the model was not published" in printed
    assert job.latest() == "2026-01-01"
    with (tmp_path / "work/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        called, printed = job("2026-01-02", code=1)
    assert called == []
    assert "another run is at work" in printed
    assert "--train_since=2025-12-18" in job("2026-01-20")[1], "no night was published between"
    for day in range(21, 30):
        job(f"2026-01-{day:02}")
    assert sorted(path.name for path in (tmp_path / "work/nights").glob("*")) == [
        f"2026-01-{day:02}" for day in range(23, 30)
    ]


def test_a_canary_recommends_to_all_users_before_it_is_promoted(tmp_path: pathlib.Path) -> None:
    job = StubbedJob(tmp_path, RECOMMENDATIONS="for all", LIMITS="limits.json")
    called, printed = job("2026-01-01")
    assert called == [*EVERY, "recommend.py"], "the first version has none beside it"
    assert "--output=for all/2026-01-01\n" in printed, "there is no earlier night to compare with"
    called, printed = job("2026-01-02")
    assert called == WITH_CANARY
    assert "--export_dir=exports/9 " in printed
    assert "--output=for all/2026-01-02 --previous=for all/2026-01-01 --limits=limits.json\n" in printed
    assert job.label("stable") == "20"

    called, printed = job("2026-01-03", FAILS="recommend.py", CODE="2", code=2)
    assert called == [*WITH_CANARY[:-1], "export.py withdraw"]
    assert "the canary was withdrawn" in printed
    assert (job.label("stable"), job.label("canary"), job.latest()) == ("20", "", "2026-01-02")
    called, printed = job("2026-01-03", FAILS="recommend.py", CODE="143", code=143)
    assert called == WITH_CANARY[:-1]
    assert "Run the job again to resume" in printed
    assert job.label("canary") == "19"
    called, printed = job("2026-01-03", FAILS="promote", code=1)
    assert called == [*EVERY[:3], *WITH_CANARY[-2:]]
    assert "the canary was not promoted; the served version stays" in printed
    called, _ = job("2026-01-03")
    assert called == [*EVERY[:3], "export.py promote"], "the recommendations are there"
    assert (job.label("stable"), job.label("canary"), job.latest()) == ("30", "", "2026-01-03")


def test_a_killed_night_is_resumed(tmp_path: pathlib.Path) -> None:
    names = [*EVERY, "recommend.py", "promote"]
    night = 0
    job = StubbedJob(tmp_path, RECOMMENDATIONS="for all")
    job("2026-01-01")
    for when in ("before", "after"):
        for name in names:
            night += 1
            stable = 10 * night
            date = f"2026-02-{night:02}"
            _, printed = job(date, KILLS=f"{when} {name}", code=-signal.SIGKILL)
            assert job.label("stable") == str(stable + 10 if (when, name) == ("after", "promote") else stable), printed
            job(date)
            assert (job.label("stable"), job.label("canary"), job.latest()) == (str(stable + 10), "", date)
            assert (tmp_path / "for all" / date / "_SUCCESS").exists()
            assert job(date)[0] == []
    assert night == 2 * len(names)


def test_the_canary_of_another_night_is_not_promoted(tmp_path: pathlib.Path) -> None:
    job = StubbedJob(tmp_path, RECOMMENDATIONS="for all")
    job("2026-01-01")
    job("2026-01-02", KILLS="after recommend.py", code=-signal.SIGKILL)
    (tmp_path / "exports/.canary").write_text("7\n")
    called, printed = job("2026-01-02", code=1)
    assert "export.py promote" not in called
    assert "version 7 took the place of this night's canary; run the job again" in printed
    assert job("2026-01-02")[0] == WITH_CANARY


def test_a_night_after_a_rollback_starts_from_the_served_model(tmp_path: pathlib.Path) -> None:
    job = StubbedJob(tmp_path)
    for day in ("01", "02", "03"):
        job(f"2026-01-{day}")
    config = tmp_path / "exports/models.config"
    config.write_text(config.read_text().replace("30", "10"))
    assert "served already, as version 30; nothing to do" in job("2026-01-03")[1]
    _, printed = job("2026-01-04", FAILS="export.py", code=1)
    assert "version 10 is served, so the night starts from the model of 2026-01-01" in printed
    assert "--train_since=2025-12-18" in printed
    config.write_text(config.read_text().replace("10", "5"))
    _, printed = job("2026-01-05")
    assert "version 5 is served, which no night here published, so the night trains on the whole log" in printed
    assert "--warm_start_from" not in printed


def test_a_step_runs_alone(tmp_path: pathlib.Path) -> None:
    job = StubbedJob(tmp_path, RECOMMENDATIONS="for all")
    assert "run the step publication first" in job("2026-01-01", step="scores", code=2)[1]
    job("2026-01-01")
    steps = ["records", "training", "evaluation", "publication", "scores", "promotion"]
    for step, command in zip(steps, WITH_CANARY, strict=True):
        assert job("2026-01-02", step=step)[0] == [command]
    assert job.latest() == "2026-01-02"


@pytest.mark.parametrize("arguments", [[], ["logs", "work", "exports", "config.json", "dance"]])
def test_the_job_names_its_arguments(arguments: list[str]) -> None:
    done = subprocess.run(["bash", JOB, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    environment = os.environ | {"NIGHT": "../today"}
    command = ["bash", JOB, "logs", "work", "exports", "config.json"]
    wrong_night = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert wrong_night.returncode == 2
    assert "NIGHT must be a date, such as 2026-11-29. Received: ../today" in wrong_night.stderr
    assert "usage: nightly_job.sh LOG WORK_DIR EXPORT_DIR CONFIG [STEP], where STEP is one of: records" in done.stderr


def write_log(path: pathlib.Path, first_day: int, last_day: int) -> None:
    """One event a user and day; each user walks along a ring of 40 items."""
    draw = random.Random(1)
    starts = [draw.randrange(40) for _ in range(200)]
    rows = [
        f"u{user},i{(start + day) % 40},{FIRST_DAY + day * DAY + user}\n"
        for day in range(first_day, last_day)
        for user, start in enumerate(starts)
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text("user_id,item_id,timestamp\n" + "".join(rows))


def add_newcomers(path: pathlib.Path, day: int, first_item: int) -> None:
    """Sixty new users with six events each, who walk along ten new items."""
    with path.open("a") as stream:
        for user in range(60):
            for step in range(6):
                item = first_item + (user + step) % 10
                stream.write(f"n{day}-{user},i{item},{FIRST_DAY + day * DAY + step * 600 + user}\n")


def versions(directory: pathlib.Path) -> list[str]:
    return sorted(path.name for path in (directory / "exports").glob("[0-9]*"))


@pytest.mark.slow
def test_the_job_publishes_each_night_once_and_refuses_a_worse_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    harmful = CONFIG["training"] | {"learning_rate": 0.5, "steps_per_epoch": 60}
    (tmp_path / "harmful.json").write_text(json.dumps(CONFIG | {"training": harmful}))
    latest = tmp_path / "work/latest"

    assert "the records were not built; the served version stays" in nightly_job(tmp_path, "2026-01-21", code=2)
    write_log(tmp_path / "logs/a.csv", 0, 20)
    printed = nightly_job(tmp_path, "2026-01-21")
    assert "old windows left out" not in printed, "the first night trains on the whole log"
    first = versions(tmp_path)
    assert f"nightly_job 2026-01-21: version {first[0]} is served\n" in printed
    assert str(latest.readlink()) == "nights/2026-01-21"
    assert len(first) == 1
    assert (latest / "metrics.json").is_file()
    assert (latest / "report.html").is_file()

    assert "nothing to do" in nightly_job(tmp_path, "2026-01-21")
    assert versions(tmp_path) == first

    write_log(tmp_path / "logs/b.csv", 20, 24)
    refused = nightly_job(tmp_path, "2026-01-25", code=2, config="harmful.json")
    assert "old windows left out" in refused
    assert "starting from a trained model" in refused
    assert "the model was not published; the served version stays" in refused
    assert versions(tmp_path) == first
    assert str(latest.readlink()) == "nights/2026-01-21"


class Callers:
    """A thread that calls a server by `stable`, by `canary` and without a label, and keeps the versions that answer."""

    def __init__(self, server: ServingDouble):
        self._server, self._stopping = server, threading.Event()
        self.answered: dict[str, list[int]] = {"stable": [], "canary": [], "": []}
        self.errors: list[str] = []
        self._thread = threading.Thread(target=self._call, daemon=True)
        self._thread.start()

    def _call(self) -> None:
        while not self._stopping.wait(0.01):
            for label, numbers in self.answered.items():
                try:
                    with self._server.version("exports", None, label) as version:
                        if numbers[-1:] != [version.number]:
                            numbers.append(version.number)
                except RequestError as error:
                    if label != "canary":
                        self.errors.append(str(error))

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.fixture
def first_night(tmp_path: pathlib.Path) -> pathlib.Path:
    """A directory with the log of twenty days, the settings and limits, and the model of the first night."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "limits.json").write_text(json.dumps(LIMITS))
    write_log(tmp_path / "logs/2026-01-20.csv", 0, 20)
    print(nightly_job(tmp_path, "2026-01-21", **VARIABLES))
    return tmp_path


@pytest.fixture
def served(first_night: pathlib.Path) -> Iterator[tuple[ServingDouble, Callers]]:
    """A server of the versions of the first night and later ones, with callers."""
    exports = first_night / "exports"
    server = ServingDouble(exports, "exports", 0.1, exports / "models.config", max_num_load_retries=0)
    callers = Callers(server)
    try:
        yield server, callers
    finally:
        callers.stop()
        server.stop()


@pytest.mark.slow
def test_three_nights_with_a_growing_catalogue_and_a_broken_log(
    first_night: pathlib.Path, served: tuple[ServingDouble, Callers]
) -> None:
    """Prints the log of the nights, which docs/training.md shows: run with `-s`."""
    server, callers = served
    (first,) = versions(first_night)
    assert labels(first_night) == {"stable": first, "previous": first}
    assert monitoring(first_night, "2026-01-21")["users"] == 200

    # The ids of the second night's items have another form, as after a change in the shop's database.
    second_log = first_night / "logs/2026-01-21.csv"
    write_log(second_log, 20, 21)
    add_newcomers(second_log, 20, first_item=40)
    intact = second_log.read_text()
    second_log.write_text(re.sub(r",i(\d)", r",sku-\1", intact))
    refused = nightly_job(first_night, "2026-01-22", code=2, **VARIABLES)
    print(refused)
    assert re.search(r" [1-9]\d* old windows left out: no event at or after 2026-01-17", refused)
    assert "Recommendations must be within --limits. Received: coverage is 0." in refused
    assert "the canary was withdrawn" in refused
    assert versions(first_night) == [first]
    assert labels(first_night) == {"stable": first, "previous": first}
    assert not (first_night / "recommendations/2026-01-22/_SUCCESS").exists()
    assert (first_night / "work/latest").readlink().name == "2026-01-21"
    (withdrawn,) = (first_night / "exports").glob(".withdrawn-*")

    # The log is repaired, and has one more day. The third night is killed while its canary recommends.
    second_log.write_text(intact)
    third_log = first_night / "logs/2026-01-22.csv"
    write_log(third_log, 21, 22)
    add_newcomers(third_log, 21, first_item=50)
    with (first_night / "killed.log").open("w") as stream, subprocess.Popen(
        job_command(), cwd=first_night, env=job_environment("2026-01-23", VARIABLES), stdout=stream,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as killed:  # fmt: skip
        published = first_night / "work/nights/2026-01-23/published"
        wait_until(published.exists)
        os.killpg(killed.pid, signal.SIGKILL)
    with (first_night / "work/.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits until all processes of the job have ended
    print((first_night / "killed.log").read_text())
    canary = published.read_text().strip()
    assert labels(first_night) == {"stable": first, "previous": first, "canary": canary}
    wait_until(lambda: int(canary) in callers.answered["canary"])
    resumed = nightly_job(first_night, "2026-01-23", **VARIABLES)
    print(resumed)
    third = versions(first_night)[-1]
    assert f"nightly_job 2026-01-23: version {third} is served\n" in resumed
    assert labels(first_night) == {"stable": third, "previous": first}
    assert (first_night / "work/latest").readlink().name == "2026-01-23"
    assert "nothing to do" in nightly_job(first_night, "2026-01-23", **VARIABLES)

    numbers = monitoring(first_night, "2026-01-23")
    assert numbers["users"] == 320
    assert numbers["new_users_share"] == pytest.approx(120 / 320)
    assert (numbers["unknown_event_share"], numbers["lost_users_share"]) == (0, 0)
    assert all(numbers[name] >= limit["min"] for name, limit in LIMITS.items())
    table = pq.read_table(first_night / "recommendations/2026-01-23")
    assert set(table["model_version"].to_pylist()) == {canary}
    recommended = {item for items in table["item_ids"].to_pylist() for item in items}
    assert recommended & {f"i{item}" for item in range(40, 50)}
    assert recommended & {f"i{item}" for item in range(50, 60)}

    server.wait_for(int(third))
    wait_until(lambda: server.labels() == {"stable": int(third), "previous": int(first)})
    run("export.py", "rollback", f"--export_dir={first_night / 'exports'}", "--poll_seconds=0.5")
    assert labels(first_night) == {"stable": first, "previous": first}
    wait_until(lambda: callers.answered["stable"][-1] == callers.answered[""][-1] == int(first))
    assert callers.errors == []
    assert callers.answered["stable"] == callers.answered[""] == [int(first), int(third), int(first)]
    assert callers.answered["canary"] == [int(withdrawn.name.removeprefix(".withdrawn-")), int(canary)]
    left = sorted(path.name for path in (first_night / "exports").iterdir())
    assert left == sorted([".canary", ".lock", f".withdrawn-{third}", first, "models.config"])
    nights = ["2026-01-21", "2026-01-22", "2026-01-23"]
    assert sorted(path.name for path in (first_night / "work/nights").iterdir()) == nights
    assert "nothing to do" in nightly_job(first_night, "2026-01-23", **VARIABLES)


def labels(directory: pathlib.Path) -> dict[str, str]:
    """The labels of models.config, all of which must name a version that is there."""
    found = dict(re.findall(r'key: "(\w+)" value: (\d+)', (directory / "exports/models.config").read_text()))
    assert set(found.values()) <= set(versions(directory))
    return found


def monitoring(directory: pathlib.Path, night: str) -> dict[str, float]:
    assert (directory / "recommendations" / night / "_SUCCESS").exists()
    found: dict[str, float] = json.loads((directory / "recommendations" / night / "_monitoring.json").read_text())
    return found


def wait_until(condition: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.slow
def test_the_flow_runs_the_steps_and_repeats_what_a_second_try_may_mend(tmp_path: pathlib.Path) -> None:
    prefect = shutil.which("prefect")
    if prefect is None:
        pytest.skip("needs the command prefect of examples/requirements-flow.txt on the PATH")
    python = pathlib.Path(prefect).with_name("python")
    job = StubbedJob(tmp_path, RECOMMENDATIONS="for all")
    environment = {
        "PREFECT_HOME": str(tmp_path / "prefect"), "DO_NOT_TRACK": "1", "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }  # fmt: skip

    def run_flow(night: str, code: int = 0, **variables: str) -> list[str]:
        arguments = [*job_command()[2:], f"--night={night}", "--recommendations=for all", "--retry_seconds=0"]
        done = subprocess.run(
            [python, FLOW, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
            env=job_environment(night, job.variables | environment | variables),
        )  # fmt: skip
        printed = done.stdout + done.stderr
        assert done.returncode == code, printed
        return re.findall(r"(\w+\.py(?: promote| withdraw)?) ", printed)

    assert run_flow("2026-01-01", code=1, FAILS="train.py") == [EVERY[0], *["train.py"] * 3]
    assert run_flow("2026-01-01", code=1, FAILS="train.py", CODE="2") == EVERY[:2], "a refusal is not repeated"
    assert run_flow("2026-01-01") == [*EVERY, "recommend.py"]
    assert run_flow("2026-01-02") == WITH_CANARY
    assert (job.label("stable"), job.latest()) == ("20", "2026-01-02")
