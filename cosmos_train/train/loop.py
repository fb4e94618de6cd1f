"""The loop: set up, start, then load, step, log, save until the run is done or asked to stop."""

import contextlib
import logging
import math
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from cosmos_data.order import rank_slice
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.gpus import peak_tflops, product_format
from cosmos_train.config.load import to_dict, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.config.validate import check_run
from cosmos_train.parallel.engine import AdamSettings, Engine, StepResult
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train import checkpoint
from cosmos_train.train.block_stats import BlockStats
from cosmos_train.train.ema import Ema, profiles
from cosmos_train.train.metrics import Metrics, ratios
from cosmos_train.train.mfu import Utilization
from cosmos_train.train.optim import learning_rate
from cosmos_train.train.signals import STOP_SIGNALS
from cosmos_train.train.task import Task
from cosmos_train.train.watchdog import Watchdog

log = logging.getLogger(__name__)
DONE, STOPPED = 0, 75
"""Exit codes: all steps are done; stopped early, saved, to be started again."""


def train(
    run: RunConfig, task: Task, mesh: Mesh, *, wandb_online: bool, code_version: str, failures: Path | None = None
) -> int:
    """Train until train.num_steps, train.stop_at_step or a signal. Returns the exit code, the same on every rank.

    Args:
        failures: folder in which ranks write down what they fail of (train.failures).
    """
    check_run(run, mesh.world.size())
    source = checkpoint.choose_source(Path(run.run_dir), run.checkpoint, mesh)
    session = start(run, task, mesh, source, code_version=code_version)
    with contextlib.ExitStack() as stack:
        if mesh.is_main:
            metrics = Metrics(
                Path(run.run_dir),
                run.tracking,
                num_steps=run.train.num_steps,
                first_step=session.step,
                wandb_id=session.wandb_id,
                wandb_online=wandb_online,
                run_config=to_dict(run),
            )
            stack.callback(metrics.close)
            metrics.event("start", step=session.step, layout=mesh.layout, source=source.reason, ranks=mesh.world.size())
            session.metrics, session.wandb_id = metrics, metrics.wandb_id
        watchdog = Watchdog(
            Path(run.run_dir) / "stacks",
            failures,
            rank=mesh.world.rank(),
            num_ranks=mesh.world.size(),
            limit_sec=run.train.hang_sec,
        )
        with watchdog:
            is_done = run_steps(session, watchdog)
        if is_done:
            task.finish(Path(run.run_dir))
        session.event("done" if is_done else "stop", layout=mesh.layout)
    log.info("%s after step %d of %d", "done" if is_done else "stopped, saved", session.step, run.train.num_steps)
    return DONE if is_done else STOPPED


@dataclass(slots=True)
class Session:
    """A run on this rank, and where it stands."""

    run: RunConfig
    task: Task
    mesh: Mesh
    engine: Engine
    ema: Ema | None
    code_version: str
    step: int
    """Optimizer steps done."""
    wandb_id: str | None
    metrics: Metrics | None = None
    """On rank 0."""

    def event(self, kind: str, **details: Any) -> None:
        """Note something that is not a step."""
        if self.metrics is not None:
            self.metrics.event(kind, step=self.step, **details)

    def save(self) -> None:
        """Write a checkpoint of where the run stands."""
        started = time.perf_counter()
        run_dir, run_yaml = Path(self.run.run_dir), to_yaml(self.run)
        folder = checkpoint.save(run_dir, self.engine, self.ema, self.progress(), run_yaml, self.run.checkpoint)
        self.event("save", folder=folder.name, seconds=time.perf_counter() - started)

    def save_snapshot(self) -> None:
        """Write the power-law averages as they stand."""
        assert self.ema is not None
        checkpoint.save_snapshot(Path(self.run.run_dir), self.engine, self.ema, self.progress(), to_yaml(self.run))

    def progress(self) -> checkpoint.Progress:
        """Where the run stands."""
        return checkpoint.Progress(
            step=self.step,
            samples_consumed=self.step * self.run.train.global_batch_size,
            seed=self.run.seed,
            data_digest=self.task.data_digest,
            layout=self.mesh.layout,
            wandb_id=self.wandb_id,
            code_version=self.code_version,
        )


def start(run: RunConfig, task: Task, mesh: Mesh, source: checkpoint.Source, *, code_version: str) -> Session:
    """Put the model under the engine, with what the source holds."""
    if source.folder is not None and source.weights_only:
        task.warm_start(source.folder)  # before the optimizer copies the weights
    optim = run.optim
    adam = AdamSettings(
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        clip_grad_norm=optim.clip_grad_norm,
        lr_factors=optim.lr_factors,
    )
    engine = Engine(task.pieces, task.engine_config, mesh, adam)
    kept = profiles(optim)
    ema = Ema(engine, kept) if kept else None
    step, wandb_id = 0, None
    if mesh.is_main:
        print(f"started from{f' {source.folder}' if source.folder else ''}: {source.reason}", flush=True)
    if source.folder is not None and not source.weights_only:
        progress = checkpoint.read_progress(source.folder)
        _check_continues(progress, run, task, source.folder)
        checkpoint.load(source.folder, engine, ema)
        step, wandb_id = progress.step, progress.wandb_id
        if mesh.is_main:
            print(f"step {step} of {run.train.num_steps}, saved as {progress.layout}, going on as {mesh.layout}")
    return Session(run, task, mesh, engine, ema, code_version, step, wandb_id)


def run_steps(session: Session, watchdog: Watchdog) -> bool:
    """Load, forward, backward, update, log, save. Returns whether all steps of the run are done."""
    run, task, mesh = session.run, session.task, session.mesh
    num_micro_batches = run.train.global_batch_size // (run.train.micro_batch_size * mesh.dp.size())
    last_step = min(run.train.num_steps, run.train.stop_at_step or run.train.num_steps)
    batches = TimedIterator(task.batches(_micro_batches(run, mesh, session.step)))
    utilization, window = _utilization(run, task, mesh), MetricWindow()
    blocks = BlockStats(session.engine) if run.train.block_stats_every_steps else None
    with StopSignal() as stop_signal:
        stopped, skipped_in_a_row = False, 0
        while session.step < last_step and not stopped:
            started, waited_sec = time.perf_counter(), batches.waited_sec
            session.step += 1
            lr = learning_rate(session.step, run.optim, run.train.num_steps)
            if blocks is not None and session.step % run.train.block_stats_every_steps == 0:
                blocks.start()
            result = session.engine.train_step(
                task.forward_loss,
                batches,
                num_micro_batches=num_micro_batches,
                lr=lr,
                num_tokens=task.num_tokens,
                on_gradients=None if blocks is None else blocks.add_gradients,
            )
            of_blocks = {} if blocks is None else blocks.finish()
            if result.skipped:
                skipped_in_a_row += 1
                _note_skipped(session, result, skipped_in_a_row)
            else:
                skipped_in_a_row = 0
                if session.ema is not None:
                    session.ema.update(session.step)
                seconds = time.perf_counter() - started
                values = {**result.metrics, **of_blocks, "grad_norm": result.grad_norm, "lr": lr}
                window.add(values, seconds, batches.waited_sec - waited_sec)
            is_logged = session.step % run.train.log_every_steps == 0 or session.step == last_step
            if session.metrics is not None and window.num_steps:
                session.metrics.step(session.step, window.means(run, task, utilization), is_logged=is_logged)
            if is_logged:
                window = MetricWindow()

            is_snapshot = session.step % run.optim.ema_snapshot_every_steps == 0 or session.step == run.train.num_steps
            if run.optim.ema_sigma_rels and is_snapshot:
                session.save_snapshot()
            stopped = stop_signal.was_given(mesh)
            if session.step % run.checkpoint.every_steps == 0 or session.step == last_step or stopped:
                watchdog.beat()
                session.save()
            watchdog.beat()
    return session.step >= run.train.num_steps


class StopSignal:
    """SIGTERM or SIGUSR1, from Slurm or a user: finish the step, save, leave with 75."""

    def __enter__(self) -> "StopSignal":
        self.received = False
        self.previous = {n: signal.signal(n, self._receive) for n in STOP_SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
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
        self.num_steps, self.step_sec, self.waited_sec = 0, 0.0, 0.0

    def add(self, values: dict[str, float], step_sec: float, waited_sec: float) -> None:
        """Take in one step: its values, how long it took, and how much of that it waited for data."""
        self.num_steps += 1
        self.step_sec += step_sec
        self.waited_sec += waited_sec
        for name, value in values.items():
            self.sums[name] += value

    def means(self, run: RunConfig, task: Task, utilization: Utilization | None) -> dict[str, float]:
        """The window's means, with throughput and this process's peak memory."""
        step_sec = self.step_sec / self.num_steps
        samples_per_sec = run.train.global_batch_size / step_sec
        return {
            **ratios({name: total / self.num_steps for name, total in self.sums.items()}),
            "step_sec": step_sec,
            "data_wait_share": self.waited_sec / self.step_sec,
            "samples_per_sec": samples_per_sec,
            "tokens_per_sec": samples_per_sec * task.num_tokens,
            **({} if utilization is None else utilization.metrics(step_sec)),
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }


def _utilization(run: RunConfig, task: Task, mesh: Mesh) -> Utilization | None:
    """None where the task counts no FLOPs. On a CPU, and of fp32, there is a peak only where it is configured."""
    if task.step_flops is None:
        return None
    peak = run.train.peak_tflops
    if peak is None and mesh.device.type == "cuda" and run.train.precision != "fp32":
        name = torch.cuda.get_device_name(mesh.device)
        peak = peak_tflops(name, product_format(run.parallel.precision.recipe))
        if peak is None and mesh.is_main:
            log.warning("no peak is known of %s, so no mfu is logged; set train.peak_tflops", name)
    return Utilization(step_tflop=task.step_flops.total / 1e12, num_ranks=mesh.world.size(), peak_tflops=peak)


def _micro_batches(run: RunConfig, mesh: Mesh, step: int) -> Iterator[Sequence[int]]:
    """This rank's sample indices, micro-batch after micro-batch, from where the run stands to its end."""
    size = run.train.micro_batch_size
    for ahead in range(step, run.train.num_steps):
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


def _note_skipped(session: Session, result: StepResult, in_a_row: int) -> None:
    """Name the samples of a step that was skipped. Raises FloatingPointError where there were too many in a row."""
    train, step = session.run.train, session.step
    values = {**result.metrics, "grad_norm": result.grad_norm}
    bad = ", ".join(name for name, value in values.items() if not math.isfinite(value))
    first = (step - 1) * train.global_batch_size
    samples = f"samples {first} to {first + train.global_batch_size - 1}"
    session.event("skipped", not_finite=bad, first_sample=first, num_samples=train.global_batch_size)
    if in_a_row > train.max_skipped_steps:
        raise FloatingPointError(
            f"{bad} not finite at step {step} ({samples}), {in_a_row} steps in a row, more than "
            f"train.max_skipped_steps={train.max_skipped_steps}; the newest checkpoint is intact; lower optim.lr, or "
            "look at these samples"
        )
    if session.mesh.is_main:
        log.warning("step %d skipped: %s not finite (%s)", step, bad, samples)
