"""Which numbers weights are made of: four formats as they are, and 8-bit floats together with their scales.

A tensor of 8-bit floats means itself times its scale, which lies beside it under one of SCALE_NAMES and is one number,
one for each row, or one for each square block whose side is a power of two. All other formats (whole numbers, packed
ones) mean something in the code alone that packed them, so they are no weights; as counters or positions they may stay.
"""

import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cosmos_tok.config import NotFiniteError, TokenizerError

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
EIGHT_BITS = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALE_NAMES = (r"\1\2_scale", r"\1\2_scale_inv", r"\1scale_\2")
"""Of a weight whose name is \\1\\2, the last word \\2. All are multiplied, whatever `inv` says."""
COMPANIONS = (r"\1input_scale", r"\1scale_input", r"\1comfy_quant")
"""What lies beside 8-bit weights for a product in 8 bits, and has no meaning for the weight."""
LAST_WORD = re.compile(r"(.*?)([^.-]*)", re.DOTALL)
MARKER = re.compile(r"(.*\.)?scaled_fp8")
"""A tensor by which some files say that they hold 8-bit weights."""
PACKED = {
    "qweight": "GPTQ or AWQ",
    "absmax": "bitsandbytes",
    "SCB": "bitsandbytes",
    "weight_packed": "compressed-tensors",
    "weight_scale_2": "NVFP4",
}
"""Last words of names beside weights that are packed, and by what."""
AS_BEFORE = "take the weights as they were before quantisation"


def require_float(name: str, tensor: Tensor, where: str) -> None:
    """TokenizerError where a tensor that is used as a weight is of no format that weights have."""
    if tensor.dtype in FLOATS:
        return
    format_name = str(tensor.dtype).removeprefix("torch.")
    if tensor.dtype in EIGHT_BITS:
        word = LAST_WORD.fullmatch(name)
        scale = word.expand(SCALE_NAMES[0]) if word else ""
        said = f"without a scale beside it, such as {scale}, so what its numbers mean is not known"
    else:
        said = "and weights are read as float64, float32, bfloat16, float16, or float8 with a scale"
    raise TokenizerError(f"{where}: {name} is {format_name}, {said}; {AS_BEFORE}")


def require_unpacked(names: Sequence[str], where: str) -> None:
    """TokenizerError where tensors lie beside each other as some quantisation packs them."""
    for name in names:
        if by := PACKED.get(re.split(r"[.-]", name)[-1]):
            raise TokenizerError(f"{where}: {name} belongs to weights packed by {by}, which are not read; {AS_BEFORE}")


def num_not_finite(tensor: Tensor) -> int:
    """How many of its numbers are NaN or infinite. Where none is, one pass and no memory."""
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return 0
    if all(math.isfinite(bound.item()) for bound in torch.aminmax(tensor)):
        return 0
    return int((~tensor.isfinite()).sum())


def require_finite(name: str, tensor: Tensor, where: str) -> None:
    """NotFiniteError that says how many of a weight's numbers are NaN or infinite, where any is."""
    if bad := num_not_finite(tensor):
        raise NotFiniteError(
            f"{where}: {bad:,} of {tensor.numel():,} numbers of {name} are not finite (NaN or infinity): whatever "
            "made them had failed; take weights of an earlier step, or copy the file again"
        )


def scales_of(meta: Mapping[str, Tensor], where: str) -> dict[str, str]:
    """Weights of 8 bits -> their scales, by name. TokenizerError where one has several, or one of no known meaning."""
    found: dict[str, str] = {}
    for name, tensor in meta.items():
        beside = names_beside(name, SCALE_NAMES) if tensor.dtype in EIGHT_BITS else []
        scales = [scale for scale in beside if scale in meta]
        if len(scales) > 1:
            raise TokenizerError(f"{where}: {name} has the scales {' and '.join(scales)}; leave the right one alone")
        if scales:
            _spread(meta[scales[0]], tensor.shape, f"{where}: {scales[0]}")
            found[name] = scales[0]
    return found


def names_beside(name: str, patterns: Sequence[str]) -> list[str]:
    """Names that are made of a weight's by SCALE_NAMES or COMPANIONS."""
    words = LAST_WORD.fullmatch(name)
    assert words is not None, "every name has a last word"
    return [words.expand(pattern) for pattern in patterns]


def dequantised(weight: Tensor, scale: Tensor, where: str) -> Tensor:
    """The float32 numbers that 8-bit floats and their scale mean. where: of the scale, for an error."""
    return weight.float() * _spread(scale, weight.shape, where)


def _spread(scale: Tensor, shape: torch.Size, where: str) -> Tensor:
    """A scale in float32 and of a shape that a weight of `shape` can be multiplied with."""
    if scale.dtype not in (*FLOATS, torch.float8_e8m0fnu):
        raise TokenizerError(f"{where} is {str(scale.dtype).removeprefix('torch.')}, which no scale is; {AS_BEFORE}")
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape([1] * len(shape))
    if len(shape) and scale.shape[0] == scale.numel() == shape[0]:  # [rows] or [rows, 1, ...]
        return scale.reshape(-1, *[1] * (len(shape) - 1))
    if len(shape) == scale.ndim == 2:
        for side in (2**power for power in range(max(shape).bit_length())):
            if list(scale.shape) == [math.ceil(size / side) for size in shape]:
                rows = scale.repeat_interleave(side, dim=0)[: shape[0]]
                return rows.repeat_interleave(side, dim=1)[:, : shape[1]]
    raise TokenizerError(
        f"{where} is of shape {list(scale.shape)}, which is neither one number, nor one for each row, nor one for each "
        f"square block (of a power of two) of a weight of shape {list(shape)}; {AS_BEFORE}"
    )
