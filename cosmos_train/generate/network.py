"""How a denoising step's network is run on a layout. Whatever the layout, every rank gets the same outputs.

Tensor and context parallelism are inside the network: all ranks call it alike. A pipeline needs to know all inputs of a
step, to work on several at once (pipelined); so do the two branches of guidance on two halves of the ranks (on_halves).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_train.generate.config import require_halves
from cosmos_train.models.dit.model import DiTConditions
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
        padding_mask_B1HW: Tensor | None,
        extra_BCTHW: Tensor | None,
        text_mask_BS: Tensor | None,
        action_BTRA: Tensor | None,
        embodiment_B: Tensor | None,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkInput:
    """One call of the network, whose arguments DiT.forward describes.

    What is the same for all videos of the batch may have a batch of 1, but x and fps.
    """

    x_BCTHW: Tensor
    c_noise_B: Tensor
    text_BSE: Tensor
    fps_B: Sequence[float]
    condition_mask_B1THW: Tensor | None
    padding_mask_B1HW: Tensor | None = None
    extra_BCTHW: Tensor | None = None
    text_mask_BS: Tensor | None = None
    action_BTRA: Tensor | None = None
    embodiment_B: Tensor | None = None

    @property
    def conditions(self) -> DiTConditions:
        """Return the arguments that the network is told by name."""
        return {
            "fps_B": self.fps_B,
            "condition_mask_B1THW": self.condition_mask_B1THW,
            "padding_mask_B1HW": self.padding_mask_B1HW,
            "extra_BCTHW": self.extra_BCTHW,
            "text_mask_BS": self.text_mask_BS,
            "action_BTRA": self.action_BTRA,
            "embodiment_B": self.embodiment_B,
        }

    def video(self, number: int) -> "NetworkInput":
        """The same of one of the videos."""

        def row(tensor: Tensor) -> Tensor:
            return tensor if len(tensor) == 1 else tensor[number : number + 1]

        def row_or_none(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else row(tensor)

        return NetworkInput(
            x_BCTHW=row(self.x_BCTHW),
            c_noise_B=row(self.c_noise_B),
            text_BSE=row(self.text_BSE),
            fps_B=[self.fps_B[number]],
            condition_mask_B1THW=row_or_none(self.condition_mask_B1THW),
            padding_mask_B1HW=row_or_none(self.padding_mask_B1HW),
            extra_BCTHW=row_or_none(self.extra_BCTHW),
            text_mask_BS=row_or_none(self.text_mask_BS),
            action_BTRA=row_or_none(self.action_BTRA),
            embodiment_B=row_or_none(self.embodiment_B),
        )


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
        sizes, videos = [len(one.x_BCTHW) for one in inputs], list[NetworkInput]()
        for one, size in zip(inputs, sizes, strict=True):
            videos += [one.video(number) for number in range(size)]
        outputs = run(forward, videos, like=[video.x_BCTHW for video in videos])
        return list(torch.cat(outputs).split(sizes))

    return evaluate


def on_halves(evaluate: Evaluate, mesh: Mesh) -> Evaluate:
    """The first of two inputs on the first half of the data-parallel ranks, the second on the other half.

    Raises:
        ConfigError: their number is odd.
    """
    require_halves(mesh.world.size(), tp=mesh.tp.size(), pp=mesh.pp.size(), cp=mesh.cp.size())
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
