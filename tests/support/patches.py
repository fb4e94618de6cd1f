"""A picture of plain colours, and what any player makes of a video of it that believes its tags."""

from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200), (230, 220, 60), (16, 16, 16), (235, 235, 235))
COLOURS += ((255, 0, 0), (0, 255, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (255, 0, 255))
LUMA_WEIGHTS = {1: (0.2126, 0.7152, 0.0722), 5: (0.299, 0.587, 0.114), 6: (0.299, 0.587, 0.114)}
"""Red, green, blue of ITU-R BT.709 and BT.601, by FFmpeg's number of the matrix."""


def patches(height_px: int, width_px: int, num_frames: int = 2) -> Tensor:
    """uint8 [3, T, H, W]: COLOURS side by side."""
    columns = torch.arange(width_px) * len(COLOURS) // width_px
    picture_3W = torch.tensor(COLOURS, dtype=torch.uint8)[columns].T
    return picture_3W[:, None, None].expand(3, num_frames, height_px, width_px).contiguous()


def centres(picture_3HW: Tensor) -> Tensor:
    """[colours, 3]: the middle of each patch, without its edges."""
    height, width = picture_3HW.shape[1:]
    rows = slice(height // 4, height // 4 + 4)
    places = [round((index + 0.5) * width / len(COLOURS)) for index in range(len(COLOURS))]
    return torch.stack([picture_3HW[:, rows, x - 1 : x + 2].float().mean(dim=(1, 2)) for x in places])


def shown(path: Path) -> Tensor:
    """uint8 [3, H, W] of the first frame, by the formulas of ITU-R BT.709 and BT.601 and the file's tags."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        full_range, matrix = frame.color_range == 2, frame.colorspace
        y, u, v = frame.to_ndarray(format="yuvj444p" if full_range else "yuv444p").astype(np.float64)
    black, luma, chroma = (0, 1.0, 1.0) if full_range else (16, 255 / 219, 255 / 224)
    y, u, v = (y - black) * luma, (u - 128) * chroma, (v - 128) * chroma
    red, green, blue = LUMA_WEIGHTS[matrix]
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / green
    return torch.from_numpy(np.stack([r, g, b]).round().clip(0, 255).astype(np.uint8))


def tags(path: Path) -> tuple[int, int, int, int]:
    """Matrix, range, primaries and transfer of the first frame, as FFmpeg numbers them; 2 is unspecified."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        return frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
