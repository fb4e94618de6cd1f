"""How the network of an autoregressive model is asked for the next code on a layout; every rank gets the same answer.

Tensor parallelism is inside the network, and the parts of the vocabulary are put together for the choice. Of a pipeline
the last stage chooses, and tells the others. Each rank keeps the keys and values of its own heads and blocks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.cpu import torch_alone
from cosmos_train.parallel.engine import EngineConfig
from cosmos_train.parallel.inference import PipelinedForward
from cosmos_train.parallel.kv_cache import KVCache
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.vocabulary import whole_vocabulary

Choose = Callable[[Tensor], Tensor]
"""Logits [B, V] -> ids [B]."""


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass of a piece of the model: what it reads."""

    ids_BL: Tensor
    grid_HW: tuple[int, int]
    text_BSE: Tensor | None
    cache: KVCache


class Decoder:
    """This rank's pieces of a model, asked for one code after the other."""

    def __init__(self, pieces: Sequence[WorldAR], config: EngineConfig, mesh: Mesh) -> None:
        [self.piece] = pieces  # interleaved stages want several videos at once, and gain nothing from one code
        self.mesh, self.config = mesh, self.piece.config
        self.num_passes = 0
        """Forward passes so far, each of all stages."""
        self.pipeline = PipelinedForward(pieces, config, mesh) if mesh.pp.size() > 1 else None

    @torch.no_grad()
    def next_ids(self, step: Step, choose: Choose, *, batch: int) -> Tensor:
        """Ids [B] of the codes that follow the last token read, on every rank.

        batch: B, where ids_BL of a prompt have a batch of 1.
        """
        return self.decide(step, lambda hidden_LBD: choose(self.logits(hidden_LBD[-1])), (batch,))

    @torch.no_grad()
    def decide(self, step: Step, decision: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Tensor:
        """What the last stage decides from the hidden states [L, B, D] of the tokens read, on every rank.

        decision: gives int64 of this shape, the same on every tensor-parallel rank.
        """

        def run(piece: nn.Module, step: Step, hidden_LBD: Tensor | None) -> Tensor:
            result = piece(step.ids_BL, step.grid_HW, text_BSE=step.text_BSE, hidden_LBD=hidden_LBD, cache=step.cache)
            assert isinstance(result, Tensor), "a step has a cache"
            return decision(result) if self.mesh.is_last_stage else result

        self.num_passes += 1
        if self.pipeline is None:
            if self.mesh.tp.size() == 1:
                with torch_alone():
                    return run(self.piece, step, None)
            decided = run(self.piece, step, None)
            if decided.numel():  # CUDA's sums of a draw may differ in a last bit from rank to rank
                dist.broadcast(decided, group_src=0, group=self.mesh.tp)
            return decided
        like = torch.empty(tuple(shape), dtype=torch.int64, device=self.mesh.device)
        [decided] = self.pipeline(run, [step], [like])
        return decided

    def logits(self, hidden: Tensor) -> Tensor:
        """All logits [..., V] of some hidden states [..., D], on the ranks of the last stage."""
        return whole_vocabulary(self.piece.output(hidden), self.mesh.tp)
