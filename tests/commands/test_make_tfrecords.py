"""`make_tfrecords.py`: bytes that do not depend on the workers, no partial output, and messages without a traceback."""

import contextlib
import hashlib
import json
import os
import pathlib
import pty
import random
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import tensorflow as tf
from absl import flags as absl_flags
from absl.testing import flagsaver

from bert4rec_tf.config import Config
from pipelines import build, make_tfrecords
from pipelines.build import build_records
from pipelines.engines import base
from pipelines.sources.log_source import LogSource
from pipelines.sources.synthetic import MarkovLog
from tests.support import command_line
from tests.support.command_line import ROOT
from tests.support.parsed_record import parse
from tfrecords.config import RecordsConfig
from tfrecords.manifest import Manifest
from tfrecords.schema import MASKED_WINDOW
from tfrecords.vocabulary import Vocabulary

COMMAND = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py")]
GOLDEN_FILE = ROOT / "tests" / "golden" / "records.json"
TINY = "--dataset=synthetic:num_users=50,num_items=40,num_themes=4,min_events=5,max_events=12"
TIMED_LOG = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},i{(user * 7 + event) % 23},{event}\n" for user in range(20) for event in range(6)
)
GOOD_LOG = "".join(f"u{user} i{(user * 7 + event * 3) % 23}\n" for user in range(20) for event in range(6))


def run(output_dir: pathlib.Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, f"--output_dir={output_dir}", "--num_workers=1", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run_here(output_dir: pathlib.Path, *flags: str) -> int:
    """The exit code of the same command, run in this process, where all modules are loaded already."""
    command = ["make_tfrecords.py", f"--output_dir={output_dir}", "--num_workers=1", *flags]
    with flagsaver.flagsaver():
        arguments = absl_flags.FLAGS(command)
        with pytest.raises(SystemExit) as ended:
            make_tfrecords.main(arguments)
    return int(ended.value.code or 0)


def built(output_dir: pathlib.Path, *flags: str) -> dict[str, str]:
    """Runs the command, checks that it succeeds and leaves only the directory, and gives the sha256 of every file."""
    done = run(output_dir, *flags)
    assert done.returncode == 0, done.stderr
    assert list(output_dir.parent.iterdir()) == [output_dir]
    return hashes(output_dir)


def hashes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A small data directory. Tests must not change it."""
    output_dir = tmp_path_factory.mktemp("tiny") / "data"
    built(output_dir, TINY, "--num_shards=2")
    return output_dir


def test_records_are_those_stored(tiny: pathlib.Path) -> None:
    """Every byte of a small data directory.

    A change here is a change of the record format, of the masks or negatives that a seed gives, or of the settings in
    the manifest. Records of earlier versions then differ from those of this version: add a line to CHANGELOG.md and, if
    old records cannot be read any more, raise SCHEMA_VERSION. Only then write tests/golden/records.json again.
    """
    assert hashes(tiny) == json.loads(GOLDEN_FILE.read_text())


def test_the_number_of_workers_changes_no_byte(tmp_path: pathlib.Path) -> None:
    flags = [TINY, "--num_shards=7", "--set=data.max_seq_length=6"]
    one, two, three = (built(tmp_path / str(n) / "data", *flags, f"--num_workers={n}") for n in (1, 2, 3))
    assert len(one) == 3 * 7 + 2
    assert one == two == three


def test_files_do_not_depend_on_the_folder_of_the_input(tmp_path: pathlib.Path) -> None:
    found = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "log.txt").write_text(GOOD_LOG)
        found.append(built(tmp_path / folder / "out" / "data", f"--input={tmp_path / folder}/*.txt"))
    assert found[0] == found[1]


def test_the_same_command_again_does_nothing(tiny: pathlib.Path) -> None:
    def stamps() -> dict[pathlib.Path, int]:
        return {path: path.stat().st_mtime_ns for path in [tiny, *tiny.rglob("*")]}

    before = stamps()
    again = run(tiny, TINY, "--num_shards=2")
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert stamps() == before


def test_the_same_command_on_a_damaged_directory_names_the_damage(tmp_path: pathlib.Path) -> None:
    output_dir = tmp_path / "data"
    built(output_dir, TINY, "--num_shards=2")
    (output_dir / "train" / "00001-of-00002.tfrecord").write_bytes(b"")
    refused = run(output_dir, TINY, "--num_shards=2")
    assert refused.returncode == 2
    assert "train/00001-of-00002.tfrecord is damaged" in refused.stderr
    assert "--overwrite" in refused.stderr


def test_config_takes_a_file_or_the_name_of_a_recipe(tmp_path: pathlib.Path) -> None:
    assert "wrote " in run(tmp_path / "data", TINY, "--config=demo").stdout
    again = run(tmp_path / "data", TINY, f"--config={ROOT / 'configs/demo.json'}")
    assert "is complete: same input, same configuration" in again.stdout


@pytest.mark.parametrize("other", ["--seed=2", "--set=masking.masking_rates=0.5", "--item_titles={titles}"])
def test_another_configuration_is_refused(tiny: pathlib.Path, tmp_path: pathlib.Path, other: str) -> None:
    (tmp_path / "titles.csv").write_text("item_id,title\nitem-0001,The First\n")
    before = hashes(tiny)
    refused = run(tiny, TINY, "--num_shards=2", other.format(titles=tmp_path / "titles.csv"))
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert hashes(tiny) == before


def test_overwrite_replaces(tmp_path: pathlib.Path) -> None:
    output_dir = tmp_path / "data"
    built(output_dir, TINY, "--num_shards=3")
    (output_dir / "something else").write_text("")
    replaced = built(output_dir, TINY, "--num_shards=2", "--overwrite")
    assert replaced == json.loads(GOLDEN_FILE.read_text())


@pytest.mark.parametrize(
    ("log", "flags", "named"),
    [
        (GOOD_LOG, ["--format=csv"], ["user_id"]),
        ("user_id,item_id,timestamp\nu,i,1\nu,i\n", ["--format=csv"], ["line 3"]),
        (GOOD_LOG + "u\n", [], ["line 121"]),
        ("", [], ["at least one"]),
        ("".join(f"u{user} i\n" for user in range(9)), [], ["--min_user_events"]),
        ("".join(f"u{user} i\n" for user in range(9)), ["--min_user_events=1"], ["3 events"]),
        (GOOD_LOG, ["--set=data.max_length=3"], ["max_length", "max_seq_length"]),
        (GOOD_LOG, ["--set=masking.masking_rates=2"], ["masking_rates"]),
        (GOOD_LOG, ["--num_shards=0"], ["num_shards"]),
        (GOOD_LOG, ["--split=temporal"], ["split_time"]),
        (GOOD_LOG, ["--split_time=3"], ["split_time"]),
        (GOOD_LOG, ["--split=temporal", "--split_time=soon"], ["--split_time", "'soon'"]),
        (GOOD_LOG, ["--split=temporal", "--split_time=3"], ["timestamps", "log.txt"]),
        (TIMED_LOG, ["--format=csv", "--split=temporal", "--split_time=99"], ["--split_time", "0 to test"]),
        (TIMED_LOG, ["--format=csv", "--split=temporal", "--split_time=0"], ["--split_time", "leaves 0 events"]),
        (TIMED_LOG, ["--format=csv", "--split=temporal", "--split_time=1e40"], ["--split_time", "0 to test"]),
        (GOOD_LOG, ["--train_since=3"], ["--train_since", "timestamps", "log.txt"]),
        (TIMED_LOG, ["--format=csv", "--train_since=inf"], ["train_since", "finite", "inf"]),
        (TIMED_LOG, ["--format=csv", "--train_since=soon"], ["--train_since", "'soon'"]),
        (TIMED_LOG, ["--format=csv", "--train_since=4"], ["--train_since", "4, which leaves none of 20"]),
        (TIMED_LOG, ["--format=csv", "--train_since=1e40"], ["--train_since", "1e+40, which leaves none of 20"]),
        (GOOD_LOG, ["--set=data.validation_share=1e-9"], ["validation_share", "20 tested users"]),
        (GOOD_LOG + "u\n", ["--max_bad_fraction=0.008"], ["1 bad rows of 121", "--max_bad_fraction=0.009"]),
        (GOOD_LOG + "u\n" * 9, [], ["line 125", "and 4 more"]),
        ("1::2::5::9\n" * 6, ["--format=movielens", "--min_rating=nan"], ["min_rating"]),
        (GOOD_LOG, ["--config=nowhere.json"], ["nowhere.json"]),
        (GOOD_LOG, ["--config=bert4rec-dens"], ["bert4rec-dens", "one of the recipes", "bert4rec-dense"]),
        (GOOD_LOG, ["--item_titles=nowhere.csv"], ["nowhere.csv"]),
        (GOOD_LOG, ["--output_dir="], ["--output_dir", "''"]),
        (GOOD_LOG, ["--output_dir=", "--overwrite"], ["--output_dir", "''"]),
        (GOOD_LOG, ["--input=nowhere.txt"], ["nowhere.txt"]),
        (GOOD_LOG, ["--memory_limit=much"], ["--memory_limit", "much"]),
        (GOOD_LOG, ["--memory_limit=10KB"], ["--memory_limit"]),
        (GOOD_LOG, ["stray"], ["stray"]),
        (None, [], ["--input", "--dataset"]),
        (GOOD_LOG, [TINY], ["--input", "--dataset"]),
        (None, ["--dataset=markov"], ["markov"]),
        (None, ["--dataset=synthetic:users=3"], ["users=3"]),
        (None, ["--dataset=synthetic:seed=-1"], ["seed"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_named_and_leave_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], log: str | None, flags: list[str], named: list[str]
) -> None:
    if log is not None:
        (tmp_path / "log.txt").write_text(log)
        flags = [f"--input={tmp_path / 'log.txt'}", *flags]
    parent = tmp_path / "parent"
    parent.mkdir()
    assert run_here(parent / "data", *flags) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert [words for words in named if words not in printed] == [], printed
    assert list(parent.iterdir()) == []


@pytest.mark.parametrize("flags", [["--format=csv"], ["stray"]], ids=" ".join)
def test_a_mistake_ends_the_command_without_a_traceback(tmp_path: pathlib.Path, flags: list[str]) -> None:
    (tmp_path / "log.txt").write_text(GOOD_LOG)
    failed = run(tmp_path / "data", f"--input={tmp_path / 'log.txt'}", *flags)
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.startswith("error: ")
    assert "Traceback" not in failed.stderr
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_a_run_after_a_killed_one_finds_nothing_of_it(tmp_path: pathlib.Path) -> None:
    flags = [
        "--dataset=synthetic:num_users=2000",
        "--num_shards=40",
    ]  # takes long to write, so that the kill comes while it writes
    output_dir, building = tmp_path / "killed/data", tmp_path / "killed/.data.building"
    process = subprocess.Popen([*COMMAND, f"--output_dir={output_dir}", "--num_workers=1", *flags])
    while not list(building.glob("train/*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert building.exists()
    assert not output_dir.exists()
    assert built(output_dir, *flags) == built(tmp_path / "clean/data", *flags)


def running(group: int) -> list[str]:
    """The processes of a group that have not ended."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(path.parent.name)
    return found


def test_a_killed_run_ends_its_workers(tmp_path: pathlib.Path) -> None:
    flags = ["--dataset=synthetic:num_users=2000", "--num_shards=40", "--num_workers=2"]
    command = [*COMMAND, f"--output_dir={tmp_path / 'data'}", *flags]
    process = subprocess.Popen(command, start_new_session=True)
    while not list(tmp_path.glob(".data.building/train/*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.002)
    assert len(running(process.pid)) > 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while running(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_title_without_an_item_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "titles.csv").write_text("title,item_id\nToy Story,1\nJumanji\n")
    refused = run(tmp_path / "data", TINY, f"--item_titles={tmp_path / 'titles.csv'}")
    assert refused.returncode == 2
    assert "line 3" in refused.stderr
    assert "Jumanji" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_spill_files_of_a_killed_run_are_removed(tmp_path: pathlib.Path) -> None:
    spill = tmp_path / ".data.building.spill"
    spill.mkdir()
    (spill / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"left")
    built(tmp_path / "data", TINY)


def test_a_larger_log_gets_more_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    log = MarkovLog(num_users=50, num_items=40, num_themes=4, min_events=10, max_events=10)
    small = build_records(log, {}, Config(), str(tmp_path / "small")).manifest
    assert small.splits["train"][-1].file.endswith("of-00008.tfrecord")
    monkeypatch.setattr(base, "_EVENTS_PER_SHARD", 33)
    manifest = build_records(log, {}, Config(), str(tmp_path / "large")).manifest
    assert [len(shards) for shards in manifest.splits.values()] == [16, 16, 16]  # 500 events, 33 in each
    assert manifest.config == RecordsConfig()


def test_bad_rows_are_kept_beside_the_records(tmp_path: pathlib.Path) -> None:
    (tmp_path / "logs/day=1").mkdir(parents=True)
    (tmp_path / "logs/day=2").mkdir()
    (tmp_path / "logs/day=1/log.txt").write_text(GOOD_LOG + "one\n")
    (tmp_path / "logs/day=2/log.txt").write_text("one two three\n" + GOOD_LOG.replace("u", "v"))
    output_dir = tmp_path / "out" / "data"
    made = run(output_dir, f"--input={tmp_path}/logs/*/log.txt", "--max_bad_fraction=0.01")
    assert made.returncode == 0, made.stderr
    assert "2 bad rows set aside" in made.stdout
    assert str(output_dir / "bad_rows.jsonl") in made.stdout
    dry = run(tmp_path / "dry", f"--input={tmp_path}/logs/*/log.txt", "--max_bad_fraction=0.01", "--dry_run")
    for printed in (made.stdout, dry.stdout):
        assert "day=1/log.txt, line 121 must be `user item` ('one')" in printed
    rows = [json.loads(line) for line in (output_dir / "bad_rows.jsonl").read_text().splitlines()]
    assert rows == [
        {"file": "day=1/log.txt", "line": 121, "reason": "must be `user item`", "text": "one"},
        {"file": "day=2/log.txt", "line": 1, "reason": "must be `user item`", "text": "one two three"},
    ]
    counts = Manifest.load(output_dir).counts
    assert counts["rows_read"] == 242 == sum(counts[name] for name in (*build.DROPPED, "events"))
    (output_dir / "bad_rows.jsonl").write_text("")
    again = run(output_dir, f"--input={tmp_path}/logs/*/log.txt", "--max_bad_fraction=0.01")
    assert again.returncode == 2
    assert "bad_rows.jsonl is damaged" in again.stderr


def test_the_order_of_the_input_does_not_matter(tmp_path: pathlib.Path) -> None:
    header, *rows = TIMED_LOG.splitlines(keepends=True)
    found = []
    for name, order in (("a", rows), ("b", rows[::-1]), ("c", sorted(rows))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.csv").write_text(header + "".join(order))
        files = built(tmp_path / name / "out/data", f"--input={tmp_path / name}/log.csv")
        found.append(
            {file: digest for file, digest in files.items() if file != "manifest.json"}
        )  # which holds the hash of the log
    assert found[0] == found[1] == found[2]


def test_a_split_by_time(tmp_path: pathlib.Path) -> None:
    newcomers = "".join(f"new{user},i{user},{time}\n" for user in range(3) for time in range(4, 9))
    (tmp_path / "log.csv").write_text(TIMED_LOG + newcomers)
    for name, time_ in (("number", "4"), ("date", "1970-01-01T00:00:04Z"), ("offset", "1970-01-01T01:00:04+01:00")):
        output_dir = tmp_path / name / "data"
        built(output_dir, f"--input={tmp_path / 'log.csv'}", "--split=temporal", f"--split_time={time_}")
    assert hashes(tmp_path / "number") == hashes(tmp_path / "date") == hashes(tmp_path / "offset")
    counts = Manifest.load(tmp_path / "number/data").counts
    assert counts["training_events"] == 20 * 3  # events 0 to 3, the last of them for validation
    assert (counts["validated_users"], counts["evaluated_users"], counts["unseen_users"]) == (20, 23, 3)


def random_log(path: pathlib.Path) -> dict[str, list[tuple[int, str]]]:
    """Writes a log with ties and histories of all lengths; gives time and item of each user's events, oldest first."""
    draw = random.Random(5)
    histories = {
        f"u{user}": sorted((draw.randrange(100), f"i{draw.randrange(50)}") for _ in range(draw.randrange(1, 30)))
        for user in range(60)
    }
    rows = [f"{user},{item},{time}\n" for user, events in histories.items() for time, item in events]
    draw.shuffle(rows)
    path.write_text("user_id,item_id,timestamp\n" + "".join(rows))
    return histories


def train_records(data_dir: pathlib.Path) -> list[bytes]:
    paths = sorted(str(path) for path in data_dir.glob("train/*"))
    return list(tf.data.TFRecordDataset(paths).as_numpy_iterator())


@pytest.mark.parametrize("split", [{}, {"split": "temporal", "split_time": 80.0}], ids=["leave_one_out", "temporal"])
@pytest.mark.parametrize("sliding_window", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("since", [1.0, 50.0, 74.5])
def test_train_since_keeps_only_windows_with_a_later_event(
    tmp_path: pathlib.Path, split: dict[str, object], sliding_window: float, since: float
) -> None:
    histories = random_log(tmp_path / "log.csv")
    settings = split | {"sliding_window": sliding_window, "max_seq_length": 8, "min_user_events": 1, "num_shards": 3}
    settings |= {"duplicates": "keep", "tie_order": "item_id"}  # the order of `histories`
    made = {}
    for name, more in (("all", {}), ("since", {"train_since": since})):
        config = Config.from_dict({"data": settings | more, "masking": {"duplicate_factor": 2}})
        made[name] = build_records(LogSource([str(tmp_path / "log.csv")]), {}, config, str(tmp_path / name)).manifest

    kept, left_out = Counter[tuple[str, ...]](), 0
    step = max(1, int(sliding_window * 8))
    for events in histories.values():
        held_out = 2 if len(events) >= 3 else 0
        if split:
            early = sum(time < 80 for time, _ in events)
            held_out = len(events) - early + (early >= 2)
        training = events[: len(events) - held_out]
        newest = max(len(training) - 8, 0)
        starts = {newest} if not sliding_window else {*range(newest, 0, -step), 0}
        for window in (training[start : start + 8] for start in starts):
            if any(time >= since for time, _ in window):
                kept[tuple(item for _, item in window)] += 1
            elif window:
                left_out += 1
    item_ids = [None, None, None, *Vocabulary.load(tmp_path / "since").item_ids]
    records = {name: train_records(tmp_path / name) for name in made}
    windows = [parse(MASKED_WINDOW, record)["item_ids"].numpy() for record in records["since"]]
    assert Counter(tuple(item_ids[id_] for id_ in window) for window in windows) == kept
    assert not Counter(records["since"]) - Counter(records["all"])  # the masks are those of a run over all windows

    counts = made["since"].counts
    assert made["all"].counts == {name: count for name, count in counts.items() if name != "old_windows_left_out"}
    assert counts["old_windows_left_out"] == left_out == len(records["all"]) - len(records["since"])
    histogram = {row.length: row.instances for row in made["since"].length_histogram}
    assert histogram == Counter(length for window in windows for length in 3 * [len(window)])
    rest = [
        {
            file: digest
            for file, digest in hashes(tmp_path / name).items()
            if file.split("/")[0] not in ("train", "manifest.json")
        }
        for name in made
    ]
    assert len(rest[0]) == 1 + 2 * 3
    assert rest[0] == rest[1]


@pytest.mark.slow
def test_training_since_a_time(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.csv").write_text(TIMED_LOG)
    flags = [f"--input={tmp_path / 'log.csv'}", "--set=data.max_seq_length=2"]
    made = [
        built(tmp_path / name / "data", *flags, f"--train_since={time_}", f"--num_workers={workers}")
        for name, time_, workers in (("number", "3", 1), ("date", "1970-01-01T00:00:03Z", 2))
    ]
    assert made[0] == made[1]
    assert Manifest.load(tmp_path / "number/data").counts["old_windows_left_out"] == 40
    dry = run(tmp_path / "dry", *flags, "--train_since=3", "--dry_run")
    assert (
        "           40 old windows left out: no event at or after 3\n          220 training instances\n" in dry.stdout
    )


def test_lists_in_milliseconds_are_read_by_flags_and_shown_as_dates(tmp_path: pathlib.Path) -> None:
    rows = [
        {"user_id": user, "item_id": [f"i{user}", f"i{visit}"], "timestamp": (1_577_836_800 + visit) * 1000}
        for user in range(5)
        for visit in range(4)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = [f"--input={tmp_path / 'log.jsonl'}", "--explode", "--timestamp_unit=ms", "--dry_run"]
    done = run(tmp_path / "data", *flags, "--split=temporal", "--split_time=2020-W01-3T00:00:03Z")
    assert done.returncode == 0, done.stderr
    assert "           40 rows read\n" in done.stdout
    shown = "first event at 2020-01-01 00:00:00 UTC, last event at 2020-01-01 00:00:03 UTC, numbers read in ms"
    assert f"{'':>13} {shown}\n" in done.stdout


def test_a_dry_run_counts_what_the_run_then_writes(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.txt").write_text(GOOD_LOG)
    output_dir = tmp_path / "parent" / "data"
    dry = run(output_dir, f"--input={tmp_path / 'log.txt'}", "--dry_run")
    assert dry.returncode == 0, dry.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "log.txt"]
    wet = run(output_dir, f"--input={tmp_path / 'log.txt'}")
    same = dry.stdout.splitlines()[:-1]
    assert same == wet.stdout.splitlines()[: len(same)]
    assert f"{20 * 11} training instances" in dry.stdout
    assert "nothing was written" in dry.stdout


def test_the_summary_gives_the_counts_of_the_records(tmp_path: pathlib.Path) -> None:
    output_dir = tmp_path / "data"
    printed = run(output_dir, TINY, "--num_shards=2", "--set=data.max_seq_length=8").stdout
    manifest = Manifest.load(output_dir)
    sizes = [path.stat().st_size for path in output_dir.rglob("*.tfrecord")]
    train = sum(path.stat().st_size for path in output_dir.glob("train/*"))
    instances = manifest.instances()
    for line in (
        f"{manifest.counts['users']:,} users, the longest history 12 events",
        f"{manifest.counts['items']:,} items",
        f"{manifest.counts['events']:,} events",
        f"{instances:,} training instances",
        f"{sum(sizes):,} bytes in 6 shards",
        f"{train / instances:,.1f} bytes an instance",
    ):
        assert f" {line}\n" in printed, line
    empty = 1 - sum(row.length * row.instances for row in manifest.length_histogram) / (8 * instances)
    assert f"{empty:.0%} of 8 slots an instance are empty" in printed


def test_an_unreadable_disk_or_input_is_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.txt").write_text(GOOD_LOG)
    (tmp_path / "file").write_text("")
    for output_dir, words in ((tmp_path / "file" / "data", "file"), (pathlib.Path("/proc/data"), "/proc")):
        failed = run(output_dir, f"--input={tmp_path / 'log.txt'}")
        assert failed.returncode == 2, failed.stderr
        assert failed.stderr.startswith("error: ")
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr


LARGE = ["--dataset=synthetic:num_users=4000,num_items=100,num_themes=4,min_events=90,max_events=100", "--overwrite",
         "--memory_limit=60MB", "--num_shards=1", "--set=masking.duplicate_factor=40"]  # fmt: skip


@pytest.mark.slow
def test_small_memory_limit_spills_to_disk(tmp_path: pathlib.Path) -> None:
    built(tmp_path / "data", *LARGE)


@pytest.mark.parametrize(
    "megabytes", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(16, marks=pytest.mark.slow)]
)
def test_a_full_disk_is_named_and_earlier_records_stay(tmp_path: pathlib.Path, megabytes: int) -> None:
    """The disk is full when the sort spills, when its runs are written, or when records are written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        built(disk / "data", TINY, "--num_shards=2")
        before = hashes(disk)
        failed = run(disk / "data", *LARGE)
        assert failed.returncode == 2, failed.stderr
        assert "Traceback" not in failed.stderr
        assert "No space left" in failed.stderr or "disk" in failed.stderr
        assert hashes(disk) == before
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_progress_is_shown_only_on_a_terminal(tmp_path: pathlib.Path) -> None:
    command = [*COMMAND, f"--output_dir={tmp_path / 'data'}", "--dataset=synthetic:num_users=400", "--num_workers=1"]
    terminal, end = pty.openpty()
    process = subprocess.Popen(command, stderr=end, stdout=subprocess.DEVNULL)
    os.close(end)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while piece := os.read(terminal, 4096):
            shown += piece
    assert process.wait() == 0
    os.close(terminal)
    for words in (b"reading", b"sorting", b"writing", b"rows/s"):
        assert words in shown
    assert run(tmp_path / "other", TINY).stderr == ""


def test_the_split_is_written_as_tables_too(tmp_path: pathlib.Path) -> None:
    printed = command_line.run(
        "pipelines/make_tfrecords.py", TINY, f"--output_dir={tmp_path / 'data'}", f"--split_dir={tmp_path / 'split'}"
    )
    counts = Manifest.load(tmp_path / "data").counts
    rows = f"{counts['validated_users']:,} rows of validation, {counts['evaluated_users']:,} rows of test"
    assert f"{counts['training_events']:,} rows of train, {rows}" in printed
    assert sorted(path.stem for path in (tmp_path / "split").iterdir()) == ["negatives", "test", "train", "validation"]
