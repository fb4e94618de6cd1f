"""Where this process stands in the run: its groups and its rank in each of them."""

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """Process groups of one layout. Passed to whoever needs one; nobody asks a global."""

    device: torch.device
    world: dist.ProcessGroup
    tp: dist.ProcessGroup
    """Ranks that hold different heads and columns of the same blocks."""
    pp: dist.ProcessGroup
    """Ranks that hold consecutive blocks."""
    dp: dist.ProcessGroup
    """Ranks that hold the same parameters and see different samples."""

    @property
    def is_first_stage(self) -> bool:
        """Whether this rank holds the patch embedding."""
        return self.pp.rank() == 0

    @property
    def is_last_stage(self) -> bool:
        """Whether this rank holds the final layer and computes the loss."""
        return self.pp.rank() == self.pp.size() - 1

    @property
    def is_main(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.world.rank() == 0

    @property
    def layout(self) -> str:
        """The degrees, as logs and reports show them: `tp2 pp1 dp1`."""
        return f"tp{self.tp.size()} pp{self.pp.size()} dp{self.dp.size()}"

    @property
    def position(self) -> str:
        """This rank, as logs show it."""
        return f"rank {self.world.rank()} (tp {self.tp.rank()}, pp {self.pp.rank()}, dp {self.dp.rank()})"
