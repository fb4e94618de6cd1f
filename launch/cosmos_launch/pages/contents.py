"""What a page is made of: facts, charts, pictures, tables and text, as plain data that `page.py` writes.

Frames are numpy arrays uint8 [H, W, 3].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Points = Sequence[tuple[int, float]]
"""(step, value), the steps rising."""


@dataclass(frozen=True)
class Fact:
    """One figure of the summary."""

    label: str
    value: str | float
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step: killed, resumed, learning rate changed."""

    step: int
    label: str


@dataclass(frozen=True)
class Curves:
    """A chart of curves by name, in the order of their colours; a curve without points keeps its colour.

    Charts of a page that have the same `x_label` show the same part of it.
    """

    title: str
    curves: Mapping[str, Points]
    x_label: str = "step"


@dataclass(frozen=True)
class Bars:
    """A chart of bars by name, stacked where there are several."""

    title: str
    bars: Mapping[str, Sequence[tuple[str | int, float]]]
    """(where a bar stands, its height)."""
    x_label: str


@dataclass(frozen=True)
class Charts:
    """A grid of small charts; marks are drawn in all of those that have curves."""

    charts: Sequence[Curves | Bars]
    marks: Sequence[Mark] = ()
    caption: str = ""


@dataclass(frozen=True)
class FrameRow:
    """One film strip."""

    label: str
    frames: "Sequence[np.ndarray]"


@dataclass(frozen=True)
class FrameRows:
    """Film strips under each other, frame under frame; with `fps` the moving pictures stand over them."""

    rows: list[FrameRow]
    caption: str = ""
    fps: float | None = None


@dataclass(frozen=True)
class Table:
    """Rows of cells; a column of numbers is aligned to the right.

    Raises ValueError where a row has more or fewer cells than the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | float]]
    caption: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.header):
                raise ValueError(f"row {index} of a table has {len(row)} cells, its header {len(self.header)}")


@dataclass(frozen=True)
class Text:
    """YAML, a log: shown as it is; long text is folded."""

    content: str
    caption: str = ""


Item = Charts | FrameRows | Table | Text


@dataclass(frozen=True)
class Section:
    """A chapter of the page; an empty line in `text` begins a paragraph."""

    title: str
    text: str = ""
    items: Sequence[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The page."""

    title: str
    summary: list[Fact] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
