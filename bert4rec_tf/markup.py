"""HTML and SVG elements as text: what is not an element is escaped."""

import html
import re

_VOID = {"meta"}  # elements that have no end tag
# HTML has no way to write these, and a lone surrogate cannot be saved as UTF-8.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Markup(str):
    """HTML. A plain str is text, and becomes this by `together` or inside an `element` alone."""

    __slots__ = ()


def together(*parts: object) -> Markup:
    """Parts one after the other; those that are no `Markup` are escaped, None is left out."""
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in parts if part is not None))


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """An element around its children.

    Args:
        tag: its name.
        *children: as for `together`.
        **attributes: any values, escaped; None leaves one out. `class_` is written class, `aria_label` aria-label.
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
