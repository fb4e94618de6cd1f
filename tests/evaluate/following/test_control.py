"""What the benchmark of conditions calls followed: each goal is of a figure, and says where it is missed."""

import pytest
from control import DENOISING, KEPT_QUALITY, MOVES, STUDIES, Goal, Result
from control_measures import Measured

from cosmos_train.evaluate.following.figure import Figure


def result(value: float, name: str = "right task of two") -> Result:
    """The instruction's study, of one figure."""
    figures = [figure(value, name), figure(0.9, "held-out error, in the error before the post-training")]
    return Result(STUDIES["instruction"], Measured(figures=figures, strips=[]), minutes=1.0)


def figure(value: float, name: str, floor: float = 1.0, ceiling: float = 0.5) -> Figure:
    return Figure(name=name, value=value, floor=floor, ceiling=ceiling, num_clips=2)


def test_a_goal_is_met_or_missed():
    assert not result(0.95).missed
    assert result(0.5).missed == ["right task of two is 0.5, not from 0.9 to inf"]


def test_a_goal_of_no_figure_is_an_error():
    with pytest.raises(ValueError, match="is named as the goal 'right task of two'"):
        result(0.95, name="right task").missed  # noqa: B018


def test_a_goal_may_be_a_share():
    back = Goal("there and back", most=0.5, share_of="ceiling")
    assert not back.missed(figure(9, "there and back", floor=0, ceiling=20))
    said = back.missed(figure(12, "there and back", floor=0, ceiling=20))
    assert said == "there and back is 0.6 of its ceiling, not from -inf to 0.5"
    assert back.missed(figure(0, "there and back", floor=0, ceiling=0)), "what went nowhere has not come back"


def test_complaint_2_pictures_that_stand_still_miss_a_goal():
    assert MOVES.missed(figure(0.1, "movement under commands", floor=2.0))
    assert not MOVES.missed(figure(1.5, "movement under commands", floor=2.0))


def test_complaint_3_shuffled_commands_with_the_same_error_miss_a_goal():
    name = "denoised better under the own command at sigma 3"
    assert [bool(goal.missed(figure(0.6, name))) for goal in DENOISING] == [False, True, False], "that level's goal"
    assert not any(goal.missed(figure(1.0, name)) for goal in DENOISING)


def test_complaint_16_a_model_that_got_worse_misses_a_goal():
    name = "held-out error, in the error before the post-training"
    assert KEPT_QUALITY.missed(figure(1.2, name)) and not KEPT_QUALITY.missed(figure(0.8, name))


@pytest.mark.parametrize("study", ["camera", "action"])
def test_goals_stand_for_complaints(study: str):
    assert {MOVES, *DENOISING, KEPT_QUALITY} <= set(STUDIES[study].goals)
