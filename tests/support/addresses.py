"""Tensors at addresses that a test chooses: on some processors a product's last digits depend on them."""

from pathlib import Path

import torch
from torch import Tensor, nn

ALIGNED_BYTES = 64
"""What torch's allocator on a CPU aligns to."""
SHIFTS_BYTES = (4, 8, 12, 16, 20, 32, 48)


def shifted(tensor: Tensor, shift_bytes: int) -> Tensor:
    """A contiguous copy that begins so many bytes behind an aligned address."""
    room = torch.empty(tensor.nbytes + 2 * ALIGNED_BYTES, dtype=torch.uint8)
    begin = -room.data_ptr() % ALIGNED_BYTES + shift_bytes
    copy = room[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)


def shift_weights(model: nn.Module, shift_bytes: int) -> None:
    """Move every parameter of the model in place."""
    for parameter in model.parameters():
        parameter.data = shifted(parameter.data, shift_bytes)


def misaligned(model: nn.Module) -> dict[str, int]:
    """Parameter -> bytes behind an aligned address, of those that are not at one."""
    places = {name: tensor.data_ptr() % ALIGNED_BYTES for name, tensor in model.named_parameters()}
    return {name: place for name, place in places.items() if place}


def shift_in_file(path: Path, shift_bytes: int) -> None:
    """Move all tensors of a safetensors file by blanks at the end of its header, which mean nothing."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = content[8:end] + b" " * shift_bytes
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
