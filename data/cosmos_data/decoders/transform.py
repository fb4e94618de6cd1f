"""The picture's geometry, one implementation for every decoder: cut the box out, scale it to size, pad, mirror it.

On a CPU the result depends on nothing but its arguments; on a GPU it may differ by one level (scaling runs in float32).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from cosmos_data.errors import ClipError
from cosmos_data.manifests.clip import Clip
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.sample_plan.window import Box


def cut_and_scale(frames_THWC: Tensor, box: Box, height_px: int, width_px: int, *, flip: bool) -> Tensor:
    """Cut and scale uint8 [T, rows, columns, 3] to uint8 [3, T, height_px, width_px], bilinear with antialiasing."""
    frames_TCHW = frames_THWC[:, box.rows, box.columns].permute(0, 3, 1, 2)
    if (box.height_px, box.width_px) != (height_px, width_px):
        # CUDA scales floats only.
        source = frames_TCHW if frames_TCHW.device.type == "cpu" else frames_TCHW.float()
        scaled = interpolate(source, size=(height_px, width_px), mode="bilinear", antialias=True)
        frames_TCHW = scaled if scaled.dtype == torch.uint8 else scaled.round().clamp(0, 255).to(torch.uint8)
    if flip:
        frames_TCHW = frames_TCHW.flip(-1)
    return frames_TCHW.permute(1, 0, 2, 3)


def fit_frames(frames_THWC: Tensor, sample: Sample) -> Tensor:
    """Return the sample's part of whole pictures, at the sample's size: uint8 [3, T, H, W]."""
    check_size(frames_THWC.shape[1:3], sample.clip)
    return _fitted(frames_THWC, sample.box, sample)


def fit_picture(colours_HW: Sequence[np.ndarray], sample: Sample, window_3HW: np.ndarray) -> None:
    """Write `fit_frames` of the sample's box of one picture, whose colours lie apart, into a window. It is copied once
    where nothing is scaled."""
    box = replace(sample.box, top_px=0, left_px=0)
    if sample.inner is not None or (box.height_px, box.width_px) != (sample.height_px, sample.width_px):
        picture_1HWC = torch.from_numpy(np.stack(colours_HW).transpose(1, 2, 0))[None]
        window_3HW[:] = _fitted(picture_1HWC, box, sample)[:, 0].numpy()
        return
    for window_HW, colour_HW in zip(window_3HW, colours_HW, strict=True):
        window_HW[:] = colour_HW[:, :: -1 if sample.flip else 1]


def _fitted(frames_THWC: Tensor, box: Box, sample: Sample) -> Tensor:
    """box: where the sample's part lies in these frames."""
    if sample.inner is None:
        return cut_and_scale(frames_THWC, box, sample.height_px, sample.width_px, flip=sample.flip)
    inner = sample.inner
    scaled_3THW = cut_and_scale(frames_THWC, box, inner.height_px, inner.width_px, flip=sample.flip)
    return pad_by_reflection(scaled_3THW, inner, sample.height_px, sample.width_px)


def check_size(size_px: Sequence[int], clip: Clip) -> None:
    """Raise `ClipError` where a picture of this height and width, upright, is not of the size of the clip's."""
    height_px, width_px = size_px
    if (height_px, width_px) != (clip.height_px, clip.width_px):
        raise ClipError(f"{clip.path} is {width_px}x{height_px} px, the manifest says {clip.width_px}x{clip.height_px}")


def pad_by_reflection(scaled_3THW: Tensor, inner: Box, height_px: int, width_px: int) -> Tensor:
    """Return the picture at its place in the window, mirrored to and fro outside of it (the edge itself is not
    repeated)."""
    device = scaled_3THW.device
    rows = _reflected(torch.arange(height_px, device=device) - inner.top_px, inner.height_px)
    columns = _reflected(torch.arange(width_px, device=device) - inner.left_px, inner.width_px)
    return scaled_3THW[:, :, rows][:, :, :, columns]


def padding_mask(sample: Sample) -> Tensor:
    """Return bool [1, height_px, width_px], which is True where the window is padding."""
    mask = torch.zeros(1, sample.height_px, sample.width_px, dtype=torch.bool)
    if sample.inner is not None:
        mask.fill_(True)
        mask[:, sample.inner.rows, sample.inner.columns] = False
    return mask


def _reflected(places: Tensor, size: int) -> Tensor:
    """Return places in 0 .. size - 1 of places anywhere on the line."""
    if size == 1:
        return torch.zeros_like(places)
    folded = places.remainder(2 * (size - 1))
    return torch.minimum(folded, 2 * (size - 1) - folded)
