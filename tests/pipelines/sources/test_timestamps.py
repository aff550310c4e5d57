"""Both readers read every spelling of a time as the same second, and refuse units that they cannot tell."""

import datetime
import pathlib
from collections.abc import Callable
from decimal import Decimal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert4rec_tf.config import Config
from pipelines.build import BuildResult, build_records
from pipelines.sources import timestamps
from pipelines.sources.load_events import load_file
from pipelines.sources.log_source import LogSource
from pipelines.sources.timestamps import END, format_time, infer_unit, seconds
from tests.support.event_tables import empty_events
from tfrecords.config import DataConfig
from tfrecords.errors import InputError

HEADER = "user_id,item_id,timestamp\n"
START = 1_577_836_800  # 2020-01-01


@pytest.fixture(scope="module")
def by_engine() -> Callable[[list[str], str], list[Decimal | None]]:
    """The times that DuckDB reads from texts."""
    connection = duckdb.connect()
    timestamps.register(connection)

    def times(texts: list[str], unit: str) -> list[Decimal | None]:
        connection.register("texts", pa.table({"timestamp": pa.array(texts, pa.string())}))
        rows = connection.execute(f"SELECT {timestamps.time_sql(unit)} FROM texts").fetchall()
        connection.unregister("texts")
        return [time for (time,) in rows]

    return times


SPELLINGS = {
    "2020-01-01": 0, "2020-01-01T00:00:01Z": 1, "2020-01-01 00:00:02 UTC": 2, "2020-01-01T02:00:03+02:00": 3,
    "2020-01-01T00:00:04.5": 4.5, "2020-01-01T00:00:05,5": 5.5, "20200101T000006Z": 6,
    "1577836808": 8, "1577836809.25": 9.25, "1.57783681E9": 10, " 1577836812 ": 12, "+1577836815": 15,
    "1577836816.": 16, "1577836811.0000000001": 11, "2020-01-01T24:00:00Z": 86_400, "2020-01-01T00:00:60Z": 60,
    "2016-12-31T23:59:60Z": 1_483_228_800 - START, "2020-W01-3": 0, "2020-W01": -2 * 86_400, "2020W013": 0,
    "2020-W53-7": 86_400 * 368, "2020-001": 0, "2020-366": 86_400 * 365, "2020001T000007": 7, "2020-01": 0,
    "2020-01-01T00:00:18+0200": 18 - 7200, "2020-01-01T00:00:19+02": 19 - 7200, "2020-01-01T00:00:20 GMT": 20,
    "2020-01-01T00:00:00-01:30:15": 5415, "2020-01-01T00:00:00\u221201:00": 3600, "2020/01/01 00:00:22": 22,
    "2020-1-1 0:0:23": 23, "2020-01-01T00:00": 0, "2020-01-01T05": 18_000, "2020-01-01t00:00:24z": 24,
    "2020-01-01  00:00:25": 25, "2020-01-01T00:00:26 +00:00": 26, "2020-01-01T00,5": 1800, "2020-01-01T00:00.5": 30,
}  # fmt: skip
NO_TIMES = [
    "", "epoch", "infinity", "NaN", "null", "Jan 1 2020", "01/02/2020", "1,577,836,813", "0x5e0be100", "1_577_836_800",
    "2020-01-01 00:00:17 Europe/Berlin", "2020-01-01 12:00:21 AM", "2020-02-30", "2020-13-01", "2019-366", "2020-000",
    "2021-W53-1", "2020-W01-8", "2020-W00-1", "2020-01-01T24:00:01", "2020-01-01T25:00", "2020-01-01T00:60",
    "2020-01-01T00:00:61", "2020-01-01T000", "2020-01/01", "2020-01-01T00:00:00+24:00", "2020-01-01T00:00:00+01:60",
    "2020-01-01T00:00:00-99:00",
    "2020-01-01T", "2020-01-01Z", "0000-00-00", "2020-01-01T00:00:00.", ".", "e5", "१५७७८३६८००",
]  # fmt: skip


def test_every_spelling_is_read_as_the_same_second(by_engine: Callable[..., list[Decimal | None]]) -> None:
    expected = [Decimal(START) + Decimal(str(after)) for after in SPELLINGS.values()]
    assert [seconds(text, "s") for text in SPELLINGS] == expected
    assert by_engine(list(SPELLINGS), "s") == expected
    assert seconds("2020-01-01T00:00:07.123456789Z", "s") == Decimal(f"{START + 7}.123456789")
    assert by_engine(["2020-01-01T00:00:07.123456789Z"], "s") == [Decimal(f"{START + 7}.123456789")]


def test_texts_that_are_no_time_give_none(by_engine: Callable[..., list[Decimal | None]]) -> None:
    assert {text: seconds(text, "s") for text in NO_TIMES} == dict.fromkeys(NO_TIMES)
    assert by_engine(NO_TIMES, "s") == [None] * len(NO_TIMES)


MOMENTS = st.datetimes(datetime.datetime(1900, 1, 1), datetime.datetime(2200, 1, 1))
OFFSETS = st.none() | st.integers(-1439, 1439).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)


@st.composite
def iso_texts(draw: st.DrawFn) -> str:
    """Spellings that `datetime.fromisoformat` reads too."""
    moment = draw(MOMENTS).replace(tzinfo=draw(OFFSETS))
    year, week, weekday = moment.isocalendar()
    date = draw(st.sampled_from([f"{moment:%Y-%m-%d}", f"{moment:%Y%m%d}", f"{year}-W{week:02}-{weekday}"]))
    time = draw(
        st.sampled_from(["%H:%M:%S.%f", "%H:%M:%S,%f", "%H%M%S.%f", "%H:%M:%S", "%H%M%S", "%H:%M", "%H%M", "%H"])
    )
    zone = moment.isoformat()[-6:] if moment.tzinfo else draw(st.sampled_from(["", "Z"]))
    return date + "T" + moment.strftime(time) + (zone.replace(":", "") if draw(st.booleans()) else zone)


def test_iso_times_are_those_of_the_standard_library(by_engine: Callable[..., list[Decimal | None]]) -> None:
    if datetime.datetime.fromisoformat.__doc__ is None or not hasattr(datetime, "UTC"):
        pytest.skip("before Python 3.11, fromisoformat reads few spellings")

    @given(st.lists(iso_texts(), min_size=1, max_size=20))
    @settings(max_examples=50)
    def check(texts: list[str]) -> None:
        moments = [datetime.datetime.fromisoformat(text) for text in texts]
        utc = [moment if moment.tzinfo else moment.replace(tzinfo=datetime.timezone.utc) for moment in moments]
        epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
        expected = [Decimal((moment - epoch) // datetime.timedelta(microseconds=1)).scaleb(-6) for moment in utc]
        assert [seconds(text, "s") for text in texts] == expected
        assert by_engine(texts, "s") == expected

    check()


def test_engine_and_python_agree_on_any_text(by_engine: Callable[..., list[Decimal | None]]) -> None:
    part = st.sampled_from(
        [*"0123456789TZW-:+.,eE/ ", "2020-01-01", "2020", "T00:00:00", "+01:00", "-99:00", "24", "1970"]
    )

    @given(
        st.lists(st.lists(part, max_size=8).map("".join), min_size=1, max_size=20),
        st.sampled_from(timestamps.UNITS[1:]),
    )
    @settings(max_examples=200)
    def check(texts: list[str], unit: str) -> None:
        assert by_engine(texts, unit) == [seconds(text, unit) for text in texts]

    check()


def test_a_unit_is_exact(by_engine: Callable[..., list[Decimal | None]]) -> None:
    for unit, scale in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        texts = [str(START * scale), str(START * scale + 1), f"{START * scale}.25", f"{float(START * scale):.9e}"]
        expected = [Decimal(START), START + Decimal(1) / scale, START + Decimal("0.25") / scale, Decimal(START)]
        expected = [time.quantize(Decimal("1e-9"), "ROUND_HALF_UP") for time in expected]
        assert [seconds(text, unit) for text in texts] == expected
        assert by_engine(texts, unit) == expected


def write(path: pathlib.Path, times: list[object], start: int = 0) -> None:
    rows = [f"u{number % 4},i{start + number},{time}\n" for number, time in enumerate(times)]
    path.write_text(HEADER + "".join(rows))


def build(directory: pathlib.Path, *, dry_run: bool = True, **options: object) -> BuildResult:
    fields = {"timestamp_unit", "timestamp_column"}
    source = LogSource([f"{directory}/log*"], **{name: options.pop(name) for name in fields & options.keys()})
    config = Config.from_dict({"data": {"min_user_events": 1, "num_shards": 1, **options}})
    return build_records(source, {}, config, str(directory / "out" / "data"), dry_run=dry_run)


@pytest.mark.parametrize(("unit", "scale"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("flag", ["auto", "named"])
def test_a_log_in_any_unit_is_the_log_in_seconds(tmp_path: pathlib.Path, unit: str, scale: int, flag: str) -> None:
    write(tmp_path / "log.csv", [(START + number) * scale for number in range(40)])
    built = build(tmp_path, timestamp_unit="auto" if flag == "auto" else unit)
    assert built.times == ("2020-01-01 00:00:00 UTC", "2020-01-01 00:00:39 UTC")
    assert built.unit == unit
    assert built.manifest.counts["events"] == 40
    moment = {"split": "temporal", "split_time": START + 20.0}
    assert build(tmp_path, **moment).manifest.counts["training_events"] == 20 - 4


def test_numbers_dates_and_typed_times_of_one_log_agree(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log1.csv", [(START + number) * 1000 for number in range(8)])
    write(tmp_path / "log2.csv", [f"2020-01-01T00:01:{number:02}" for number in range(8)], 8)
    moments = [datetime.datetime(2020, 1, 1, 0, 2, number) for number in range(8)]
    users, items = [f"u{number % 4}" for number in range(8)], [f"i{16 + number}" for number in range(8)]
    for name, times in (("log3", pa.array(moments, pa.timestamp("ms"))), ("log4", pa.array([START * 1000 + 9] * 8))):
        pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), tmp_path / f"{name}.parquet")
    source = LogSource([f"{tmp_path}/log*"])
    connection = empty_events()
    for number in range(4):
        load_file(connection, source, number, DataConfig(), tmp_path / "bad")
    times = [time - START for (time,) in connection.execute("SELECT time FROM events ORDER BY row").fetchall()]
    assert times == [*range(8), *range(60, 68), *range(120, 128), *[Decimal("0.009")] * 8]


@pytest.mark.parametrize(
    ("first", "second", "named"),
    [
        (START * 1000, START, ["log1.csv", "(ms)", "log2.csv", "(seconds)"]),
        (START, START * 10**6, ["(seconds)", "(us)"]),
        (START * 10**9, START * 1000, ["(ns)", "(ms)"]),
        ("2020-01-01", 5, ["log1.csv", "(a date)", "log2.csv", "(a counter)"]),
        (START * 1000, 5, ["(ms)", "(a counter)"]),
    ],
)
def test_files_in_different_units_are_named(
    tmp_path: pathlib.Path, first: object, second: object, named: list[str]
) -> None:
    write(tmp_path / "log1.csv", [first] * 8)
    write(tmp_path / "log2.csv", [second] * 8)
    with pytest.raises(InputError, match="in one unit") as error:
        build(tmp_path, max_bad_fraction=1.0)
    assert [words for words in [*named, "--timestamp_unit"] if words not in str(error.value)] == []


@pytest.mark.parametrize("flag", ["auto", "s", "ms"])
def test_another_unit_within_a_file_is_a_bad_row(tmp_path: pathlib.Path, flag: str) -> None:
    usual = START if flag != "ms" else START * 1000
    odd = START * 1000 if flag != "ms" else START
    write(tmp_path / "log.csv", [usual + number for number in range(200)] + [odd])
    with pytest.raises(InputError, match=r"1 bad rows of 201: log.csv, line 202 has a timestamp .*--timestamp_unit"):
        build(tmp_path, timestamp_unit=flag)
    built = build(tmp_path, timestamp_unit=flag, max_bad_fraction=0.01)
    assert built.manifest.counts["bad_rows_set_aside"] == 1


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (-1, "auto"), (END, "auto"), (END + 10**9, "auto"), (253_402_300_799, "auto"), (20140501123000, "auto"),
        (10**20, "auto"), ("9999-12-31", "auto"), ("1969-12-31T23:59:59Z", "auto"),
        ("0001-01-01", "ms"), (START, "ms"), (START * 1000, "s"), (START * 10**6, "ms"), (START, "ns"), (0, "us"),
    ],
)  # fmt: skip
def test_times_outside_1970_to_2100_are_refused_with_the_reason(
    tmp_path: pathlib.Path, time: object, unit: str
) -> None:
    write(tmp_path / "log.csv", [time] * 8)
    with pytest.raises(InputError, match=r"8 bad rows of 8: log.csv, line 2 has a timestamp .* to 2100") as error:
        build(tmp_path, timestamp_unit=unit)
    assert "--timestamp_unit" in str(error.value)


def test_counters_stay_numbers(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "log.csv", list(range(1, 41)))
    assert build(tmp_path).times == ("1", "40")
    write(tmp_path / "log.csv", [10**20 + number for number in range(40)])
    assert build(tmp_path, timestamp_unit="none").times == (str(10**20), str(10**20 + 39))
    write(tmp_path / "log.csv", [10**40])
    with pytest.raises(InputError, match=r"line 2 has a timestamp beyond 1e\+28"):
        build(tmp_path, timestamp_unit="none")


def test_a_log_without_timestamps_shows_no_times(tmp_path: pathlib.Path) -> None:
    (tmp_path / "log.txt").write_text("".join(f"u{number % 4} i{number}\n" for number in range(40)))
    assert build(tmp_path).times is None
    write(tmp_path / "log.csv", [START] * 8)
    with pytest.raises(InputError, match=r"All files must have timestamps, or none.*log\.csv.*log\.txt"):
        build(tmp_path)


@pytest.mark.parametrize("unit", ["auto", "s"])
def test_a_log_in_seconds_keeps_its_manifest(tmp_path: pathlib.Path, unit: str) -> None:
    write(tmp_path / "log.csv", [START + number for number in range(40)])
    described = LogSource([f"{tmp_path}/log.csv"], timestamp_unit=unit).description()
    assert ("timestamp_unit" in described) == (unit != "auto")
    assert "explode" not in described


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"train_since": float(START)}, "--train_since must leave old events out"),
        ({"train_since": 5.0}, "--train_since must leave old events out. Received: 5,"),
        ({"train_since": START + 1000.0}, "--train_since must leave a window"),
        ({"train_since": (START + 20) * 1000.0}, "--train_since must leave a window"),
        ({"split": "temporal", "split_time": float(START)}, "leaves 0 events to train on"),
        ({"split": "temporal", "split_time": START + 1000.0}, "0 to test"),
        ({"split": "temporal", "split_time": (START + 20) * 1000.0}, "0 to test"),
    ],
)
@pytest.mark.parametrize("scale", [1, 1000])
def test_a_time_that_leaves_out_nothing_or_everything_is_refused(
    tmp_path: pathlib.Path, options: dict[str, object], named: str, scale: int
) -> None:
    write(tmp_path / "log.csv", [(START + number) * scale for number in range(40)])
    with pytest.raises(InputError) as error:
        build(tmp_path, **options)
    assert named in str(error.value)
    assert "from 2020-01-01 00:00:00 UTC to 2020-01-01 00:00:39 UTC" in str(error.value)


def test_the_unit_is_that_of_most_timestamps() -> None:
    assert infer_unit({}) == infer_unit({"a": []}) == infer_unit({"a": ["soon", "-5"]}) == "s"
    assert infer_unit({"a": ["0", "1400144363000", "1400144363001"]}) == "ms"
    assert infer_unit({"a": ["2020-01-01"], "b": ["1400144363"], "c": ["12"]} | {"a": []}) == "s"


def test_dates_are_shown_as_dates() -> None:
    assert format_time(Decimal("1577836800.750000000"), "ms") == "2020-01-01 00:00:00 UTC"
    assert format_time(Decimal("40.500000000"), "s") == "40.5"
    assert format_time(Decimal("400.000000000"), "s") == "400"
    assert format_time(Decimal(START), "none") == str(START)
    assert format_time(float(START), "s") == "2020-01-01 00:00:00 UTC"
    assert format_time(1e40, "s") == "1e+40"
