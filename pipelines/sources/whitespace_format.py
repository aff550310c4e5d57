"""Infers which format with whitespace-separated fields a file has, from its first lines."""

import re
from collections import Counter

from pipelines.sources.text_streams import UTF8_BOM, InputPath, open_text
from tfrecords.errors import InputError

_MAX_LINES = 1000
_MAX_BYTES = 1 << 22
_field = re.compile(rb"[^ \t\r\v\f\n]+")
_time = re.compile(rb"[0-9]{9,}(\.[0-9]+)?|[0-9]{4}-[0-9]{2}-[0-9]{2}.*")


def recognise(path: InputPath) -> str:
    """The format of a file: `user_item`, `user_item_rating_time` or `user_items`.

    A few malformed rows do not matter if no other format fits.

    Raises:
        InputError: several formats would fit, or none.
    """
    rows = _first_rows(path)
    widths = Counter(map(len, rows))
    one_row_a_user = len({row[0] for row in rows}) == len(rows)
    timed = sum(len(row) == 4 and _time.fullmatch(row[3]) is not None for row in rows)

    def at_least_half(count: int) -> bool:
        return 2 * count >= len(rows)

    if at_least_half(widths[2]):
        return "user_item"
    if at_least_half(timed):
        return "user_item_rating_time"
    varied = len(widths) > 1 and not at_least_half(widths[1] + widths[2])
    if varied and (one_row_a_user or not at_least_half(max(widths.values()))):
        return "user_items"
    counts = ", ".join(f"{count:,} of {width}" for width, count in sorted(widths.items())[:5])
    raise InputError(
        f"--format must be given if the first lines do not determine it. Received: {path}, with rows of these numbers "
        f"of fields: {counts}. Fix: --format=user_item, --format=user_item_rating_time or --format=user_items; "
        "for columns by number: --format=csv --delimiter=' '"
    )


def _first_rows(path: InputPath) -> list[list[bytes]]:
    rows, size = list[list[bytes]](), 0
    with open_text(path) as stream:
        while len(rows) < _MAX_LINES and size < _MAX_BYTES and (line := stream.readline(_MAX_BYTES)):
            size += len(line)
            if fields := _field.findall(line.removeprefix(UTF8_BOM)):
                rows.append(fields)
    return rows
