"""A clip that needs no file, for what only reads a manifest."""

from cosmos_data.clip import Clip

CLIP = Clip(
    clip_id="a",
    path="/a.mp4",
    start_frame=100,
    num_frames=40,
    fps=30.0,
    height_px=90,
    width_px=200,
    codec="h264",
    color_matrix="bt601",
    first_pts=0,
    digest="0" * 64,
    caption="",
    split="train",
)
