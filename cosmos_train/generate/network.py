"""How a denoising step's network is run on a layout. Whatever the layout, every rank gets the same outputs.

Tensor and context parallelism are inside the network: all ranks call it alike. A pipeline needs to know all inputs of a
step, to work on several at once (pipelined); so do the two branches of guidance on two halves of the ranks (on_halves).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_train.parallel.engine import EngineConfig
from cosmos_train.parallel.inference import PipelinedForward
from cosmos_train.parallel.mesh import Mesh


class Network(Protocol):
    """F(x; c_noise) of a world model, such as cosmos_train.models.dit.model.DiT where there is no pipeline."""

    def __call__(
        self,
        x_BCTHW: Tensor,
        c_noise_B: Tensor,
        text_BSE: Tensor,
        *,
        fps_B: Sequence[float],
        condition_mask_B1THW: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class NetworkInput:
    """One call of the network. What is the same for all videos of the batch may have a batch of 1, but x and fps."""

    x_BCTHW: Tensor
    c_noise_B: Tensor
    text_BSE: Tensor
    fps_B: Sequence[float]
    condition_mask_B1THW: Tensor | None
    text_mask_BS: Tensor | None = None
    """See DiT.forward."""

    @property
    def conditions(self) -> dict[str, Any]:
        """What the network is told by name; of the text mask only where there is one."""
        found: dict[str, Any] = {"fps_B": self.fps_B, "condition_mask_B1THW": self.condition_mask_B1THW}
        return found if self.text_mask_BS is None else found | {"text_mask_BS": self.text_mask_BS}


Evaluate = Callable[[Sequence[NetworkInput]], list[Tensor]]
"""F of each input. The inputs of one call do not depend on each other's outputs."""


def in_turn(network: Network) -> Evaluate:
    """One input after the other."""
    return lambda inputs: [network(i.x_BCTHW, i.c_noise_B, i.text_BSE, **i.conditions) for i in inputs]


def pipelined(pieces: Sequence[nn.Module], config: EngineConfig, mesh: Mesh) -> Evaluate:
    """Through pipeline stages, each video of each input by itself, so that stages work at the same time."""
    run = PipelinedForward(pieces, config, mesh)

    def forward(stage: nn.Module, video: NetworkInput, hidden_LBD: Tensor | None) -> Tensor:
        return stage(video.x_BCTHW, video.c_noise_B, video.text_BSE, **video.conditions, hidden_LBD=hidden_LBD)

    def evaluate(inputs: Sequence[NetworkInput]) -> list[Tensor]:
        videos = [video for one in inputs for video in _by_video(one)]
        outputs = run(forward, videos, like=[video.x_BCTHW for video in videos])
        sizes = [len(one.x_BCTHW) for one in inputs]
        return list(torch.cat(outputs).split(sizes))

    return evaluate


def on_halves(evaluate: Evaluate, mesh: Mesh) -> Evaluate:
    """The first of two inputs on the first half of the data-parallel ranks, the second on the other half."""
    half = mesh.dp.size() // 2
    is_first = mesh.dp.rank() < half
    partner = (mesh.dp.rank() + half) % mesh.dp.size()

    def evaluate_both(inputs: Sequence[NetworkInput]) -> list[Tensor]:
        first, second = inputs
        [mine] = evaluate([first if is_first else second])
        mine = mine.contiguous()
        theirs = torch.empty_like(mine)
        exchange = [
            dist.P2POp(dist.isend, mine, group=mesh.dp, group_peer=partner),
            dist.P2POp(dist.irecv, theirs, group=mesh.dp, group_peer=partner),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        return [mine, theirs] if is_first else [theirs, mine]

    return evaluate_both


def videos_of_rank(num_videos: int, mesh: Mesh, *, num_parallel: int = 1) -> range:
    """Which of the videos this rank samples, where so many data-parallel ranks work on the same: 2 share guidance."""
    num_slices = mesh.dp.size() // num_parallel
    mine = mesh.dp.rank() % num_slices
    return range(num_videos * mine // num_slices, num_videos * (mine + 1) // num_slices)


def _by_video(one: NetworkInput) -> list[NetworkInput]:
    batch = len(one.x_BCTHW)

    def rows(tensor: Tensor | None) -> Sequence[Tensor | None]:
        if tensor is None:
            return [None] * batch
        return tensor.split(1) if len(tensor) == batch else [tensor] * batch

    columns = zip(
        *(rows(tensor) for tensor in (one.x_BCTHW, one.c_noise_B, one.text_BSE)),
        [[fps] for fps in one.fps_B],
        rows(one.condition_mask_B1THW),
        rows(one.text_mask_BS),
        strict=True,
    )
    return [NetworkInput(*video) for video in columns]
