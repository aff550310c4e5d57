"""The HTML page, from the templates in `templates/`."""

from typing import Any

import jinja2

from bert4rec_tf.report.markup import page_templates
from bert4rec_tf.report.number_format import counted

SECTIONS = {
    "result": "Is the model good?",
    "learning": "Learning curves",
    "slices": "Groups of users",
    "attention": "Attention",
    "items": "Items",
    "users": "Users",
    "run": "The run",
}


def render_page(title: str, facts: dict[str, str], **sections: Any) -> str:
    """A whole HTML file, which loads nothing.

    Args:
        title: of the page.
        facts: name -> value, shown below the title.
        **sections: the content of each of `SECTIONS`, which `templates/<name>.html` renders.
    """
    return _templates().get_template("page.html").render(title=title, facts=facts, headings=SECTIONS, **sections)


def _templates() -> jinja2.Environment:
    templates = page_templates("bert4rec_tf.report")
    templates.filters["counted"] = counted
    return templates
