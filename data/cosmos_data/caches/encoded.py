"""A window as a world model is trained on it: what a tokenizer and a text encoder made of it, and what is known of it.

It is the same whether it was read from a latent cache or encoded a moment ago.

Letters: C latent channels; T, H, W latent frames, rows, columns; S text tokens; E width of a text state.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from cosmos_data.manifests.clip import Split
from cosmos_data.sample_plan.plan import Sample
from cosmos_data.sample_plan.window_conditions import WindowConditions, conditions_of


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownWindow:
    """What is known of a window without its latents."""

    clip_id: str
    start_frame: int
    """First frame, counted from the first frame of the file that holds the clip."""
    split: Split
    caption: str
    """Of the window's own frames."""
    fps: float
    """Frames per second of the window, its stride counted in."""
    inner_px: tuple[int, int, int, int] | None
    """Top, left, height and width of the picture in a window that has padding around it; None: no padding."""
    conditions: WindowConditions
    """Camera, actions and path, cut and transformed to the window."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedWindow(KnownWindow):
    """All of a window."""

    z_CTHW: Tensor
    """Latents, not whitened; or codes, with C = 1."""
    padding_1HW: Tensor
    """1 where a latent cell is padding."""
    text_SE: Tensor
    """States of the caption; zeros may follow those of its tokens."""

    @classmethod
    def of(cls, known: KnownWindow, *, z_CTHW: Tensor, text_SE: Tensor, size_px: tuple[int, int]) -> "EncodedWindow":
        """Return the window of these tensors. size_px: height and width of the window."""
        padding_1HW = padding_cells(known.inner_px, z_CTHW.shape[2:], size_px)
        values = {field.name: getattr(known, field.name) for field in fields(known)}
        return cls(**values, z_CTHW=z_CTHW, text_SE=text_SE, padding_1HW=padding_1HW)


def known_of(sample: Sample) -> KnownWindow:
    """Return what the plan says of a window. Raises DataError where its clip's conditions are impossible."""
    inner = sample.inner
    return KnownWindow(
        clip_id=sample.clip.clip_id,
        start_frame=sample.start_frame,
        split=sample.clip.split,
        caption=sample.caption,
        fps=sample.fps,
        inner_px=None if inner is None else (inner.top_px, inner.left_px, inner.height_px, inner.width_px),
        conditions=conditions_of(sample),
    )


def padding_cells(
    inner_px: tuple[int, int, int, int] | None, latent_HW: Sequence[int], window_px: tuple[int, int]
) -> Tensor:
    """Return [1, H, W], 1 at padding: the pixels' mask at every cell's upper left corner, as torch's `nearest` takes
    it.

    inner_px: top, left, height and width of the picture in the window; window_px: height and width of that.
    """
    height, width = latent_HW
    if inner_px is None:
        return torch.zeros(1, height, width)
    top, left, inner_height, inner_width = inner_px
    rows_px = torch.arange(height) * window_px[0] // height
    columns_px = torch.arange(width) * window_px[1] // width
    is_row = (rows_px >= top) & (rows_px < top + inner_height)
    is_column = (columns_px >= left) & (columns_px < left + inner_width)
    return (~(is_row[:, None] & is_column)).float()[None]
