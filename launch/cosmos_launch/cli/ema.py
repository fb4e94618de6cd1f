"""`cosmos-train ema RUN --sigma-rel W --out FOLDER`: a moving average of another width, of the run's snapshots."""

from pathlib import Path

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.posthoc import reconstruct
from cosmos_train.train.telling.progress import progress

MAX_MISSED = 0.05
"""Share of the wanted profile that the snapshots may miss without a word."""


def make_average(run_dir: Path, *, sigma_rel: float, step: int | None, out: Path) -> int:
    """Write the average and say how closely the snapshots give it. Returns the exit code."""
    mesh = init.start(ParallelConfig(), seed=0)
    with progress("average", "snapshots") as advance:
        missed = reconstruct(run_dir, out, mesh, sigma_rel=sigma_rel, step=step, progress=advance)
    print(f"power-law average of sigma_rel {sigma_rel:g}, {missed:.2%} of its profile missed -> {out}")
    if missed > MAX_MISSED:
        print(
            "the snapshots give another average than the one asked for: take more of them "
            "(optim.ema_snapshot_every_steps), or a width nearer to the kept ones (optim.ema_sigma_rels)"
        )
    init.stop()
    return 0
