"""What a long video comes with is cut to windows and goes on past its end, each signal as the others."""

from dataclasses import replace

import pytest

from cosmos_data.errors import DataError
from cosmos_data.manifests.conditions import Action
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_data.steering.long_videos import lengthened, part_of, require_length

FPS = 10.0
ACTION = Action(names=("x",), units=("m",), rate_hz=FPS, frame_of_reference="table", values=tuple(map(float, range(9))))
STATE = replace(ACTION, values=tuple(map(float, range(100, 109))))
CONDITIONS = WindowConditions(action=ACTION, state=STATE)


def test_states_are_cut_and_lengthened_as_actions_are():
    long = lengthened(CONDITIONS, 9, to_frames=12, fps=FPS)
    assert long.state is not None and long.state.values == (*STATE.values, 108, 108, 108)
    part = part_of(long, 4, 8, of_frames=12, fps=FPS)
    assert part.action is not None and part.action.values == (4, 5, 6, 7, 8, 8, 8, 8)
    assert part.state is not None and part.state.values == (104, 105, 106, 107, 108, 108, 108, 108)


def test_states_of_another_length_are_refused():
    require_length(CONDITIONS, 9, FPS)
    with pytest.raises(DataError, match=r"state: 9 values; 10 steps of 1 belong to 10 frames.*give conditions as long"):
        require_length(replace(CONDITIONS, action=None), 10, FPS)
