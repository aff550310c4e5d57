"""Shows the examples of docstrings as code: an extension of Griffe, which reads the docstrings for the API page."""

import re
from typing import Any

import griffe

_EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).*)*", re.MULTILINE)


class Examples(griffe.Extension):
    """Encloses each paragraph that begins with `>>>` in a fence; Markdown would read it as a quotation."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Changes the docstring of a package."""
        self.on_object(obj=pkg)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Changes the docstring of anything else."""
        if obj.docstring is not None and "```" not in obj.docstring.value:
            obj.docstring.value = _EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
