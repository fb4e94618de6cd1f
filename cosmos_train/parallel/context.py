"""How one forward pass divides its tokens: over context-parallel ranks, then under sequence parallelism once more.

    whole [L, ...]  --pad-->  cp chunks, each in tp parts  --enter-->  this rank's rows [l, B, D]
                                                          <--leave--   whole again, without the padding

Tokens are padded at the end until they divide, so any video fits any layout. Padding costs nothing but its own work:
attention leaves it out of the keys, and leave() cuts it off before the loss.

Gradients. megatron-core's DDP gives every parameter the sum over context-parallel ranks (its schedules multiply the
loss by cp, its reduction divides by dp * cp). That is right for what saw a part of the tokens. What all ranks of the
group compute alike would count cp times: the loss head (see `counted_once`), and a batch too small to be split.
"""

from dataclasses import dataclass

import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import mappings
from torch import Tensor

from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh


@dataclass(frozen=True, slots=True)
class TokenSplit:
    """The division of L tokens in one forward pass. Without any group and padding, every method gives its argument."""

    num_tokens: int
    """L: tokens of the video, padding not counted."""
    num_padded: int
    """L with the padding."""
    context: dist.ProcessGroup | None
    """Ranks with different chunks; None where each has all of them."""
    sequence: dist.ProcessGroup | None
    """Ranks that hold parts of a chunk outside attention and MLP."""
    both: dist.ProcessGroup | None
    """The ranks of `context` and `sequence` together, in the order of their rows."""
    repeats: int
    """Context-parallel ranks that do the same work, because this pass is not split."""

    def enter(self, x_LBD: Tensor) -> Tensor:
        """Whole -> this rank's rows. Whatever made the tensor gets this rank's part of the gradient."""
        return _part(self.context_rows(x_LBD), self.sequence)

    def context_rows(self, x_LBD: Tensor) -> Tensor:
        """Whole -> this rank's chunk: the rows of its queries."""
        return _part(pad_rows(x_LBD, self.num_padded), self.context)

    def leave(self, x_lBD: Tensor) -> Tensor:
        """This rank's rows -> whole. What follows must be the same work on every rank of the groups."""
        if self.both is not None:
            x_lBD = mappings.gather_from_sequence_parallel_region(
                x_lBD, tensor_parallel_output_grad=False, group=self.both
            )
        return counted_once(x_lBD[: self.num_tokens], self.repeats)

    def all_rows(self, x_lBNK: Tensor) -> Tensor:
        """A chunk of keys or values -> all of them, without padding."""
        if self.context is not None:
            x_lBNK = mappings.gather_from_sequence_parallel_region(x_lBNK, group=self.context)
        return x_lBNK[: self.num_tokens]

    def rows_to_heads(self, x_lBNK: Tensor) -> Tensor:
        """A chunk of all heads -> all rows of this rank's share of the heads, without padding."""
        assert self.context is not None
        by_rank = x_lBNK.unflatten(2, (self.context.size(), -1)).movedim(2, 0)  # [cp, l, B, N / cp, K]
        return mappings.all_to_all(self.context, by_rank.flatten(0, 1))[: self.num_tokens]

    def heads_to_rows(self, x_LBD: Tensor) -> Tensor:
        """All rows of a share of the heads, [L, B, N / cp * K] -> a chunk of all heads, [l, B, N * K]."""
        assert self.context is not None
        by_rank = mappings.all_to_all(self.context, pad_rows(x_LBD, self.num_padded))
        return by_rank.unflatten(0, (self.context.size(), -1)).movedim(0, 2).flatten(2)


def split_tokens(num_tokens: int, parallel: ParallelConfig, mesh: Mesh, *, align: int = 1) -> TokenSplit:
    """How L tokens divide in this layout.

    Args:
        align: what a rank's number of rows must be a multiple of (a FP8 recipe asks for it).
    """
    is_split = mesh.cp.size() > 1 and num_tokens >= parallel.cp_min_tokens
    context = mesh.cp if is_split else None
    sequence = mesh.tp if parallel.sequence_parallel else None
    both = mesh.tp_cp if context and sequence else context or sequence
    multiple = align * (1 if both is None else both.size())
    return TokenSplit(
        num_tokens=num_tokens,
        num_padded=-(-num_tokens // multiple) * multiple,
        context=context,
        sequence=sequence,
        both=both,
        repeats=1 if is_split else mesh.cp.size(),
    )


def counted_once(x: Tensor, repeats: int) -> Tensor:
    """The same tensor; its gradient is divided by the number of ranks that compute it alike and are summed over."""
    if repeats > 1 and x.requires_grad:
        x.register_hook(lambda gradient: gradient / repeats)
    return x


def pad_rows(x_LBD: Tensor, num_rows: int) -> Tensor:
    """Zeros after the last row."""
    if len(x_LBD) == num_rows:
        return x_LBD
    return F.pad(x_LBD, (0, 0) * (x_LBD.ndim - 1) + (0, num_rows - len(x_LBD)))


def _part(x_LBD: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    return x_LBD if group is None else x_LBD.chunk(group.size())[group.rank()]
