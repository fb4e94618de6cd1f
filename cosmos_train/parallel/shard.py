"""A parameter's part on this rank: its marks, which slice of the whole tensor it is, and how to fill or describe it.

megatron-core's and TransformerEngine's linears mark what they divide. Everything else is whole on every rank. Names are
those of the undivided model: they do not depend on the layout.
"""

import hashlib
from collections.abc import Callable
from typing import Literal, Protocol, cast

import torch
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
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


class Marked(Protocol):
    """What may stand on a parameter beside its values. Set and read in here alone, and by megatron-core."""

    tensor_model_parallel: bool
    """It is divided over tensor-parallel ranks, along partition_dim."""
    partition_dim: int
    sequence_parallel: bool
    """It sees a part of the tokens: megatron-core sums its gradient, under sequence parallelism alone."""
    sees_own_heads: bool
    """It sees the heads of one tensor-parallel rank: the engine sums its gradient."""
    shared_over_stages: bool
    """Several pipeline stages have a copy of it: the engine sums its gradient."""
    shared: bool
    """It is such a copy, and another stage owns it: megatron-core leaves it out of the gradient's norm."""
    in_base: bool
    """Its values are those of the model that a run's adapters are of, where they stay: no checkpoint holds them."""
    main_grad: Tensor
    """The sum of its gradients in fp32, which DDP gives to what it trains."""


def _marks(param: Tensor) -> Marked:
    return cast(Marked, param)


def mark_divided(param: Tensor, dim: int) -> None:
    """Mark a parameter of which this tensor-parallel rank holds a part along dimension `dim`."""
    set_tensor_model_parallel_attributes(param, is_parallel=True, dim=dim, stride=1)


def partition_dim(param: Tensor) -> int | None:
    """Return the dimension along which tensor parallelism divides this parameter, or None where it is whole."""
    if not getattr(param, "tensor_model_parallel", False):
        return None
    return _marks(param).partition_dim


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


def mark_partial_gradients(module: nn.Module, *, but: nn.Module | None = None) -> None:
    """Of a model between enter_sequence and leave_sequence: its undivided parameters see a part of the tokens.

    finalize_model_grads sums what is marked over tensor-parallel ranks, under sequence parallelism only.

    Args:
        but: a part of it whose gradient is whole on each of them, as of what a shared_linear reads.
    """
    whole = set() if but is None else set(but.parameters())
    for param in module.parameters():
        if partition_dim(param) is None and not sees_own_heads(param) and param not in whole:
            mark_sees_part(param)


def mark_sees_part(param: Tensor) -> None:
    """Mark an undivided parameter that sees a part of the tokens, as mark_partial_gradients marks those of a model."""
    _marks(param).sequence_parallel = True


def mark_own_heads(module: nn.Module) -> nn.Module:
    """Mark a layer whose undivided parameters see the heads of this tensor-parallel rank alone, and return it.

    The engine sums their gradients over tensor-parallel ranks, with and without sequence parallelism.
    """
    for param in module.parameters():
        _marks(param).sees_own_heads = True
    return module


def sees_own_heads(param: Tensor) -> bool:
    """Return whether the parameter is one of mark_own_heads."""
    return getattr(param, "sees_own_heads", False)


def mark_shared_over_stages(module: nn.Module, *, is_owner: bool) -> None:
    """Mark a module of which several pipeline stages have a copy; `is_owner` on the one that counts it."""
    for param in module.parameters():
        _marks(param).shared_over_stages = True
        _marks(param).shared = not is_owner


def is_shared_over_stages(param: Tensor) -> bool:
    """Return whether several pipeline stages have a copy of the parameter."""
    return getattr(param, "shared_over_stages", False)


def is_counted_elsewhere(param: Tensor) -> bool:
    """Return whether the parameter is a copy of what another pipeline stage owns."""
    return getattr(param, "shared", False)


def mark_in_base(tensor: Tensor) -> None:
    """Mark a parameter or buffer whose values are those of the model that a run's adapters are of."""
    _marks(tensor).in_base = True


def is_in_base(tensor: Tensor) -> bool:
    """Return whether the tensor is one of mark_in_base."""
    return getattr(tensor, "in_base", False)


def has_gradient_sum(param: Tensor) -> bool:
    """Return whether DDP has given the parameter a sum of gradients: what is frozen has none."""
    return getattr(param, "main_grad", None) is not None


def gradient_sum(param: Tensor) -> Tensor:
    """Return the sum of a trained parameter's gradients, in fp32 and of its shape; the tensor itself."""
    return _marks(param).main_grad


def marks_of(param: Tensor) -> dict[str, object]:
    """Return all marks of a parameter by name, for one that takes its place."""
    return dict(vars(param))


def put_marks(param: Tensor, marks: dict[str, object]) -> None:
    """Give a parameter the marks of the one whose place it takes."""
    for name, value in marks.items():
        setattr(param, name, value)


def torch_dtype(precision: Literal["fp32", "bf16"]) -> torch.dtype:
    """Number format of weights and activations."""
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
