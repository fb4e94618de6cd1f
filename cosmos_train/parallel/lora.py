"""Low-rank adapters on linear layers (LoRA, arXiv 2106.09685): W x becomes W x + alpha / r B A x.

A is [r, d_in] and begins as a linear layer of torch does; B is [d_out, r] and begins at zero, so that at first an
adapter changes nothing, not even a bit. Both lie in the linear layer that they are of, as `lora.a` and `lora.b` beside
its `weight`, which keeps its name.

Where a matrix of ours is several that see the same input (queries, keys and values of a head), each of these has its
own A, and they lie one below the other, [P r, d_in]; the rows of B take turns as those of the matrix do.

Ranks. What tensor parallelism divides in the weight is divided in the adapter: rows of B where rows of W are, columns
of A where columns of W are. The other one is whole on each rank. What the ranks exchange is only r wide.
"""

import fnmatch
import math
from collections.abc import Collection, Iterator, Sequence

import torch
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.mesh import Mesh, over_stages
from cosmos_train.parallel.shard import Fill, mark_divided, mark_sees_part, marks_of, partition_dim, put_marks
from cosmos_train.train.config import LoraConfig

NAME = "lora"
"""An adapter's name in its linear layer."""
NO_ADAPTERS = LoraConfig()
NUM_SHOWN = 3
"""So many names are examples in an error."""


def note_joined(linear: nn.Module, rows: Sequence[int]) -> nn.Module:
    """Note that a linear layer's matrix is several, and return the layer.

    Args:
        rows: so many rows of each of them follow each other in one turn.
    """
    linear.joined_rows = tuple(rows)  # pyright: ignore[reportArgumentType] a plain attribute
    return linear


class Adapter(nn.Module):
    """A module that changes a linear layer's output: [l, B, d_in] -> [l, B, d_out], as the layer's own in and out."""

    def __init__(self, linear: nn.Module, config: LoraConfig, mesh: Mesh) -> None:
        super().__init__()
        weight, alpha = linear.weight, config.alpha
        assert isinstance(weight, nn.Parameter) and alpha is not None
        self.scale = alpha / config.rank
        self.tp = mesh.tp
        self.divided_dim = partition_dim(weight)
        self.rows: tuple[int, ...] = getattr(linear, "joined_rows", (len(weight),))
        # Under sequence parallelism most layers get, or give, a part of the tokens.
        self.splits_tokens = self.divided_dim is not None and bool(getattr(linear, "sequence_parallel", False))
        make = {"dtype": weight.dtype, "device": weight.device}
        self.a = nn.Parameter(torch.empty(len(self.rows) * config.rank, weight.shape[1], **make))
        self.b = nn.Parameter(torch.empty(weight.shape[0], config.rank, **make))
        if self.divided_dim is None:  # each sees the tokens, and is on the stages, that the weight sees and is on
            put_marks(self.a, marks_of(weight))
            put_marks(self.b, marks_of(weight))
        else:
            divided, whole = (self.b, self.a) if self.divided_dim == 0 else (self.a, self.b)
            mark_divided(divided, self.divided_dim)
            if self.splits_tokens:
                mark_sees_part(whole)

    def init_weights(self, fill: Fill, name: str) -> None:
        """Fill it with its first values, of which B's are zero. The name is the linear layer's, in the whole model."""
        fill(f"{name}.{NAME}.a", self.a, _as_of_a_linear)
        fill(f"{name}.{NAME}.b", self.b, lambda whole, generator: whole.zero_())

    def forward(self, x_LBD: Tensor) -> Tensor:
        """Return what is added to the layer's output; [l, B, d_in] or, of a layer that is whole, [..., d_in]."""
        return self._up(self._exchange(F.linear(x_LBD, self.a)) * self.scale)

    def _exchange(self, h_LBR: Tensor) -> Tensor:
        """Bring what A gave to where B is: all tokens' whole products."""
        if self.divided_dim is None or self.tp.size() == 1:
            return h_LBR
        if self.divided_dim == 0 and self.splits_tokens:
            return gather_from_sequence_parallel_region(h_LBR, tensor_parallel_output_grad=True, group=self.tp)
        if self.divided_dim == 0:  # each rank's rows of B give a part of the gradient
            return copy_to_tensor_model_parallel_region(h_LBR, group=self.tp)
        if self.splits_tokens:
            return reduce_scatter_to_sequence_parallel_region(h_LBR, group=self.tp)
        return reduce_from_tensor_model_parallel_region(h_LBR, group=self.tp)

    def _up(self, h_LBR: Tensor) -> Tensor:
        """B h, where each of the joined matrices has its own h."""
        if len(self.rows) == 1:
            return F.linear(h_LBR, self.b)
        parts_of_b = self.b.unflatten(0, (-1, sum(self.rows))).split(self.rows, dim=1)  # of each [turns, rows, r]
        parts = []
        for h_LBr, part_of_b in zip(h_LBR.chunk(len(self.rows), dim=-1), parts_of_b, strict=True):
            parts.append(F.linear(h_LBr, part_of_b.flatten(0, 1)).unflatten(-1, part_of_b.shape[:2]))
        return torch.cat(parts, dim=-1).flatten(-2)


def add_adapters(pieces: Sequence[nn.Module], config: LoraConfig, fill: Fill, mesh: Mesh) -> None:
    """Give each linear layer whose name fits a target its adapter; nothing where config.rank is 0.

    Raises:
        ConfigError: a target fits no linear layer of the model. Of a plan, which has one stage at a time, nothing is
            said: whoever has all stages asks require_targets.
    """
    if not config.rank:
        return
    for name, linear in named_linears(pieces):
        if any(fnmatch.fnmatchcase(name, target) for target in config.targets):
            adapter = Adapter(linear, config, mesh)
            adapter.init_weights(fill, name)
            linear.add_module(NAME, adapter)
            linear.register_forward_hook(_add_to_output)
    if mesh.device.type != "meta":
        require_targets(config, over_stages({name: None for name, _ in named_linears(pieces)}, mesh))


def require_targets(config: LoraConfig, names: Collection[str]) -> None:
    """Compare the targets with the names of a whole model's linear layers.

    Raises:
        ConfigError: a target fits none of them.
    """
    nowhere = [target for target in config.targets if not fnmatch.filter(names, target)]
    if config.rank and nowhere:
        raise ConfigError(
            f"lora.targets has {', '.join(map(repr, nowhere))}, which fits no linear layer of this model; its names "
            f"are such as {', '.join(list(names)[:NUM_SHOWN])}"
        )


def has_adapter(linear: nn.Module) -> bool:
    """Return whether a linear layer has one."""
    return isinstance(getattr(linear, NAME, None), Adapter)


def _add_to_output(linear: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """The forward hook of a linear layer that has an adapter."""
    return output + linear.get_submodule(NAME)(inputs[0])


def named_linears(pieces: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Yield what multiplies by a matrix of its own, by name. Norms have a vector, tables are looked up."""
    for piece in pieces:
        for name, module in piece.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, nn.Parameter) and weight.dim() == 2 and not _is_table(module):
                yield name, module


def _is_table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding) or hasattr(module, "vocab_start_index")


def _as_of_a_linear(whole: Tensor, generator: torch.Generator) -> None:
    """Uniform within 1 / sqrt(d_in), as torch's and peft's kaiming_uniform(a=sqrt(5)) is."""
    bound = 1 / math.sqrt(whole.shape[1])
    whole.uniform_(-bound, bound, generator=generator)
