"""Reads an HTML page or a part of one, for tests."""

import html.parser


class Page(html.parser.HTMLParser):
    """Reads a page, and refuses tags that are not balanced.

    Attributes:
        tags: each start tag with its attributes.
        texts: of each element that has no element in it, by tag; entities are characters.
        rows: texts of the cells of each row of a table.
    """

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self._open: list[list[str]] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag != "meta":
            self._open.append([tag, ""])

    def handle_endtag(self, tag: str) -> None:
        name, text = self._open.pop()
        assert name == tag
        self.texts.append((tag, text))
        if tag in ("td", "th"):
            self.rows[-1].append(text)
        elif self._open and tag in ("span", "mark", "strong"):
            self._open[-1][1] += text

    def handle_data(self, data: str) -> None:
        if self._open:
            self._open[-1][1] += data

    def texts_of(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]
