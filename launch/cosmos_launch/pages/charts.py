"""Charts as figures of plotly, which page.js draws in the colours of the page.

Plotly takes names and labels for HTML, so each of them is escaped here.
"""

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from cosmos_launch.pages.contents import Bars, Curves, Mark, Points

MAX_POINTS = 2000
"""A longer curve is drawn by the extremes of its buckets."""
POINTS_OF_BUCKET = 3
"""The smallest value, the largest, and a gap where there are values that are not finite."""
MAX_DOTS = 40
"""A curve of up to so many points shows each of them."""
NUM_COLOURS = 6
"""As many as page.css has; curves beyond take them again, with another dash."""
DASHES = ("solid", "dot", "dashdot")
MARK_COLOUR = "#888888"
"""It is seen on a light page and on a dark one."""
LABEL_CHARS = 44
"""The length of a line in what is said of a mark."""


@dataclass(frozen=True)
class LegendEntry:
    """What the legend says of a curve or of a colour of bars."""

    name: str
    colour: int
    last: float | None
    """The last value of a curve."""


@dataclass(frozen=True)
class DrawnChart:
    """A chart as the page has it."""

    title: str
    x_label: str
    legend: list[LegendEntry]
    story: str
    """What it shows, for who can not see it."""
    notes: list[str]
    figure: dict[str, Any] | None
    """Plotly's JSON; None where there is nothing to draw."""


def draw(chart: Curves | Bars, marks: Sequence[Mark]) -> DrawnChart:
    """Make the figure of a chart, and what is said beside it."""
    return _curves(chart, marks) if isinstance(chart, Curves) else _bars(chart)


def thin(points: Points) -> list[tuple[int, float | None]]:
    """Choose at most MAX_POINTS of the points, so that no spike is lost; values that are not finite become None."""
    found = [(step, value if math.isfinite(value) else None) for step, value in points]
    if len(found) <= MAX_POINTS:
        return found
    size = math.ceil(len(found) / (MAX_POINTS // POINTS_OF_BUCKET))
    thinned = []
    for start in range(0, len(found), size):
        thinned += sorted(_extremes(found[start : start + size]), key=lambda point: point[0])
    return thinned


def _extremes(bucket: list[tuple[int, float | None]]) -> Iterator[tuple[int, float | None]]:
    gaps = [point for point in bucket if point[1] is None]
    finite = [(value, step) for step, value in bucket if value is not None]
    extremes = {min(finite), max(finite)} if finite else set()
    yield from gaps[:1]
    for value, step in extremes:
        yield step, value


def _curves(chart: Curves, marks: Sequence[Mark]) -> DrawnChart:
    finite = {name: _finite(points) for name, points in chart.curves.items()}
    num_lost = sum(map(len, chart.curves.values())) - sum(map(len, finite.values()))
    longest = max(map(len, chart.curves.values()), default=0)
    notes = [f"{num_lost} values are not finite: gaps."] if num_lost else []
    if longest > MAX_POINTS:
        notes.append(f"Thinned from {longest:,} points; spikes are kept.")
    legend = [
        LegendEntry(name, index % NUM_COLOURS, points[-1][1] if points else None)
        for index, (name, points) in enumerate(finite.items())
    ]
    story = ". ".join(f"{name}: {_story(points, chart.x_label)}" for name, points in finite.items())
    figure = None
    if any(finite.values()):
        figure = go.Figure(layout=_layout(chart.x_label))
        values = {value for _, value in itertools.chain.from_iterable(finite.values())}
        if len(values) == 1:
            figure.update_layout(yaxis_rangemode="tozero")  # else a constant 1e-4 is drawn between -1 and 1
        for index, (name, points) in enumerate(chart.curves.items()):
            figure.add_trace(_curve(name, thin(points), index))
        if marks:
            figure.add_trace(_mark_lines(marks))
    return DrawnChart(chart.title, chart.x_label, legend, story, notes, _json(figure))


def _finite(points: Points) -> list[tuple[int, float]]:
    return [point for point in points if math.isfinite(point[1])]


def _story(points: Points, x_label: str) -> str:
    if not points:
        return "no values"
    (first_step, first), (last_step, last) = points[0], points[-1]
    return f"{first:.4g} at {x_label} {first_step:,}, {last:.4g} at {x_label} {last_step:,}"


def _curve(name: str, points: list[tuple[int, float | None]], index: int) -> go.Scatter:
    dash = DASHES[index // NUM_COLOURS % len(DASHES)]
    return go.Scatter(
        name=escape(name),
        meta=index % NUM_COLOURS,  # the colour, which page.js looks up
        x=[step for step, _ in points],
        y=[value for _, value in points],
        mode="lines+markers" if len(points) <= MAX_DOTS else "lines",
        marker_size=4,
        opacity=0.85,
        line={"width": 1.6, "dash": dash},
    )


def _mark_lines(marks: Sequence[Mark]) -> go.Scatter:
    """A vertical line for each mark, over the whole height; the text appears under the pointer."""
    steps, heights, labels = [], [], []
    for mark in marks:
        label = "<br>".join(map(escape, textwrap.wrap(mark.label, LABEL_CHARS)))
        steps += [mark.step, mark.step, None]
        heights += [0, 1, None]
        labels += [label, label, None]
    return go.Scatter(
        name="marks",
        x=steps,
        y=heights,
        yaxis="y2",
        text=labels,
        mode="lines",
        line={"width": 1, "dash": "dash", "color": MARK_COLOUR},
        hovertemplate="%{text}<extra></extra>",
    )


def _bars(chart: Bars) -> DrawnChart:
    num_bars = max(map(len, chart.bars.values()), default=0)
    legend = [LegendEntry(name, index % NUM_COLOURS, None) for index, name in enumerate(chart.bars)]
    story = f"{', '.join(chart.bars)} by {chart.x_label}: {num_bars} bars"
    figure = go.Figure(layout=_layout(chart.x_label)) if num_bars else None
    if figure is not None:
        figure.update_layout(barmode="stack")
        for index, (name, bars) in enumerate(chart.bars.items()):
            places = [escape(place) if isinstance(place, str) else place for place, _ in bars]
            heights = [height if math.isfinite(height) else None for _, height in bars]  # JSON has no NaN
            figure.add_trace(go.Bar(name=escape(name), meta=index % NUM_COLOURS, x=places, y=heights))
    return DrawnChart(chart.title, "", legend, story, [], _json(figure))


def _layout(x_label: str) -> go.Layout:
    x_axis = {"title": {"text": escape(x_label), "standoff": 4}, "zeroline": False, "nticks": 6, "hoverformat": ",d"}
    return go.Layout(
        template="none",
        showlegend=False,
        hovermode="x unified",
        hoverlabel_namelength=30,
        margin={"l": 46, "r": 10, "t": 8, "b": 38},
        font_size=11,
        xaxis={**x_axis, "spikethickness": 1, "spikecolor": MARK_COLOUR, "spikedash": "solid"},
        yaxis={"zeroline": False, "nticks": 5, "exponentformat": "e", "hoverformat": ".5~g"},
        yaxis2={"overlaying": "y", "range": [0, 1], "fixedrange": True, "visible": False},
    )


def _json(figure: go.Figure | None) -> dict[str, Any] | None:
    return None if figure is None else figure.to_plotly_json()
