"""What `sample` is asked for is refused by option, value and rule, before torch is imported."""

import math
from pathlib import Path
from typing import Any

import pytest

from cosmos_launch.cli.sample_request import SampleRequest
from cosmos_train.config.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"num_videos": 0}, "--num-videos 0 must be at least 1"),
        ({"num_frames": 0}, "--num-frames 0 must be at least 1"),
        ({"num_ranks": -1}, "--nproc -1 must be at least 1"),
        ({"seed": -1}, "--seed -1 must be 0 or more"),
        ({"fps": 0.0}, "--fps 0.0 must be greater than 0"),
        ({"fps": math.inf}, "--fps inf must be greater than 0"),
        ({"fps": math.nan}, "--fps nan must be greater than 0"),
        ({"crop_input": True}, "--crop is about the frames of --input, which is not given"),
    ],
)
def test_what_makes_no_sense(given: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        SampleRequest(**given)


def test_what_does():
    request = SampleRequest(input_path=Path("a.png"), crop_input=True, fps=0.5, num_frames=1)
    assert (request.num_videos, request.seed, request.num_ranks) == (1, 0, 1)
