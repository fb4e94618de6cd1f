"""The convolutions of the tokenizers for inference on a CPU, in float32: same weights, same values, less work.

    conv3x3         a quarter of the multiplications where that pays, see `winograd`
    conv_in_time    products of whole frames, summed in place; no padded copy of the video
    double_space    a convolution of repeated pixels or frames: a 3 x 3 kernel sees no more than 2 x 2 different pixels,
    double_time     and one of 3 frames no more than two different ones

Values are laid out channels-last. B batch, T frames, N = B T, H rows, W columns, C channels, O output channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok import winograd as fewer_products


def conv3x3(x_NCHW: Tensor, weight_OCHW: Tensor, bias_O: Tensor, *, winograd: bool) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1)."""
    if winograd and fewer_products.pays(x_NCHW, weight_OCHW):
        return fewer_products.conv3x3(x_NCHW, weight_OCHW, bias_O)
    return F.conv2d(x_NCHW, weight_OCHW, bias_O, padding=1)


def conv_in_time(
    frames_BCHW: Sequence[Tensor], taps_OC: Sequence[Tensor], bias_O: Tensor, *, stride: int, begun: bool
) -> Tensor:
    """[B, O, T, H, W]: frame t is the sum over 3 taps k of taps[k] times frames[t stride + k].

    Unless `begun`, the video begins here: its first frame is frames[2], and 0 and 1 repeat it, so that their taps
    become one.
    """
    first = 0 if begun else 2
    sums = []
    for start in range(0, len(frames_BCHW) - 2, stride):
        terms: dict[int, Tensor] = {}
        for i, tap_OC in enumerate(taps_OC, start):
            place = max(i, first)
            terms[place] = terms[place] + tap_OC if place in terms else tap_OC
        sums.append(terms)
    return _sums_of_frames(frames_BCHW, sums, bias_O)


def double_time(frames_BCHW: Sequence[Tensor], taps_OC: Sequence[Tensor], bias_O: Tensor, *, begun: bool) -> Tensor:
    """[B, O, T, H, W]: 3 taps over frames that stand twice each, the first of them for the past only.

    Unless `begun`, the video begins here: its first frame is frames[1], which stands once, and is its own past.
    """
    w0, w1, w2 = taps_OC
    before_first, second = w0 + w1, w1 + w2
    sums = [] if begun else [{1: before_first + w2}]
    for i in range(1 + len(sums), len(frames_BCHW)):
        sums += [{i - 1: before_first, i: w2}, {i - 1: w0, i: second}]
    return _sums_of_frames(frames_BCHW, sums, bias_O)


def doubled_taps(weight_OCHW: Tensor) -> Tensor:
    """[4 O, C, 3, 3]: a 3 x 3 convolution of a picture whose pixels stand 2 x 2 times, as one of the picture itself.

    Outputs are ordered (row, column, o) in the copies of a pixel. A first copy sees the pixel before and then its own
    twice; a second one sees its own twice and then the pixel behind.
    """
    seen = weight_OCHW.new_tensor([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
    return torch.einsum("rai,sbj,ocij->rsocab", seen, seen, weight_OCHW).flatten(0, 2)


def double_space(x_NCHW: Tensor, taps_OCHW: Tensor, bias_O: Tensor, *, winograd: bool) -> Tensor:
    """[N, O, 2 H, 2 W] by `doubled_taps`."""
    frames, _, height, width = x_NCHW.shape
    y_NHWO = x_NCHW.new_empty(frames, 2 * height, 2 * width, len(bias_O))
    y_NHrWsO = y_NHWO.view(frames, height, 2, width, 2, -1)
    if winograd and fewer_products.pays(x_NCHW, taps_OCHW):
        copies_NCHW = fewer_products.conv3x3(x_NCHW, taps_OCHW, bias_O.repeat(4))
        y_NHrWsO.copy_(copies_NCHW.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1)).transpose(2, 3))
        return y_NHWO.permute(0, 3, 1, 2)
    taps = taps_OCHW.unflatten(0, (2, 2, -1))
    for r in range(2):
        for s in range(2):
            part_NCHW = F.conv2d(x_NCHW, taps[r, s, :, :, r : r + 2, s : s + 2], bias_O, padding=1)
            y_NHrWsO[:, :, r, :, s] = part_NCHW[:, :, r : r + height, s : s + width].permute(0, 2, 3, 1)
    return y_NHWO.permute(0, 3, 1, 2)


def _sums_of_frames(frames_BCHW: Sequence[Tensor], sums: Sequence[dict[int, Tensor]], bias_O: Tensor) -> Tensor:
    """[B, O, T, H, W]: frame t is the sum of weight [O, C] times frames[i] over the items i: weight of sums[t]."""
    batch, channels, height, width = frames_BCHW[0].shape
    y_BTLO = frames_BCHW[0].new_empty(batch, len(sums), height * width, len(bias_O))
    for b in range(batch):
        for t, terms in enumerate(sums):
            addend = bias_O
            for i, weight_OC in terms.items():
                x_LC = frames_BCHW[i][b].permute(1, 2, 0).reshape(-1, channels)
                addend = torch.addmm(addend, x_LC, weight_OC.t(), out=y_BTLO[b, t])
    return y_BTLO.unflatten(2, (height, width)).permute(0, 4, 1, 2, 3)
