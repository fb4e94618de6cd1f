"""Saving and loading of a training state: this project, torch.distributed.checkpoint and plain torch.save, in turns.

    python benchmarks/checkpoint.py --gib 1 --rounds 5
    torchrun --nproc-per-node 2 benchmarks/checkpoint.py --gib 1 --rounds 5     data-parallel ranks

fp32: a world model's weights and Adam's two moments, the same for every way. Each way's turn ends when its bytes are on
the disk (fsync). `blocked` is how long training stands still, `total` the time until the checkpoint is complete, both
on rank 0. Beside asynchronous saves nothing is computed here; ours is asked every STEP_SEC whether it is done. Ours
computes digests, which the others do not have; `ours checked` compares them before it loads. `copy alone` is what
saving beside training can not go below: one copy of what a rank keeps into memory that is there. Of several ranks each
keeps a slice of the moments and all weights; with torch.save each writes its slices, and rank 0 the weights.
Prints a JSON line for each way: medians over the rounds, and medians of the ratios to torch.save (saving) and to
torch.distributed.checkpoint (loading) of the same round.
"""

import argparse
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from interleaved import median_ratio, order_of_round, spread
from provenance import provenance
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init, optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.train.checkpoint.folder import Progress, resolve
from cosmos_train.train.checkpoint.load import load_run
from cosmos_train.train.checkpoint.save import save_run
from cosmos_train.train.checkpoint.saver import Saved, Saver
from cosmos_train.train.checkpoint.verify import require_whole

BYTES_PER_PARAM = 12
NUM_HEADS, HEAD_DIM = 8, 128
PARAMS_PER_BLOCK = 17 * (NUM_HEADS * HEAD_DIM) ** 2
STEP_SEC = 0.2
"""How often training would ask whether an asynchronous save is done."""
Timing = tuple[float, float]
"""Seconds blocked, and in all."""


def make_engine(gib: float) -> Engine:
    """A DiT of about that much state, with moments that are not zero."""
    mesh = init.start(ParallelConfig(), seed=0)
    num_blocks = max(1, round(gib * 2**30 / BYTES_PER_PARAM / PARAMS_PER_BLOCK))
    config = DiTConfig(num_blocks=num_blocks, num_heads=NUM_HEADS, head_dim=HEAD_DIM)
    pieces, engine_config = build_world_model(config, ParallelConfig(), mesh, dtype=torch.float32, seed=0)
    adam = AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip_grad_norm=1.0)
    engine = Engine(pieces, engine_config, mesh, adam)
    for _, kinds in optimizer_state.states(engine.optimizer, pieces).values():
        for tensor in kinds.values():
            tensor.normal_()
    return engine


def plain_state(engine: Engine) -> dict[str, Tensor]:
    """The same weights, and this rank's slices of the moments, as plain tensors, for the others."""
    moments = optimizer_state.states(engine.optimizer, engine.pieces)
    rank = dist.get_rank()
    state = dict[str, Tensor]()
    for name, (_, kinds) in moments.items():
        state |= {f"{rank}.{kind}.{name}": tensor for kind, tensor in kinds.items()}
    for piece in engine.pieces:
        state |= {f"model.{name}": tensor for name, tensor in piece.state_dict().items() if tensor is not None}
    return state


@dataclass(frozen=True)
class Ways:
    """What is compared: a way's name -> what saves to, or loads from, a folder."""

    save: dict[str, Callable[[Path], Timing]]
    load: dict[str, Callable[[], Any]]


def make_ways(engine: Engine, folder: Path, stack: contextlib.ExitStack) -> Ways:
    """Every way at the same state; what they load is where their last save went."""
    state, rank = plain_state(engine), dist.get_rank()
    mine = {name: tensor for name, tensor in state.items() if rank == 0 or not name.startswith("model.")}
    kept = {name: tensor.clone() for name, tensor in state.items()}
    progress = Progress(step=0, samples_consumed=0, seed=0, data_digest="", layout=engine.mesh.layout)

    def ours(*, asynchronous: bool) -> Callable[[Path], Timing]:
        saved: list[Saved] = []
        saver = stack.enter_context(Saver(engine.mesh, asynchronous=asynchronous, on_saved=saved.append))

        def save(run_dir: Path) -> Timing:
            save_run(saver, run_dir, engine, None, progress, "")
            while saver.pending:
                time.sleep(STEP_SEC)
                saver.poll()
            return saved[-1].blocked_sec, saved[-1].total_sec

        return save

    def dcp_async(path: Path) -> Timing:
        started = time.perf_counter()
        pending = state_dict_saver.async_save(state, checkpoint_id=path)
        blocked_sec = time.perf_counter() - started
        pending.result()  # pyright: ignore[reportAttributeAccessIssue] a Future, where no stager is asked for
        return blocked_sec, time.perf_counter() - started

    def copy_alone() -> None:
        for name, tensor in state.items():
            kept[name].copy_(tensor)

    def load_ours() -> None:
        load_run(resolve(folder / "ours"), engine, None)

    def check_and_load_ours() -> None:
        require_whole(resolve(folder / "ours"), engine.mesh, contents=True)
        load_ours()

    def torch_load() -> None:
        for name, tensor in torch.load(folder / "torch.save" / f"{rank}.pt", weights_only=True).items():
            state[name].copy_(tensor)

    return Ways(
        save={
            "torch.save": lambda path: blocking(lambda: torch_save(mine, path / f"{rank}.pt")),
            "dcp": lambda path: blocking(lambda: state_dict_saver.save(state, checkpoint_id=path)),
            "dcp async": dcp_async,
            "ours": ours(asynchronous=False),
            "ours async": ours(asynchronous=True),
            "copy alone": lambda _path: blocking(copy_alone),
        },
        load={
            "torch.save": torch_load,
            "dcp": lambda: state_dict_loader.load(state, checkpoint_id=folder / "dcp"),
            "ours": load_ours,
            "ours checked": check_and_load_ours,
        },
    )


def torch_save(state: dict[str, Tensor], path: Path) -> None:
    """To a file that is on the disk then."""
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def blocking(save: Callable[[], Any]) -> Timing:
    """Of what returns when it is done, on all ranks."""
    started = time.perf_counter()
    save()
    dist.barrier()
    took_sec = time.perf_counter() - started
    return took_sec, took_sec


def main() -> None:
    parser = argparse.ArgumentParser(description="Saving and loading of a training state, three ways.")
    parser.add_argument("--gib", type=float, default=1.0, help="size of the state")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count, after one that does not")
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    arguments = parser.parse_args()
    engine = make_engine(arguments.gib)
    num_params = sum(param.numel() for param in chain.from_iterable(piece.parameters() for piece in engine.pieces))
    where = {
        "ranks": dist.get_world_size(),
        "gib": round(num_params * BYTES_PER_PARAM / 2**30, 2),
        "rounds": arguments.rounds,
        "torch": torch.__version__,
        **provenance(),
    }
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder))
        shared = [temporary]
        dist.broadcast_object_list(shared, src=0)
        folder = Path(shared[0])
        ways = make_ways(engine, folder, stack)
        saves, loads = measure(ways, folder, arguments.rounds)
        dist.barrier()
    if dist.get_rank() == 0:
        tell(saves, loads, where)
    init.stop()


def tell(saves: dict[str, list[Timing]], loads: dict[str, list[float]], where: dict[str, Any]) -> None:
    """A line for each way."""
    for way, timings in saves.items():
        figures: dict[str, Any] = {}
        for number, key in enumerate(("blocked", "total")):
            figures |= compared(
                key, [t[number] for t in timings], [t[number] for t in saves["torch.save"]], "torch_save"
            )
        print(json.dumps({"benchmark": "checkpoint save", "way": way, **figures, **where}))
    for way, seconds in loads.items():
        print(
            json.dumps(
                {"benchmark": "checkpoint load", "way": way, **compared("load", seconds, loads["dcp"], "dcp"), **where}
            )
        )


def measure(ways: Ways, folder: Path, rounds: int) -> tuple[dict[str, list[Timing]], dict[str, list[float]]]:
    """Way -> its timings, one a round: all save, then all load. Ways are in the other order every second round."""
    saves: dict[str, list[Timing]] = {way: [] for way in ways.save}
    loads: dict[str, list[float]] = {way: [] for way in ways.load}
    for number in range(-1, rounds):  # the first warms up
        for way in order_of_round(ways.save, number):
            if dist.get_rank() == 0:
                shutil.rmtree(folder / way, ignore_errors=True)
                (folder / way).mkdir()
            dist.barrier()
            timing = ways.save[way](folder / way)
            if number >= 0:
                saves[way].append(timing)
        for way in order_of_round(ways.load, number):
            _, took_sec = blocking(ways.load[way])
            if number >= 0:
                loads[way].append(took_sec)
    return saves, loads


def compared(key: str, seconds: list[float], others: list[float], other: str) -> dict[str, Any]:
    """The median, the range, and the median of the ratios to another way in the same round."""
    return {**spread(seconds, f"{key}_"), f"{key}_of_{other}": median_ratio(seconds, others)}


if __name__ == "__main__":
    main()
