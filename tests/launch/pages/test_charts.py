"""Charts: every value is in the figure, a long curve keeps its spikes, and what can not be drawn is a gap."""

import math
from typing import Any

import pytest

from cosmos_launch.pages.charts import MAX_POINTS, NUM_COLOURS, DrawnChart, draw, thin
from cosmos_launch.pages.contents import Bars, Curves, Mark


def figure_of(drawn: DrawnChart) -> dict[str, Any]:
    assert drawn.figure is not None
    return drawn.figure


def test_a_long_curve_keeps_its_spikes() -> None:
    values = [1.0 + 0.001 * (step % 7) for step in range(20_000)]
    values[4_321], values[7_777], values[10_000] = 99.0, -5.0, math.nan
    thinned = thin(list(enumerate(values)))
    assert len(thinned) <= MAX_POINTS
    assert {(4_321, 99.0), (7_777, -5.0), (10_000, None)} <= set(thinned)
    assert [step for step, _ in thinned] == sorted(step for step, _ in thinned)
    drawn = draw(Curves("loss", {"loss": list(enumerate(values))}), [])
    assert "Thinned from 20,000 points; spikes are kept." in drawn.notes
    worst = thin([(step, math.nan if step % 2 else float(step)) for step in range(MAX_POINTS + 1)])
    assert len(worst) <= MAX_POINTS, "where every stretch has a gap, too"


def test_a_curve_that_is_short_enough_is_drawn_whole() -> None:
    points = [(step, float(step)) for step in range(MAX_POINTS)]
    assert thin(points) == points


def test_values_that_are_not_finite_are_gaps_and_counted() -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.25)]
    drawn = draw(Curves("loss", {"loss": points, "none": [], "one": [(2, 0.5)]}), [])
    assert list(figure_of(drawn)["data"][0]["y"]) == [1.0, None, None, 0.25]
    assert drawn.notes == ["2 values are not finite: gaps."]
    assert "loss: 1 at step 0, 0.25 at step 3" in drawn.story and "none: no values" in drawn.story
    assert [entry.last for entry in drawn.legend] == [0.25, None, 0.5]


@pytest.mark.parametrize("curves", [{}, {"loss": []}, {"loss": [(0, math.nan)]}], ids=["none", "empty", "not finite"])
def test_a_chart_without_values_has_no_figure(curves: dict[str, list[tuple[int, float]]]) -> None:
    assert draw(Curves("loss", curves), [Mark(1, "killed")]).figure is None


def test_a_mark_is_a_line_that_says_what_happened() -> None:
    label = "failed: CheckpointError: the disk is full, <b>and nothing more</b> can be written"
    lines = figure_of(draw(Curves("loss", {"loss": [(0, 1.0), (9, 0.5)]}), [Mark(4, label), Mark(6, "killed")]))[
        "data"
    ][1]
    assert list(lines["x"]) == [4, 4, None, 6, 6, None] and list(lines["y"]) == [0, 1, None, 0, 1, None]
    assert lines["yaxis"] == "y2", "whose range is fixed, so a line is as high as the chart under any scale"
    assert "<b>" not in lines["text"][0] and lines["text"][0].replace("<br>", " ").startswith("failed: CheckpointError")


def test_a_curve_has_its_colour_in_every_chart() -> None:
    """Plotly and the legend count alike: a run without values keeps its place."""
    names = [f"run {number}" for number in range(NUM_COLOURS + 1)]
    drawn = draw(Curves("mfu", {name: [] if name == "run 0" else [(0, 0.5), (1, 0.25)] for name in names}), [])
    traces = figure_of(drawn)["data"]
    assert [trace["name"] for trace in traces] == [entry.name for entry in drawn.legend] == names
    assert [trace["meta"] for trace in traces] == [entry.colour for entry in drawn.legend]
    assert drawn.legend[NUM_COLOURS].colour == drawn.legend[0].colour
    assert traces[NUM_COLOURS]["line"]["dash"] != traces[0]["line"]["dash"]


def test_a_constant_is_seen_for_what_it_is() -> None:
    constant, other = ({"lr": [(0, 1e-4), (9, last)]} for last in (1e-4, 2e-4))
    assert figure_of(draw(Curves("lr", constant), []))["layout"]["yaxis"]["rangemode"] == "tozero"
    assert "rangemode" not in figure_of(draw(Curves("lr", other), []))["layout"]["yaxis"]


def test_bars_stand_where_they_belong() -> None:
    figure = figure_of(draw(Bars("seconds", {"data": [("rank 1", 0.5)], "forward": [("rank 1", 0.25)]}, "rank"), []))
    assert [(bars["name"], *bars["x"], *bars["y"]) for bars in figure["data"]] == [
        ("data", "rank 1", 0.5),
        ("forward", "rank 1", 0.25),
    ]
    assert figure["layout"]["barmode"] == "stack"
    assert draw(Bars("seconds", {"data": []}, "rank"), []).figure is None


def test_a_bar_that_is_not_finite_is_none() -> None:
    drawn = draw(Bars("seconds", {"forward": [(0, 1.0), (1, math.nan)]}, x_label="rank"), [])
    assert list(figure_of(drawn)["data"][0]["y"]) == [1.0, None]


def test_a_mark_is_escaped_after_it_is_wrapped() -> None:
    drawn = draw(Curves("loss", {"loss": [(0, 1.0)]}), [Mark(0, "&" * 60)])
    assert figure_of(drawn)["data"][-1]["text"][0].replace("<br>", "") == "&amp;" * 60
