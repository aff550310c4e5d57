"""Bad rows: they go to a file with their line and the reason, and too many of them are an error."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from tfrecords.errors import InputError

_REPORTED = 5


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that is not an interaction.

    Attributes:
        file: as the manifest names it.
        line: first line of the row, counted from 1; in a file without lines (Parquet), the row's number.
        reason: why it is not an interaction.
        text: the row if it does not have the format, else its fields as JSON.
    """

    file: str
    line: int
    reason: str
    text: str

    def __str__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:60]}…"
        return f"{self.file}, line {self.line} {self.reason} ({text!r})"


def set_aside(rows: Iterable[BadRow], path: pathlib.Path) -> tuple[int, list[BadRow]]:
    """Appends rows to a file, one JSON object per line.

    Returns:
        The number of rows, and the first few.
    """
    count, first = 0, list[BadRow]()
    with path.open("a", encoding="utf-8") as stream:
        for row in rows:
            count += 1
            if len(first) < _REPORTED:
                first.append(row)
            stream.write(json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n")
    return count, first


def check_bad_rows(count: int, first: list[BadRow], rows_read: int, max_bad_fraction: float) -> None:
    """Refuses a log with too many bad rows.

    Args:
        count: number of bad rows.
        first: some of them, for the message.
        rows_read: number of all rows, including the bad ones.
        max_bad_fraction: `data.max_bad_fraction`.

    Raises:
        InputError: more than that fraction is bad.
    """
    if count > max_bad_fraction * rows_read:
        shown = "; ".join(map(str, first[:_REPORTED]))
        more = f"; and {count - _REPORTED:,} more" if count > _REPORTED else ""
        raise InputError(
            f"Every row must be an interaction, except a fraction of data.max_bad_fraction={max_bad_fraction:g}. "
            f"Received: {count:,} bad rows of {rows_read:,}: {shown}{more}. Fix: correct or remove them, name another "
            f"--format, or set --max_bad_fraction={-(-1000 * count // rows_read) / 1000:g} to skip them"
        )
