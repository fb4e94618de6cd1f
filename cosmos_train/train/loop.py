"""The loop: set up, start, then load, step, log, save until the run is done or asked to stop."""

import itertools
import logging
import math
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist

from cosmos_data.plan import rank_slice
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import to_dict, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.config.validate import check_run
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train import checkpoint
from cosmos_train.train.ema import Ema
from cosmos_train.train.metrics import Metrics
from cosmos_train.train.optim import learning_rate
from cosmos_train.train.task import Task

log = logging.getLogger(__name__)
DONE, STOPPED = 0, 75
"""Exit codes: all steps are done; stopped early, saved, to be started again."""


def train(run: RunConfig, task: Task, mesh: Mesh, *, wandb_online: bool, code_version: str) -> int:
    """Train until train.num_steps, train.stop_at_step or a signal. Returns the exit code, the same on every rank."""
    run_dir = Path(run.run_dir)
    check_run(run, mesh.world.size())
    num_micro_batches = run.train.global_batch_size // (run.train.micro_batch_size * mesh.dp.size())

    # Start: this run's checkpoint, a named one, another run's weights, or scratch.
    source = checkpoint.choose_source(run_dir, run.checkpoint)
    progress = checkpoint.Progress(
        step=0, samples_consumed=0, seed=run.seed, data_digest=task.data_digest, layout=mesh.layout
    )
    if source.folder is not None and source.weights_only:
        checkpoint.load_weights(source.folder, task.model, mesh)  # before the optimizer copies them
    engine = Engine(
        task.model,
        task.engine_config,
        mesh,
        AdamSettings(
            betas=run.optim.betas,
            eps=run.optim.eps,
            weight_decay=run.optim.weight_decay,
            clip_grad_norm=run.optim.clip_grad_norm,
        ),
    )
    ema = Ema(task.model.named_parameters(), run.optim.ema_decay) if run.optim.ema_decay else None
    if source.folder is not None and not source.weights_only:
        progress = checkpoint.read_progress(source.folder)
        _check_continues(progress, run, task, source.folder)
        checkpoint.load(source.folder, engine, ema)
    step, consumed = progress.step, progress.samples_consumed
    _say_start(run, mesh, source, progress)

    metrics = None
    wandb_id = progress.wandb_id
    if mesh.is_main:
        metrics = Metrics(
            run_dir,
            run.tracking,
            num_steps=run.train.num_steps,
            first_step=step,
            wandb_id=wandb_id,
            wandb_online=wandb_online,
            run_config=to_dict(run),
        )
        metrics.event("start", step=step, layout=mesh.layout, source=source.reason, ranks=mesh.world.size())
        wandb_id = metrics.wandb_id

    stop_signal = StopSignal()
    last_step = min(run.train.num_steps, run.train.stop_at_step or run.train.num_steps)
    batches = iter(task.batches(_micro_batches(run, mesh, step, consumed)))
    window = MetricWindow()
    saved_step = step
    stopped = False
    while step < last_step and not stopped:
        # Load, forward, backward, update.
        started = time.perf_counter()
        timed = TimedIterator(batches)
        step += 1
        consumed += run.train.global_batch_size
        lr = learning_rate(step, run.optim, run.train.num_steps)
        result = engine.train_step(
            task.forward_loss, timed, num_micro_batches=num_micro_batches, lr=lr, num_tokens=task.num_tokens
        )
        if ema is not None:
            ema.update()
        _check_finite(result.metrics, step, consumed)

        # Log.
        seconds = time.perf_counter() - started
        window.add({**result.metrics, "grad_norm": result.grad_norm, "lr": lr, "step_sec": seconds})
        window.add_share("data_wait_share", timed.waited_sec, seconds)
        is_logged = step % run.train.log_every_steps == 0 or step == last_step
        if metrics is not None:
            metrics.step(step, {**result.metrics, **window.means(run, task)}, is_logged=is_logged)
        if is_logged:
            window.clear()

        # Save.
        stopped = stop_signal.was_given(mesh)
        if step % run.checkpoint.every_steps == 0 or step == last_step or stopped:
            started = time.perf_counter()
            progress = checkpoint.Progress(
                step=step,
                samples_consumed=consumed,
                seed=run.seed,
                data_digest=task.data_digest,
                layout=mesh.layout,
                wandb_id=wandb_id,
                code_version=code_version,
            )
            folder = checkpoint.save(run_dir, engine, ema, progress, to_yaml(run), keep_last=run.checkpoint.keep_last)
            saved_step = step
            if metrics is not None:
                metrics.event("save", step=step, folder=folder.name, seconds=time.perf_counter() - started)

    is_done = step >= run.train.num_steps
    assert saved_step == step, "the last step is always saved"
    if is_done:
        task.finish(run_dir)
    if metrics is not None:
        metrics.event("done" if is_done else "stop", step=step, layout=mesh.layout)
        metrics.close()
    log.info("%s after step %d of %d", "done" if is_done else "stopped, saved", step, run.train.num_steps)
    return DONE if is_done else STOPPED


class StopSignal:
    """SIGTERM or SIGUSR1, from Slurm or a user: finish the step, save, leave with 75."""

    def __init__(self) -> None:
        self.received = False
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received = True

    def was_given(self, mesh: Mesh) -> bool:
        """Whether any rank got one; all ranks answer alike, so that all save the same step."""
        flag = torch.tensor([int(self.received)], device=mesh.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=mesh.world)
        return bool(flag.item())


class TimedIterator(Iterator):
    """Counts how long the step waited for data."""

    def __init__(self, batches: Iterator) -> None:
        self.batches, self.waited_sec = batches, 0.0

    def __next__(self) -> object:
        started = time.perf_counter()
        batch = next(self.batches)
        self.waited_sec += time.perf_counter() - started
        return batch


class MetricWindow:
    """Means since the last logged step."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.shares: dict[str, float] = {}
        self.count = 0

    def add(self, values: dict[str, float]) -> None:
        """Take in one step's values."""
        self.count += 1
        for name, value in values.items():
            self.sums[name] += value

    def add_share(self, name: str, part_sec: float, whole_sec: float) -> None:
        """Take in one step's part of its time."""
        self.sums[f"{name}/part"] += part_sec
        self.sums[f"{name}/whole"] += whole_sec
        self.shares[name] = self.sums[f"{name}/part"] / self.sums[f"{name}/whole"]

    def means(self, run: RunConfig, task: Task) -> dict[str, float]:
        """The window's means, with throughput and this process's peak memory."""
        means = {name: total / self.count for name, total in self.sums.items() if "/" not in name}
        samples_per_sec = run.train.global_batch_size / means["step_sec"]
        return {
            **means,
            **self.shares,
            "samples_per_sec": samples_per_sec,
            "tokens_per_sec": samples_per_sec * task.num_tokens,
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }

    def clear(self) -> None:
        """Start the next window."""
        self.__init__()


def _micro_batches(run: RunConfig, mesh: Mesh, step: int, consumed: int) -> Iterator[Sequence[int]]:
    """This rank's sample indices, micro-batch after micro-batch, from where the run stands."""
    size = run.train.micro_batch_size
    for ahead in itertools.count(step):
        if ahead >= run.train.num_steps:
            return
        mine = rank_slice(ahead, run.train.global_batch_size, mesh.dp.rank(), mesh.dp.size())
        for start in range(0, len(mine), size):
            yield mine[start : start + size]


def _check_continues(progress: checkpoint.Progress, run: RunConfig, task: Task, folder: Path) -> None:
    """A resumed run must go on with the data and seed it had: else samples repeat or are lost without a word."""
    if progress.data_digest != task.data_digest:
        raise ConfigError(
            f"{folder} was trained on data with digest {progress.data_digest[:12]}, but the configured data has "
            f"{task.data_digest[:12]}; restore the data, or start another run with checkpoint.init_from={folder}"
        )
    if progress.seed != run.seed:
        raise ConfigError(
            f"seed={run.seed}, but {folder} was trained with seed {progress.seed}; set seed={progress.seed}"
        )
    if progress.samples_consumed != progress.step * run.train.global_batch_size:
        raise ConfigError(
            f"train.global_batch_size={run.train.global_batch_size}, but {folder} consumed "
            f"{progress.samples_consumed} samples in {progress.step} steps; "
            f"set train.global_batch_size={progress.samples_consumed // max(1, progress.step)}"
        )


def _check_finite(values: dict[str, float], step: int, consumed: int) -> None:
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        raise FloatingPointError(
            f"{', '.join(bad)} not finite at step {step} (samples before {consumed}); "
            "the newest checkpoint is intact; lower optim.lr, or look at these samples"
        )


def _say_start(run: RunConfig, mesh: Mesh, source: checkpoint.Source, progress: checkpoint.Progress) -> None:
    if not mesh.is_main:
        return
    where = "" if source.folder is None else f" {source.folder}"
    print(f"started from{where}: {source.reason}", flush=True)
    if progress.step:
        print(
            f"step {progress.step} of {run.train.num_steps}, saved as {progress.layout}, going on as {mesh.layout}",
            flush=True,
        )
