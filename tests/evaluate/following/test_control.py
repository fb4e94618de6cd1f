"""What the benchmark of conditions calls followed: each goal is of a figure, and says where it is missed."""

import pytest
from control import STUDIES, Result
from control_measures import Measured

from cosmos_train.evaluate.following.figure import Figure


def result(value: float, name: str = "right task of two") -> Result:
    """The instruction's study, of one figure."""
    figure = Figure(name=name, value=value, floor=1.0, ceiling=0.5, num_clips=2)
    return Result(STUDIES["instruction"], Measured(figures=[figure], strips=[]), minutes=1.0)


def test_a_goal_is_met_or_missed():
    assert not result(0.95).missed
    assert result(0.5).missed == ["right task of two is 0.5, not from 0.9 to inf"]


def test_a_goal_of_no_figure_is_an_error():
    with pytest.raises(ValueError, match="is named as the goal 'right task of two'"):
        result(0.95, name="right task").missed  # noqa: B018
