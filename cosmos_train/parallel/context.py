"""How one forward pass divides its tokens: over context-parallel ranks, then under sequence parallelism once more.

    whole [L, ...]  --pad-->  cp chunks, each in tp parts  --enter-->  this rank's rows [l, B, D]
                                                          <--leave--   whole again, without the padding

Tokens are padded at the end until they divide, so any video fits any layout. Padding costs nothing but its own work:
attention leaves it out of the keys, and leave() cuts it off before the loss.

Where attention is causal the first tokens have few to look at and the last ones many. So the row of tokens is cut into
2 cp chunks, and rank r gets the r-th from the front and the r-th from the end: every rank then has the same work.

Gradients. megatron-core's DDP gives every parameter the sum over context-parallel ranks (its schedules multiply the
loss by cp, its reduction divides by dp * cp). That is right for what saw a part of the tokens. What all ranks of the
group compute alike would count cp times: the loss head (see `counted_once`), and a batch too small to be split.
"""

import math
from dataclasses import dataclass

import torch
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
    is_balanced: bool = False
    """Each context-parallel rank has a chunk of the front and one of the end, for causal attention."""

    def enter(self, x_LBD: Tensor) -> Tensor:
        """Whole -> this rank's rows. Whatever made the tensor gets this rank's part of the gradient."""
        return _part(self.context_rows(x_LBD), self.sequence)

    def context_rows(self, x_LBD: Tensor) -> Tensor:
        """Whole -> this rank's chunk: the rows of its queries."""
        return _part(self._by_rank(x_LBD), self.context)

    def leave(self, x_lBD: Tensor) -> Tensor:
        """This rank's rows -> whole. What follows must be the same work on every rank of the groups."""
        if self.both is not None:
            x_lBD = mappings.gather_from_sequence_parallel_region(
                x_lBD, tensor_parallel_output_grad=False, group=self.both
            )
        return counted_once(self._by_token(x_lBD), self.repeats)

    def leave_context(self, x_lBD: Tensor) -> Tensor:
        """A chunk, such as its tokens' losses -> whole, as leave() does it for what no sequence parallelism divides."""
        if self.context is not None:
            x_lBD = mappings.gather_from_sequence_parallel_region(
                x_lBD, tensor_parallel_output_grad=False, group=self.context
            )
        return counted_once(self._by_token(x_lBD), self.repeats)

    def all_rows(self, x_lBNK: Tensor) -> Tensor:
        """A chunk of keys or values -> all of them, without padding."""
        if self.context is not None:
            x_lBNK = mappings.gather_from_sequence_parallel_region(x_lBNK, group=self.context)
        return self._by_token(x_lBNK)

    def rows_to_heads(self, x_lBNK: Tensor) -> Tensor:
        """A chunk of all heads -> all rows of this rank's share of the heads, without padding."""
        assert self.context is not None
        by_rank = x_lBNK.unflatten(2, (self.context.size(), -1)).movedim(2, 0)  # [cp, l, B, N / cp, K]
        return self._by_token(mappings.all_to_all(self.context, by_rank.flatten(0, 1)))

    def heads_to_rows(self, x_LBD: Tensor) -> Tensor:
        """All rows of a share of the heads, [L, B, N / cp * K] -> a chunk of all heads, [l, B, N * K]."""
        assert self.context is not None
        by_rank = mappings.all_to_all(self.context, self._by_rank(x_LBD))
        return by_rank.unflatten(0, (self.context.size(), -1)).movedim(0, 2).flatten(2)

    @property
    def runs(self) -> list[range]:
        """The runs of consecutive tokens, padding counted, that this rank's chunk is made of."""
        if self.context is None:
            return [range(self.num_padded)]
        starts = [self.context.rank()]
        if self.is_balanced:
            starts.append(2 * self.context.size() - 1 - self.context.rank())
        length = self.num_padded // (self.context.size() * len(starts))
        return [range(start * length, (start + 1) * length) for start in starts]

    def _by_rank(self, x_LBD: Tensor) -> Tensor:
        """Tokens in their order -> padded, and chunk after chunk of the ranks."""
        x_LBD = pad_rows(x_LBD, self.num_padded)
        if not self.is_balanced or self.context is None:
            return x_LBD
        halves = x_LBD.unflatten(0, (2 * self.context.size(), -1))
        first, last = halves.chunk(2)
        return torch.stack((first, last.flip(0)), dim=1).flatten(0, 2)

    def _by_token(self, x_LBD: Tensor) -> Tensor:
        """What _by_rank gives -> what it was given."""
        if self.is_balanced and self.context is not None:
            halves = x_LBD.unflatten(0, (self.context.size(), 2, -1))
            x_LBD = torch.cat((halves[:, 0], halves[:, 1].flip(0))).flatten(0, 1)
        return x_LBD[: self.num_tokens]


def split_tokens(
    num_tokens: int, parallel: ParallelConfig, mesh: Mesh, *, align: int = 1, causal: bool = False
) -> TokenSplit:
    """How L tokens divide in this layout.

    Args:
        align: what a rank's number of rows must be a multiple of (a FP8 recipe asks for it).
        causal: attention looks back only; divide the tokens so that all ranks have the same work.
    """
    is_split = mesh.cp.size() > 1 and num_tokens >= parallel.cp_min_tokens
    context = mesh.cp if is_split else None
    sequence = mesh.tp if parallel.sequence_parallel else None
    both = mesh.tp_cp if context and sequence else context or sequence
    multiple = align * (1 if both is None else both.size())
    if causal and context is not None:
        multiple = math.lcm(multiple, 2 * context.size())
    return TokenSplit(
        num_tokens=num_tokens,
        num_padded=-(-num_tokens // multiple) * multiple,
        context=context,
        sequence=sequence,
        both=both,
        repeats=1 if is_split else mesh.cp.size(),
        is_balanced=causal,
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
