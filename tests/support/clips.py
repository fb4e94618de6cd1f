"""A clip that needs no file, for what only reads a manifest."""

from cosmos_data.manifests.clip import Clip

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

CAMERA = {
    "convention": "world_to_camera_opencv",
    "intrinsics_px": [100.0, 100.0, 88.0, 72.0],
    "height_px": 144,
    "width_px": 176,
    "extrinsics": [1.0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 1.0, 0],
}
"""A camera that stands still, as JSON says it."""
