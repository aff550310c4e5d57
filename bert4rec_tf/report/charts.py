"""Charts as inline SVG, without scripts: whiskers, bars, curves, heat maps, dots. The page's style colours them."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from bert4rec_tf.report.markup import element
from bert4rec_tf.report.number_format import short_number

_WIDTH = 340  # pixels; the page draws charts at about this width, so that text has the page's size
_LEFT = 46
_RIGHT = _WIDTH - 10
_LEVELS = 24


@dataclasses.dataclass(frozen=True)
class Chart:
    """A drawing and its caption."""

    caption: str
    svg: Markup


@dataclasses.dataclass(frozen=True)
class Measured:
    """A value with its label and its 95% interval."""

    label: str
    value: float
    low: float
    high: float

    def tooltip(self) -> str:
        """Label, value and interval as text."""
        return f"{self.label}: {self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def whiskers(rows: Sequence[Measured], alt_text: str) -> Markup:
    """A dot and its interval for each row, over one axis from 0."""
    scale, ticks = _scale(0, max(row.high for row in rows), 66, _RIGHT - 8)
    bottom = 8 + 24 * len(rows)
    drawn = [_vertical(scale(tick), 8, bottom, short_number(tick)) for tick in ticks]
    for index, row in enumerate(rows):
        y = 20 + 24 * index
        drawn += [
            element("text", row.label, x=58, y=y + 4, class_="end"),
            _group(
                row.tooltip(),
                _line(scale(row.low), y, scale(row.high), y, "whisker"),
                *(_line(scale(end), y - 4, scale(end), y + 4, "whisker") for end in (row.low, row.high)),
                element("circle", cx=_short(scale(row.value)), cy=y, r=4, class_="dot"),
            ),
        ]
    return _svg(_WIDTH, bottom + 18, alt_text, *drawn)


def bars(rows: Sequence[Measured], alt_text: str) -> Markup:
    """A bar from 0 with its interval for each row; the label is above the bar, the value at its right."""
    scale, _ = _scale(0, max(row.high for row in rows), 4, _RIGHT - 48)
    drawn = []
    for index, row in enumerate(rows):
        y = 14 + 40 * index
        drawn += [
            element("text", row.label, x=4, y=y),
            element("text", f"{row.value:.4f}", x=_RIGHT, y=y + 16, class_="end strong"),
            _group(
                row.tooltip(),
                element("rect", x=4, y=y + 5, width=_short(scale(row.value) - 4), height=14, class_="bar"),
                _line(scale(row.low), y + 12, scale(row.high), y + 12, "whisker"),
                *(_line(scale(end), y + 8, scale(end), y + 16, "whisker") for end in (row.low, row.high)),
            ),
        ]
    return _svg(_WIDTH, 40 * len(rows) + 4, alt_text, *drawn)


def curve(
    x_values: Sequence[float], rows: Sequence[Measured], x_label: str, alt_text: str, marked: float | None = None
) -> Markup:
    """A curve with its intervals as a band.

    Args:
        x_values: one for each row, finite, rising.
        rows: finite and not negative; an interval of width 0 has no band.
        x_label: the label below the axis.
        alt_text: a description of the chart.
        marked: an x value to mark with a vertical line.
    """
    x_scale, x_ticks = _scale(0, max(x_values), _LEFT, _RIGHT - 8)
    low, high = min(row.low for row in rows), max(row.high for row in rows)
    margin = 0.05 * (high - low) or 0.5
    y_scale, y_ticks = _scale(max(0, low - margin), high + margin, 160, 10)
    drawn = [_vertical(x_scale(tick), 10, 160, short_number(tick)) for tick in x_ticks]
    for tick in y_ticks:
        drawn += [
            _line(_LEFT, y_scale(tick), _RIGHT, y_scale(tick), "grid"),
            element("text", short_number(tick), x=_LEFT - 6, y=_short(y_scale(tick) + 4), class_="end"),
        ]
    if marked is not None:
        drawn.append(_line(x_scale(marked), 10, x_scale(marked), 160, "marked"))
    upper = [(x_scale(x), y_scale(row.high)) for x, row in zip(x_values, rows, strict=True)]
    lower = [(x_scale(x), y_scale(row.low)) for x, row in zip(x_values, rows, strict=True)]
    drawn.append(element("polygon", points=_points([*upper, *lower[::-1]]), class_="band"))
    points = [(x_scale(x), y_scale(row.value)) for x, row in zip(x_values, rows, strict=True)]
    drawn.append(element("polyline", points=_points(points), class_="curve"))
    for (x, y), row in zip(points, rows, strict=True):
        drawn.append(
            _group(
                row.tooltip(), element("circle", cx=_short(x), cy=_short(y), r=3 if len(rows) < 40 else 2, class_="dot")
            )
        )
    drawn.append(element("text", x_label, x=_RIGHT, y=192, class_="end"))
    return _svg(_WIDTH, 198, alt_text, *drawn)


def heat_map(values: np.ndarray, labels: Sequence[str], alt_text: str) -> Markup:
    """Squares whose shade darkens with the value, up to the largest value of the map.

    The lightest shade stands for the smallest value or for half the largest one, whichever is less, so that values
    which hardly differ get nearly the same shade.

    Args:
        values: float [S, S], finite, not negative.
        labels: S of them, for the rows and columns; "" for none.
        alt_text: a description of the map.
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
    for index, label in enumerate(labels):
        middle = (index + 0.5) * cell
        if label:
            drawn += [
                element("text", label, x=32, y=_short(4 + middle + 4), class_="end"),
                element("text", label, x=_short(36 + middle), y=4 + side + 14, class_="middle"),
            ]
    return _svg(206, side + 24, alt_text, *drawn)


def dots(
    coordinates: np.ndarray, group_of: Sequence[int], titles: Sequence[str], class_prefix: str, alt_text: str
) -> Markup:
    """Points in the plane, coloured by group, with their titles as tooltips; the first points are drawn on top.

    Args:
        coordinates: float [n, 2], at least one point.
        group_of: the group of each point; group g has the class `class_prefix` + str(g).
        titles: the title of each point.
        class_prefix: the start of the class names.
        alt_text: a description of the map.
    """
    width, max_height, margin = 600, 480, 12
    low, span = coordinates.min(axis=0), np.maximum(np.ptp(coordinates, axis=0), 1e-30)
    # One scale for both axes, so that distances are true.
    scale = min((width - 2 * margin) / span[0], (max_height - 2 * margin) / span[1])
    height = math.ceil(span[1] * scale) + 2 * margin
    centre = np.array([width, height]) / 2
    points = centre + (coordinates - low - span / 2) * scale * [1, -1]
    drawn = [
        element("circle", element("title", title), cx=_short(x), cy=_short(y), r=4, class_=f"{class_prefix}{group}")
        for (x, y), group, title in zip(points.tolist(), group_of, titles, strict=True)
    ]
    return _svg(width, height, alt_text, *drawn[::-1])


class _Scale:
    """Maps values to pixels."""

    def __init__(self, first: float, last: float, start: float, end: float):
        self._first, self._start = first, start
        self._slope = (end - start) / (last - first)

    def __call__(self, value: float) -> float:
        return self._start + (value - self._first) * self._slope


def _scale(first: float, last: float, start: float, end: float) -> tuple[_Scale, list[float]]:
    """A scale over [first, last], and about four round values to label, in steps of 1, 2 or 5 times a power of ten."""
    if last <= first:
        last = first + 1
    rough = (last - first) / 3.5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    ticks = [index * step for index in range(math.ceil(first / step - 1e-9), math.floor(last / step + 1e-9) + 1)]
    return _Scale(first, last, start, end), ticks


def _svg(width: float, height: float, alt_text: str, *drawn: Markup) -> Markup:
    return element("svg", *drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=alt_text)


def _group(title: str, *drawn: Markup) -> Markup:
    return element("g", element("title", title), *drawn)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return element("line", x1=_short(x1), y1=_short(y1), x2=_short(x2), y2=_short(y2), class_=kind)


def _vertical(x: float, top: float, bottom: float, label: str) -> Markup:
    return _line(x, top, x, bottom, "grid") + element("text", label, x=_short(x), y=bottom + 15, class_="middle")


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
