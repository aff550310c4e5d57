"""Text as HTML: everything that is not markup is escaped."""

import re

import jinja2
from markupsafe import Markup, escape

# HTML cannot represent these characters, and a lone surrogate cannot be saved as UTF-8.
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def to_markup(value: object) -> Markup:
    """Escapes what is not `Markup`, and replaces the characters that HTML cannot represent."""
    return Markup(_UNWRITABLE.sub("\ufffd", escape(value)))


def page_templates(*packages: str) -> jinja2.Environment:
    """The templates of packages, with everything escaped; a missing value is an error."""
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package) for package in packages]),
        autoescape=True,
        finalize=to_markup,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def element(tag: str, /, *children: object, **attributes: object) -> Markup:
    """An element around its children, for the charts; the page's other elements are in its templates.

    Args:
        tag: the name of the element.
        *children: joined by `to_markup`.
        **attributes: any values, escaped. `class_` is written as class, `aria_label` as aria-label.
    """
    written = "".join(f' {key.rstrip("_").replace("_", "-")}="{to_markup(value)}"' for key, value in attributes.items())
    return Markup(f"<{tag}{written}>{''.join(map(to_markup, children))}</{tag}>")
