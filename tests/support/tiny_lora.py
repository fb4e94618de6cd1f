"""Tiny world models with adapters, on a base that lies in a folder, and what tests ask of them on every rank."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from support import tiny_ar, tiny_world
from torch import Tensor, nn

from cosmos_train.config.load import load_run as load_run_config
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.interop.names_dit import dit_table
from cosmos_train.interop.source import WorldSource, open_source, write_ours
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.param_groups import freeze
from cosmos_train.parallel.shard import has_gradient_sum
from cosmos_train.recipes.table import make_task
from cosmos_train.train.checkpoint.folder import resolve
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.train.config import LoraConfig

RANK, ALPHA = 3, 6.0
EVERYWHERE = ("*attention.*", "*.mlp.*", "*modulation.*", "*embed", "*timestep.*")
"""Layers of each kind: divided by rows and by columns, joined, whole within the sequence, shared by stages."""
OF_AR = ("*attention.*", "*.mlp.*", "output")


class HeldTensors:
    """A TensorStore of what is in memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.meta = self.tensors = tensors

    def read(self, name: str) -> Tensor:
        return self.tensors[name].detach()


def write_base(folder: Path, run: WorldDiTRun | WorldARRun) -> None:
    """The model of a run with its first weights, in which nothing is zero; of one process."""
    mesh = init.start(ParallelConfig(), seed=run.seed)
    task = make_task(replace(run, parallel=ParallelConfig()), mesh)
    tiny_world.stir_zeros(task, mesh)
    tensors = dict[str, Tensor]()
    for piece in task.pieces:
        tensors |= piece.state_dict(keep_vars=True)
    entries = dit_table(run.model, learned_uncertainty=True) if isinstance(run, WorldDiTRun) else ar_table(run.model)
    folder.mkdir(parents=True)
    write_ours(folder, WorldSource("ours", folder, run.model, entries, HeldTensors(tensors)))


def base_of(cache: Path) -> Path:
    """Return where the base of runs on a cache lies."""
    return cache.with_name(f"{cache.name}-base")


def with_adapters(
    run: WorldDiTRun | WorldARRun, base: Path, targets: tuple[str, ...], **lora: Any
) -> WorldDiTRun | WorldARRun:
    return replace(run, lora=LoraConfig(**{"rank": RANK, "alpha": ALPHA, "targets": targets, "base": str(base)} | lora))


def make_run(
    cache: Path, run_dir: Path, parallel: ParallelConfig, targets: tuple[str, ...] = EVERYWHERE, **train: Any
) -> WorldDiTRun:
    run = with_adapters(tiny_world.make_run(cache, run_dir, parallel, **train), base_of(cache), targets)
    assert isinstance(run, WorldDiTRun)
    return run


def answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """See tiny_world.answers; of a diffusion model's adapters, none of which is zero."""
    return tiny_world.answers_of(make_run(cache, run_dir, parallel, micro_batch_size=micro_batch_size), num_steps)


def ar_answers(
    cache: Path, run_dir: Path, parallel: ParallelConfig, micro_batch_size: int, num_steps: int = 3
) -> dict[str, Any]:
    """The same of an autoregressive model's."""
    run = tiny_ar.make_run(cache, run_dir, parallel, micro_batch_size=micro_batch_size)
    return tiny_world.answers_of(with_adapters(run, base_of(cache), OF_AR), num_steps)


def write_base_of(cache: Path, is_ar: bool) -> None:
    """The base of runs on this cache."""
    make = tiny_ar.make_run if is_ar else tiny_world.make_run
    with torch.no_grad():
        write_base(base_of(cache), make(cache, Path("unused"), ParallelConfig()))


def held(cache: Path, run_dir: Path, parallel: ParallelConfig) -> dict[str, list[str]]:
    """Names of what this rank trains, has sums of gradients of, and whose weights its optimizer keeps."""
    task, engine, _ = tiny_world.start(make_run(cache, run_dir, parallel))
    named = list(tiny_world.parameters(task))
    in_buckets = set[nn.Parameter]()
    for ddp in engine.ddps:
        in_buckets |= set(ddp.param_to_bucket_group)
    return {
        "trained": sorted(name for name, param in named if param.requires_grad),
        "gradients": sorted(name for name, param in named if has_gradient_sum(param)),
        "optimizer": sorted(name for name, param in named if param in in_buckets),
    }


def outputs_at_first(cache: Path, run_dir: Path) -> tuple[Tensor, Tensor]:
    """(of the base, of a run that begins on it) for the same input."""
    mesh = init.start(ParallelConfig(), seed=3)
    task = make_task(make_run(cache, run_dir, ParallelConfig()), mesh)
    return output_of(base_of(cache)), _output(task.pieces[0])


def outputs_of_trained(cache: Path, run_dir: Path) -> tuple[Tensor, Tensor, Tensor]:
    """(of a run's checkpoint with its adapters beside, of the same opened as a plain model, of the base)."""
    folder = resolve(run_dir)
    run = replace(load_run_config(str(folder / "run.yaml")), parallel=ParallelConfig())
    mesh = init.start(run.parallel, seed=run.seed)
    task = make_task(run, mesh)
    for piece in task.pieces:
        freeze([piece], run.lr_factors)
    load_weights(folder, task.pieces, mesh)
    return _output(task.pieces[0]), output_of(run_dir), output_of(base_of(cache))


def output_of(path: Path) -> Tensor:
    """The output of a world model at a path, as plain matrices."""
    source = open_source(path)
    mesh = init.start(ParallelConfig(), seed=3)
    [model], _ = build_world_model(source.require_dit(), ParallelConfig(), mesh, dtype=torch.float32, seed=9)
    load_pieces(source, [model], mesh)
    return _output(model)


@torch.no_grad()
def _output(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, *tiny_world.SHAPE_CTHW, generator=generator)
    text = torch.randn(2, 3, tiny_world.MODEL.text_width, generator=generator)
    mask = torch.zeros(2, 1, *tiny_world.SHAPE_CTHW[1:])
    output, _ = model(x, torch.tensor([0.1, -0.4]), text, fps_B=[24.0, 30.0], condition_mask_B1THW=mask)
    return output
