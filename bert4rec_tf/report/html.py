"""HTML and SVG elements as text. Everything that is not an element is escaped."""

import html
import re
from collections.abc import Sequence
from typing import Any

_VOID = {"meta"}  # elements that have no end tag
# HTML cannot represent these characters, and a lone surrogate cannot be saved as UTF-8.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """HTML. A plain str is text; only `together` and `element` turn it into HTML."""

    __slots__ = ()


def together(*parts: object) -> Markup:
    """Joins parts. A part that is not `Markup` is escaped; None is left out."""
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in parts if part is not None))


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """An element around its children.

    Args:
        tag: the name of the element.
        *children: joined as in `together`.
        **attributes: any values, escaped; None leaves an attribute out. `class_` is written as class, `aria_label` as
            aria-label.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{together(*children)}</{tag}>")


def _escaped(value: object) -> str:
    return html.escape(_UNWRITABLE.sub("\ufffd", str(value)), quote=True)


def short_number(value: float) -> str:
    """A number in about five characters or fewer: 0.05, 250, 40k, 2.5M."""
    for size, letter in ((1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.4g}{letter}"
    return f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 user, 2,000 users."""
    return f"{grouped_number(number)} {noun}{'' if number == 1 else 's'}"


def grouped_number(number: int) -> str:
    """A number with commas between thousands; `short_number` from 10,000 up."""
    return f"{number:,}" if number < 10_000 else short_number(number)


def name_value_table(rows: list[tuple[str, Any]], kind: str | None = None) -> Markup:
    """A table of two columns; `kind` is its class."""
    written = (element("tr", element("th", name), element("td", _text(value))) for name, value in rows)
    return element("table", element("tbody", *written), class_=kind)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def figure(caption: str, drawn: Markup) -> Markup:
    """A chart with its caption."""
    return element("figure", element("figcaption", caption), drawn)


def chart_row(figures: list[Markup]) -> Markup:
    """Charts side by side."""
    return element("div", *figures, class_="charts")


# The browser loads nothing for this page, even if an item title contains HTML.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --panel: #f5f6f8; --ink: #1c2128; --soft: #59636e; --line: #d5dae0;
  --main: #1f6feb; --warm: #bc4c00; --good: #116329; --good-paper: #dcf3e1;
  --p0: #2b1c8c; --p1: #3a6fc4; --p2: #1f9e89; --p3: #7fae2a; --p4: #d99a00;
  --g0: #4477aa; --g1: #d64f60; --g2: #228833; --g3: #b29a1e;
  --g4: #35a5c9; --g5: #aa3377; --g6: #e0792f; --g7: #7a5bd0;
  --g8: #a3a9b0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0f1318; --panel: #181d24; --ink: #e4e8ed; --soft: #9aa5b1; --line: #333b45;
    --main: #6cb0ff; --warm: #f0965a; --good: #7ee09a; --good-paper: #12301c;
    --p0: #9a86ff; --p1: #5aa2f5; --p2: #35c9b0; --p3: #a5d24c; --p4: #ffc93c;
    --g0: #6ea3d8; --g1: #f07f8d; --g2: #4fbf62; --g3: #d8c34a;
    --g4: #66ccee; --g5: #d667a6; --g6: #f5a05f; --g7: #a68bf0;
    --g8: #6a727c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1240px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 8px 0; }
h2 { font-size: 1.2rem; margin: 40px 0 4px; padding-top: 12px; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 20px 0 4px; }
p { max-width: 76ch; margin: 6px 0; }
.soft, figcaption, .ci { color: var(--soft); }
figcaption, .ci { font-size: .84rem; }
figcaption { margin-bottom: 4px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0; }
a { color: var(--main); }
table { border-collapse: collapse; margin: 8px 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; white-space: nowrap; }
.settings th { font-weight: 400; font-size: .9rem; white-space: normal; }
.ci { white-space: nowrap; }
summary { cursor: pointer; color: var(--main); margin: 8px 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 16px 28px; }
.charts.pairs { grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 400px)); }
.charts table { align-self: start; margin-top: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 0 40px; }
.columns > div { min-width: 0; }
.columns h3 { margin-top: 12px; }
.heads { display: flex; flex-wrap: wrap; gap: 12px 16px; }
figure { margin: 0; min-width: 0; }
.charts figure { max-width: 420px; }
.heads figure { flex: 1 1 160px; max-width: 270px; }
.map { max-width: 900px; }
svg { display: block; width: 100%; height: auto; }
svg text { font-size: 11px; fill: var(--soft); }
.heads svg text { font-size: 10px; }
svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; }
svg .strong { fill: var(--ink); font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .whisker { stroke: var(--ink); stroke-width: 1.3; }
svg .dot { fill: var(--main); }
svg .bar { fill: var(--main); fill-opacity: .55; }
svg .curve { fill: none; stroke: var(--main); stroke-width: 1.6; stroke-linejoin: round; }
svg .band { fill: var(--main); fill-opacity: .15; }
svg .marked { stroke: var(--warm); stroke-width: 1.3; stroke-dasharray: 4 3; }
svg .frame { fill: var(--panel); stroke: var(--line); }
svg .heat { fill: var(--main); shape-rendering: crispEdges; }
.map circle { fill-opacity: .8; stroke: var(--paper); stroke-width: .6; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 16px; list-style: none; margin: 8px 0; padding: 0; }
.legend i { display: inline-block; width: .75em; height: .75em; border-radius: 50%; margin-right: 6px; }
.users { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 360px), 1fr)); gap: 16px;
  margin-top: 12px; }
.user { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.user h3 { margin: 0 0 4px; }
.user h4 { font-size: .84rem; margin: 10px 0 2px; color: var(--soft); }
.user ol, .user p { margin: 0; }
.user ol { padding-left: 2.8em; font-size: .9rem; }
.title { unicode-bidi: isolate; }
mark { background: var(--good-paper); color: var(--good); font-weight: 600; border-radius: 3px; padding: 0 3px; }
"""
_GROUP_COLOURS = "".join(f".{kind}{n} {{ fill: var(--{kind}{n}); background: var(--{kind}{n}); }}\n"
                         for kind, number in (("p", 5), ("g", 9)) for n in range(number))  # fmt: skip


def page(title: str, sections: Sequence[tuple[str, str, Markup]]) -> str:
    """A whole HTML file.

    Args:
        title: of the page.
        sections: id, heading and content of each.
    """
    links = [element("a", heading, href=f"#{name}") for name, heading, _ in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Markup(_STYLE + _GROUP_COLOURS)),
    )
    body = element(
        "body",
        element("h1", title),
        element("nav", *links),
        *(
            together(Markup("\n"), element("section", element("h2", heading), content, id=name))
            for name, heading, content in sections
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, Markup(chr(10)), body, lang='en')}\n"
