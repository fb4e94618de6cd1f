"""Where a video cuts from one shot to another: a clip that spans a cut teaches a model that the world jumps.

Consecutive frames are compared as thumbnails. A cut is a difference that is large in itself and stands out from those
around it, so fast motion and pans, which differ much for many frames, are no cuts. Hard cuts only: a dissolve or a fade
changes a little in every frame and is not found.
"""

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

THUMBNAIL_PX = 32
MIN_DIFFERENCE = 15.0
"""Mean absolute difference of two thumbnails, in levels of 255."""
MIN_RATIO = 2.0
"""How much larger it is than the largest of its neighbours' differences."""
NEIGHBOURS = 3
"""Differences on either side that a cut is compared with."""


class ShotDetector:
    """Is shown every frame of a video in order; then knows its cuts."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()
        self._last: np.ndarray | None = None
        self._differences: list[float] = []

    def add(self, frame: av.VideoFrame) -> None:
        small = self._reformatter.reformat(
            frame, width=THUMBNAIL_PX, height=THUMBNAIL_PX, format="rgb24", interpolation=Interpolation.AREA, threads=1
        )
        thumbnail = small.to_ndarray().astype(np.int16)
        if self._last is not None:
            self._differences.append(float(np.abs(thumbnail - self._last).mean()))
        self._last = thumbnail

    def cuts(self) -> tuple[int, ...]:
        """Return the numbers of the frames that begin a new shot."""
        return find_cuts(self._differences)


def find_cuts(differences: list[float]) -> tuple[int, ...]:
    """Return the cuts. differences[k] is between frames k and k + 1."""
    cuts = []
    for k, difference in enumerate(differences):
        around = differences[max(0, k - NEIGHBOURS) : k] + differences[k + 1 : k + 1 + NEIGHBOURS]
        if difference >= MIN_DIFFERENCE and difference >= MIN_RATIO * max(around, default=0.0):
            cuts.append(k + 1)
    return tuple(cuts)
