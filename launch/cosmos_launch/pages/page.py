"""One self-contained HTML page from plain data: curves, pictures, tables and text of a run.

Contract:
- the page needs nothing but itself: inline CSS and SVG, pictures as data URIs, no script, nothing from another host;
- it is readable on a phone and on a desk, in light and in dark, by eye and by screen reader;
- every string is escaped; equal data give an equal page;
- it is written aside and renamed, so that a page under its final name is whole.

Frames are numpy arrays uint8 [H, W, 3]. Importing this module is cheap: matplotlib and Pillow come in when drawing.
"""

import base64
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosmos_train.train.telling.journal import read_records, warn_of
from cosmos_train.train.telling.text_file import write_whole

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from PIL.Image import Image

MAX_POINTS = 150
"""A longer series is drawn as the mean, the smallest and the largest of consecutive points."""
MAX_SIDE_PX = 640
"""Larger frames are shrunk to it."""
MAX_LOSSLESS_PX = 256 * 256
"""Frames up to this many pixels are PNG, larger ones JPEG."""
NUM_COLOURS = 6
"""Series beyond take the first colours again."""


@dataclass(frozen=True)
class Fact:
    """One figure of the summary."""

    label: str
    value: str | float
    note: str = ""


@dataclass(frozen=True)
class Mark:
    """Something that happened at a step: killed, resumed, learning rate changed."""

    step: float
    label: str


@dataclass(frozen=True)
class LossCurve:
    """Series of (step, value), drawn in the order given. Values that are not finite are left out and counted."""

    series: dict[str, list[tuple[int, float]]]
    marks: list[Mark] = field(default_factory=list)
    x_label: str = "step"
    y_label: str = "loss"
    log_y: bool = False
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
    """Rows of cells; a column of numbers is aligned to the right."""

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


Item = LossCurve | FrameRows | Table | Text


@dataclass(frozen=True)
class Section:
    """A chapter of the page; an empty line in `text` begins a paragraph."""

    title: str
    text: str = ""
    items: list[Item] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """The page."""

    title: str
    summary: list[Fact] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page and return its path.

    Raises:
        ValueError: a frame is not uint8 [H, W, 3].
    """
    path = Path(path)
    page = render(report)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
    return path


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl. Lines that a crash has damaged are left out, and named in a warning.

    A step has numbers alone, and a time is a number: what else a line says, such as null, is as if it were not there.
    """
    records, damaged = read_records(Path(path))
    for line in damaged:
        warn_of(Path(path), line, "left out")
    return [
        {name: value for name, value in record.items() if _can_be(name, value, of_event="event" in record)}
        for record in records
    ]


def _can_be(name: str, value: Any, *, of_event: bool) -> bool:
    if of_event and name != "time":
        return value is not None
    return type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)


# The page


def render(report: Report) -> str:
    """The page as HTML."""
    title = escape(report.title)
    body = "\n".join(_section(section) for section in report.sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
{Path(__file__).with_name("page.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{_facts(report.summary)}
{body}
</main>
</body>
</html>
"""


def _facts(facts: list[Fact]) -> str:
    if not facts:
        return ""
    cells = "\n".join(
        f"<div><dt>{escape(fact.label)}</dt><dd>{_value(fact.value)}</dd>"
        + (f'<dd class="note">{escape(fact.note)}</dd>' if fact.note else "")
        + "</div>"
        for fact in facts
    )
    return f'<dl class="facts">\n{cells}\n</dl>'


def _section(section: Section) -> str:
    paragraphs = [f"<p>{escape(part.strip())}</p>" for part in re.split(r"\n\s*\n", section.text) if part.strip()]
    items = [_item(item) for item in section.items]
    return "\n".join(["<section>", f"<h2>{escape(section.title)}</h2>", *paragraphs, *items, "</section>"])


def _item(item: Item) -> str:
    match item:
        case LossCurve():
            return _curve(item)
        case FrameRows():
            return _frames(item)
        case Table():
            return _table(item)
        case Text():
            return _text(item)


def _caption(words: str) -> str:
    return f"<figcaption>{escape(words)}</figcaption>" if words else ""


def _value(value: str | float, num_digits: int = 4) -> str:
    """A number as people read it, or a string as it is."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) or (math.isfinite(value) and abs(value) >= 1e4):
        return f"{value:,.0f}"
    return f"{value:.{num_digits}g}"


def _table(table: Table) -> str:
    columns = zip(*table.rows, strict=True) if table.rows else ([] for _ in table.header)
    kinds = [' class="number"' if _is_numeric(column) else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{escape(name)}</th>' for name, kind in zip(table.header, kinds, strict=True))
    rows = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_value(cell, 6)}</td>" for cell, kind in zip(row, kinds, strict=True)) + "</tr>"
        for row in table.rows
    )
    return f"""<figure>
<div class="scroll" tabindex="0" role="group"><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
{_caption(table.caption)}
</figure>"""


def _is_numeric(column: Iterable[str | float]) -> bool:
    number = re.compile(r"[-+±~<>]?\s?[\d.,]+(e[-+]?\d+)?\s?\S{0,8}|[-–—]?")
    cells = list(column)
    return bool(cells) and all(not isinstance(cell, str) or number.fullmatch(cell) for cell in cells)


def _text(text: Text) -> str:
    num_lines = text.content.count("\n") + 1
    body = f'<pre tabindex="0">{escape(text.content)}</pre>'
    if num_lines > 24:
        title = text.caption or "Text"
        return f"<details>\n<summary>{escape(title)} <span>({num_lines} lines)</span></summary>\n{body}\n</details>"
    return f"<figure>\n{body}\n{_caption(text.caption)}\n</figure>"


# Pictures


def _frames(item: FrameRows) -> str:
    strips = [(escape(row.label), [_picture(frame) for frame in row.frames]) for row in item.rows]
    num_columns = max((len(pictures) for _, pictures in strips), default=1)
    width_px = max((picture.width for _, pictures in strips for picture in pictures), default=1)
    moving = [_moving(label, pictures, item.fps) for label, pictures in strips if item.fps and pictures]
    return f"""<figure style="--columns: {num_columns}; --frame: {2 * width_px}px">
{f'<div class="moving">{"".join(moving)}</div>' if moving else ""}
<div class="scroll" tabindex="0" role="group"><div class="strips">
{"".join(_strip(label, pictures) for label, pictures in strips)}
</div></div>
{_caption(item.caption)}
</figure>"""


def _strip(label: str, pictures: "list[Image]") -> str:
    cells = [_img(_still_uri(picture), f"{label}, frame {index}", picture) for index, picture in enumerate(pictures)]
    return f'<p class="label">{label}</p>\n<div class="strip">{"".join(cells)}</div>\n'


def _moving(label: str, pictures: "list[Image]", fps: float) -> str:
    """The pictures as a loop; who asked their system for less motion sees the first of them."""
    buffer = io.BytesIO()
    first, *rest = pictures
    first.save(buffer, "WEBP", save_all=True, append_images=rest, duration=round(1000 / fps), loop=0, quality=90)
    return f"""<div><picture>
<source media="(prefers-reduced-motion: reduce)" srcset="{_still_uri(first)}">
{_img(_uri("image/webp", buffer), f"{label}, moving", first)}
</picture><p class="label">{label}</p></div>"""


def _img(uri: str, alt: str, picture: "Image") -> str:
    return f'<img src="{uri}" alt="{alt}" width="{picture.width}" height="{picture.height}">'


def _picture(frame: "np.ndarray") -> "Image":
    from PIL import Image

    if frame.ndim != 3 or frame.shape[2] != 3 or str(frame.dtype) != "uint8":
        raise ValueError(f"a frame is {frame.dtype} {list(frame.shape)}; give uint8 [H, W, 3]")
    picture = Image.fromarray(frame)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    return picture


def _still_uri(picture: "Image") -> str:
    buffer = io.BytesIO()
    if picture.width * picture.height <= MAX_LOSSLESS_PX:
        picture.save(buffer, "PNG", optimize=True)
        return _uri("image/png", buffer)
    picture.save(buffer, "JPEG", quality=90)
    return _uri("image/jpeg", buffer)


def _uri(media_type: str, buffer: io.BytesIO) -> str:
    return f"data:{media_type};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


# Curves


def _curve(curve: LossCurve) -> str:
    """The figure twice, for a desk and for a phone (the style sheet shows one), with its legend as text."""
    finite = {
        name: [(step, value) for step, value in points if math.isfinite(value)] for name, points in curve.series.items()
    }
    notes = [curve.caption] if curve.caption else []
    lost = sum(map(len, curve.series.values())) - sum(map(len, finite.values()))
    notes += [f"{lost} values are not finite and are left out."] if lost else []
    if not any(finite.values()):
        return f'<figure><p class="empty">No values yet.</p>{_caption(" ".join(notes))}</figure>'
    if any(len(points) > MAX_POINTS for points in finite.values()):
        notes.append("Line: mean of consecutive points. Band: the smallest and the largest of them.")
    words = [f"{name}: {_story(points, curve.x_label)}" for name, points in finite.items()]
    legend = "".join(
        f'<li><i style="background: var(--series-{index % NUM_COLOURS})"></i>{escape(text)}</li>'
        for index, text in enumerate(words)
    )
    marks = "".join(f"<li>{_value(mark.step)}: {escape(mark.label)}</li>" for mark in curve.marks)
    alt = escape(f"{curve.y_label} over {curve.x_label}. {'. '.join(words)}", quote=True)
    drawings = [
        f'<div class="{kind}">{_svg(curve, finite, size, alt)}</div>'
        for kind, size in {"wide": (10.0, 3.8), "narrow": (4.7, 3.6)}.items()
    ]
    return f"""<figure>
<p class="label">{escape(curve.y_label)}{", logarithmic" if curve.log_y else ""}</p>
{"".join(drawings)}
<ul class="legend">{legend}</ul>
{f'<ol class="marks">{marks}</ol>' if marks else ""}
{_caption(" ".join(notes))}
</figure>"""


def _story(points: list[tuple[int, float]], x_label: str) -> str:
    if not points:
        return "no values"
    (first_step, first), (last_step, last) = points[0], points[-1]
    return f"{first:.4g} at {x_label} {first_step:,}, {last:.4g} at {x_label} {last_step:,}"


def _svg(curve: LossCurve, finite: dict[str, list[tuple[int, float]]], size_inch: tuple[float, float], alt: str) -> str:
    """An <svg> element in the colours of the page: matplotlib draws in stand-ins, which become CSS variables."""
    import matplotlib
    from matplotlib.figure import Figure

    variables = {"--soft": "#010101", "--rule": "#020202"}
    variables |= {f"--series-{index}": f"#0301{index:02x}" for index in range(NUM_COLOURS)}
    # The salt names clip paths: equal for equal data, different for the two sizes of a figure.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": f"{alt}{size_inch}", "font.size": 9.5}):
        figure = Figure(figsize=size_inch, layout="constrained")
        axes = figure.add_subplot()
        for index, points in enumerate(finite.values()):
            colour = variables[f"--series-{index % NUM_COLOURS}"]
            steps, means, lows, highs = _thinned(points)
            axes.plot(steps, means, color=colour, linewidth=1.6, marker="o" if len(points) == 1 else None)
            if len(points) > MAX_POINTS:
                axes.fill_between(steps, lows, highs, color=colour, alpha=0.18, linewidth=0)
        _dress(axes, curve, variables["--soft"], variables["--rule"])
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(_SVG_METADATA))
    drawing = buffer.getvalue()
    for variable, colour in variables.items():
        drawing = drawing.replace(colour, f"var({variable})")
    # Inside HTML no prologue and no namespace is needed, a width would not shrink, and unused ids would repeat.
    head, content = drawing[drawing.index("<svg") :].split(">", 1)
    used = set(re.findall(r"#([\w-]+)", content))
    content = re.sub(r' id="([^"]*)"', lambda match: match.group() if match.group(1) in used else "", content)
    view_box = head.partition('viewBox="')[2].partition('"')[0]
    return f'<svg viewBox="{view_box}" role="img" aria-label="{alt}">{content}'


def _dress(axes: "Axes", curve: LossCurve, ink: str, rule: str) -> None:
    """Scale, ticks, label, marks."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if curve.log_y:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel(curve.x_label, color=ink, parse_math=False)
    axes.grid(axis="y", color=rule, linewidth=0.7)
    axes.tick_params(length=0, labelcolor=ink)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=rule)
    for step, numbers in _gathered(curve.marks, axes.get_xlim()).items():
        axes.axvline(step, color=ink, linewidth=0.8, linestyle=(0, (3, 3)), alpha=0.6)
        axes.text(step, 1.02, numbers, color=ink, ha="center", va="bottom", transform=axes.get_xaxis_transform())


def _thinned(points: list[tuple[int, float]]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Steps, means, smallest and largest of at most MAX_POINTS runs of consecutive points."""
    size = max(1, math.ceil(len(points) / MAX_POINTS))
    runs = [points[start : start + size] for start in range(0, len(points), size)]
    values = [[value for _, value in run] for run in runs]
    steps = [sum(step for step, _ in run) / len(run) for run in runs]
    return steps, [sum(run) / len(run) for run in values], [min(run) for run in values], [max(run) for run in values]


def _gathered(marks: list[Mark], limits: tuple[float, float]) -> dict[float, str]:
    """Step -> the numbers of the marks there; marks too near to the one before to be told apart share its place."""
    places: dict[float, list[str]] = {}
    for number, mark in sorted(enumerate(marks, start=1), key=lambda numbered: numbered[1].step):
        place = next((step for step in places if abs(step - mark.step) < 0.03 * (limits[1] - limits[0])), mark.step)
        places.setdefault(place, []).append(str(number))
    return {step: ", ".join(numbers) for step, numbers in places.items()}


_SVG_METADATA = ("Creator", "Date", "Format", "Type")
