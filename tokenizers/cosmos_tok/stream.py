"""A video on its way through the network in pieces: what layers remember between them, and how pieces are cut.

B batch, C channels, T frames, H rows, W columns.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from cosmos_tok.config import TokenizerError


@dataclass(eq=False)
class Stream:
    """Passed through encoder or decoder with each piece of one video, in order and without gradients.

    The layers answer as if the pieces were one. `fast` lets them use `kernels`, which are for float32 on a CPU, and
    `winograd` the one of these that rounds more.
    """

    fast: bool
    winograd: bool = True
    begun: bool = False
    """Whether frame 0 is behind."""
    ends: bool = False
    """Whether this piece is known to be the last: nothing is kept for another."""
    frames: dict[nn.Module, Tensor] = field(default_factory=dict)
    """The last one or two frames that each temporal layer saw, [B, T, H, W, C]: of constant size."""
    history: dict[nn.Module, list[Tensor]] = field(default_factory=dict)
    """Each temporal attention's input, [B, C, T, H, W] a piece: it attends to all frames so far, so this grows."""
    weights: dict[nn.Module, tuple[Tensor, ...]] = field(default_factory=dict)
    """What resampling layers made of their weights, for the next piece."""

    def frames_before(self, layer: nn.Module, x_BCTHW: Tensor, *, keep: int) -> list[Tensor]:
        """`keep` frames [B, C, H, W] before x, or frame 0 twice where x begins the video; keeps x's last ones."""
        before = [x_BCTHW[:, :, 0]] * 2
        if self.begun:
            kept = [frame_BHWC.permute(0, 3, 1, 2) for frame_BHWC in self.frames.pop(layer).unbind(1)]
            before = kept * keep if len(kept) == 1 else kept
        if self.ends:
            return before
        only_frame_0 = not self.begun and x_BCTHW.shape[2] == 1  # and its repetitions: one is enough
        last = [*before, *x_BCTHW.unbind(2)][-1 if only_frame_0 else -keep :]
        frames_BTHWC = [frame_BCHW.permute(0, 2, 3, 1) for frame_BCHW in last]
        self.frames[layer] = torch.stack(frames_BTHWC, dim=1)  # a copy: a view would keep all of x alive
        return before


def pieces(chunks: Iterable[Tensor], *, group: int, pixels: int, count: Callable[[int], int]) -> Iterator[Tensor]:
    """Chunks [B, C, t, H, W] of any lengths, cut anew: the lone frame 0 and then whole groups of `group` frames.

    A piece has no more groups than fill `pixels`, B T H W, but at least one; frame 0 counts as one. What a chunk leaves
    of a group waits for the next chunk. TokenizerError for a chunk whose other sides are not those of the first, and
    what `count` raises for the number of all frames if some are left in the end.
    """
    shape, rest, total, begun = None, None, 0, False
    for chunk_BCTHW in chunks:
        batch, channels, _, height, width = chunk_BCTHW.shape
        shape = shape or (batch, channels, height, width)
        if shape != (batch, channels, height, width):
            raise TokenizerError(
                f"a chunk has {(batch, channels, height, width)} in B, C, H and W, but the first one had {shape}; "
                f"begin a new stream for another video"
            )
        most = max(1, pixels // (batch * height * width * group))
        total += chunk_BCTHW.shape[2]
        rest = chunk_BCTHW if rest is None else torch.cat([rest, chunk_BCTHW], dim=2)
        while groups := min((rest.shape[2] if begun else rest.shape[2] - 1 + group) // group, most):
            length = groups * group if begun else 1 + (groups - 1) * group
            begun = True
            yield rest[:, :, :length]
            rest = rest[:, :, length:]
    if rest is None or rest.shape[2]:
        count(total)
