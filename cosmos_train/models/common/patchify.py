"""Latents to tokens and back. The two orders inside a patch differ, as they do in the released models.

In:  (c, p_h, p_w), channel outermost. Out: (p_h, p_w, c), channel innermost.
Tokens are [L, B, ...] with L = T * H/p * W/p, time outermost.
"""

from torch import Tensor


def patchify(x_BCTHW: Tensor, patch: int) -> Tensor:
    """[B, C, T, H, W] -> [L, B, C * patch * patch]."""
    b, c, t, h, w = x_BCTHW.shape
    x = x_BCTHW.reshape(b, c, t, h // patch, patch, w // patch, patch)
    return x.permute(2, 3, 5, 0, 1, 4, 6).reshape(t * (h // patch) * (w // patch), b, c * patch * patch)


def unpatchify(x_LBP: Tensor, patch: int, grid_THW: tuple[int, int, int]) -> Tensor:
    """[L, B, patch * patch * C] -> [B, C, T, H, W]; grid_THW counts patches, not latent cells."""
    t, h, w = grid_THW
    x = x_LBP.reshape(t, h, w, x_LBP.shape[1], patch, patch, -1)
    return x.permute(3, 6, 0, 1, 4, 2, 5).reshape(x.shape[3], x.shape[6], t, h * patch, w * patch)
