"""The loop: set up, start, then load, step, log, save until the run is done or asked to stop."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from cosmos_data.sample_plan.order import SAMPLE_ORDER, rank_slice
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import to_dict, to_yaml
from cosmos_train.config.schema import RunConfig
from cosmos_train.config.validate import check_run
from cosmos_train.parallel.engine import AdamSettings, Engine, StepResult
from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.parallel.step_metrics import Ratio
from cosmos_train.train.checkpoint.folder import CheckpointError, Progress, prune, read_progress
from cosmos_train.train.checkpoint.lineage import check_continues, describe_start, is_own
from cosmos_train.train.checkpoint.load import load_run
from cosmos_train.train.checkpoint.save import save_run, save_snapshot
from cosmos_train.train.checkpoint.saver import Saved, Saver
from cosmos_train.train.checkpoint.start import StartingPoint, choose_start, tidy
from cosmos_train.train.checkpoint.state import tensors_of
from cosmos_train.train.ema import Ema, profiles
from cosmos_train.train.failures import UNKNOWN_HOST
from cosmos_train.train.finite import name_not_finite
from cosmos_train.train.optim import learning_rate
from cosmos_train.train.signals import DONE, STOPPED, StopSignals
from cosmos_train.train.task import Task
from cosmos_train.train.telling.alerts import HANGS, NOT_FINITE
from cosmos_train.train.telling.block_stats import BlockStats
from cosmos_train.train.telling.metric_window import MetricWindow, measure_utilization, peak_memory
from cosmos_train.train.telling.metrics import Metrics
from cosmos_train.train.telling.mfu import Utilization
from cosmos_train.train.telling.phases import PhaseTimer, TimedIterator
from cosmos_train.train.telling.rank_times import NOTABLE_SHARE
from cosmos_train.train.watchdog import Watchdog

log = logging.getLogger(__name__)


def train(
    run: RunConfig,
    task: Task,
    mesh: Mesh,
    *,
    code_version: str,
    host: str = UNKNOWN_HOST,
    failures: Path | None = None,
    job: Mapping[str, str] | None = None,
    stop: StopSignals | None = None,
    on_start: Callable[[], None] = lambda: None,
) -> int:
    """Train until train.num_steps, train.stop_at_step or a signal. Returns the exit code, the same on every rank.

    Args:
        host: this machine, as stragglers on it are named.
        failures: folder in which ranks write down what they fail of (train.failures).
        job: what the scheduler calls this start, such as its job's id and the cluster's name.
        stop: what this process is asked by signals; None where nobody listens.
        on_start: called on rank 0 once nothing refuses this start any more: until then the run's folder stays as it is.
    """
    stop = stop or StopSignals()
    check_run(run, mesh.world.size())
    run_dir = Path(run.run_dir)
    watchdog = Watchdog(
        run_dir / "stacks",
        failures,
        rank=mesh.world.rank(),
        num_ranks=mesh.world.size(),
        limit_sec=run.train.hang_sec,
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(watchdog)
        if stops_before_first_step(stop, mesh):
            return STOPPED
        require_same_data(task.data_digest, mesh)
        begin = choose_start(run_dir, run.checkpoint, mesh)
        watchdog.beat()
        session = start(run, task, mesh, begin, code_version=code_version, host=host)
        tidy(run_dir, run.checkpoint, begin, mesh)
        if mesh.is_main:
            on_start()
            task.begin(run_dir)
        watchdog.beat()
        if stops_before_first_step(stop, mesh):
            return STOPPED
        watchdog.hosts = session.phases.hosts
        stack.enter_context(session.saver)
        if mesh.is_main:
            session.metrics = stack.enter_context(_open_metrics(session, begin, job or {}))
            session.wandb_id = session.metrics.wandb_id
        watchdog.on_hang = lambda sentence: session.alert(HANGS, sentence)
        try:
            exit_code = run_steps(session, watchdog, stop)
            if exit_code == DONE:
                task.finish(run_dir)
        except Exception as error:
            session.event("failed", error=f"{type(error).__name__}: {error}")
            raise
        session.end(exit_code)
    word = "done" if exit_code == DONE else "stopped, saved"
    log.info("%s after step %d of %d", word, session.step, run.train.num_steps)
    return exit_code


def is_any_asked(stop: StopSignals, mesh: Mesh) -> bool:
    """Whether any rank was asked to stop; all ranks answer alike, so that all leave after the same step."""
    flag = torch.tensor([int(stop.is_asked)], device=mesh.device)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=mesh.world)
    return bool(flag.item())


def require_same_data(data_digest: str, mesh: Mesh) -> None:
    """ConfigError, on every rank, where one of them reads other data: rank 0 alone has compared files with digests."""
    digests: list[str] = [""] * mesh.world.size()
    dist.all_gather_object(digests, data_digest, group=mesh.world)
    for rank, digest in enumerate(digests):
        if digest != digests[0]:
            raise ConfigError(
                f"rank {rank} reads data with digest {digest[:12]}, rank 0 with {digests[0][:12]}; give all nodes the"
                " same manifest or latents"
            )


def stops_before_first_step(stop: StopSignals, mesh: Mesh) -> bool:
    """The same, while a run starts, with a word about it."""
    if not is_any_asked(stop, mesh):
        return False
    log.info("asked to stop before the first step: nothing is lost")
    return True


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
    saver: Saver = field(init=False)

    def __post_init__(self) -> None:
        config = self.run.checkpoint
        staging = None if config.staging_dir is None else Path(config.staging_dir)
        self.saver = Saver(
            self.mesh,
            asynchronous=config.asynchronous,
            staging=staging,
            texts=self.task.checkpoint_texts,
            on_saved=self._note_saved,
        )

    def event(self, kind: str, **details: Any) -> None:
        """Note something that is not a step."""
        if self.metrics is not None:
            self.metrics.event(kind, **{"step": self.step, **details})

    def alert(self, cause: str, sentence: str) -> None:
        """Tell people of what they should look at."""
        if self.metrics is not None:
            self.metrics.alert(cause, sentence, step=self.step)

    def end(self, exit_code: int) -> None:
        """Note that the run is done, or stopped and saved."""
        self.event("done" if exit_code == DONE else "stop", layout=self.mesh.layout)
        if self.metrics is not None:
            self.metrics.exit_code = exit_code

    def save(self) -> None:
        """Save where the run stands, or begin to."""
        where = (self.saver, Path(self.run.run_dir), self.engine, self.ema)
        save_run(*where, self.progress(), to_yaml(self.run))

    def save_snapshot(self) -> None:
        """Save the power-law averages as they stand, or begin to."""
        assert self.ema is not None
        where = (self.saver, Path(self.run.run_dir), self.engine, self.ema)
        save_snapshot(*where, self.progress(), to_yaml(self.run))

    def _note_saved(self, saved: Saved) -> None:
        """Tell of a folder that is complete, and remove those that need not be kept."""
        seconds = {"blocked_sec": saved.blocked_sec, "total_sec": saved.total_sec}
        self.event("save", step=saved.progress.step, folder=saved.folder.name, **seconds)
        if self.metrics is not None:
            self.metrics.tell_results()
        if self.mesh.is_main:
            try:
                prune(Path(self.run.run_dir), self.run.checkpoint)
            except (OSError, CheckpointError) as error:  # what is saved is saved
                log.warning("checkpoints that need not be kept are still there: %s", error)

    def progress(self) -> Progress:
        """Where the run stands."""
        return Progress(
            step=self.step,
            samples_consumed=self.step * self.run.train.global_batch_size,
            seed=self.run.seed,
            data_digest=self.task.data_digest,
            sample_order=SAMPLE_ORDER,
            score=self.logged.get(self.run.checkpoint.best_metric),
            layout=self.mesh.layout,
            wandb_id=self.wandb_id,
            code_version=self.code_version,
        )


def start(run: RunConfig, task: Task, mesh: Mesh, begin: StartingPoint, *, code_version: str, host: str) -> Session:
    """Put the model under the engine, with what it goes on from."""
    if begin.folder is not None and begin.weights_only:
        task.warm_start(begin.folder)  # before the optimizer copies the weights
    optim = run.optim
    adam = AdamSettings(
        betas=optim.betas,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        clip_grad_norm=optim.clip_grad_norm,
        lr_factors=run.lr_factors,
    )
    overlap = run.parallel.overlap_grad_reduce
    engine = Engine(task.pieces, task.engine_config, mesh, adam, overlap_grad_reduce=overlap)
    kept = profiles(optim)
    ema = Ema(engine, kept) if kept else None
    step, wandb_id = 0, None
    if mesh.is_main:
        print(f"started from{f' {begin.folder}' if begin.folder else ''}: {begin.reason}", flush=True)
    if begin.folder is not None and not begin.weights_only:
        folder = begin.folder
        progress = from_main(mesh, lambda: read_progress(folder))
        check_continues(progress, run, task.data_digest, begin.folder)
        load_run(begin.folder, engine, ema)
        step, wandb_id = progress.step, progress.wandb_id if is_own(begin.folder, Path(run.run_dir)) else None
        if mesh.is_main:
            print(f"step {step} of {run.train.num_steps}, saved as {progress.layout}, going on as {mesh.layout}")
    return Session(run, task, mesh, engine, ema, code_version, step, wandb_id, PhaseTimer(mesh, host))


def _open_metrics(session: Session, begin: StartingPoint, job: Mapping[str, str]) -> Metrics:
    """Of this start, on rank 0."""
    run = session.run
    start = describe_start(
        begin.folder,
        begin.reason,
        layout=session.mesh.layout,
        hosts=session.phases.hosts,
        code_version=session.code_version,
        job=job,
    )
    return Metrics(
        Path(run.run_dir),
        run.tracking,
        num_steps=run.train.num_steps,
        first_step=session.step,
        wandb_id=session.wandb_id,
        run_config=to_dict(run),
        start=start,
    )


def run_steps(session: Session, watchdog: Watchdog, stop: StopSignals) -> int:
    """Load, forward, backward, update, log, save. Returns the exit code."""
    run, task, mesh = session.run, session.task, session.mesh
    last_step = min(run.train.num_steps, run.train.stop_at_step or run.train.num_steps)
    utilization, window = measure_utilization(run, task, mesh), MetricWindow()
    blocks = BlockStats(session.engine) if run.train.block_stats_every_steps else None
    stopped = session.step < last_step and stops_before_first_step(stop, mesh)
    asked = _micro_batches(run, mesh, session.step, session.step if stopped else last_step)
    batches = session.phases.timed_batches(task.batches(asked))
    skipped_in_a_row = 0
    while session.step < last_step and not stopped:
        started, waited_sec = time.perf_counter(), batches.waited_sec
        session.step += 1
        result, of_blocks, lr = _step(session, batches, blocks)
        if result.skipped:
            skipped_in_a_row += 1
            _note_skipped(session, result, skipped_in_a_row)
        else:
            skipped_in_a_row = 0
            window.add(
                {**result.metrics, "grad_norm": result.grad_norm, "lr": lr},
                {**result.ratios, **of_blocks},
                step_sec=time.perf_counter() - started,
                waited_sec=batches.waited_sec - waited_sec,
            )
        is_logged = session.step % run.train.log_every_steps == 0 or session.step == last_step
        _log(session, window, utilization, is_logged=is_logged)
        if is_logged:
            window = MetricWindow()
        if session.step == run.train.num_steps and skipped_in_a_row:
            _require_finite_end(session, skipped_in_a_row)
        stopped = is_any_asked(stop, mesh)
        with session.phases.saving():
            _save_where_due(session, watchdog, is_last=stopped or session.step == last_step)
        watchdog.beat()
    batches.close()
    return DONE if session.step >= run.train.num_steps else STOPPED


def _step(
    session: Session, batches: TimedIterator, blocks: BlockStats | None
) -> tuple[StepResult, dict[str, Ratio[float]], float]:
    """One optimizer step and the averages after it: (its result, statistics of blocks, learning rate)."""
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
    return result, {} if blocks is None else blocks.finish(), lr


def _log(session: Session, window: MetricWindow, utilization: Utilization | None, *, is_logged: bool) -> None:
    """Count a step; where it is one that is logged, gather the ranks' times and write all down."""
    run = session.run
    times = session.phases.gather(session.step) if is_logged else None
    if not window.num_steps:
        return
    values = window.means(run, session.task, utilization)
    if times is not None:
        values |= times.means() | peak_memory(session.mesh)
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
    is_due = is_last or step % run.checkpoint.every_steps == 0
    is_snapshot = step % run.optim.ema_snapshot_every_steps == 0 or step == run.train.num_steps
    has_snapshot = bool(run.optim.ema_sigma_rels) and is_snapshot
    if is_due or has_snapshot:
        _require_finite_weights(session)
    if has_snapshot:
        session.save_snapshot()
    if is_due:
        watchdog.beat()
        session.save()
    if is_last:
        session.saver.wait()


def _micro_batches(run: RunConfig, mesh: Mesh, step: int, last_step: int) -> Iterator[Sequence[int]]:
    """This rank's sample indices, micro-batch after micro-batch, of the steps after `step` up to the last."""
    size = run.train.micro_batch_size
    for ahead in range(step, last_step):
        mine = rank_slice(ahead, run.train.global_batch_size, mesh.dp.rank(), mesh.dp.size())
        for start in range(0, len(mine), size):
            yield mine[start : start + size]


def _check_best_metric(session: Session) -> None:
    """Raises ConfigError where checkpoints are to be kept by a value that is not logged."""
    config = session.run.checkpoint
    if config.keep_best and config.best_metric not in session.logged:
        raise ConfigError(
            f"checkpoint.best_metric={config.best_metric} is no value that this run logs; use one of "
            + ", ".join(sorted(session.logged))
        )


def _note_skipped(session: Session, result: StepResult, in_a_row: int) -> None:
    """Name the samples of a step that was skipped.

    Raises:
        FloatingPointError: there were too many in a row, or the weights themselves are not finite.
    """
    train, step = session.run.train, session.step
    bad = ", ".join(result.not_finite)
    first = (step - 1) * train.global_batch_size
    samples = f"samples {first} to {first + train.global_batch_size - 1}"
    session.event("skipped", not_finite=bad, first_sample=first, num_samples=train.global_batch_size)
    if in_a_row == 1:
        _require_finite_weights(session)  # with those no later step could be finite either
    if in_a_row > train.max_skipped_steps:
        session.saver.wait()
        raise FloatingPointError(
            f"{bad} not finite at step {step} ({samples}), {in_a_row} steps in a row, more than "
            f"train.max_skipped_steps={train.max_skipped_steps}; the newest checkpoint is intact; lower optim.lr, or "
            "look at these samples"
        )
    session.alert(NOT_FINITE, f"the step is skipped: {bad} not finite ({samples})")


def _require_finite_weights(session: Session) -> None:
    """Raises FloatingPointError, on every rank, where an update has made weights NaN or infinite."""
    if said := name_not_finite(tensors_of(session.engine.pieces), session.mesh):
        session.saver.wait()
        raise FloatingPointError(
            f"{said} after step {session.step}; they are not saved, and the newest checkpoint is intact; lower "
            "optim.lr, or raise optim.eps"
        )


def _require_finite_end(session: Session, num_skipped: int) -> None:
    """Tell bad samples at the end of a run from bad weights, which compute nothing finite of good samples either.

    Those of the step before the skipped ones are looked at once more. Raises FloatingPointError, on every rank, where
    there is no such step, or its loss is not finite now.
    """
    before = session.step - num_skipped
    if before and _is_finite_again(session, before):
        return
    session.saver.wait()
    raise FloatingPointError(
        f"loss or gradient not finite from step {before + 1} to {session.step}, the last, and "
        f"{f'the samples of step {before} have no finite loss now either' if before else 'no step was before them'}: "
        "the run has failed, and the newest checkpoint is intact; lower optim.lr, or look at the samples"
    )


def _is_finite_again(session: Session, step: int) -> bool:
    """Whether the samples of a step have a finite loss with the weights as they are now."""
    run, task, mesh = session.run, session.task, session.mesh
    num_micro_batches = run.train.global_batch_size // (run.train.micro_batch_size * mesh.dp.size())
    batches = task.batches(_micro_batches(run, mesh, step - 1, step))
    metrics = session.engine.evaluate(
        task.forward_loss, batches, num_micro_batches=num_micro_batches, num_tokens=task.num_tokens
    )
    batches.close()
    return all(map(math.isfinite, metrics.values()))
