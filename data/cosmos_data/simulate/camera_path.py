"""A free camera's smooth path through a room.

Places, headings and tilts are uniform cubic B-splines of random control points: acceleration is continuous, and a path
lies within the hull of its control points, so a camera whose control points are in a box never leaves the box. All is
made of + - * / and square roots, which IEEE 754 rounds in one way, and products are summed in a written order: the path
is the same bit for bit on every machine.
"""

import math

import numpy as np

from cosmos_data.simulate.config import RoomConfig
from cosmos_data.simulate.draws import Draws

Vectors = tuple[np.ndarray, ...]
"""x, y and z of vectors, one array each."""

MOST_PITCH = 0.35
"""Largest tilt of the camera up or down, as a tangent."""
MOST_ROLL = 0.15
"""Largest tilt of the camera to a side, as a tangent."""


def camera_path_T34(seed: int, config: RoomConfig, low_m: tuple[float, ...], high_m: tuple[float, ...]) -> np.ndarray:
    """Return camera-to-world poses [T, 3, 4] in OpenCV's axes; the world's z points up. Places are in metres.

    A longer path of the same seed begins as a shorter one does.

    Args:
        low_m: x, y and z of the lower corner of the box that the camera stays in; high_m: of its upper corner.
    """
    draws = Draws(seed, "camera path")
    num_knots = (config.num_frames - 1) // config.knot_frames + 4
    start = draws.uniform(5)
    shares = 2 * draws.uniform(num_knots, 6) - 1
    most_turn = round(math.tan(math.radians(config.turn_deg)), 9)  # rounded: no two libraries' tangents then differ

    place = [low + (high - low) * share for low, high, share in zip(low_m, high_m, start[:3].tolist(), strict=True)]
    heading = _unit_2d(2 * float(start[3]) - 1 + 1e-6, 2 * float(start[4]) - 1)
    knots = []
    for x, y, z, turn, pitch, roll in shares.tolist():
        knots.append([*place, *heading, MOST_PITCH * pitch, MOST_ROLL * roll])
        moved = [at + config.step_m * share for at, share in zip(place, (x, y, z), strict=True)]
        place = [_reflected(*bounds) for bounds in zip(moved, low_m, high_m, strict=True)]
        ahead, aside = heading, (heading[1], -heading[0])
        heading = _unit_2d(ahead[0] + most_turn * turn * aside[0], ahead[1] + most_turn * turn * aside[1])

    x, y, z, ahead_x, ahead_y, pitch, roll = _spline(np.array(knots), config.num_frames, config.knot_frames)
    length = np.sqrt(ahead_x * ahead_x + ahead_y * ahead_y)
    ahead_x, ahead_y = ahead_x / length, ahead_y / length
    ahead = _unit((ahead_x, ahead_y, pitch))
    up = (ahead_y * roll, -ahead_x * roll, np.ones_like(roll))
    right = _unit(_cross(ahead, up))
    down = _cross(ahead, right)
    columns = [np.stack(vectors, axis=1) for vectors in (right, down, ahead, (x, y, z))]
    return np.stack(columns, axis=2)


def _spline(knots_K7: np.ndarray, num_frames: int, knot_frames: int) -> tuple[np.ndarray, ...]:
    """Return each column of the knots at each frame, [T] each."""
    frames = np.arange(num_frames)
    first = frames // knot_frames
    u = (frames - first * knot_frames) / knot_frames
    weights = (
        (1 - u) * (1 - u) * (1 - u) / 6,
        (3 * u * u * u - 6 * u * u + 4) / 6,
        (3 * u * u + 3 * u + 1 - 3 * u * u * u) / 6,
        u * u * u / 6,
    )
    total = sum(weight[:, None] * knots_K7[first + number] for number, weight in enumerate(weights))
    return tuple(np.ascontiguousarray(column) for column in np.asarray(total).T)


def _reflected(value: float, low: float, high: float) -> float:
    """Turn a value back that went a little way beyond a bound; a longer way ends at the bound."""
    if value < low:
        return min(2 * low - value, high)
    return max(2 * high - value, low) if value > high else value


def _unit_2d(x: float, y: float) -> tuple[float, float]:
    length = math.sqrt(x * x + y * y)
    return x / length, y / length


def _unit(vectors: Vectors) -> Vectors:
    x, y, z = vectors
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


def _cross(a: Vectors, b: Vectors) -> Vectors:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
