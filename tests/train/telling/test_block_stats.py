"""What happens inside each block, against hooks of our own and the gradients that autograd gives."""

from pathlib import Path

import pytest
import torch
from support import tiny_world
from torch import Tensor

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.step_metrics import Ratio, values_of
from cosmos_train.train.telling.block_stats import BLOCK, BlockStats


def rms(values: list[Tensor]) -> float:
    return torch.cat([value.detach().double().flatten() for value in values]).square().mean().sqrt().item()


def test_root_mean_squares_of_each_block_in_the_step_that_is_observed(tmp_path: Path):
    run = tiny_world.make_run(tiny_world.write_cache(tmp_path / "cache"), tmp_path, ParallelConfig())
    task, engine, mesh = tiny_world.start(run)
    stats = BlockStats(engine)
    outputs: dict[int, list[Tensor]] = {number: [] for number in range(4)}
    gradients: dict[int, list[Tensor]] = {number: [] for number in range(4)}
    for name, module in task.pieces[0].named_modules():
        if (found := BLOCK.search(name)) and found.end() == len(name):
            module.register_forward_hook(lambda _m, _i, output, kept=outputs[int(found[1])]: kept.append(output))

    def step(*, observed: bool) -> dict[str, Ratio[float]]:
        if observed:
            stats.start()
        indices = tiny_world.micro_batches(run, 0, mesh)
        for kept in outputs.values():
            kept.clear()

        def gradients_are_summed() -> None:
            stats.add_gradients()
            for name, param in tiny_world.parameters(task):
                if found := BLOCK.search(name):
                    gradients[int(found[1])].append(param.main_grad.clone())

        batches = task.batches(indices)
        engine.train_step(task.forward_loss, batches, num_micro_batches=len(indices), lr=0.0,
                          num_tokens=task.num_tokens, on_gradients=gradients_are_summed)  # fmt: skip
        return stats.finish()

    assert step(observed=False) == {} and stats.num_blocks == 4
    for kept in gradients.values():
        kept.clear()
    means = values_of(step(observed=True))
    init.stop()
    for number in range(4):
        for kind, kept in (("activation", outputs), ("gradient", gradients)):
            assert means[f"blocks/{kind}_rms/{number:02d}"] == pytest.approx(rms(kept[number]), rel=1e-5)
