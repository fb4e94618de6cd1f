"""megatron-core's DDP, distributed optimizer and schedules around one model: build, step, describe for a checkpoint."""

import importlib.util
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

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
from cosmos_train.parallel import adam, param_groups
from cosmos_train.parallel.config import ParallelConfig, check_precision
from cosmos_train.parallel.layers import Layers, native_layers
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.pipeline import Stage
from cosmos_train.parallel.shard import gradient_sum, is_shared_over_stages, sees_own_heads
from cosmos_train.parallel.step_metrics import Metrics, Ratio, StepMetrics, put_together, scalars_of
from cosmos_train.parallel.torch_private import keep_compiler_from_optimizers

BatchT = Any
EngineConfig = TransformerConfig
"""What a task says of its model to the engine; made by cosmos_train.parallel.mcore."""
ForwardLoss = Callable[[nn.Module, BatchT, Tensor | None], tuple[Tensor, Metrics] | Tensor]
"""(model, batch, hidden of the stage before) -> (loss, metrics) on the last stage, hidden on the others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamSettings:
    """What the engine needs to know of the optimizer; the learning rate comes with each step."""

    betas: tuple[float, float]
    eps: float
    weight_decay: float
    clip_grad_norm: float
    lr_factors: Mapping[str, float] = field(default_factory=dict)
    """See cosmos_train.parallel.param_groups."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one optimizer step says of itself; the same on every rank."""

    metrics: dict[str, float]
    """Mean over the global batch."""
    grad_norm: float
    not_finite: tuple[str, ...]
    """Names of the numbers for which the step was skipped: none, unless it was."""
    ratios: dict[str, Ratio[float]] = field(default_factory=dict)
    """Ratios over the global batch, of values that not every batch has."""

    @property
    def skipped(self) -> bool:
        """Whether a number was not finite, and the weights and the optimizer were left as they were."""
        return bool(self.not_finite)


def make_layers(parallel: ParallelConfig, config: TransformerConfig, mesh: Mesh) -> Layers:
    """The configured maker of layers; `auto` is TransformerEngine where CUDA and it are there, else the native one.

    Raises:
        ConfigError: TransformerEngine is asked for and not there, or its recipe is not for this GPU.
    """
    if mesh.device.type == "meta":  # a plan: names and shapes are the same, whoever makes the layers
        return native_layers(parallel, config, mesh)
    has_te = mesh.device.type == "cuda" and importlib.util.find_spec("transformer_engine") is not None
    needed = _needs_te(parallel)
    if needed and not has_te:  # without it megatron-core hands out mock layers, and says nothing
        what, instead = needed
        raise ConfigError(f"{what}, which this process on {mesh.device} does not have; use {instead}")
    if not has_te or parallel.layers == "native":
        return native_layers(parallel, config, mesh)
    capability, name = torch.cuda.get_device_capability(mesh.device), torch.cuda.get_device_name(mesh.device)
    check_precision(parallel.precision, capability, name)
    from cosmos_train.parallel.te import te_layers  # needs CUDA to be imported at all

    return te_layers(parallel, config, mesh)


def _needs_te(parallel: ParallelConfig) -> tuple[str, str] | None:
    """What TransformerEngine alone can do of what is asked for, and what to set without it."""
    if parallel.precision.recipe != "none":
        return f"parallel.precision.recipe={parallel.precision.recipe} needs TransformerEngine on a CUDA device", "none"
    if parallel.layers == "te":
        return "parallel.layers=te needs TransformerEngine on a CUDA device", "auto or native"
    if parallel.tp_overlap:
        return "parallel.tp_overlap=true is TransformerEngine's userbuffers", "tp_overlap=false"
    if parallel.cp > 1 and parallel.cp_comm == "p2p":
        return "parallel.cp_comm=p2p is TransformerEngine's ring", "all_gather or a2a"
    return None


def overlaps_grad_reduce(choice: Literal["auto", "on", "off"], mesh: Mesh) -> bool:
    """Whether gradients are summed over replicas while the backward pass goes on (parallel.overlap_grad_reduce).

    Across stages, gradients of shared parameters are summed before the data-parallel sum starts, so a pipeline can not.
    """
    if choice == "auto":
        return mesh.device.type == "cuda" and mesh.pp.size() == 1
    return choice == "on"


class Engine:
    """One model, or this rank's pieces of it, under megatron-core."""

    def __init__(
        self,
        pieces: Sequence[nn.Module],
        config: TransformerConfig,
        mesh: Mesh,
        settings: AdamSettings,
        *,
        overlap_grad_reduce: Literal["auto", "on", "off"] = "auto",
    ) -> None:
        self.pieces, self.mesh, self.config = pieces, mesh, config
        param_groups.freeze(pieces, settings.lr_factors)
        if config.fp8_param:
            from cosmos_train.parallel.te import keep_in_8_bits  # needs CUDA to be imported at all

            for piece in pieces:
                keep_in_8_bits(piece)
        self.overlaps = overlaps_grad_reduce(overlap_grad_reduce, mesh)
        ddp_config = DistributedDataParallelConfig(
            use_distributed_optimizer=True,
            grad_reduce_in_fp32=True,
            overlap_grad_reduce=self.overlaps,
            # Weights would be gathered while the forward pass runs, each when its module is called. The tokenizer's
            # convolutions are used without being called, so it would compute with the weights of the step before.
            overlap_param_gather=False,
            fp8_param_gather=config.fp8_param,
        )
        self.ddps = [DistributedDataParallel(config, ddp_config, Stage(piece, config)) for piece in pieces]
        optimizer_config = OptimizerConfig(
            optimizer="adam",
            lr=0.0,  # set before each step
            adam_beta1=settings.betas[0],
            adam_beta2=settings.betas[1],
            adam_eps=settings.eps,
            weight_decay=settings.weight_decay,
            clip_grad=settings.clip_grad_norm,
            bf16=config.params_dtype == torch.bfloat16,
            params_dtype=config.params_dtype,
            use_distributed_optimizer=True,
            fp8_recipe=config.fp8_recipe if config.fp8 else None,
        )
        keep_compiler_from_optimizers()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            self.optimizer: MegatronOptimizer = get_megatron_optimizer(
                optimizer_config,
                self.ddps,  # pyright: ignore[reportArgumentType] upstream types it as MegatronModule
                config_overrides=param_groups.overrides(pieces, settings.lr_factors, optimizer_config, mesh),
                use_gloo_process_groups=False,
            )
        for group in self.optimizer.param_groups:  # megatron-core's scheduler does so, which is not used here
            group["weight_decay"] = settings.weight_decay * group["wd_mult"]
        config.finalize_model_grads_func = self._finalize_gradients
        config.grad_scale_func = self.optimizer.scale_loss
        if self.overlaps:
            [ddp] = self.ddps
            config.no_sync_func = ddp.no_sync
        self.run_schedule = get_forward_backward_func()

    def train_step(
        self,
        forward_loss: ForwardLoss,
        batches: Iterator[BatchT],
        *,
        num_micro_batches: int,
        lr: float,
        num_tokens: int,
        on_gradients: Callable[[], None] | None = None,
    ) -> StepResult:
        """Forward, backward, gradient sum, clipping, update.

        Args:
            batches: yields this rank's micro-batches, the same on all ranks of one replica, of one shape in a step.
            num_tokens: L of the residual stream, for what pipeline stages send to each other.
            on_gradients: called when gradients are summed, and not clipped yet.
        """
        self.zero_gradients()
        metrics = self._run(forward_loss, batches, num_micro_batches, num_tokens, forward_only=False)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_mult"]
        # megatron-core looks for values that are not finite only where it scales the loss, for fp16.
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())  # of the whole model: the same on every rank
        if on_gradients is not None:
            on_gradients()
        numbers = metrics.numbers | {"grad_norm": grad_norm}
        not_finite = tuple(name for name, number in numbers.items() if not math.isfinite(number))
        if not not_finite:
            self.optimizer.step()
            adam.require_group_steps(self.optimizer)
        return StepResult(metrics.means, grad_norm, not_finite, metrics.ratios)

    def zero_gradients(self) -> None:
        """Forget what backward passes have added up."""
        for ddp in self.ddps:
            ddp.zero_grad_buffer()
        self.optimizer.zero_grad()

    def evaluate(
        self, forward_loss: ForwardLoss, batches: Iterator[BatchT], *, num_micro_batches: int, num_tokens: int
    ) -> dict[str, float]:
        """Return the means of a forward pass without gradients over the global batch; ratios are left out."""
        with torch.no_grad():
            return self._run(forward_loss, batches, num_micro_batches, num_tokens, forward_only=True).means

    def _run(
        self,
        forward_loss: ForwardLoss,
        batches: Iterator[BatchT],
        num_micro_batches: int,
        num_tokens: int,
        *,
        forward_only: bool,
    ) -> StepMetrics:
        def forward_step(data: Iterator[BatchT], ddp: DistributedDataParallel) -> tuple[Tensor, Callable]:
            result = forward_loss(ddp, next(data), cast(Stage, ddp.module).hidden)
            if isinstance(result, Tensor):
                return result, _no_loss
            loss, metrics = result
            return loss, lambda output: (output.clone(), metrics)  # upstream divides it in place

        collected: list[Metrics] = self.run_schedule(
            forward_step_func=forward_step,
            data_iterator=list(itertools.tee(batches, len(self.ddps))),  # every piece needs every batch, once loaded
            model=cast(list[nn.Module], self.ddps),
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
            for param in itertools.chain.from_iterable(piece.parameters() for piece in self.pieces):
                if is_shared_over_stages(param) and param.requires_grad:
                    dist.all_reduce(gradient_sum(param), group=self.mesh.pp)
        if self.overlaps:
            self._require_gradients()
        finalize_model_grads(model, *args, **kwargs)
        self._sum_over_heads()

    def _require_gradients(self) -> None:
        """Name parameters that this step gave no gradient, before upstream fails for them without a name.

        Raises:
            RuntimeError: a trained parameter took no part in the step.
        """
        [ddp], [piece] = self.ddps, self.pieces
        ready: set[nn.Parameter] = set()
        for group in ddp.bucket_groups:
            ready |= set(group.per_param_grad_ready_counts)
        trained = [(name, param) for name, param in piece.named_parameters() if param.requires_grad]
        missing = [name for name, param in trained if param not in ready]
        if missing:
            more = f" and {len(missing) - 3} others" if len(missing) > 3 else ""
            raise RuntimeError(
                f"{', '.join(missing[:3])}{more} got no gradient in this step, and gradients are summed while the "
                "backward pass goes on, which waits for all; freeze them by optim.lr_factors (factor 0), or set "
                "parallel.overlap_grad_reduce=off"
            )

    def _sum_over_heads(self) -> None:
        """Sum gradients of parameters that see the heads of one tensor-parallel rank each (shard.mark_own_heads).

        Upstream sums parameters of two names, so those of another name would be left with a part of their gradient.
        """
        if self.mesh.tp.size() == 1:
            return
        gradients: list[Tensor] = []
        for piece in self.pieces:
            trained = (param for param in piece.parameters() if param.requires_grad)
            gradients += [gradient_sum(param) for param in trained if sees_own_heads(param)]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat, group=self.mesh.tp)
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def _average(self, collected: list[Metrics]) -> StepMetrics:
        """Mean over micro-batches and data-parallel ranks, told to every pipeline stage."""
        kinds: dict[str, type] = {}
        if self.mesh.is_last_stage:
            kinds = {name: type(metric) for name, metric in sorted(collected[0].items())}
        last = parallel_state.get_pipeline_model_parallel_last_rank()
        if self.mesh.pp.size() > 1:
            told = [kinds]
            dist.broadcast_object_list(told, src=last, group=self.mesh.pp, device=self.mesh.device)
            [kinds] = told
        if self.mesh.is_last_stage:
            values = torch.stack([_in_a_row(metrics, kinds) for metrics in collected]).mean(0)
            dist.all_reduce(values, group=self.mesh.dp)
            values /= self.mesh.dp.size()
        else:
            num_ratios = sum(issubclass(kind, Ratio) for kind in kinds.values())
            values = torch.zeros(len(kinds) + num_ratios, device=self.mesh.device)
        if self.mesh.pp.size() > 1:
            dist.broadcast(values, src=last, group=self.mesh.pp)
        return put_together(kinds, values.tolist())


def _in_a_row(metrics: Metrics, names: Iterable[str]) -> Tensor:
    """All scalars of the named metrics, in fp32."""
    scalars = itertools.chain.from_iterable(scalars_of(metrics[name]) for name in names)
    return torch.stack([scalar.detach().float() for scalar in scalars])


def _no_loss(_output: Tensor) -> tuple[Tensor, Metrics]:
    raise AssertionError("only the last pipeline stage computes a loss")
