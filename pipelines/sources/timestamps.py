"""Converts a log's timestamps to seconds since 1970: numbers in one unit for the whole log, or ISO 8601 times (UTC).

SQL converts the common formats; `seconds` converts all others. Both follow the same rules:

- A number has the unit of the log. With the unit `none` it is a counter, such as an id that rises with time.
- Other text is an ISO 8601 time, in UTC if it has no offset.
- Times are in the years 1970 to 2100. In ms, us and ns, numbers within the first 47 days of 1970 are refused too: they
  are times in a coarser unit, or no times.
"""

import datetime
import decimal
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal

import duckdb
from duckdb.func import SPECIAL

from tfrecords.errors import InputError

UNITS = ("auto", "s", "ms", "us", "ns", "none")
END = 4_133_980_800  # 2101-01-01, the first second that is refused
_DECIMALS = {"none": 0, "s": 0, "ms": 3, "us": 6, "ns": 9}
_LARGEST = Decimal(10**28)  # limit of numbers without a unit; they fit in DECIMAL(38, 9)
_YEAR = 365 * 86_400  # numbers in 1970 are read as counters
_1980 = 10 * _YEAR  # an earlier time in a finer unit is more likely a later one in a coarser unit
_KINDS = {"date": "a date", "counter": "a counter", "s": "seconds"}
_NANOSECOND = Decimal("1e-9")
_EXACT = decimal.Context(prec=80, rounding=decimal.ROUND_HALF_UP)
_NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]{1,5})?"
_number = re.compile(_NUMBER)
_iso = re.compile(
    r"""(?P<year>[0-9]{4})
    (?: -(?P<month>[0-9]{1,2}) (-(?P<day>[0-9]{1,2}))?
      | /(?P<month2>[0-9]{1,2}) /(?P<day2>[0-9]{1,2})
      | (?P<month3>[0-9]{2}) (?P<day3>[0-9]{2})
      | -?W(?P<week>[0-9]{2}) (-?(?P<weekday>[0-9]))?
      | -?(?P<day_of_year>[0-9]{3}) )
    (?: (?:[Tt]|[ ]+)
        (?: (?P<hour>[0-9]{1,2}) :(?P<minute>[0-9]{1,2}) (:(?P<second>[0-9]{1,2}))?
          | (?P<hour2>[0-9]{2}) ((?P<minute2>[0-9]{2}) (?P<second2>[0-9]{2})?)? )
        (?: [.,](?P<fraction>[0-9]+) )?
        [ ]* (?: [Zz] | UTC | GMT
          | (?P<sign>[-+\u2212]) (?P<zone_hour>[0-9]{2})
            (:?(?P<zone_minute>[0-9]{2}) (:?(?P<zone_second>[0-9]{2}))?)? )?
    )?""",
    re.VERBOSE,
)


def seconds(text: str, unit: str) -> Decimal | None:
    """The time of a text, to nine decimals; None if it is neither a number nor an ISO 8601 time."""
    text = text.strip()
    if _number.fullmatch(text):
        number = max(-_LARGEST, min(Decimal(text), _LARGEST))
        return _EXACT.quantize(number.scaleb(-_DECIMALS[unit], _EXACT), _NANOSECOND)
    if found := _iso.fullmatch(text):
        return _iso_seconds({name: value for name, value in found.groupdict().items() if value is not None})
    return None


def _iso_seconds(parts: dict[str, str]) -> Decimal | None:
    def part(*names: str, default: int = 0) -> int:
        return next((int(parts[name]) for name in names if name in parts), default)

    hour, minute, second = part("hour", "hour2"), part("minute", "minute2"), part("second", "second2")
    zone = [part("zone_hour"), part("zone_minute"), part("zone_second")]
    named = [name for name in ("second", "second2", "minute", "minute2") if name in parts]
    # Seconds in the smallest unit that is given, which the fraction divides.
    fraction_unit = 1 if "second" in parts or "second2" in parts else 60 if named else 3600
    time = 3600 * hour + 60 * minute + second + fraction_unit * Decimal("0." + parts.get("fraction", "0"))
    # A leap second is the first one of the next minute; 24:00 is the midnight at the end of a day.
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and time != 86_400):
        return None
    if zone[0] > 23 or max(zone[1:]) > 59:
        return None
    try:
        if "week" in parts:
            date = datetime.date.fromisocalendar(int(parts["year"]), int(parts["week"]), part("weekday", default=1))
        elif "day_of_year" in parts:
            first, day = datetime.date(int(parts["year"]), 1, 1), int(parts["day_of_year"])
            date = first + datetime.timedelta(day - 1)
            if day < 1 or date.year != first.year:
                return None
        else:
            month = part("month", "month2", "month3")
            date = datetime.date(int(parts["year"]), month, part("day", "day2", "day3", default=1))
    except (ValueError, OverflowError):
        return None
    offset = 3600 * zone[0] + 60 * zone[1] + zone[2]
    days = (date - datetime.date(1970, 1, 1)).days
    return _EXACT.quantize(86_400 * days + time - (offset if parts.get("sign") == "+" else -offset), _NANOSECOND)


# ---- SQL, over a column `timestamp` of text ----


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Registers `seconds` as a SQL function of a connection, for `time_sql`."""

    def other_time(text: str | None, unit: str) -> Decimal | None:
        return None if text is None else seconds(text, unit)

    decimal_type = duckdb.decimal_type(38, 9)
    connection.create_function("other_time", other_time, ["varchar", "varchar"], decimal_type, null_handling=SPECIAL)


def time_sql(unit: str) -> str:
    """SQL for the time in seconds; NULL if there is none. DuckDB itself converts the formats of most logs."""
    # All branches are exact: a division would turn them into doubles. TIMESTAMP_NS, unlike TIMESTAMP, respects offsets.
    # A cast of text to DECIMAL(38, 9) takes 13 microseconds; through a narrower type it takes a hundredth of that.
    scale = f" * {Decimal(1).scaleb(-_DECIMALS[unit]):f}::DECIMAL(9, 9)" if _DECIMALS[unit] else ""
    integer = "[0-9]{1,18}" if unit != "ns" else "([0-9]{1,18}|[1-8][0-9]{18})"
    decimals = 9 - _DECIMALS[unit]  # of a number, so that the time in seconds has at most nine
    fraction = (
        f"rpad(split_part(timestamp, '.', 2), {decimals}, '0')::BIGINT::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9)"
    )
    with_fraction = rf"""
        WHEN regexp_full_match(timestamp, '[0-9]{{1,18}}\.[0-9]{{1,{decimals}}}')
            THEN (split_part(timestamp, '.', 1)::BIGINT::DECIMAL(19, 0){scale})::DECIMAL(38, 9) + {fraction}"""
    return rf"""CASE
        WHEN regexp_full_match(timestamp, '-?{integer}') THEN (timestamp::BIGINT::DECIMAL(19, 0){scale})::DECIMAL(38, 9)
        {with_fraction if decimals else ""}
        WHEN regexp_full_match(timestamp,
                '[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}([ T]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{{1,9}})?'
                '(Z|[-+]([01][0-9]|2[0-3]):[0-5][0-9])?)?')
            AND TRY_CAST(timestamp AS TIMESTAMP_NS) IS NOT NULL
            THEN (epoch_ns(TRY_CAST(timestamp AS TIMESTAMP_NS))::DECIMAL(19, 0) * 0.000000001::DECIMAL(9, 9))
        ELSE other_time(timestamp, '{unit}') END"""


def faults_sql(unit: str) -> dict[str, str]:
    """SQL conditions on `timestamp` and its `time`, each with the SQL for the fault of rows that meet it."""
    faults = {"time IS NULL": "'has no timestamp that is a number or an ISO 8601 time'"}
    if unit == "none":
        return faults | {f"abs(time) >= {_LARGEST}": f"'has a timestamp beyond {_LARGEST:.0e}'"}
    faults[f"time < 0 OR time >= {END}"] = f"'{outside_years(unit)}'"
    if _DECIMALS[unit]:
        faults[f"time < {END / 1000} AND regexp_full_match(trim(timestamp), '{_NUMBER}')"] = (
            f"'has a timestamp that is no time in {unit} from 1970-02-17 to 2100 (--timestamp_unit)'"
        )
    return faults


def outside_years(unit: str) -> str:
    """The fault of a row whose time is outside the accepted years."""
    return f"has a timestamp outside 1970 to 2100, numbers read in {unit} (--timestamp_unit)"


# ---- the unit of a log ----


def infer_unit(samples: Mapping[str, Sequence[str]]) -> str:
    """The unit of a log's numeric timestamps, inferred from their size; "s" if there are none.

    Args:
        samples: some timestamps of each file, by file name.

    Raises:
        InputError: the files are in several units, or some hold dates and others counters.
    """
    found: dict[str, tuple[str, str]] = {}  # for each kind of timestamps, a file and an example
    for file, texts in samples.items():
        kinds = {text: kind for text in texts if (kind := _kind(text)) is not None}
        if kinds:
            kind = Counter(kinds[text] for text in texts if text in kinds).most_common(1)[0][0]
            found.setdefault(kind, (file, next(text for text in kinds if kinds[text] == kind)))
    units = found.keys() - {"date", "counter"}
    # Numbers in 1970 may be seconds or counters. If other files have dates, they can only be counters.
    if len(units) > 1 or ("counter" in found and found.keys() & {"date", "ms", "us", "ns"}):
        shown = "; ".join(f"{file} with {text} ({_KINDS.get(kind, kind)})" for kind, (file, text) in found.items())
        raise InputError(
            f"All files must have timestamps in one unit. Received: {shown}. Fix: convert them to one unit, or name it "
            "with --timestamp_unit; none is for counters"
        )
    return next(iter(units), "s")


def _kind(text: str) -> str | None:
    """The unit of a timestamp by its size, or "date" or "counter"; None for other text."""
    if not _number.fullmatch(text.strip()):
        return None if seconds(text, "s") is None else "date"
    number = Decimal(text.strip())
    if 0 <= number < _YEAR:
        return "counter"
    if 0 <= number < END:
        return "s"
    return next((unit for unit in ("ms", "us", "ns") if _1980 <= number.scaleb(-_DECIMALS[unit]) < END), None)


# ---- times as text ----


def format_time(time: Decimal | float, unit: str) -> str:
    """A time as a date, or as a plain number if it is in 1970 or has no unit: then it is a counter."""
    if unit == "none" or not _YEAR <= time < END:
        return f"{time:.15g}" if isinstance(time, float) else f"{time.normalize():f}"
    whole = datetime.datetime.fromtimestamp(int(time), datetime.timezone.utc)
    return f"{whole:%Y-%m-%d %H:%M:%S} UTC"
