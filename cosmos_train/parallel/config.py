"""How the ranks of a run divide the work. No torch in here: a layout is checked on the login node."""

from dataclasses import dataclass
from typing import Literal

from cosmos_train.config.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the ranks divide the work. Data parallelism is what remains: world size / (tp * pp)."""

    tp: int = 1
    """Tensor-parallel ranks: heads and MLP columns are divided by it."""
    pp: int = 1
    """Pipeline stages: consecutive blocks are divided by it."""
    sequence_parallel: bool = False
    """Divide tokens over the tensor-parallel ranks outside attention and MLP. Needs tp > 1."""
    recompute: Literal["none", "full"] = "none"
    """Recompute each block in the backward pass instead of keeping its activations."""
    layers: Literal["auto", "native", "te"] = "auto"
    """Who makes the layers: TransformerEngine where CUDA and it are there (auto), or always one of the two."""

    def __post_init__(self) -> None:
        for key, value in (("tp", self.tp), ("pp", self.pp)):
            if value < 1:
                raise ValueError(f"parallel.{key}={value} must be at least 1")
        if self.sequence_parallel and self.tp == 1:
            raise ValueError(
                "parallel.sequence_parallel=true divides tokens over tensor-parallel ranks, but parallel.tp=1; "
                "set parallel.tp to 2 or more, or switch sequence_parallel off"
            )


def check_layout(parallel: ParallelConfig, world_size: int) -> None:
    """tp * pp must divide the number of processes. Raises ConfigError with the products that do."""
    ranks_per_replica = parallel.tp * parallel.pp
    if world_size % ranks_per_replica:
        legal = [n for n in range(1, world_size + 1) if world_size % n == 0]
        raise ConfigError(
            f"parallel.tp={parallel.tp} * parallel.pp={parallel.pp} = {ranks_per_replica} does not divide the "
            f"{world_size} processes of this run; their product may be {', '.join(map(str, legal))}"
        )
