"""How far a camera is from the path that was commanded, in degrees and as a share of how far it was to go.

Poses count relative to the first frame's, as a model is told them. Of a path whose unit is not known to the model (its
moves are scaled to each clip), the estimate is scaled to fit it best before translations are compared.

B clips, T frames.
"""

import numpy as np

from cosmos_data.geometry.poses import relative_to
from cosmos_data.geometry.rotations import angle_between_rad
from cosmos_train.evaluate.following.figure import Figure

NO_MOVE = 1e-9


def camera_figures(
    found_BT44: np.ndarray, found_in_true_BT44: np.ndarray, commanded_BT44: np.ndarray, *, is_scale_known: bool
) -> list[Figure]:
    """Return the median rotation error and the median translation error, over all frames but the first of all clips.

    Args:
        found_BT44: poses that were found again in generated frames, camera to world.
        found_in_true_BT44: those found in the true frames of the same clips.
        commanded_BT44: what the model was told; the clips' own, which true frames were taken with.
    """
    shuffled_BT44 = np.roll(commanded_BT44, 1, axis=0)
    rotations = [
        rotation_error_deg(found_BT44, commanded_BT44),
        rotation_error_deg(found_in_true_BT44, commanded_BT44),
        rotation_error_deg(found_BT44, shuffled_BT44),
    ]
    moves = [
        translation_error(found_BT44, commanded_BT44, is_scale_known=is_scale_known),
        translation_error(found_in_true_BT44, commanded_BT44, is_scale_known=is_scale_known),
        translation_error(found_BT44, shuffled_BT44, is_scale_known=is_scale_known),
    ]
    return [
        _figure("camera rotation error", rotations, len(found_BT44), "deg"),
        _figure("camera translation error, share of the move", moves, len(found_BT44), ""),
    ]


def rotation_error_deg(found_BT44: np.ndarray, commanded_BT44: np.ndarray) -> float:
    """Return the median angle between both, relative to the first frame."""
    errors = [
        angle_between_rad(_from_first(found)[1:, :3, :3], _from_first(commanded)[1:, :3, :3])
        for found, commanded in zip(found_BT44, commanded_BT44, strict=True)
    ]
    return float(np.degrees(np.median(errors)))


def translation_error(found_BT44: np.ndarray, commanded_BT44: np.ndarray, *, is_scale_known: bool) -> float:
    """Return the median distance of both places, as a share of the furthest that a clip's camera was to go; clips whose
    camera was to stay do not count, and NaN says that all were."""
    errors = list[np.ndarray]()
    for found_T44, commanded_T44 in zip(found_BT44, commanded_BT44, strict=True):
        found_T3, commanded_T3 = _from_first(found_T44)[:, :3, 3], _from_first(commanded_T44)[:, :3, 3]
        move = float(np.linalg.norm(commanded_T3, axis=1).max())
        if move < NO_MOVE:
            continue
        squares = float((found_T3 * found_T3).sum())
        if not is_scale_known and squares > 0:
            found_T3 = found_T3 * max(0.0, float((found_T3 * commanded_T3).sum())) / squares
        errors.append(np.linalg.norm(found_T3 - commanded_T3, axis=1)[1:] / move)
    return float(np.median(errors)) if errors else float("nan")


def _from_first(poses_T44: np.ndarray) -> np.ndarray:
    return relative_to(poses_T44, poses_T44[0])


def _figure(name: str, of_each: list[float], num_clips: int, unit: str) -> Figure:
    value, floor, ceiling = of_each
    return Figure(name=name, value=value, floor=floor, ceiling=ceiling, num_clips=num_clips, unit=unit)
