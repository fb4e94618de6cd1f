"""What a rank that was really started holds, for comparison with what was planned."""

from itertools import chain, product
from pathlib import Path
from typing import Any

from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from support import tiny_world
from torch import Tensor

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.ema import Ema, profiles


def held(cache: Path, run_dir: Path, parallel: ParallelConfig, precision: str) -> dict[str, Any]:
    """Bytes by what they are for, parameters, blocks and tokens, of this rank after its first optimizer step."""
    run = tiny_world.make_run(cache, run_dir, parallel, micro_batch_size=2, precision=precision)
    task, engine, mesh = tiny_world.start(run)
    ema = Ema(engine, profiles(run.optim))
    rows: list[int] = []
    for piece in task.pieces:
        for block in piece.net.blocks.values():
            block.register_forward_pre_hook(lambda _block, inputs: rows.append(inputs[0].shape[0] * inputs[0].shape[1]))
    indices = tiny_world.micro_batches(run, 0, mesh)
    engine.train_step(
        task.forward_loss, task.batches(indices), num_micro_batches=len(indices), lr=1e-3, num_tokens=task.num_tokens
    )
    params = [param for _, param in tiny_world.parameters(task)]
    return {
        "stage": mesh.pp.rank(),
        "micro_batches": len(indices),
        "parameters": sum(param.numel() for param in params),
        "blocks": sum(len(piece.net.blocks) for piece in task.pieces),
        "tokens": set(rows),
        "weights": _bytes(params),
        "gradients": _bytes([param.main_grad for param in params]),
        "ema": sum(_bytes(averages.values()) for _, averages in ema.parts.values()),
        "optimizer": _bytes(_states(engine)),
    }


def _states(engine: Any) -> list[Tensor]:
    [optimizer] = engine.optimizer.chained_optimizers
    assert isinstance(optimizer, DistributedOptimizer)
    states = product(optimizer.optimizer.state.values(), optimizer_state.MOMENTS)
    moments = [state[kind] for state, kind in states]
    masters = list(chain.from_iterable(optimizer.shard_fp32_from_float16_groups))
    return moments + masters


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
