"""The command: the same bytes whatever the workers, nothing half done, and mistakes named without a traceback."""

import hashlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bert4rec_tf.config import Config
from pipelines import build
from pipelines.build import build_records
from pipelines.synthetic import MarkovLog

ROOT = pathlib.Path(__file__).parents[1]
COMMAND = [sys.executable, str(ROOT / "pipelines" / "make_tfrecords.py")]
GOLDEN_FILE = ROOT / "tests" / "golden" / "records.json"
TINY = "--dataset=synthetic:num_users=50,num_items=40,num_themes=4,min_events=5,max_events=12"
GOOD_LOG = "".join(f"u{user} i{(user * 7 + event * 3) % 23}\n" for user in range(20) for event in range(6))


def run(output_dir: pathlib.Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [*COMMAND, f"--output_dir={output_dir}", "--num_workers=1", *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def built(output_dir: pathlib.Path, *flags: str) -> dict[str, str]:
    """Runs well, leaves nothing beside the directory, and gives the sha256 of every file."""
    done = run(output_dir, *flags)
    assert done.returncode == 0, done.stderr
    assert list(output_dir.parent.iterdir()) == [output_dir]
    return hashes(output_dir)


def hashes(directory: pathlib.Path) -> dict[str, str]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Not to be changed by a test."""
    output_dir = tmp_path_factory.mktemp("tiny") / "data"
    built(output_dir, TINY, "--num_shards=2")
    return output_dir


def test_records_are_those_stored(tiny: pathlib.Path) -> None:
    """Every byte of a small data directory.

    A change here is a change of the record format, of the masks or negatives that a seed gives, or of the settings
    that the manifest lists. Records that people built are then other than those that this version builds: it needs a
    line in CHANGELOG.md, and, where old records cannot be read any more, a new SCHEMA_VERSION. Only then is
    tests/golden/records.json to be written anew.
    """
    assert hashes(tiny) == json.loads(GOLDEN_FILE.read_text())


def test_the_number_of_workers_changes_no_byte(tmp_path: pathlib.Path) -> None:
    flags = [TINY, "--num_shards=7", "--set=data.max_seq_length=6"]
    one, two, three = (built(tmp_path / str(n) / "data", *flags, f"--num_workers={n}") for n in (1, 2, 3))
    assert len(one) == 3 * 7 + 2
    assert one == two == three


def test_files_do_not_depend_on_where_the_input_lies(tmp_path: pathlib.Path) -> None:
    found = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "log.txt").write_text(GOOD_LOG)
        found.append(built(tmp_path / place / "out" / "data", f"--input={tmp_path / place}/*.txt"))
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
        ("1::2::5::9\n" * 6, ["--format=movielens", "--min_rating=nan"], ["min_rating"]),
        (GOOD_LOG, ["--config=nowhere.json"], ["nowhere.json"]),
        (GOOD_LOG, ["--item_titles=nowhere.csv"], ["nowhere.csv"]),
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
    tmp_path: pathlib.Path, log: str | None, flags: list[str], named: list[str]
) -> None:
    if log is not None:
        (tmp_path / "log.txt").write_text(log)
        flags = [f"--input={tmp_path / 'log.txt'}", *flags]
    parent = tmp_path / "parent"
    parent.mkdir()
    failed = run(parent / "data", *flags)
    assert failed.returncode == 2, failed.stderr
    assert failed.stderr.startswith("error: ")
    assert [words for words in named if words not in failed.stderr] == [], failed.stderr
    assert "Traceback" not in failed.stderr
    assert list(parent.iterdir()) == []


def test_a_killed_run_leaves_nothing_to_the_next(tmp_path: pathlib.Path) -> None:
    flags = ["--dataset=synthetic:num_users=700", "--num_shards=4"]
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


def test_spill_files_of_a_killed_run_are_swept(tmp_path: pathlib.Path) -> None:
    spill = tmp_path / ".data.building.spill"
    spill.mkdir()
    (spill / "duckdb_temp_storage_DEFAULT-0.tmp").write_bytes(b"left")
    built(tmp_path / "data", TINY)


def test_a_larger_log_gets_more_shards(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    log = MarkovLog(num_users=50, num_items=40, num_themes=4, min_events=10, max_events=10)
    small = build_records(log, {}, Config(), str(tmp_path / "small")).manifest
    assert small.splits["train"][-1].file.endswith("of-00008.tfrecord")
    monkeypatch.setattr(build, "_EVENTS_IN_A_SHARD", 33)
    manifest = build_records(log, {}, Config(), str(tmp_path / "large")).manifest
    assert [len(shards) for shards in manifest.splits.values()] == [16, 16, 16]  # 500 events, 33 in each
    assert manifest.config == Config()
