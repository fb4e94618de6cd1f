"""Saving: a state goes to a folder, complete or absent, at once or while training goes on.

    begin       a folder aside; megatron-core's plan; asynchronous, a copy of what this rank writes, made meanwhile
    write       each rank's file, its digest, its way from the staging folder: asynchronous, training goes on meanwhile
    complete    megatron-core's metadata, digests.json, complete.json, the rename

Several folders may be due after one step. Asynchronous, all are begun at once and written one after the other.

What is interrupted leaves a folder that is never read, and that the run's next start removes.
"""

import contextlib
import errno
import json
import logging
import os
import queue
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing import save as save_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train.checkpoint_files import FileOfRank, WriterProcess, Written, write_file
from cosmos_train.train.checkpoint_folder import (
    MARKER,
    PARTIAL,
    CheckpointError,
    Progress,
    digest_of,
    write_digests,
    write_durably,
)

log = logging.getLogger(__name__)
LEAST_FREE_MIB = 1.0
"""With less a disk counts as full."""
COPY_THREADS = 4
"""One core alone does not use up what the memory can do."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A folder that is complete."""

    folder: Path
    progress: Progress
    blocked_sec: float
    """For which training stood still."""
    total_sec: float
    """From the beginning to the rename."""


@dataclass(slots=True)
class _Pending:
    """A save that is not complete yet."""

    final: Path
    progress: Progress
    request: AsyncRequest = field(init=False)
    written: Written | Exception | None = None
    """None while it is not written, and where this rank has nothing to write."""
    asked: tuple[Tensor, dist.Work] | None = None
    """Whether all ranks have written theirs, as the last poll asked: by the next one it is known without waiting."""
    started: float = field(default_factory=time.perf_counter)
    blocked_sec: float = 0.0

    @property
    def partial(self) -> Path:
        """The folder while it is being made."""
        return self.final.with_suffix(PARTIAL)

    @property
    def has_file(self) -> bool:
        """Whether this rank writes one."""
        return self.request.async_fn is not None

    @contextlib.contextmanager
    def standing_still(self) -> Iterator[None]:
        """Time that training waits."""
        started = time.perf_counter()
        yield
        self.blocked_sec += time.perf_counter() - started


class Saver:
    """Saves one state after the other, together with the other ranks; `with Saver(...) as saver`.

    Args:
        asynchronous: write while training goes on. What is saved then lies once more in each node's main memory.
        staging: folder on each node's own disk in which files are made before they are copied to where they belong.
        on_saved: called on every rank for each folder that is complete.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        asynchronous: bool = False,
        staging: Path | None = None,
        on_saved: Callable[[Saved], None] = lambda _saved: None,
    ) -> None:
        self.mesh, self.staging, self.on_saved = mesh, staging, on_saved
        self.writer = WriterProcess() if asynchronous else None
        self.pending: deque[_Pending] = deque()
        """What is begun and not complete; the first one is being written."""

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def save(self, final: Path, state: Callable[[], dict[str, Any]], progress: Progress, run_yaml: str) -> None:
        """Begin to write a folder, and end where saving is not asynchronous. Those of earlier steps come first.

        Args:
            state: gives megatron-core's sharded tensors and plain values. It may communicate.

        Raises:
            CheckpointError: on every rank, when any rank could not write. Earlier folders are untouched.
        """
        if self.pending and self.pending[0].progress.step != progress.step:  # memory is for what one step saves
            self.wait()
        if self.writer is not None and not self.pending:
            self.writer.forget()
        pending = _Pending(final, progress)
        with pending.standing_still():
            self._begin(pending, state, run_yaml)
            self.pending.append(pending)
            if pending is self.pending[0]:
                self._write(pending)
        if self.writer is None:
            self.wait()

    def poll(self) -> None:
        """Complete a pending save if all ranks have written their files; called by all of them, after each step.

        Raises:
            CheckpointError: as save does.
        """
        if not self.pending:
            return
        first = self.pending[0]
        with first.standing_still():
            is_all_written = first.asked is not None and _answer(*first.asked)
            if not is_all_written:
                is_written = not first.has_file or first.written is not None or self._writer.is_done()
                flag = torch.tensor([int(is_written)], device=self.mesh.device)
                answer = dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=self.mesh.world, async_op=True)
                assert answer is not None
                first.asked = flag, answer
        if is_all_written:
            self._finish()

    def wait(self) -> None:
        """Complete all pending saves, however long that takes.

        Raises:
            CheckpointError: as save does.
        """
        while self.pending:
            self._finish()

    def _finish(self) -> None:
        """Complete the first pending save, with the writer at work on the next."""
        pending = self.pending.popleft()
        with pending.standing_still():
            if pending.has_file and pending.written is None:
                pending.written = self._writer.result()
            if self.pending:
                self._write(self.pending[0])
            self._complete(pending)
        total_sec = time.perf_counter() - pending.started
        self.on_saved(Saved(pending.final, pending.progress, pending.blocked_sec, total_sec))

    @property
    def _writer(self) -> WriterProcess:
        assert self.writer is not None
        return self.writer

    def _begin(self, pending: _Pending, state: Callable[[], dict[str, Any]], run_yaml: str) -> None:
        """Make the folder, copy and plan."""
        with self._together(pending):
            if self.mesh.is_main:
                shutil.rmtree(pending.partial, ignore_errors=True)
                pending.partial.mkdir(parents=True)
                if _free_mib(pending.final) < LEAST_FREE_MIB:  # rank 0 alone would fail inside of megatron-core
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._together(pending):
            tensors = state()
        with self._together(pending):  # apart from what ranks do together: one may have no memory for it
            copies = [] if self.writer is None else _put_copies(tensors, self.writer)
        with self._together(pending), ThreadPoolExecutor(COPY_THREADS) as beside:
            # A plan needs the interpreter and a copy does not, so each thread has one call to make.
            copying = [beside.submit(_copy, copies[number::COPY_THREADS]) for number in range(COPY_THREADS)]
            # megatron-core asks a manager process for a queue between processes; here this one is at both its ends.
            filesystem_async._results_queue = queue.SimpleQueue()  # pyright: ignore[reportAttributeAccessIssue]
            strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
            request = save_state(tensors, str(pending.partial), sharded_strategy=strategy, async_sharded_save=True)
            assert request is not None
            pending.request = request
            if self.mesh.is_main:
                (pending.partial / "run.yaml").write_text(run_yaml)
            for part in copying:
                part.result()

    def _write(self, pending: _Pending) -> None:
        """Write this rank's file, or have it written; where there is one, and the writer has nothing else to do."""
        if not pending.has_file:
            return
        _rank, [(path, _name, (objects, tensors))], _results = pending.request.async_fn_args
        file = FileOfRank(Path(path), objects, tensors, self.staging)
        try:
            if self.writer is None:
                pending.written = write_file(file)
            else:
                self.writer.start(file)
        except OSError as error:
            pending.written = error

    def _complete(self, pending: _Pending) -> None:
        """Write what says that all is there, and rename the folder."""
        digests: dict[str, str] = {}
        with self._together(pending):
            if pending.written is not None:
                written, (*_, results) = pending.written, pending.request.async_fn_args
                is_failure = isinstance(written, Exception)
                results.put(written if is_failure else {0: written.results})
                digests = {} if is_failure else {written.name: written.digest}
            for finalize in pending.request.finalize_fns:  # raises on every rank where one could not write
                finalize()
        found: list[Any] = [None] * self.mesh.world.size()
        dist.all_gather_object(found, digests, group=self.mesh.world)
        with self._together(pending):
            if self.mesh.is_main:
                known = {name: digest for of_rank in found for name, digest in of_rank.items()}
                small = [path for path in pending.partial.iterdir() if path.name not in known]  # rank 0's
                write_digests(pending.partial, known | {path.name: digest_of(path) for path in small})
                write_durably(pending.partial / MARKER, json.dumps(asdict(pending.progress), indent=1))
                shutil.rmtree(pending.final, ignore_errors=True)  # where the run went on from a step before it
                pending.partial.rename(pending.final)

    @contextlib.contextmanager
    def _together(self, pending: _Pending) -> Iterator[None]:
        """Where any rank fails of what is inside, tidy up and raise on every rank, so that none goes on alone."""
        failure: BaseException | None = None
        try:
            yield
        except (OSError, MemoryError, RuntimeError, CheckpointingException, CheckpointException) as error:
            failure = error
        reasons: list[str | None] = [None] * self.mesh.world.size()
        mine = None if failure is None else f"{type(failure).__name__}: {failure}"
        dist.all_gather_object(reasons, mine, group=self.mesh.world)
        found = [f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None]
        if not found:
            return
        free_mib = _free_mib(pending.final)
        dist.barrier(group=self.mesh.world)  # all have looked at the disk before it is tidied
        if self.mesh.is_main:
            shutil.rmtree(pending.partial, ignore_errors=True)
        log.warning("%s", found[0])
        reason = "the disk is full" if free_mib < LEAST_FREE_MIB else found[0].splitlines()[-1]
        raise CheckpointError(
            f"could not write the checkpoint of step {pending.progress.step} to {pending.final.parent}: {reason} "
            f"({free_mib:.1f} MiB are free); earlier checkpoints are untouched; make room and run the same command "
            "again"
        ) from failure


def _answer(flag: Tensor, answer: dist.Work) -> bool:
    answer.wait()
    return bool(flag.item())


def _put_copies(state: dict[str, Any], writer: WriterProcess) -> list[tuple[Tensor, Tensor]]:
    """Put copies in the place of what this rank writes; (copy, original) pairs, of which the copies are still empty."""
    mine = [t for t in nested_values(state) if isinstance(t, ShardedTensor) and is_main_replica(t.replica_id)]
    originals = [sharded.data for sharded in mine if sharded.data is not None]
    copies = writer.make_room(originals)
    for sharded, copy in zip(mine, copies, strict=True):
        sharded.data = copy
    return list(zip(copies, originals, strict=True))


@torch.no_grad()
def _copy(pairs: list[tuple[Tensor, Tensor]]) -> None:
    if pairs:
        copies, originals = map(list, zip(*pairs, strict=True))
        torch._foreach_copy_(copies, originals)  # pyright: ignore[reportPrivateImportUsage]


def _free_mib(path: Path) -> float:
    """On the disk of the nearest folder that is there."""
    there = next(folder for folder in path.parents if folder.is_dir())
    return shutil.disk_usage(there).free / 2**20
