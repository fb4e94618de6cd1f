"""megatron-core's DDP, distributed optimizer and schedules around one model: build, step, describe for a checkpoint."""

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.distributed import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    finalize_model_grads,
)
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer import TransformerConfig
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import Layers, native_layers
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import Stage

BatchT = Any
EngineConfig = TransformerConfig
"""What a task says of its model to the engine; made by cosmos_train.parallel.mcore."""
ForwardLoss = Callable[[nn.Module, BatchT, Tensor | None], tuple[Tensor, dict[str, Tensor]] | Tensor]
"""(model, batch, hidden of the stage before) -> (loss, metrics) on the last stage, hidden on the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamSettings:
    """What the engine needs to know of the optimizer; the learning rate comes with each step."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_grad_norm: float


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step says of itself; the same on every rank."""

    metrics: dict[str, float]
    """Mean over the global batch."""
    grad_norm: float
    skipped: bool
    """The optimizer found a gradient that is not finite and left the weights alone."""


def make_layers(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> Layers:
    """The configured maker of layers; `auto` is TransformerEngine where CUDA and it are there, else the native one."""
    has_te = mesh.device.type == "cuda" and importlib.util.find_spec("transformer_engine") is not None
    if parallel.layers == "native" or (parallel.layers == "auto" and not has_te):
        return native_layers(config, mesh)
    if not has_te:  # without it megatron-core hands out mock layers, and says nothing
        raise ConfigError(
            "parallel.layers=te needs TransformerEngine on a CUDA device, which this process "
            f"on {mesh.device} does not have; use auto or native"
        )
    from cosmos_train.parallel.te import te_layers  # needs CUDA to be imported at all

    return te_layers(config, mesh)


class Engine:
    """One model (or pipeline stage) under megatron-core."""

    def __init__(self, model: nn.Module, config: TransformerConfig, mesh: Mesh, adam: AdamSettings) -> None:
        self.model, self.mesh, self.config = model, mesh, config
        self.stage = Stage(model, config)
        self.ddp = DistributedDataParallel(
            config,
            DistributedDataParallelConfig(
                use_distributed_optimizer=True,
                grad_reduce_in_fp32=True,
                # Across stages, gradients of shared parameters are summed before the data-parallel sum starts.
                overlap_grad_reduce=mesh.device.type == "cuda" and mesh.pp.size() == 1,
                overlap_param_gather=mesh.device.type == "cuda" and mesh.pp.size() == 1,
            ),
            self.stage,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.optimizer: MegatronOptimizer = get_megatron_optimizer(
                OptimizerConfig(
                    optimizer="adam",
                    lr=0.0,  # set before each step
                    adam_beta1=adam.betas[0],
                    adam_beta2=adam.betas[1],
                    adam_eps=adam.eps,
                    weight_decay=adam.weight_decay,
                    clip_grad=adam.clip_grad_norm,
                    bf16=config.params_dtype == torch.bfloat16,
                    params_dtype=config.params_dtype,
                    use_distributed_optimizer=True,
                    overlap_param_gather=mesh.device.type == "cuda" and mesh.pp.size() == 1,
                ),
                [self.ddp],  # pyright: ignore[reportArgumentType] upstream types it as MegatronModule
                use_gloo_process_groups=False,
            )
        config.finalize_model_grads_func = self._finalize_gradients
        config.grad_scale_func = self.optimizer.scale_loss
        if self.ddp.ddp_config.overlap_grad_reduce:
            config.no_sync_func = self.ddp.no_sync
        self.run_schedule = get_forward_backward_func()

    def train_step(
        self,
        forward_loss: ForwardLoss,
        batches: Iterator[BatchT],
        *,
        num_micro_batches: int,
        lr: float,
        num_tokens: int,
    ) -> StepResult:
        """Forward, backward, gradient sum, clipping, update.

        Args:
            batches: yields this rank's micro-batches, the same on all ranks of one replica.
            num_tokens: L of the residual stream, for what pipeline stages send to each other.
        """
        self.ddp.zero_grad_buffer()
        self.optimizer.zero_grad()
        metrics = self._run(forward_loss, batches, num_micro_batches, num_tokens, forward_only=False)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        succeeded, grad_norm, _ = cast(tuple[bool, float | None, int | None], self.optimizer.step())
        return StepResult(metrics, float(grad_norm or 0.0), skipped=not succeeded)

    def evaluate(
        self, forward_loss: ForwardLoss, batches: Iterator[BatchT], *, num_micro_batches: int, num_tokens: int
    ) -> dict[str, float]:
        """The metrics of a forward pass without gradients, averaged over the global batch."""
        with torch.no_grad():
            return self._run(forward_loss, batches, num_micro_batches, num_tokens, forward_only=True)

    def _run(
        self,
        forward_loss: ForwardLoss,
        batches: Iterator[BatchT],
        num_micro_batches: int,
        num_tokens: int,
        *,
        forward_only: bool,
    ) -> dict[str, float]:
        def forward_step(data: Iterator[BatchT], ddp: DistributedDataParallel) -> tuple[Tensor, Callable]:
            result = forward_loss(ddp, next(data), self.stage.hidden)
            if isinstance(result, Tensor):
                return result, _no_loss
            loss, metrics = result
            return loss, lambda output: (output.clone(), metrics)  # upstream divides it in place

        collected: list[dict[str, Tensor]] = self.run_schedule(
            forward_step_func=forward_step,
            data_iterator=batches,
            model=self.ddp,
            num_microbatches=num_micro_batches,
            seq_length=num_tokens,
            micro_batch_size=1,  # unused: shapes are sent along, because T, H, W and B vary
            forward_only=forward_only,
        )
        return self._average(collected)

    def _finalize_gradients(self, model: list[nn.Module], *args: Any, **kwargs: Any) -> None:
        """Sum shared parameters over stages, then do megatron-core's data-parallel and sequence-parallel sums.

        In this order: after the data-parallel reduce-scatter, stages hold different parts of a shared parameter.
        Upstream sums there (`has_cond_embedder`), which is right only where each has a gradient bucket of its own.
        """
        if self.mesh.pp.size() > 1:
            for param in self.model.parameters():
                if getattr(param, "shared_over_stages", False):
                    dist.all_reduce(param.main_grad, group=self.mesh.pp)  # pyright: ignore[reportAttributeAccessIssue]
        finalize_model_grads(model, *args, **kwargs)

    def _average(self, collected: list[dict[str, Tensor]]) -> dict[str, float]:
        """Mean over micro-batches and data-parallel ranks, told to every pipeline stage."""
        names = [sorted(collected[0]) if self.mesh.is_last_stage else None]
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        if self.mesh.pp.size() > 1:
            dist.broadcast_object_list(names, src=last, group=self.mesh.pp, device=self.mesh.device)
        assert names[0] is not None
        if self.mesh.is_last_stage:
            values = torch.stack([torch.stack([m[n].detach().float() for n in names[0]]) for m in collected]).mean(0)
            dist.all_reduce(values, group=self.mesh.dp)
            values /= self.mesh.dp.size()
        else:
            values = torch.zeros(len(names[0]), device=self.mesh.device)
        if self.mesh.pp.size() > 1:
            dist.broadcast(values, src=last, group=self.mesh.pp)
        return dict(zip(names[0], values.tolist(), strict=True))


def _no_loss(_output: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    raise AssertionError("only the last pipeline stage computes a loss")
