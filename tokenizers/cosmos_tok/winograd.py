"""3 x 3 convolution with a quarter of the multiplications, for inference on a CPU.

Winograd's minimal filtering (Lavin and Gray, arXiv 1509.09308) in two dimensions: 6 x 6 pixels d and 3 x 3 weights g
give 4 x 4 outputs as  A (G g G' * B d B') A'  with constant A, B, G and * element by element, which over the channels
is 36 matrix products in the place of 144. The constants follow from six points at which polynomials are multiplied.
With the usual ones, 0, 1, -1, 2, -2, the error is 3.2e-6 of the output's deviation (root mean square at 256 channels),
and 5.5e-5 at most; with those below, found by trying, 1.5e-6 and 1.3e-5. The plain convolution has 2.3e-7 and 1.3e-6.

d, g and the products pass through A, B and G as matrix products too: [36, 36] times [36, tiles x channels].

N frames, C channels, O output channels, H rows, W columns.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

POINTS = (0.0, 0.7, -0.7, 1.5, -1.5)  # and infinity
TILE, WINDOW = 4, 6  # outputs and inputs of a tile, along each axis
TILES_PER_BLOCK = 256  # enough for the products to run at full rate, few enough for them to stay in the cache
MIN_CHANNELS, MIN_PIXELS = 64, 512  # below either, transforming costs more than it saves


def pays(x_NCHW: Tensor, weight_OCHW: Tensor) -> bool:
    """Whether `conv3x3` is faster than the plain convolution."""
    frames, channels, height, width = x_NCHW.shape
    return min(channels, weight_OCHW.shape[0]) >= MIN_CHANNELS and frames * height * width >= MIN_PIXELS


def conv3x3(x_NCHW: Tensor, weight_OCHW: Tensor, bias_O: Tensor) -> Tensor:
    """F.conv2d(x, weight, bias, padding=1) in float32, laid out channels-last; no gradients."""
    num_frames, channels, height, width = x_NCHW.shape
    outputs = weight_OCHW.shape[0]
    to_products, weights_to_products, to_outputs = _constants()
    weight_POC = (weights_to_products @ weight_OCHW.reshape(-1, 9).t()).view(-1, outputs, channels)
    rows, columns = -(-height // TILE), -(-width // TILE)
    y_NHWO = x_NCHW.new_empty(num_frames, rows * TILE, columns * TILE, outputs)
    x_NHWC = x_NCHW.permute(0, 2, 3, 1)
    frames_per_block = max(1, TILES_PER_BLOCK // (rows * columns))
    rows_per_block = min(rows, max(1, TILES_PER_BLOCK // columns))
    most_tiles = min(frames_per_block, num_frames) * rows_per_block * columns
    windows, products = (x_NCHW.new_empty(WINDOW**2 * most_tiles * max(channels, outputs)) for _ in range(2))
    for n in range(0, num_frames, frames_per_block):
        frames = min(frames_per_block, num_frames - n)
        for row in range(0, rows, rows_per_block):
            block_rows = min(rows_per_block, rows - row)
            tiles = frames * block_rows * columns
            padded = _padded(x_NHWC[n : n + frames], row * TILE - 1, block_rows * TILE + 2, columns * TILE + 2)
            d = windows[: WINDOW**2 * tiles * channels].view(WINDOW**2, -1)
            d.view(WINDOW, WINDOW, frames, block_rows, columns, channels).copy_(_windows(padded, block_rows, columns))
            v = torch.mm(to_products, d, out=products[: d.numel()].view_as(d)).view(-1, tiles, channels)
            m = windows[: WINDOW**2 * tiles * outputs].view(-1, tiles, outputs)
            torch.bmm(v, weight_POC.transpose(1, 2), out=m)
            y = products[: TILE**2 * tiles * outputs].view(TILE**2, -1)
            torch.mm(to_outputs, m.view(WINDOW**2, -1), out=y)
            target = y_NHWO[n : n + frames, row * TILE : (row + block_rows) * TILE]
            target = target.view(frames, block_rows, TILE, columns, TILE, outputs)
            y = y.view(TILE, TILE, frames, block_rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
            torch.add(y, bias_O, out=target)
    return y_NHWO[:, :height, :width].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _padded(x_NHWC: Tensor, first_row: int, num_rows: int, num_columns: int) -> Tensor:
    """Rows from `first_row` on, and columns from -1 on; zero outside the frame."""
    height, width = x_NHWC.shape[1:3]
    begin, end = max(first_row, 0), min(first_row + num_rows, height)
    above, below = begin - first_row, first_row + num_rows - end
    return F.pad(x_NHWC[:, begin:end], (0, 0, 1, num_columns - 1 - width, above, below))


def _windows(padded_NHWC: Tensor, rows: int, columns: int) -> Tensor:
    """[6, 6, N, rows, columns, C]: every tile's pixels, as a view; windows overlap by two."""
    frames, channels = padded_NHWC.shape[0], padded_NHWC.shape[3]
    frame, row, column, _ = padded_NHWC.stride()
    return padded_NHWC.as_strided(
        (WINDOW, WINDOW, frames, rows, columns, channels), (row, column, frame, TILE * row, TILE * column, 1)
    )


@functools.cache
def _constants() -> tuple[Tensor, Tensor, Tensor]:
    """B x B [36, 36], G x G [36, 9] and A x A [16, 36] in float32, x being the Kronecker product.

    A and G evaluate polynomials of 4 and 3 coefficients at the points, G divided by the products of the points'
    differences; B is what then makes the sum a correlation: sum_j A[i, j] G[j, k] B[j, l] = 1 where l = i + k, else 0.
    """
    points = torch.tensor(POINTS, dtype=torch.float64)
    a, g = torch.zeros(TILE, WINDOW).double(), torch.zeros(WINDOW, 3).double()
    a[:, :-1] = points ** torch.arange(TILE).unsqueeze(1)
    differences = points.unsqueeze(1) - points + torch.eye(len(POINTS))
    g[:-1] = points.unsqueeze(1) ** torch.arange(3) / differences.prod(dim=1, keepdim=True)
    a[-1, -1] = g[-1, -1] = 1.0
    shifts = torch.stack([torch.eye(WINDOW).double()[i : i + 3] for i in range(TILE)])  # [i, k, l]
    b = torch.linalg.lstsq((a.unsqueeze(1) * g.t()).flatten(0, 1), shifts.flatten(0, 1)).solution
    scale = torch.exp2(b.norm(dim=1, keepdim=True).log2().round())  # a power of two: balances the products, exactly
    b, g = b / scale, g * scale
    return torch.kron(b, b).float(), torch.kron(g, g).float(), torch.kron(a, a).float()
