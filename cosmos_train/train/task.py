"""What the loop trains: a recipe hands it one of these. Post-training supplies another task, never another loop."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from cosmos_train.models.common.flops import Flops
from cosmos_train.parallel.engine import EngineConfig
from cosmos_train.parallel.step_metrics import Metrics


class Batches(Protocol):
    """Micro-batches, which are closed where a run ends in order, after the same number of them on every rank."""

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...

    def close(self) -> None: ...


class Task(Protocol):
    """Model, data and loss of one kind of run, on this rank."""

    @property
    def pieces(self) -> Sequence[nn.Module]:
        """This rank's part of the model, with its first weights: one module, or several where stages interleave."""
        ...

    engine_config: EngineConfig
    """megatron-core's view of the model."""
    num_tokens: int
    """Tokens of the residual stream per sample, for throughput; 0 where the model has none."""

    @property
    def step_flops(self) -> Flops | None:
        """Model FLOPs of an optimizer step, over the whole global batch; None where they are not counted."""
        ...

    data_digest: str
    """Digest of what sample indices point into. A run is not continued on another."""

    @property
    def checkpoint_texts(self) -> Mapping[str, str]:
        """Small files that belong to the weights, by name: they lie in every checkpoint."""
        ...

    def begin(self, run_dir: Path) -> None:
        """Called on rank 0 once nothing refuses this start any more: write down what the run must keep."""
        ...

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Batches:
        """Load micro-batches, given the sample indices of each, in order. May read ahead."""
        ...

    def forward_loss(self, model: nn.Module, batch: Any, hidden: Tensor | None) -> tuple[Tensor, Metrics] | Tensor:
        """(loss, metrics) on the last pipeline stage, what the next stage needs on the others."""
        ...

    def warm_start(self, source: Path) -> None:
        """Fill `pieces` with the weights at checkpoint.init_from. Called on every rank."""
        ...

    def finish(self, run_dir: Path) -> None:
        """Called on every rank when the last step is saved: export what other commands read."""
        ...
