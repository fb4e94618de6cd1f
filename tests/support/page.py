"""A page as a browser would parse it: its elements, its text and the figures that its script draws."""

import json
from collections import Counter
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "img", "source", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page; raises where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.figures: list[dict[str, Any]] = []
        """Plotly's JSON."""
        self._is_figure = False
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self._is_figure = tag == "script" and ("type", "application/json") in attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if self._is_figure and self.open[-1] == "script":
            self.figures.append(json.loads(data))
        if self.open and self.open[-1] not in {"style", "script"}:
            self.text += data

    def values(self, tag: str, attribute: str) -> list[str]:
        return [value for one, name, value in self.attributes if (one, name) == (tag, attribute)]

    def curves(self, title: str) -> dict[str, list[tuple[Any, Any]]]:
        """Return the curves or bars of the chart with a title, by name; marks are among them."""
        stories = [story for story in self.values("div", "aria-label") if ". " in story]
        [figure] = [
            figure for story, figure in zip(stories, self.figures, strict=True) if story.startswith(f"{title}. ")
        ]
        return {trace["name"]: list(zip(trace["x"], trace["y"], strict=True)) for trace in figure["data"]}
