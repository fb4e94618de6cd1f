"""Where this process stands in the run: its groups and its rank in each of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Mesh:
    """Process groups of one layout. Passed to whoever needs one; nobody asks a global."""

    device: torch.device
    world: dist.ProcessGroup
    tp: dist.ProcessGroup
    """Ranks that hold different heads and columns of the same blocks."""
    pp: dist.ProcessGroup
    """Ranks that hold consecutive blocks."""
    cp: dist.ProcessGroup
    """Ranks that hold different tokens of the same samples."""
    dp: dist.ProcessGroup
    """Ranks that hold the same parameters and see different samples."""
    replicas: dist.ProcessGroup
    """Ranks that hold the same parameters (dp * cp): gradients are summed over them, optimizer states divided."""
    tp_cp: dist.ProcessGroup
    """Ranks that together hold the tokens of a sample under sequence parallelism; tp runs fastest."""

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
        """The degrees, as logs and reports show them: `tp2 pp1 cp1 dp1`."""
        return f"tp{self.tp.size()} pp{self.pp.size()} cp{self.cp.size()} dp{self.dp.size()}"

    @property
    def position(self) -> str:
        """This rank, as logs show it."""
        places = ", ".join(f"{name} {getattr(self, name).rank()}" for name in ("tp", "pp", "cp", "dp"))
        return f"rank {self.world.rank()} ({places})"


def from_main(mesh: Mesh, find: Callable[[], T]) -> T:
    """Return what rank 0 finds, on every rank, all of which call this. Raises on every rank what `find` raises there.

    Over a network file system others may not see the newest folder yet, and what takes long is done once.
    """
    said: list[Any] = [None, None]
    if mesh.is_main:
        try:
            said[0] = find()
        except Exception as error:
            said[1] = error
    dist.broadcast_object_list(said, src=0, group=mesh.world, device=mesh.device)
    found, error = said
    if error is not None:
        raise error
    return found


def over_stages(mine: Mapping[str, T], mesh: Mesh) -> dict[str, T]:
    """Return what all pipeline stages say by name, on every rank, all of which call this. The last stage's word counts
    where several say something of one name."""
    stages: list[Mapping[str, T]] = [{} for _ in range(mesh.pp.size())]
    dist.all_gather_object(stages, mine, group=mesh.pp)
    whole = dict[str, T]()
    for stage in stages:
        whole |= stage
    return whole
