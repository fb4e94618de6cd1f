"""Corners that are followed from picture to picture, which tell how the camera moved without knowing it.

Corners are those of Shi and Tomasi, followed by pyramidal Lucas and Kanade, as OpenCV has them; a corner that does not
come back to its place when it is followed backwards is dropped.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cosmos_data.errors import DataError
from cosmos_data.geometry.epipolar import Matches

MAX_CORNERS = 400
BACK_PX = 0.5
"""How far from its place a corner may come back."""

FAR_SHARE = 0.06
"""Corners are followed until half of them have moved by this share of the picture's diagonal."""

FEWEST = 12
"""Matches of a pair of frames; 8 already have an epipolar geometry that fits them."""

HALF_PIXEL = 0.5
"""OpenCV counts from the centre of the first pixel, a manifest from its corner."""


def follow(gray_THW: Sequence[np.ndarray], first_frame: int) -> Matches | None:
    """Follow the first picture's corners as far as they tell something; None where too few are left, or none moves.

    Args:
        gray_THW: uint8 pictures of consecutive frames.
        first_frame: number of the first one in the clip.

    Raises:
        DataError: OpenCV is not installed.
    """
    cv2 = opencv()
    height_px, width_px = gray_THW[0].shape
    side_px = min(height_px, width_px)
    window = max(7, min(21, side_px // 8)) | 1
    corners = cv2.goodFeaturesToTrack(gray_THW[0], MAX_CORNERS, 0.01, max(3, side_px // 60))
    if corners is None:
        return None
    start_N2 = corners.reshape(-1, 2)
    here_N2, last = start_N2, 0
    follow_options = {"winSize": (window, window), "maxLevel": 3}
    for frame in range(1, len(gray_THW)):
        before, after = gray_THW[frame - 1], gray_THW[frame]
        there_N2, is_found, _ = cv2.calcOpticalFlowPyrLK(before, after, here_N2, None, **follow_options)
        back_N2, is_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there_N2, None, **follow_options)
        is_kept = (is_found[:, 0] == 1) & (is_back[:, 0] == 1)
        is_kept &= np.linalg.norm(back_N2 - here_N2, axis=1) < BACK_PX
        is_kept &= ((there_N2 >= 0) & (there_N2 <= (width_px - 1, height_px - 1))).all(axis=1)
        if is_kept.sum() < FEWEST:
            break
        start_N2, here_N2, last = start_N2[is_kept], there_N2[is_kept], frame
        moved_px = np.median(np.linalg.norm(here_N2 - start_N2, axis=1))
        if moved_px > FAR_SHARE * np.hypot(height_px, width_px):
            break
    if last == 0 or np.median(np.linalg.norm(here_N2 - start_N2, axis=1)) < 1:
        return None
    return Matches(
        first_frame_N=np.full(len(start_N2), first_frame),
        second_frame_N=np.full(len(start_N2), first_frame + last),
        first_px_N2=start_N2.astype(np.float64) + HALF_PIXEL,
        second_px_N2=here_N2.astype(np.float64) + HALF_PIXEL,
    )


def floor_px(matches: Matches) -> np.ndarray:
    """Return the Sampson error [N] of the best epipolar geometry of a pair of frames, whatever their cameras: what the
    corners' own errors come to. Of nothing that can be fitted it is empty."""
    cv2 = opencv()
    F_33, _ = cv2.findFundamentalMat(matches.first_px_N2, matches.second_px_N2, cv2.FM_LMEDS)
    if F_33 is None or F_33.shape != (3, 3):
        return np.zeros(0)
    one_N1 = np.ones((len(matches), 1))
    first_N3 = np.concatenate([matches.first_px_N2, one_N1], axis=1)
    second_N3 = np.concatenate([matches.second_px_N2, one_N1], axis=1)
    in_second_N3, in_first_N3 = first_N3 @ F_33.T, second_N3 @ F_33
    gradients_N4 = np.concatenate([in_second_N3[:, :2], in_first_N3[:, :2]], axis=1)
    return np.abs((second_N3 * in_second_N3).sum(axis=1)) / np.linalg.norm(gradients_N4, axis=1)


def opencv() -> Any:
    """Return OpenCV, which is no part of every installation."""
    try:
        import cv2
    except ImportError as error:
        raise DataError("following corners needs OpenCV; pip install 'cosmos-train[poses]'") from error
    return cv2
