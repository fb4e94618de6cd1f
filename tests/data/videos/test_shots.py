import numpy as np
import pytest

from cosmos_data.videos.shots import MIN_DIFFERENCE, find_cuts
from cosmos_data.videos.video import probe_video


@pytest.mark.parametrize(
    ("name", "cuts"),
    # TransNetV2 and PySceneDetect find these five in bikes.mp4 and none in the others.
    [("bikes.mp4", (30, 76, 137, 187, 242)), ("carphone_pristine.mp4", ()), ("bigbuckbunny.mp4", ())],
)
def test_real_footage(footage, name, cuts):
    assert probe_video(footage / name).cuts == cuts


def test_a_cut_stands_out_from_the_motion_around_it():
    still, pan = [1.0] * 10, [30.0] * 10
    assert find_cuts([*still, 40.0, *still]) == (11,)
    assert find_cuts([*pan, 40.0, *pan]) == ()
    assert find_cuts([*pan, 80.0, *pan]) == (11,)
    assert find_cuts([*still, MIN_DIFFERENCE - 0.1, *still]) == ()


def test_at_the_ends_and_in_short_videos():
    assert find_cuts([]) == ()
    assert find_cuts([50.0]) == (1,)
    assert find_cuts([50.0, 1.0, 1.0, 1.0, 50.0]) == (1, 5)


def test_a_dissolve_is_not_found():
    """As the module says: it changes a little in every frame."""
    assert find_cuts(np.full(25, 12.0).tolist()) == ()
