"""Frames that do not fit in memory, in overlapping tiles: an approximation, whose error `tiling_error` measures.

Norms and attention see the pixels of a tile in the place of all of a frame's, and convolutions see zeros beyond its
edge: tiles differ from the whole, most so at their edges. Where two overlap, their weights go over linearly from one to
the other. Codes of a discrete tokenizer are not a thing to be mixed: there the tile counts whose edge is farther.

Nothing is tiled unless these functions are called. Time needs no tiles, see `CausalVideoTokenizer.encode_stream`.

B batch, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.model import CausalVideoTokenizer


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """How frames are taken apart: `side` latent rows and columns, of which neighbours share `overlap` or more."""

    side: int = 64
    overlap: int = 16

    def __post_init__(self) -> None:
        if not 0 <= 2 * self.overlap <= self.side or self.side < 1:
            raise TokenizerError(
                f"tiles of side={self.side} and overlap={self.overlap} latents are none; "
                f"use an overlap from 0 to {max(self.side // 2, 0)}, half the side"
            )

    def spans(self, length: int) -> list[tuple[int, int]]:
        """(begin, end) of the tiles along an axis; the last one ends with it and may overlap more."""
        if length <= self.side:
            return [(0, length)]
        starts = [*range(0, length - self.side, self.side - self.overlap), length - self.side]
        return [(start, start + self.side) for start in starts]


@dataclass(frozen=True, kw_only=True)
class TilingError:
    """How far tiled results are from whole ones: of latents or codes, and of pixels in -1 .. 1."""

    latent_max: float
    latent_rms: float
    pixel_max: float
    pixel_rms: float


@torch.no_grad()
def encode_tiled(model: CausalVideoTokenizer, video_B3THW: Tensor, tiles: Tiles) -> Tensor:
    """Roughly `model.encode(video)`, in the memory that one tile takes."""
    height, width = model.config.latent_size(*video_B3THW.shape[3:])
    mixed = model.config.kind == "continuous"
    return _in_tiles(model.encode, video_B3THW, (height, width), tiles, 1 / model.config.spatial_rate, mixed=mixed)


@torch.no_grad()
def decode_tiled(model: CausalVideoTokenizer, z_BCTHW: Tensor, tiles: Tiles) -> Tensor:
    """Roughly `model.decode(z)`, in the memory that one tile takes."""
    return _in_tiles(model.decode, z_BCTHW, tuple(z_BCTHW.shape[3:]), tiles, model.config.spatial_rate, mixed=True)


def tiling_error(model: CausalVideoTokenizer, video_B3THW: Tensor, tiles: Tiles) -> TilingError:
    """What tiling changes, on a video that fits whole: of encode, and of decode of the whole video's latents."""
    with torch.no_grad():
        z_BCTHW = model.encode(video_B3THW)
        latent = (encode_tiled(model, video_B3THW, tiles) - z_BCTHW).float()
        pixel = (decode_tiled(model, z_BCTHW, tiles) - model.decode(z_BCTHW)).float()
    return TilingError(
        latent_max=latent.abs().max().item(),
        latent_rms=latent.square().mean().sqrt().item(),
        pixel_max=pixel.abs().max().item(),
        pixel_rms=pixel.square().mean().sqrt().item(),
    )


def _in_tiles(
    run: Callable[[Tensor], Tensor],
    x_BCTHW: Tensor,
    latent_HW: tuple[int, ...],
    tiles: Tiles,
    scale: float,
    *,
    mixed: bool,
) -> Tensor:
    """run(x) by tiles; outputs have `scale` times as many rows and columns as inputs."""
    per_input = x_BCTHW.shape[3] // latent_HW[0]
    per_output = round(per_input * scale)
    rows, columns = ([slice(*span) for span in tiles.spans(length)] for length in latent_HW)
    row_weights, column_weights = (_weights(tiles.spans(side), per_output, mixed=mixed) for side in latent_HW)
    y_BCTHW = None
    for row, weights_H in zip(rows, row_weights, strict=True):
        for column, weights_W in zip(columns, column_weights, strict=True):
            tile_BCTHW = run(x_BCTHW[..., _times(row, per_input), _times(column, per_input)])
            if y_BCTHW is None:
                y_BCTHW = tile_BCTHW.new_zeros(*tile_BCTHW.shape[:3], len(weights_H), len(weights_W))
            area = _times(row, per_output), _times(column, per_output)
            weights_HW = weights_H[area[0]].unsqueeze(1) * weights_W[area[1]]
            y_BCTHW[(..., *area)] += tile_BCTHW * weights_HW.to(tile_BCTHW)
    assert y_BCTHW is not None
    return y_BCTHW


def _times(span: slice, factor: int) -> slice:
    return slice(span.start * factor, span.stop * factor)


def _weights(spans: list[tuple[int, int]], scale: int, *, mixed: bool) -> Tensor:
    """[tiles, outputs]: the distance from a tile's edge, as a part of the sum over tiles; or 1 for the farthest one."""
    spans_N2 = torch.tensor(spans, dtype=torch.float64) * scale
    places = torch.arange(spans[-1][1] * scale) + 0.5
    inside = torch.minimum(places - spans_N2[:, :1], spans_N2[:, 1:] - places).clamp_(min=0)
    if mixed:
        return inside / inside.sum(dim=0)
    return torch.zeros_like(inside).scatter_(0, inside.argmax(dim=0, keepdim=True), 1.0)
