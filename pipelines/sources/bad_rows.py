"""Rows that are no interactions: set aside in a file with their place and the reason, and refused if they are many."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable

from tfrecords.errors import InputError

_REPORTED = 5


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that is no interaction.

    Attributes:
        file: as the manifest names it.
        line: where the row begins, from 1; in a file that has no lines, the row's number.
        reason: what keeps it from being an interaction.
        text: the row where it is not of the format, else its fields as JSON.
    """

    file: str
    line: int
    reason: str
    text: str

    def __str__(self) -> str:
        text = self.text if len(self.text) <= 60 else f"{self.text[:60]}…"
        return f"{self.file}, line {self.line} {self.reason} ({text!r})"


def set_aside(rows: Iterable[BadRow], path: pathlib.Path) -> tuple[int, list[BadRow]]:
    """Appends rows to a file as one JSON object a line.

    Returns:
        How many they were, and the first few.
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
    """Refuses a log of which too much cannot be read.

    Args:
        count: bad rows.
        first: some of them, for the message.
        rows_read: all rows, the bad ones included.
        max_bad_fraction: `data.max_bad_fraction`.

    Raises:
        InputError: more than that fraction is bad.
    """
    if count > max_bad_fraction * rows_read:
        shown = "; ".join(map(str, first[:_REPORTED]))
        more = f"; and {count - _REPORTED:,} more" if count > _REPORTED else ""
        raise InputError(
            f"Every row must be an interaction, but for a fraction of data.max_bad_fraction={max_bad_fraction:g}. "
            f"Received: {count:,} bad rows of {rows_read:,}: {shown}{more}. Fix: mend or remove them, name another "
            f"--format, or set --max_bad_fraction={-(-1000 * count // rows_read) / 1000:g} to go on without them"
        )
