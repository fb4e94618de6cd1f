"""What each kind of rank of a run would hold, and what a step would compute, found without starting any of them.

The model is built by the recipe's own code, on the meta device and in megatron-core's groups over ranks that are not
there (cosmos_train.parallel.fake): once for each place in the pipeline, because along the other axes all ranks hold
equally much. Places that hold equally much are one kind of rank.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import nn

from cosmos_data.caches.latents import is_finished
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.store import CONFIG, load_tokenizer
from cosmos_train.conditions.conditioner import reads_of
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RunConfig, TokenizerRun, WorldARRun, WorldDiTRun
from cosmos_train.config.validate import check_run
from cosmos_train.models.common.flops import Flops
from cosmos_train.models.dit.flops import all_blocks_cost, num_tokens
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.flops import recomputed_cost
from cosmos_train.parallel.context import split_tokens
from cosmos_train.parallel.fake import fake_stages
from cosmos_train.parallel.lora import named_linears, require_targets
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.param_groups import freeze
from cosmos_train.parallel.precision import row_multiple
from cosmos_train.parallel.shard import is_counted_elsewhere, torch_dtype, whole_shape
from cosmos_train.recipes import world_ar
from cosmos_train.recipes.tokenizer import TrainedTokenizer
from cosmos_train.recipes.world_dit import step_cost
from cosmos_train.train.ema import profiles
from cosmos_train.windows.cached import CachedWindows
from cosmos_train.windows.stream import Kind, Shape
from cosmos_train.windows.world_batches import check_fits

FP32_BYTES = 4
RELEASED_TOKENIZERS = {
    WorldDiTRun: TokenizerConfig(),
    WorldARRun: TokenizerConfig(kind="discrete", spatial_rate=16, latent_channels=6),
}
"""What the released world models were trained on: CV8x8x8 and DV8x16x16."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes on one rank's device that stay from step to step. Activations and the padding of buffers come on top."""

    weights: int
    gradients: int
    """Summed in fp32, whatever the weights are."""
    optimizer: int
    """Adam's moments and, of weights that are not fp32, master weights: a part, divided over the replicas (dp * cp)."""
    ema: int
    """Moving averages in fp32, of the part that the rank's optimizer updates; 0 where none is kept."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.ema


@dataclass(frozen=True, kw_only=True, slots=True)
class RankKind:
    """Ranks that hold equally much."""

    stages: tuple[int, ...]
    """Their places in the pipeline."""
    num_ranks: int
    blocks: int
    """Of the model, on each of them."""
    parameters: int
    memory: Memory
    tokens: int
    """Rows of the residual stream in a micro-batch, padding included; 0 where the model has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleSize:
    """Sizes of one sample inside the model, before ranks divide it."""

    latent_CTHW: tuple[int, ...]
    tokens: int
    text_tokens: int
    source: str
    """What told the sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run on so many ranks."""

    world_size: int
    layout: str
    precision: str
    parameters: int
    """Of the whole model."""
    global_batch_size: int
    micro_batch_size: int
    num_micro_batches: int
    """That each rank passes through its part of the model in a step."""
    sample: SampleSize | None
    """None where the model has no tokens."""
    step_flops: Flops | None
    """Model FLOPs of a step over all ranks; None where they are not counted."""
    recompute: str
    recompute_flops: Flops | None
    """What it adds to them."""
    kinds: tuple[RankKind, ...]


def make_plan(run: RunConfig, world_size: int) -> Plan:
    """Check the run as training does, build it, and count.

    Raises:
        ConfigError: the run can not be trained on so many ranks, or data and model do not fit each other.
        ValueError: latents can not be cut into the model's patches.
    """
    check_run(run, world_size)
    sample = plan_sample(run) if isinstance(run, WorldDiTRun | WorldARRun) else None
    parameters, layout, kinds = 0, "", []
    linears = list[str]()
    for stage, mesh in enumerate(fake_stages(run.parallel, world_size)):
        pieces = _build(run, mesh)
        linears += [name for name, _ in named_linears(pieces)]
        freeze(pieces, run.lr_factors)
        parameters += _whole_parameters(pieces, mesh)
        layout = mesh.layout
        kind = RankKind(
            stages=(stage,),
            num_ranks=world_size // run.parallel.pp,
            blocks=0 if sample is None else sum(_num_blocks(piece) for piece in pieces),
            parameters=sum(param.numel() for param in _parameters(pieces)),
            memory=_memory(pieces, mesh, num_averages=len(profiles(run.optim))),
            tokens=0 if sample is None else _tokens(run, sample, mesh),
        )
        kinds.append(kind)
    if isinstance(run, WorldDiTRun | WorldARRun):
        require_targets(run.lora, linears)
    train, data_parallel = run.train, world_size // run.parallel.ranks_per_replica
    step_flops, recompute_flops = _flops(run, sample)
    return Plan(
        world_size=world_size,
        layout=layout,
        precision=train.precision,
        parameters=parameters,
        global_batch_size=train.global_batch_size,
        micro_batch_size=train.micro_batch_size,
        num_micro_batches=train.global_batch_size // (train.micro_batch_size * data_parallel),
        sample=sample,
        step_flops=step_flops,
        recompute=run.parallel.recompute,
        recompute_flops=recompute_flops,
        kinds=_without_repeats(kinds),
    )


def plan_sample(run: WorldDiTRun | WorldARRun) -> SampleSize:
    """Sizes of a sample: the latent cache's, or where there is none yet, those that the configuration will give it.

    Raises:
        ConfigError: the cache is another model's, or data and tokenizer do not fit.
        ValueError: latents can not be cut into the model's patches.
    """
    if is_finished(run.latents.folder):
        facts = CachedWindows(run.latents.folder, run.seed, step_size=run.train.global_batch_size).facts
        if isinstance(run, WorldARRun):
            world_ar.check_fits(run.model, facts)
        else:
            check_fits(run.model, facts)
        latent_CTHW, source = max(facts.shapes, key=math.prod), facts.where
    else:
        tokenizer = _released_tokenizer(run)
        rates = f"{tokenizer.temporal_rate}x{tokenizer.spatial_rate}x{tokenizer.spatial_rate}"
        source = f"the data section, for a tokenizer of {rates}: there is no other yet"
        if (Path(run.latents.tokenizer) / CONFIG).is_file():
            _, tokenizer = load_tokenizer(Path(run.latents.tokenizer))
            source = f"the data section, for the tokenizer {run.latents.tokenizer}"
        try:
            frames = tokenizer.latent_frames(run.data.num_frames)
            height, width = tokenizer.latent_size(run.data.height_px, run.data.width_px)
        except ValueError as error:  # the tokenizer does not know which section the number comes from
            raise ConfigError(f"data.{error}") from error
        latent_CTHW = (1 if isinstance(run, WorldARRun) else run.model.latent_channels, frames, height, width)
    latent_THW = latent_CTHW[1:]
    return SampleSize(
        latent_CTHW=latent_CTHW,
        tokens=world_ar.num_tokens(run.model, latent_THW)
        if isinstance(run, WorldARRun)
        else num_tokens(run.model, latent_THW),
        text_tokens=world_ar.num_text_tokens(run) if isinstance(run, WorldARRun) else run.text.max_tokens,
        source=source,
    )


def _released_tokenizer(run: WorldDiTRun | WorldARRun) -> TokenizerConfig:
    """Of frames one by one where an action leads to the next frame, as the released models of actions have it."""
    released = RELEASED_TOKENIZERS[type(run)]
    if reads_of(run.model).action_frames == "next":
        return dataclasses.replace(released, media="image", temporal_rate=1)
    return released


def _build(run: RunConfig, mesh: Mesh) -> Sequence[nn.Module]:
    """One rank's pieces of the model, without values."""
    dtype = torch_dtype(run.train.precision)
    match run:
        case WorldDiTRun():
            pieces, _ = build_world_model(
                run.model,
                run.parallel,
                mesh,
                dtype=dtype,
                seed=run.seed,
                learned_uncertainty=run.objective.learned_uncertainty,
                lora=run.lora,
            )
            return pieces
        case WorldARRun():
            pieces, _ = build_world_ar(run.model, run.parallel, mesh, dtype=dtype, seed=run.seed, lora=run.lora)
            return pieces
        case TokenizerRun():
            with mesh.device:
                return [TrainedTokenizer(run).to(dtype)]
    raise AssertionError(f"recipe {run.recipe!r} is in config.schema.RUNS, but has no plan")


def _flops(run: RunConfig, sample: SampleSize | None) -> tuple[Flops | None, Flops | None]:
    """(of a step, what parallel.recompute adds); None where they are not counted."""
    if not isinstance(run, WorldDiTRun | WorldARRun) or sample is None:
        return None, None
    channels, _, *latent_HW = sample.latent_CTHW
    shapes: dict[Kind, dict[Shape, Fraction]] = {"video": {sample.latent_CTHW: Fraction(1)}}
    if run.image_share:
        shapes["image"] = {(channels, 1, *latent_HW): Fraction(1)}
    if isinstance(run, WorldARRun):
        step = world_ar.step_cost(run, shapes)
        again = world_ar.step_cost(run, shapes, part=recomputed_cost) * run.model.num_blocks
    else:
        step, again = step_cost(run, shapes), step_cost(run, shapes, part=all_blocks_cost)
    return step.training, again.forward if run.parallel.recompute == "full" else Flops()


def _num_blocks(piece: nn.Module) -> int:
    """Of a piece of a transformer."""
    [blocks] = [module for name, module in piece.named_modules() if name in ("blocks", "net.blocks")]
    return len(list(blocks.children()))


def _memory(pieces: Sequence[nn.Module], mesh: Mesh, *, num_averages: int) -> Memory:
    """Of one rank under the engine: see cosmos_train.parallel.engine and cosmos_train.parallel.optimizer_state."""
    weights = gradients = states = 0
    for param in _parameters(pieces):
        weights += param.element_size() * param.numel()
        if not param.requires_grad:
            continue
        in_fp32 = FP32_BYTES * param.numel()
        gradients += in_fp32
        states += in_fp32 * (2 if param.element_size() == FP32_BYTES else 3)
    return Memory(
        weights=weights,
        gradients=gradients,
        optimizer=math.ceil(states / mesh.replicas.size()),
        ema=math.ceil(num_averages * gradients / mesh.replicas.size()),
    )


def _tokens(run: RunConfig, sample: SampleSize, mesh: Mesh) -> int:
    align, is_causal = row_multiple(run.parallel.precision), isinstance(run, WorldARRun)
    split = split_tokens(sample.tokens, run.parallel, mesh, align=align, causal=is_causal)
    return run.train.micro_batch_size * split.num_padded // (1 if split.both is None else split.both.size())


def _whole_parameters(pieces: Sequence[nn.Module], mesh: Mesh) -> int:
    """Of the undivided model; what several stages have a copy of counts on the one that owns it."""
    owned = (param for param in _parameters(pieces) if not is_counted_elsewhere(param))
    return sum(math.prod(whole_shape(param, mesh)) for param in owned)


def _parameters(pieces: Sequence[nn.Module]) -> Iterator[nn.Parameter]:
    for piece in pieces:
        yield from piece.parameters()


def _without_repeats(kinds: Sequence[RankKind]) -> tuple[RankKind, ...]:
    """Kinds that differ in their stages alone become one."""
    found: dict[RankKind, RankKind] = {}
    for kind in kinds:
        key = dataclasses.replace(kind, stages=())
        known = found.get(key)
        found[key] = kind if known is None else _together(known, kind)
    return tuple(found.values())


def _together(one: RankKind, other: RankKind) -> RankKind:
    return dataclasses.replace(one, stages=one.stages + other.stages, num_ranks=one.num_ranks + other.num_ranks)
