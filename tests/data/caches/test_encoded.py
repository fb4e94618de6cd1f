"""A window with what is known of it: from the plan's sample, and with its padding counted in latent cells."""

from dataclasses import replace

import torch
from support.clips import CAMERA, CLIP

from cosmos_data.caches.encoded import EncodedWindow, known_of
from cosmos_data.manifests.conditions import Camera, CaptionWindow
from cosmos_data.manifests.rows import record
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.sample_plan.window import Box
from cosmos_data.sample_plan.window_conditions import conditions_of

CLIP_WITH_ALL = replace(
    CLIP,
    caption="all of it",
    captions=(CaptionWindow(start_frame=0, num_frames=10, text="its beginning"),),
    camera=record(Camera, CAMERA, 0, "camera."),
    split="heldout",
)
SAMPLE = Sample(
    index=0,
    attempt=0,
    clip=CLIP_WITH_ALL,
    start_frame=102,
    num_frames=3,
    frame_stride=2,
    box=Box(top_px=0, left_px=0, height_px=90, width_px=200),
    height_px=32,
    width_px=48,
    inner=Box(top_px=8, left_px=0, height_px=16, width_px=48),
    flip=False,
)


def test_a_window_has_all_that_its_sample_says():
    z_CTHW, text_SE = torch.randn(4, 2, 4, 6), torch.randn(3, 8)
    known = known_of(SAMPLE)
    window = EncodedWindow.of(known, z_CTHW=z_CTHW, text_SE=text_SE, size_px=(SAMPLE.height_px, SAMPLE.width_px))
    assert (window.clip_id, window.start_frame, window.split) == ("a", 102, "heldout")
    assert (window.caption, window.fps, window.inner_px) == ("its beginning", 15.0, (8, 0, 16, 48))
    assert window.conditions == known.conditions == conditions_of(SAMPLE) and window.conditions.camera is not None
    assert window.z_CTHW is z_CTHW and window.text_SE is text_SE
    assert window.padding_1HW[0, :, 0].tolist() == [1, 0, 0, 1], "rows of cells of 8 px, of a picture from 8 to 23"


def test_a_window_without_padding():
    known = known_of(replace(SAMPLE, inner=None))
    window = EncodedWindow.of(known, z_CTHW=torch.zeros(1, 1, 4, 6), text_SE=torch.zeros(1, 1), size_px=(32, 48))
    assert known.inner_px is None and not window.padding_1HW.any()
