"""One self-contained HTML page from what `contents.py` describes.

Contract:
- the page needs nothing but itself: style, scripts (plotly's among them, once) and pictures are inside;
- it is readable on a phone and on a desk, in light and in dark, by eye and by screen reader;
- every string is escaped; equal data give an equal page;
- it is written aside and renamed, so that a page under its final name is whole.
"""

import functools
import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cosmos_launch.pages.charts import draw
from cosmos_launch.pages.contents import Charts, Report, Table
from cosmos_launch.pages.pictures import film
from cosmos_train.train.telling.text_file import write_whole

FOLDER = Path(__file__).parent
"""The templates, the style and the script lie in it."""
FOLDED_LINES = 24
"""A longer text is folded."""
NUMBER = re.compile(r"[-+±~<>]?\s?[\d.,]+(e[-+]?\d+)?\s?\S{0,8}|[-–—]?")
"""A cell that reads as a number, with a unit or without."""


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page and return its path. Raises ValueError where a frame is not uint8 [H, W, 3]."""
    path = Path(path)
    page = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def render(report: Report) -> str:
    """Make the page as HTML. Raises ValueError where a frame is not uint8 [H, W, 3]."""
    items = itertools.chain.from_iterable(section.items for section in report.sections)
    has_charts = any(isinstance(item, Charts) for item in items)
    template = _environment().get_template("page.html")
    return template.render(
        report=report,
        style=(FOLDER / "page.css").read_text(encoding="utf-8"),
        script=(FOLDER / "page.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs() if has_charts else "",
    )


@functools.cache
def _environment() -> Environment:
    """Make the templates' environment, in which every value is escaped that a template does not call safe."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters.update(number=as_number, paragraphs=paragraphs, kind=lambda item: type(item).__name__)
    environment.globals.update(draw=draw, make_film=film, numeric_columns=numeric_columns, folded_lines=FOLDED_LINES)
    return environment


def as_number(value: str | float, num_digits: int = 4) -> str:
    """Write a number as people read it; a string stays as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (math.isfinite(value) and abs(value) >= 1e4):
        return f"{value:,.0f}"
    return f"{value:.{num_digits}g}"


def paragraphs(text: str) -> list[str]:
    """Split a text at its empty lines."""
    return [part.strip() for part in re.split(r"\n\s*\n", text) if part.strip()]


def numeric_columns(table: Table) -> list[bool]:
    """Say of each column whether its cells are numbers."""
    return [_is_numeric([row[index] for row in table.rows]) for index in range(len(table.header))]


def _is_numeric(cells: Iterable[str | float]) -> bool:
    cells = list(cells)
    return bool(cells) and all(not isinstance(cell, str) or NUMBER.fullmatch(cell) for cell in cells)
