"""Finds where a thing of one colour is in a picture, and says whether it went where it was to go.

Places are in pixels, x to the right and y downwards, from the picture's upper left corner. A thing that is not seen
counts as one that has stayed where it was last seen, so losing it is no way to pass.

B clips, T frames, N things.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cosmos_train.evaluate.following.figure import Figure

TOLERANCE = 110.0
"""Distance of two colours, of 0 to 255 a channel, from which on a pixel is none of the thing's."""
LEAST_PIXELS = 1.0
"""A thing of less than this, in whole pixels of its colour, is not seen."""


def places_of_color(pictures_THW3: np.ndarray, color_rgb: Sequence[int]) -> np.ndarray:
    """Return the centre [T, 2] of what has a colour in uint8 pictures: each pixel counts by how near its colour is."""
    distance_THW = np.linalg.norm(pictures_THW3.astype(np.float64) - color_rgb, axis=-1)
    weight_THW = np.clip(1 - distance_THW / TOLERANCE, 0, 1) ** 2
    total_T = weight_THW.sum(axis=(1, 2))
    x_W, y_H = np.arange(pictures_THW3.shape[2]) + 0.5, np.arange(pictures_THW3.shape[1]) + 0.5
    places_T2 = np.stack(((weight_THW * x_W).sum(axis=(1, 2)), (weight_THW * y_H[:, None]).sum(axis=(1, 2))), axis=1)
    places_T2 /= np.maximum(total_T, 1e-9)[:, None]
    last = np.array([np.nan, np.nan])
    for frame, is_seen in enumerate(total_T >= LEAST_PIXELS):
        last = places_T2[frame] if is_seen else last
        places_T2[frame] = last
    return places_T2


def place_figures(found_BT2: np.ndarray, found_in_true_BT2: np.ndarray, commanded_BT2: np.ndarray) -> list[Figure]:
    """Return correlation, slope and median error of how far a thing has gone since the first frame, for each axis.

    Args:
        found_BT2: places in generated frames.
        found_in_true_BT2: places in the true frames of the same commands.
        commanded_BT2: where the commands lead.
    """
    ways = [_way(places_BT2) for places_BT2 in (found_BT2, found_in_true_BT2, commanded_BT2)]
    measures: list[tuple[str, str, Callable[[np.ndarray, np.ndarray], float]]] = [
        ("correlation", "", correlation),
        ("slope", "", slope),
        ("error", "px", median_error),
    ]
    figures = list[Figure]()
    for name, unit, measure in measures:
        for axis in (0, 1):
            found, true, commanded = (way[..., axis] for way in ways)
            figures.append(
                Figure(
                    name=f"place {name} in {'xy'[axis]}",
                    value=measure(found, commanded),
                    floor=measure(true, commanded),
                    ceiling=measure(found, np.roll(commanded, 1, axis=0)),
                    num_clips=len(found),
                    unit=unit,
                )
            )
    return figures


def correlation(found: np.ndarray, commanded: np.ndarray) -> float:
    """Return Pearson's r; 0 where one of both never changes."""
    if min(np.std(found), np.std(commanded)) < 1e-9:
        return 0.0
    return float(np.corrcoef(found.ravel(), commanded.ravel())[0, 1])


def slope(found: np.ndarray, commanded: np.ndarray) -> float:
    """Return by how much more is found where 1 more is commanded, by least squares."""
    about_mean = commanded - commanded.mean()
    return float((about_mean * (found - found.mean())).sum() / max(float((about_mean * about_mean).sum()), 1e-12))


def median_error(found: np.ndarray, commanded: np.ndarray) -> float:
    """Return the median distance of both."""
    return float(np.median(np.abs(found - commanded)))


def still_figure(still_BT2: np.ndarray, true_still_BT2: np.ndarray, moving_BT2: np.ndarray) -> Figure:
    """Return how far a thing is from its first place where the command is to do nothing, median of frames and clips.

    Places say it, and not pixels, of which each has a little noise in decoded frames.

    Args:
        still_BT2: places in generated frames; true_still_BT2: in true ones.
        moving_BT2: places in generated frames under other commands: the ceiling.
    """
    value, floor, ceiling = (
        float(np.median(np.linalg.norm(_way(places_BT2), axis=-1)))
        for places_BT2 in (still_BT2, true_still_BT2, moving_BT2)
    )
    return Figure(
        name="way under no action", value=value, floor=floor, ceiling=ceiling, num_clips=len(still_BT2), unit="px"
    )


def movement_figure(moving_BTHW3: np.ndarray, true_BTHW3: np.ndarray, still_BTHW3: np.ndarray) -> Figure:
    """Return how far generated pictures move where the commands are to move something, median of clips; still pictures
    follow nothing.

    Args:
        true_BTHW3: the true frames of the same commands.
        still_BTHW3: generated frames under no command, or frames that repeat the first one: the ceiling.
    """
    value, floor, ceiling = (
        float(np.median([shift_px(pictures_THW3) for pictures_THW3 in clips]))
        for clips in (moving_BTHW3, true_BTHW3, still_BTHW3)
    )
    return Figure(
        name="movement under commands",
        value=value,
        floor=floor,
        ceiling=ceiling,
        num_clips=len(moving_BTHW3),
        unit="px",
    )


def shift_px(pictures_THW3: np.ndarray) -> float:
    """Return how far the edges of pictures have moved since the first frame, mean over the others.

    Where an edge of slope g moves by d, the grey changes by g d: so the sum of changes by the sum of slopes is how far
    edges moved (the brightness constancy of Horn and Schunck 1981, summed over a picture).
    """
    grey_THW = pictures_THW3.astype(np.float64).mean(axis=-1)
    down_HW, right_HW = np.gradient(grey_THW[0])
    slopes = float(np.hypot(down_HW, right_HW).sum())
    changes_T = np.abs(grey_THW[1:] - grey_THW[0]).sum(axis=(1, 2))
    return float(changes_T.mean()) / max(slopes, 1e-9)


# What the result of one command says of another


def counterfactual_figure(found: np.ndarray, found_in_true: np.ndarray, own: np.ndarray, other: np.ndarray) -> Figure:
    """Return how many times further what was made under a command is from where another command leads, of one first
    frame, than from where its own leads: 1 where no command is followed.

    Args:
        found: what is found in generated frames, clips first, of any shape: places, poses or the pictures themselves.
        found_in_true: the same found in true frames of each clip's own command.
        own, other: where the own command and the other one lead.
    """
    return Figure(
        name="error to the other command, in errors to the own",
        value=_ratio(found, own, other),
        floor=_ratio(found_in_true, own, other),
        ceiling=_ratio(found, np.roll(own, 1, axis=0), np.roll(other, 1, axis=0)),
        num_clips=len(found),
    )


def _ratio(found: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    to_other, to_own = (np.abs(found - led).reshape(len(found), -1).mean(axis=1) for led in (other, own))
    return float(np.median(to_other) / max(float(np.median(to_own)), 1e-9))


# Which of two tasks was carried out


@dataclass(frozen=True, slots=True)
class Task:
    """A thing is to be moved in a direction."""

    thing: int
    direction_xy: tuple[float, float]


def instruction_figure(
    found_BTN2: np.ndarray, found_in_true_BTN2: np.ndarray, tasks: Sequence[Task], others: Sequence[Task]
) -> Figure:
    """Return the share of clips in which the task that was asked for was carried out, and not the other.

    Args:
        found_BTN2: places of each thing in generated frames; found_in_true_BTN2: in true ones.
        tasks: what each clip was asked for.
        others: of each, what could have been asked for of the same first frame.
    """
    pairs = list(zip(tasks, others, strict=True))
    every_second_other = list(pairs)
    for number in range(1, len(pairs), 2):
        every_second_other[number] = (others[number], tasks[number])
    return Figure(
        name="right task of two",
        value=_share_right(found_BTN2, pairs),
        floor=_share_right(found_in_true_BTN2, pairs),
        ceiling=_share_right(found_BTN2, every_second_other),
        num_clips=len(tasks),
    )


def _share_right(found_BTN2: np.ndarray, pairs: Sequence[tuple[Task, Task]]) -> float:
    is_right = [
        _done(places_TN2, task) > _done(places_TN2, other)
        for places_TN2, (task, other) in zip(found_BTN2, pairs, strict=True)
    ]
    return sum(is_right) / len(is_right)


def _done(places_TN2: np.ndarray, task: Task) -> float:
    """Return how far the task's thing went in its direction."""
    return float((places_TN2[-1, task.thing] - places_TN2[0, task.thing]) @ task.direction_xy)


def _way(places_BT2: np.ndarray) -> np.ndarray:
    """Return [B, T - 1, 2], how far each frame's place is from the first one's."""
    return places_BT2[:, 1:] - places_BT2[:, :1]
