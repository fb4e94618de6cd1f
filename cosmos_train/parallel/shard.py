"""A parameter's part on this rank: which slice of the whole tensor it is, and how to fill or describe it.

megatron-core's and TransformerEngine's linears mark what they divide: `tensor_model_parallel` and `partition_dim`.
Everything else is whole on every rank. Names are those of the undivided model: they do not depend on the layout.
"""

import hashlib
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor
from torch import Tensor, nn

from cosmos_train.parallel.mesh import Mesh

Init = Callable[[Tensor, torch.Generator], object]
"""Fills a whole tensor in place with draws from the generator."""


class Fill(Protocol):
    """Fills one parameter with what `init` makes of the whole tensor; the model says which `init`."""

    def __call__(self, name: str, param: Tensor, init: Init) -> None: ...


def layout_independent_fill(mesh: Mesh, *, seed: int) -> Fill:
    """Every rank draws the whole tensor from a generator seeded by (seed, name) and keeps its slice.

    The same weights in every layout, at the cost of one whole tensor at a time in fp32 on the host.
    """

    @torch.no_grad()
    def fill(name: str, param: Tensor, init: Init) -> None:
        if param.is_meta:  # of a plan (cosmos_train.footprint): there are no values
            return
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        whole = torch.empty(whole_shape(param, mesh))
        init(whole, generator)
        param.copy_(local_slice(whole, param, mesh))

    return fill


def partition_dim(param: Tensor) -> int | None:
    """The dimension along which tensor parallelism divides this parameter, or None where it is whole."""
    if not getattr(param, "tensor_model_parallel", False):
        return None
    return param.partition_dim  # pyright: ignore[reportAttributeAccessIssue]


def whole_shape(param: Tensor, mesh: Mesh) -> tuple[int, ...]:
    """Shape of the undivided parameter."""
    shape = list(param.shape)
    dim = partition_dim(param)
    if dim is not None:
        shape[dim] *= mesh.tp.size()
    return tuple(shape)


def local_slice(whole: Tensor, param: Tensor, mesh: Mesh) -> Tensor:
    """This rank's part of the undivided parameter."""
    dim = partition_dim(param)
    if dim is None:
        return whole
    return whole.narrow(dim, mesh.tp.rank() * param.shape[dim], param.shape[dim])


def plain(tensor: Tensor) -> Tensor:
    """The tensor, or, where it is kept in 8 bits (parallel.precision.fp8_param_gather), its values in 16."""
    return dequantize_fp8_tensor(tensor) if is_float8tensor(tensor) else tensor


@torch.no_grad()
def put_in_place(target: Tensor, value: Tensor) -> None:
    """Copy a value to where it belongs, unless it was made there, as what a checkpoint's reader reads in place is."""
    if value.data_ptr() != target.data_ptr() or value.device != target.device:
        target.copy_(value)


def mark_partial_gradients(module: nn.Module) -> None:
    """Of a model between enter_sequence and leave_sequence: its undivided parameters see a part of the tokens.

    finalize_model_grads sums what is marked over tensor-parallel ranks, under sequence parallelism only.
    """
    for param in module.parameters():
        if partition_dim(param) is None and not sees_own_heads(param):
            param.sequence_parallel = True  # pyright: ignore[reportAttributeAccessIssue]


def mark_own_heads(module: nn.Module) -> nn.Module:
    """Mark a layer whose undivided parameters see the heads of this tensor-parallel rank alone, and return it.

    The engine sums their gradients over tensor-parallel ranks, with and without sequence parallelism.
    """
    for param in module.parameters():
        param.sees_own_heads = True  # pyright: ignore[reportAttributeAccessIssue]
    return module


def sees_own_heads(param: Tensor) -> bool:
    """Whether the parameter is one of mark_own_heads."""
    return getattr(param, "sees_own_heads", False)


def torch_dtype(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """Number format of weights and activations."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
