"""How far a camera is from the path that was commanded, in degrees and as a share of how far it was to go; whether a
way back leads back, and whether a way that is twice as long goes twice as far.

Poses count relative to the first frame's, as a model is told them. Of a path whose unit is not known to the model (its
moves are scaled to each clip), the estimate is scaled to fit it best before translations are compared.

B clips, T frames, H W pixels.
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


# There and back


def there_and_back(poses_T44: np.ndarray) -> np.ndarray:
    """Return a path of as many frames that goes along the first half of a path and back again: its last pose is its
    first."""
    num_frames = len(poses_T44)
    return poses_T44[[min(frame, num_frames - 1 - frame) for frame in range(num_frames)]]


def return_figure(found_BTHW3: np.ndarray, true_BTHW3: np.ndarray) -> Figure:
    """Return how far the last view of a path there and back is from the first one, in levels of 0 to 255.

    Its ceiling is how far the view at the turn, another place, is from the first one: a model that stands still has
    none.

    Args:
        found_BTHW3: generated frames of paths that `there_and_back` has made.
        true_BTHW3: the true frames of these paths.
    """
    return Figure(
        name="view after a way there and back",
        value=_view_change(found_BTHW3, -1),
        floor=_view_change(true_BTHW3, -1),
        ceiling=_view_change(found_BTHW3, found_BTHW3.shape[1] // 2),
        num_clips=len(found_BTHW3),
        unit="levels",
    )


def _view_change(clips_BTHW3: np.ndarray, frame: int) -> float:
    """Return how far a frame is from the first one, mean over pixels, median over clips."""
    changes_BHW3 = np.abs(clips_BTHW3[:, frame].astype(np.float64) - clips_BTHW3[:, 0])
    return float(np.median(changes_BHW3.mean(axis=(1, 2, 3))))


# Twice as far


def with_moves(poses_T44: np.ndarray, factor: float) -> np.ndarray:
    """Return a path that turns as another one does and moves `factor` times as far from the first pose."""
    scaled_T44 = poses_T44.copy()
    scaled_T44[:, :3, 3] = poses_T44[0, :3, 3] + factor * (poses_T44[:, :3, 3] - poses_T44[0, :3, 3])
    return scaled_T44


def doubled_figure(
    found_BT44: np.ndarray,
    found_of_double_BT44: np.ndarray,
    true_BT44: np.ndarray,
    true_of_double_BT44: np.ndarray,
    commanded_BT44: np.ndarray,
) -> Figure:
    """Return how many times as far a camera goes where it is told to go twice as far: 2 where it does, 1 where the
    length of a way is not followed.

    Moves count along the commanded ones, so errors of the poses to either side cancel out. The ceiling has the two
    commands of every second clip exchanged.

    Args:
        found_BT44, found_of_double_BT44: poses found in generated frames of each path, and of the same with twice the
            moves.
        true_BT44, true_of_double_BT44: those found in the true frames.
        commanded_BT44: the paths with the single moves.

    Raises:
        ValueError: there is one clip alone, of which none can be exchanged.
    """
    if len(found_BT44) < 2:
        raise ValueError(f"{len(found_BT44)} clips leave nothing to exchange every second one with; give two or more")
    is_exchanged_B = (np.arange(len(found_BT44)) % 2 == 1)[:, None, None, None]
    return Figure(
        name="move under twice the command, in moves under the command",
        value=_ratio_of_moves(found_of_double_BT44, found_BT44, commanded_BT44),
        floor=_ratio_of_moves(true_of_double_BT44, true_BT44, commanded_BT44),
        ceiling=_ratio_of_moves(
            np.where(is_exchanged_B, found_BT44, found_of_double_BT44),
            np.where(is_exchanged_B, found_of_double_BT44, found_BT44),
            commanded_BT44,
        ),
        num_clips=len(found_BT44),
    )


def _ratio_of_moves(longer_BT44: np.ndarray, shorter_BT44: np.ndarray, along_BT44: np.ndarray) -> float:
    """Return how many times as far the longer moves go along the commanded ones; NaN where the shorter do not go."""
    longer, shorter = _share_moved(longer_BT44, along_BT44), _share_moved(shorter_BT44, along_BT44)
    return longer / shorter if shorter > NO_MOVE else float("nan")


def _share_moved(found_BT44: np.ndarray, commanded_BT44: np.ndarray) -> float:
    """Return the slope of found moves over commanded ones, by least squares, mean over the clips that were to move."""
    slopes = list[float]()
    for found_T44, commanded_T44 in zip(found_BT44, commanded_BT44, strict=True):
        found_T3, commanded_T3 = _from_first(found_T44)[:, :3, 3], _from_first(commanded_T44)[:, :3, 3]
        squares = float((commanded_T3 * commanded_T3).sum())
        if squares > NO_MOVE:
            slopes.append(float((found_T3 * commanded_T3).sum()) / squares)
    return sum(slopes) / len(slopes) if slopes else float("nan")


def _from_first(poses_T44: np.ndarray) -> np.ndarray:
    return relative_to(poses_T44, poses_T44[0])


def _figure(name: str, of_each: list[float], num_clips: int, unit: str) -> Figure:
    value, floor, ceiling = of_each
    return Figure(name=name, value=value, floor=floor, ceiling=ceiling, num_clips=num_clips, unit=unit)
