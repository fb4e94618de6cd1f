"""The picture's geometry, one implementation for every decoder: cut the box out, scale it to size, pad, mirror it.

On a CPU the result depends on nothing but its arguments; on a GPU it may differ by one level (scaling runs in float32).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cosmos_data.clip import Clip
from cosmos_data.errors import ClipError
from cosmos_data.plan import Sample
from cosmos_data.window import Box


def cut_and_scale(frames_THWC: Tensor, box: Box, height_px: int, width_px: int, *, flip: bool) -> Tensor:
    """uint8 [T, rows, columns, 3] -> uint8 [3, T, height_px, width_px], bilinear with antialiasing."""
    rows = slice(box.top_px, box.top_px + box.height_px)
    columns = slice(box.left_px, box.left_px + box.width_px)
    frames_TCHW = frames_THWC[:, rows, columns].permute(0, 3, 1, 2)
    if (box.height_px, box.width_px) != (height_px, width_px):
        # CUDA scales floats only.
        source = frames_TCHW if frames_TCHW.device.type == "cpu" else frames_TCHW.float()
        scaled = interpolate(source, size=(height_px, width_px), mode="bilinear", antialias=True)
        frames_TCHW = scaled if scaled.dtype == torch.uint8 else scaled.round().clamp(0, 255).to(torch.uint8)
    if flip:
        frames_TCHW = frames_TCHW.flip(-1)
    return frames_TCHW.permute(1, 0, 2, 3)


def fit_frames(frames_THWC: Tensor, sample: Sample) -> Tensor:
    """The sample's part of whole pictures, at the sample's size: uint8 [3, T, H, W]."""
    _check_size(frames_THWC.shape[1:3], sample.clip)
    if sample.inner is None:
        return cut_and_scale(frames_THWC, sample.box, sample.height_px, sample.width_px, flip=sample.flip)
    inner = sample.inner
    scaled_3THW = cut_and_scale(frames_THWC, sample.box, inner.height_px, inner.width_px, flip=sample.flip)
    return pad_by_reflection(scaled_3THW, inner, sample.height_px, sample.width_px)


def fit_picture(colours_HW: Sequence[np.ndarray], sample: Sample, window_3HW: np.ndarray) -> None:
    """`fit_frames` of one picture whose colours lie apart, into a window. It is copied once where nothing is scaled."""
    box = sample.box
    if sample.inner is not None or (box.height_px, box.width_px) != (sample.height_px, sample.width_px):
        picture_1HWC = torch.from_numpy(np.stack(colours_HW).transpose(1, 2, 0))[None]
        window_3HW[:] = fit_frames(picture_1HWC, sample)[:, 0].numpy()
        return
    _check_size(colours_HW[0].shape, sample.clip)
    rows = slice(box.top_px, box.top_px + box.height_px)
    columns = slice(box.left_px, box.left_px + box.width_px)
    for window_HW, colour_HW in zip(window_3HW, colours_HW, strict=True):
        window_HW[:] = colour_HW[rows, columns][:, :: -1 if sample.flip else 1]


def _check_size(size_px: Sequence[int], clip: Clip) -> None:
    height_px, width_px = size_px
    if (height_px, width_px) != (clip.height_px, clip.width_px):
        raise ClipError(f"{clip.path} is {width_px}x{height_px} px, the manifest says {clip.width_px}x{clip.height_px}")


def pad_by_reflection(scaled_3THW: Tensor, inner: Box, height_px: int, width_px: int) -> Tensor:
    """The picture at its place in the window, mirrored to and fro outside of it (the edge itself is not repeated)."""
    device = scaled_3THW.device
    rows = _reflected(torch.arange(height_px, device=device) - inner.top_px, inner.height_px)
    columns = _reflected(torch.arange(width_px, device=device) - inner.left_px, inner.width_px)
    return scaled_3THW[:, :, rows][:, :, :, columns]


def padding_mask(sample: Sample) -> Tensor:
    """bool [1, height_px, width_px]: True where the window is padding."""
    mask = torch.zeros(1, sample.height_px, sample.width_px, dtype=torch.bool)
    if sample.inner is not None:
        inner = sample.inner
        mask.fill_(True)
        rows = slice(inner.top_px, inner.top_px + inner.height_px)
        mask[:, rows, inner.left_px : inner.left_px + inner.width_px] = False
    return mask


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places in 0 .. size - 1 of places anywhere on the line."""
    if size == 1:
        return torch.zeros_like(places)
    folded = places.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)
