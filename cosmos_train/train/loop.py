"""The loop: set up, start, then load, step, log, save until the run is done or asked to stop."""

import contextlib
import logging
import math
import resource
import signal
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
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
from cosmos_train.train.checkpoint_folder import prune
from cosmos_train.train.ema import Ema, profiles
from cosmos_train.train.failures import UNKNOWN_HOST
from cosmos_train.train.metrics import Metrics, ratios
from cosmos_train.train.mfu import Utilization
from cosmos_train.train.optim import learning_rate
from cosmos_train.train.phases import PhaseTimer, TimedIterator
from cosmos_train.train.rank_times import NOTABLE_SHARE
from cosmos_train.train.signals import STOP_SIGNALS
from cosmos_train.train.task import Task
from cosmos_train.train.watchdog import Watchdog

log = logging.getLogger(__name__)
DONE, STOPPED = 0, 75
"""Exit codes: all steps are done; stopped early, saved, to be started again."""


def train(
    run: RunConfig,
    task: Task,
    mesh: Mesh,
    *,
    wandb_online: bool,
    code_version: str,
    host: str = UNKNOWN_HOST,
    failures: Path | None = None,
) -> int:
    """Train until train.num_steps, train.stop_at_step or a signal. Returns the exit code, the same on every rank.

    Args:
        host: this machine, as stragglers on it are named.
        failures: folder in which ranks write down what they fail of (train.failures).
    """
    check_run(run, mesh.world.size())
    source = checkpoint.choose_source(Path(run.run_dir), run.checkpoint, mesh)
    session = start(run, task, mesh, source, code_version=code_version, host=host)
    with contextlib.ExitStack() as stack:
        stack.enter_context(session.saver)
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
        try:
            with watchdog:
                is_done = run_steps(session, watchdog)
            if is_done:
                task.finish(Path(run.run_dir))
        except Exception as error:
            session.event("failed", error=f"{type(error).__name__}: {error}")
            raise
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
    phases: PhaseTimer
    metrics: Metrics | None = None
    """On rank 0."""
    logged: dict[str, float] = field(default_factory=dict)
    """Values of the last logged step."""
    saver: checkpoint.Saver = field(init=False)

    def __post_init__(self) -> None:
        config = self.run.checkpoint
        staging = None if config.staging_dir is None else Path(config.staging_dir)
        self.saver = checkpoint.Saver(
            self.mesh, asynchronous=config.asynchronous, staging=staging, on_saved=self._note_saved
        )

    def event(self, kind: str, **details: Any) -> None:
        """Note something that is not a step."""
        if self.metrics is not None:
            self.metrics.event(kind, **{"step": self.step, **details})

    def save(self) -> None:
        """Save where the run stands, or begin to."""
        where = (self.saver, Path(self.run.run_dir), self.engine, self.ema)
        checkpoint.save(*where, self.progress(), to_yaml(self.run))

    def save_snapshot(self) -> None:
        """Save the power-law averages as they stand, or begin to."""
        assert self.ema is not None
        where = (self.saver, Path(self.run.run_dir), self.engine, self.ema)
        checkpoint.save_snapshot(*where, self.progress(), to_yaml(self.run))

    def _note_saved(self, saved: checkpoint.Saved) -> None:
        """Tell of a folder that is complete, and remove those that need not be kept."""
        seconds = {"blocked_sec": saved.blocked_sec, "total_sec": saved.total_sec}
        self.event("save", step=saved.progress.step, folder=saved.folder.name, **seconds)
        if self.mesh.is_main:
            try:
                prune(Path(self.run.run_dir), self.run.checkpoint)
            except (OSError, checkpoint.CheckpointError) as error:  # what is saved is saved
                log.warning("checkpoints that need not be kept are still there: %s", error)

    def progress(self) -> checkpoint.Progress:
        """Where the run stands."""
        return checkpoint.Progress(
            step=self.step,
            samples_consumed=self.step * self.run.train.global_batch_size,
            seed=self.run.seed,
            data_digest=self.task.data_digest,
            score=self.logged.get(self.run.checkpoint.best_metric),
            layout=self.mesh.layout,
            wandb_id=self.wandb_id,
            code_version=self.code_version,
        )


def start(
    run: RunConfig, task: Task, mesh: Mesh, source: checkpoint.Source, *, code_version: str, host: str
) -> Session:
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
    return Session(run, task, mesh, engine, ema, code_version, step, wandb_id, PhaseTimer(mesh, host))


def run_steps(session: Session, watchdog: Watchdog) -> bool:
    """Load, forward, backward, update, log, save. Returns whether all steps of the run are done."""
    run, task, mesh = session.run, session.task, session.mesh
    last_step = min(run.train.num_steps, run.train.stop_at_step or run.train.num_steps)
    batches = TimedIterator(task.batches(_micro_batches(run, mesh, session.step)))
    utilization, window = _utilization(run, task, mesh), MetricWindow()
    blocks = BlockStats(session.engine) if run.train.block_stats_every_steps else None
    with StopSignal() as stop_signal:
        stopped, skipped_in_a_row = False, 0
        while session.step < last_step and not stopped:
            started, waited_sec = time.perf_counter(), batches.waited_sec
            session.step += 1
            result, values = _step(session, batches, blocks)
            if result.skipped:
                skipped_in_a_row += 1
                _note_skipped(session, result, skipped_in_a_row)
            else:
                skipped_in_a_row = 0
                window.add(values, time.perf_counter() - started, batches.waited_sec - waited_sec)
            is_logged = session.step % run.train.log_every_steps == 0 or session.step == last_step
            _log(session, window, utilization, is_logged=is_logged)
            if is_logged:
                window = MetricWindow()
            stopped = stop_signal.was_given(mesh)
            with session.phases.saving():
                _save_where_due(session, watchdog, is_last=stopped or session.step == last_step)
            watchdog.beat()
    return session.step >= run.train.num_steps


def _step(session: Session, batches: TimedIterator, blocks: BlockStats | None) -> tuple[StepResult, dict[str, float]]:
    """One optimizer step and the averages after it, with what it says of itself."""
    run, task = session.run, session.task
    lr = learning_rate(session.step, run.optim, run.train.num_steps)
    if blocks is not None and session.step % run.train.block_stats_every_steps == 0:
        blocks.start()
    with session.phases.step(batches) as gradients_are_summed:

        def on_gradients() -> None:
            gradients_are_summed()
            if blocks is not None:
                blocks.add_gradients()

        result = session.engine.train_step(
            session.phases.timed(task.forward_loss),
            batches,
            num_micro_batches=run.train.global_batch_size // (run.train.micro_batch_size * session.mesh.dp.size()),
            lr=lr,
            num_tokens=task.num_tokens,
            on_gradients=on_gradients,
        )
        if session.ema is not None and not result.skipped:
            session.ema.update(session.step)
    of_blocks = {} if blocks is None else blocks.finish()
    return result, {**result.metrics, **of_blocks, "grad_norm": result.grad_norm, "lr": lr}


def _log(session: Session, window: "MetricWindow", utilization: Utilization | None, *, is_logged: bool) -> None:
    """Count a step; where it is one that is logged, gather the ranks' times and write all down."""
    run = session.run
    times = session.phases.gather(session.step) if is_logged else None
    if not window.num_steps:
        return
    values = window.means(run, session.task, utilization)
    if times is not None:
        values |= times.means()
        session.logged = values
        _check_best_metric(session)
    if session.metrics is None:
        return
    session.metrics.step(session.step, values, is_logged=is_logged)
    if times is not None:
        times.write(Path(run.run_dir))
        straggler = times.straggler()
        if straggler.lost_share > NOTABLE_SHARE:
            session.event("straggler", **asdict(straggler))


def _save_where_due(session: Session, watchdog: Watchdog, *, is_last: bool) -> None:
    """Complete what is written by now; begin snapshots and checkpoints; before the loop ends, wait for them."""
    run, step = session.run, session.step
    session.saver.poll()
    if run.optim.ema_sigma_rels and (step % run.optim.ema_snapshot_every_steps == 0 or step == run.train.num_steps):
        session.save_snapshot()
    if is_last or step % run.checkpoint.every_steps == 0:
        watchdog.beat()
        session.save()
    if is_last:
        session.saver.wait()


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


def _check_best_metric(session: Session) -> None:
    """Raises ConfigError where checkpoints are to be kept by a value that is not logged."""
    config = session.run.checkpoint
    if config.keep_best and config.best_metric not in session.logged:
        raise ConfigError(
            f"checkpoint.best_metric={config.best_metric} is no value that this run logs; use one of "
            + ", ".join(sorted(session.logged))
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
        session.saver.wait()
        raise FloatingPointError(
            f"{bad} not finite at step {step} ({samples}), {in_a_row} steps in a row, more than "
            f"train.max_skipped_steps={train.max_skipped_steps}; the newest checkpoint is intact; lower optim.lr, or "
            "look at these samples"
        )
    if session.mesh.is_main:
        log.warning("step %d skipped: %s not finite (%s)", step, bad, samples)
