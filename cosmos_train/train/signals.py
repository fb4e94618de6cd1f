"""SIGTERM and SIGUSR1, by which Slurm and users ask a run to stop."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist

from cosmos_train.parallel.mesh import Mesh

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
DONE, STOPPED = 0, 75
"""Exit codes: all steps are done; stopped early, saved, to be started again."""


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started inside never see the stop signals; for this one they wait until the end.

    Slurm signals every process of a job. Those that help this one to save must live until it has saved: a blocked
    signal is inherited over exec, where a handler is not.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
