"""Charts as inline SVG, without a script: whiskers, bars, curves, heat maps, dots. The page's style colours them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from bert4rec_tf.report.html import Markup, element, short_number, together

_WIDTH = 340  # drawn at about this many pixels, so that text has its size
_LEFT = 46
_RIGHT = _WIDTH - 10
_LEVELS = 24


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value with its 95% interval, under a label."""

    label: str
    value: float
    low: float
    high: float

    def says(self) -> str:
        """As text."""
        return f"{self.label}: {self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def whiskers(rows: Sequence[Measured], says: str) -> Markup:
    """A dot and its interval for each row, over one axis from 0."""
    scale, ticks = _scale(0, max(row.high for row in rows), 66, _RIGHT - 8)
    bottom = 8 + 24 * len(rows)
    drawn = [_vertical(scale(tick), 8, bottom, short_number(tick)) for tick in ticks]
    for index, row in enumerate(rows):
        y = 20 + 24 * index
        drawn += [
            element("text", row.label, x=58, y=y + 4, class_="end"),
            _group(
                row.says(),
                _line(scale(row.low), y, scale(row.high), y, "whisker"),
                *(_line(scale(end), y - 4, scale(end), y + 4, "whisker") for end in (row.low, row.high)),
                element("circle", cx=_short(scale(row.value)), cy=y, r=4, class_="dot"),
            ),
        ]
    return _svg(_WIDTH, bottom + 18, says, *drawn)


def bars(rows: Sequence[Measured], says: str) -> Markup:
    """A bar from 0 with its interval for each row, the label above it and the value at its right."""
    scale, _ = _scale(0, max(row.high for row in rows), 4, _RIGHT)
    drawn = []
    for index, row in enumerate(rows):
        y = 14 + 40 * index
        drawn += [
            element("text", row.label, x=4, y=y),
            element("text", f"{row.value:.4f}", x=_RIGHT, y=y, class_="end strong"),
            _group(
                row.says(),
                element("rect", x=4, y=y + 5, width=_short(scale(row.value) - 4), height=14, class_="bar"),
                _line(scale(row.low), y + 12, scale(row.high), y + 12, "whisker"),
                *(_line(scale(end), y + 8, scale(end), y + 16, "whisker") for end in (row.low, row.high)),
            ),
        ]
    return _svg(_WIDTH, 40 * len(rows) + 4, says, *drawn)


def curve(
    places: Sequence[float], rows: Sequence[Measured], along: str, says: str, marked: float | None = None
) -> Markup:
    """Values over places that rise, the intervals as a band.

    Args:
        places: finite, one for each row.
        rows: finite and not negative; an interval without width draws no band.
        along: what the places are, below the axis.
        says: what the chart shows.
        marked: a place to mark by a line from top to bottom.
    """
    across, steps = _scale(0, max(places), _LEFT, _RIGHT - 8)
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    margin = 0.05 * (high - low) or 0.5
    up, ticks = _scale(max(0, low - margin), high + margin, 160, 10)
    drawn = [_vertical(across(step), 10, 160, short_number(step)) for step in steps]
    for tick in ticks:
        drawn += [
            _line(_LEFT, up(tick), _RIGHT, up(tick), "grid"),
            element("text", short_number(tick), x=_LEFT - 6, y=_short(up(tick) + 4), class_="end"),
        ]
    if marked is not None:
        drawn.append(_line(across(marked), 10, across(marked), 160, "marked"))
    over = [(across(place), up(row.high)) for place, row in zip(places, rows, strict=True)]
    under = [(across(place), up(row.low)) for place, row in zip(places, rows, strict=True)]
    drawn.append(element("polygon", points=_points([*over, *under[::-1]]), class_="band"))
    points = [(across(place), up(row.value)) for place, row in zip(places, rows, strict=True)]
    drawn.append(element("polyline", points=_points(points), class_="curve"))
    for (x, y), row in zip(points, rows, strict=True):
        drawn.append(
            _group(
                row.says(), element("circle", cx=_short(x), cy=_short(y), r=3 if len(rows) < 40 else 2, class_="dot")
            )
        )
    drawn.append(element("text", along, x=_RIGHT, y=192, class_="end"))
    return _svg(_WIDTH, 198, says, *drawn)


def heat_map(values: np.ndarray, names: Sequence[str], says: str) -> Markup:
    """Squares that are darker the larger their value is, up to the largest of this map.

    The lightest shade is the smallest value, but at most half the largest: values that hardly differ look alike.

    Args:
        values: float [S, S], finite, none negative.
        names: of the slots, S of them; "" leaves one without a label.
        says: what the map shows.
    """
    side, cell = 160, 160 / len(values)
    top = float(values.max())
    low = min(float(values.min()), top / 2)
    span = max(top - low, 1e-30)
    levels = np.minimum((values - low) / span * _LEVELS, _LEVELS - 1).astype(int)
    drawn = [element("rect", x=36, y=4, width=side, height=side, class_="frame")]
    for level in range(_LEVELS):
        cells = "".join(
            f"M{_short(36 + column * cell)} {_short(4 + row * cell)}h{_short(cell)}v{_short(cell)}h-{_short(cell)}z"
            for row, column in np.argwhere(levels == level)
        )
        between = " to ".join(f"{low + part / _LEVELS * span:.4f}" for part in (level, level + 1))
        if cells:
            opacity = _short(level / (_LEVELS - 1))
            drawn.append(element("path", element("title", between), d=cells, fill_opacity=opacity, class_="heat"))
    for slot, name in enumerate(names):
        middle = (slot + 0.5) * cell
        if name:
            drawn += [
                element("text", name, x=32, y=_short(4 + middle + 4), class_="end"),
                element("text", name, x=_short(36 + middle), y=4 + side + 14, class_="middle"),
            ]
    return _svg(206, side + 24, says, *drawn)


def dots(places: np.ndarray, group_of: Sequence[int], titles: Sequence[str], colours: str, says: str) -> Markup:
    """Points in the plane, coloured by group, each with its title to hover over; the first lie on top.

    Args:
        places: float [n, 2], at least one.
        group_of: n of them; group g has the class `colours` + str(g).
        titles: n of them.
        colours: what the classes begin with.
        says: what the map shows.
    """
    width, highest, margin = 600, 480, 12
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-30)
    scale = min((width - 2 * margin) / span[0], (highest - 2 * margin) / span[1])  # one for both: distances are true
    height = math.ceil(span[1] * scale) + 2 * margin
    centre = np.array([width, height]) / 2
    points = centre + (places - low - span / 2) * scale * [1, -1]
    drawn = [
        element("circle", element("title", title), cx=_short(x), cy=_short(y), r=4, class_=f"{colours}{group}")
        for (x, y), group, title in zip(points.tolist(), group_of, titles, strict=True)
    ]
    return _svg(width, height, says, *drawn[::-1])


class _Scale:
    """From values to pixels."""

    def __init__(self, first: float, last: float, start: float, end: float):
        self._first, self._start = first, start
        self._slope = (end - start) / (last - first)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._first) * self._slope


def _scale(first: float, last: float, start: float, end: float) -> tuple[_Scale, list[float]]:
    """A scale over [first, last], and the round values in it to label: some four, 1, 2 or 5 times a power of ten."""
    if last <= first:
        last = first + 1
    rough = (last - first) / 3.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    ticks = [index * step for index in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]
    return _Scale(first, last, start, end), ticks


def _svg(width: float, height: float, says: str, *drawn: Markup) -> Markup:
    return element("svg", *drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=says)


def _group(title: str, *drawn: Markup) -> Markup:
    return element("g", element("title", title), *drawn)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=_short(x1), y1=_short(y1), x2=_short(x2), y2=_short(y2), class_=kind)


def _vertical(x: float, top: float, bottom: float, label: str) -> Markup:
    return together(
        _line(x, top, x, bottom, "grid"), element("text", label, x=_short(x), y=bottom + 15, class_="middle")
    )


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
