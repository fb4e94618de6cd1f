"""What steered a video is drawn onto its frames: the camera's path as seen from above, and the actions.

Frame k shows where the camera is at frame k, and the action that begins at frame k and leads to the next one; the last
frame, from which nothing follows, shows none. A small video is enlarged, since a drawing needs pixels.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cosmos_data.geometry.poses import camera_to_world_T44, relative_to
from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.sample_plan.window_conditions import WindowConditions

LEAST_SIDE_PX = 256
"""The shorter side of a picture that is drawn onto; smaller ones are enlarged by a whole factor."""
PANEL_SHARE = 0.3
"""Side of a drawing, as a share of the picture's shorter side."""
MARGIN_PX = 6
TEXT_PX = 10
BACKGROUND_RGB, BACKGROUND_SHARE = (0, 0, 0), 0.55
PATH_RGB, DONE_RGB, NOW_RGB, TEXT_RGB = (150, 150, 150), (90, 200, 255), (255, 210, 60), (240, 240, 240)
PLANE, DOWNWARDS = ("x", "y"), "y down"
"""Actions of these names alone are drawn as an arrow where their frame of reference says that y is counted downwards,
as pixels are; elsewhere y may be upwards, or away."""


def draw_conditions(video_3THW: Tensor, conditions: WindowConditions, *, fps: float) -> Tensor:
    """Return the video, uint8 [3, T, H', W'], with its camera's path at the lower left and its actions at the right.

    Args:
        video_3THW: uint8; conditions are as long, and fps are its frames per second.
    """
    frames_THW3 = enlarged(video_3THW).permute(1, 2, 3, 0).contiguous().numpy().copy()
    side_px = int(min(frames_THW3.shape[1:3]) * PANEL_SHARE)
    num_frames = len(frames_THW3)
    if conditions.camera is not None:
        places_T2, headings_T2 = _seen_from_above(conditions.camera, num_frames)
        for number, frame_HW3 in enumerate(frames_THW3):
            panel = _panel(side_px, side_px)
            _draw_path(panel, places_T2, headings_T2, number)
            _put(frame_HW3, panel, left_px=MARGIN_PX)
    if conditions.action is not None:
        action, largest_D = conditions.action, np.abs(conditions.action.values_ND()).max(axis=0)
        for number, frame_HW3 in enumerate(frames_THW3[:-1]):
            step = min(int(number * action.rate_hz / fps + 1e-6), len(action.values_ND()) - 1)
            panel = _action_panel(action, action.values_ND()[step], largest_D, side_px)
            _put(frame_HW3, panel, left_px=frame_HW3.shape[1] - panel.width - MARGIN_PX)
    return torch.from_numpy(frames_THW3).permute(3, 0, 1, 2).contiguous()


def enlarged(video_3THW: Tensor) -> Tensor:
    """Return the video with pixels repeated until its shorter side has LEAST_SIDE_PX."""
    factor = math.ceil(LEAST_SIDE_PX / min(video_3THW.shape[2:]))
    return video_3THW.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)


def _panel(width_px: int, height_px: int) -> Image.Image:
    return Image.new("RGBA", (width_px, height_px), (*BACKGROUND_RGB, round(255 * BACKGROUND_SHARE)))


def _put(frame_HW3: np.ndarray, panel: Image.Image, *, left_px: int) -> None:
    """Draw a panel into the frame, above its lower edge; what does not fit is cut off."""
    picture = Image.fromarray(frame_HW3)
    picture.paste(panel, (left_px, picture.height - panel.height - MARGIN_PX), panel)
    frame_HW3[:] = np.asarray(picture)


# The camera


def _seen_from_above(camera: Camera, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places and headings [T, 2] in the first frame's axes: to the right, and ahead."""
    poses_T44 = camera_to_world_T44(camera, num_frames)
    relative_T44 = relative_to(poses_T44, poses_T44[0])
    return relative_T44[:, [0, 2], 3], relative_T44[:, [0, 2], 2]


def _draw_path(panel: Image.Image, places_T2: np.ndarray, headings_T2: np.ndarray, number: int) -> None:
    lowest, highest = places_T2.min(axis=0), places_T2.max(axis=0)
    extent = float((highest - lowest).max())
    room_px = panel.width * 0.55  # around the path, for the heading
    scale = room_px / extent if extent > 1e-9 else 0.0
    # Ahead is up, and pixels are counted downwards.
    pixels_T2 = panel.width / 2 + (places_T2 - (lowest + highest) / 2) * scale * (1, -1)
    path = [tuple(point) for point in pixels_T2.tolist()]
    draw = ImageDraw.Draw(panel)
    draw.line(path, fill=PATH_RGB, width=1)
    draw.line(path[: number + 1], fill=DONE_RGB, width=2)
    heading = headings_T2[number] / max(float(np.linalg.norm(headings_T2[number])), 1e-9) * (1, -1)
    _draw_arrow(draw, pixels_T2[number], pixels_T2[number] + heading * panel.width * 0.18)
    dot = np.concatenate((pixels_T2[number] - 2.5, pixels_T2[number] + 2.5))
    draw.ellipse(dot.tolist(), fill=NOW_RGB)


def _draw_arrow(draw: ImageDraw.ImageDraw, start_2: np.ndarray, end_2: np.ndarray) -> None:
    draw.line([*start_2.tolist(), *end_2.tolist()], fill=NOW_RGB, width=2)
    along_2 = end_2 - start_2
    length = float(np.linalg.norm(along_2))
    if length < 1:
        return
    along_2 = along_2 / length
    across_2, head_px = along_2[::-1] * (-1, 1), min(6.0, length)
    corners = (end_2, end_2 - along_2 * head_px + across_2 * 3, end_2 - along_2 * head_px - across_2 * 3)
    draw.polygon([tuple(corner.tolist()) for corner in corners], fill=NOW_RGB)


# Actions


def _action_panel(action: Action, values_D: np.ndarray, largest_D: np.ndarray, side_px: int) -> Image.Image:
    if action.names == PLANE and DOWNWARDS in action.frame_of_reference:
        panel = _panel(side_px, side_px)
        middle_2 = np.array([side_px / 2, side_px / 2])
        reach = values_D / max(float(largest_D.max()), 1e-9) * side_px * 0.42
        draw = ImageDraw.Draw(panel)
        draw.ellipse([*(middle_2 - 1.5).tolist(), *(middle_2 + 1.5).tolist()], fill=TEXT_RGB)
        _draw_arrow(draw, middle_2, middle_2 + reach)
        return panel
    return _bars(action.names, values_D, largest_D, width_px=int(side_px * 1.4))


def _bars(names: Sequence[str], values_D: np.ndarray, largest_D: np.ndarray, *, width_px: int) -> Image.Image:
    """Return a line for each dimension: its name, and a bar from the middle to either side, longest at its largest."""
    line_px, font = TEXT_PX + 3, ImageFont.load_default(TEXT_PX)
    panel = _panel(width_px, line_px * len(names) + 4)
    draw, middle_px, room_px = ImageDraw.Draw(panel), width_px * 0.72, width_px * 0.26
    for line, (name, value, largest) in enumerate(zip(names, values_D, largest_D, strict=True)):
        top_px = 2 + line * line_px
        draw.text((3, top_px), f"{name} {value:+.2g}", fill=TEXT_RGB, font=font)
        reach_px = float(value) / max(float(largest), 1e-9) * room_px
        left_px, right_px = sorted((middle_px, middle_px + reach_px))
        draw.line([middle_px, top_px, middle_px, top_px + line_px - 2], fill=PATH_RGB)
        draw.rectangle([left_px, top_px + 3, right_px, top_px + line_px - 4], fill=NOW_RGB)
    return panel
