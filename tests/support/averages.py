"""Moving averages of the tiny world model, as every rank has them and as they are stored."""

from pathlib import Path

import torch
from support import tiny_world
from torch import Tensor

from cosmos_train.parallel import init, optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.checkpoint.folder import resolve
from cosmos_train.train.checkpoint.load import load_weights, read_tensors, tensor_names
from cosmos_train.train.ema import Ema, Plain, PowerLaw
from cosmos_train.train.posthoc import reconstruct

KEPT = (Plain(0.5), PowerLaw(0.1))


def errors(cache: Path, run_dir: Path, parallel: ParallelConfig, precision: str) -> dict[str, float]:
    """Largest differences on this rank: the averages to those of its fp32 weights, and of the model's own weights."""
    run = tiny_world.make_run(cache, run_dir, parallel, precision=precision)
    task, engine, mesh = tiny_world.start(run)
    ema = Ema(engine, KEPT)
    params = dict(tiny_world.parameters(task))
    expected = {name: {p.key: _masters(ema, name) for p in KEPT} for name in ema.parts}
    of_model = {name: {p.key: _part(ema, params, name) for p in KEPT} for name in ema.parts}
    for step in range(1, 7):
        indices = tiny_world.micro_batches(run, step, mesh)
        engine.train_step(
            task.forward_loss, task.batches(indices), num_micro_batches=len(indices), lr=1e-4, num_tokens=1
        )
        ema.update(step)
        for name in ema.parts:
            for profile in KEPT:
                expected[name][profile.key].lerp_(_masters(ema, name), 1 - profile.keep(step))
                of_model[name][profile.key].lerp_(_part(ema, params, name), 1 - profile.keep(step))
    held = sum(average["ema"].numel() for _, average in ema.parts.values())
    return {
        "average": _difference(ema, expected),
        "average of the model's own weights": _difference(ema, of_model),
        "held": held,
        "of": sum(part.numel() for part in optimizer_state.gradients(engine.optimizer, engine.pieces).values()),
    }


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, whole."""
    init.start(ParallelConfig(), seed=0)
    return read_tensors(folder, tensor_names(folder))


def made(cache: Path, run_dir: Path, out: Path, sigma_rel: float, step: int | None = None) -> dict[str, Tensor]:
    """Reconstruct an average, and read what was written as a model that is sampled does."""
    run = tiny_world.make_run(cache, run_dir, ParallelConfig())
    mesh = init.start(run.parallel, seed=run.seed)
    reconstruct(run_dir, out, mesh, sigma_rel=sigma_rel, step=step)
    task = WorldDiTTask(run, mesh)
    load_weights(resolve(out), task.pieces, mesh)
    return tiny_world.whole_parameters(task, mesh)


def write_average(out: Path, run_dir: Path, sigma_rel: float) -> None:
    """Reconstruct an average after the last snapshot."""
    reconstruct(run_dir, out, init.start(ParallelConfig(), seed=0), sigma_rel=sigma_rel)


def distance(weights: dict[str, Tensor], snapshot: dict[str, Tensor], key: str) -> float:
    """Largest difference of a model's weights to an average in a snapshot."""
    return max(float((tensor - snapshot[f"{key}.{name}"]).abs().max()) for name, tensor in weights.items())


def _masters(ema: Ema, name: str) -> Tensor:
    return ema.masters[name][1][optimizer_state.MASTER].detach().clone()


def _part(ema: Ema, params: dict[str, torch.nn.Parameter], name: str) -> Tensor:
    return params[name].detach().float().flatten()[ema.parts[name][0]].clone()


def _difference(ema: Ema, expected: dict[str, dict[str, Tensor]]) -> float:
    errors = []
    for name, (_, averages) in ema.parts.items():
        errors += [float((average - expected[name][key]).abs().max()) for key, average in averages.items()]
    return max(errors)
