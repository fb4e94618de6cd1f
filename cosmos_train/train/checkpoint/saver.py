"""Saving: a state goes to a folder, complete or absent, at once or while training goes on.

    begin       a folder aside; megatron-core's plan; asynchronous, a copy of what this rank writes, made meanwhile
    write       each rank's files, their digests, their way from the staging folder
    collect     megatron-core's metadata, the ranks' digests
    seal        digests.json, complete.json, all flushed to the disk, the rename

Asynchronous, training goes on while ranks write and rank 0 seals. A rank's weights and averages lie in one file and the
optimizer's state in another, so that who wants weights alone need not look into more than they are in.

Several folders may be due after one step. Asynchronous, all are begun at once and written one after the other.

What is interrupted leaves a folder that is never read, and that the run's next start removes.
"""

import contextlib
import errno
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing import save as save_state
from megatron.core.dist_checkpointing.core import CheckpointingException
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from cosmos_train.parallel.mcore_private import keep_results_in_process
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.torch_private import copy_each
from cosmos_train.train.checkpoint.files import (
    LEAST_FREE_MIB,
    FileOfRank,
    WriterProcess,
    Written,
    free_mib,
    write_file,
)
from cosmos_train.train.checkpoint.folder import PARTIAL, CheckpointError, Progress, remove, seal, staging_folder

log = logging.getLogger(__name__)
OPTIMIZER = "optimizer."
"""What names of its state begin with."""
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
    written: list[Written] | Exception | None = None
    """None while they are not written, and where this rank has nothing to write."""
    is_collected: bool = False
    """Whether all ranks have written theirs and told each other so."""
    sealing: Future[None] | None = None
    """On rank 0, once it is collected."""
    asked: tuple[Tensor, dist.Work] | None = None
    """Whether all ranks have done what comes next, as the last poll asked: by the next one it is known without
    waiting."""
    started: float = field(default_factory=time.perf_counter)
    blocked_sec: float = 0.0

    @property
    def partial(self) -> Path:
        """The folder while it is being made."""
        return self.final.with_suffix(PARTIAL)

    @property
    def has_files(self) -> bool:
        """Whether this rank writes any."""
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
        texts: small files that are put into each folder, by name.
        on_saved: called on every rank for each folder that is complete.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        asynchronous: bool = False,
        staging: Path | None = None,
        texts: Mapping[str, str] = MappingProxyType({}),
        on_saved: Callable[[Saved], None] = lambda _saved: None,
    ) -> None:
        self.mesh, self.staging, self.texts, self.on_saved = mesh, staging, texts, on_saved
        self.writer = WriterProcess() if asynchronous else None
        self.sealer = ThreadPoolExecutor(1)  # on rank 0; its thread starts with its first work
        self.pending: deque[_Pending] = deque()
        """What is begun and not complete; the first one is being written."""

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, *_: object) -> None:
        self.sealer.shutdown()
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
            if first.asked is None:
                flag = torch.tensor([int(self._is_done(first))], device=self.mesh.device)
                answer = dist.all_reduce(flag, op=dist.ReduceOp.MIN, group=self.mesh.world, async_op=True)
                assert answer is not None
                first.asked = flag, answer
                return
            asked, first.asked = first.asked, None
            if not _answer(*asked):
                return
            if not first.is_collected:
                self._collect(first)
                return
        self._finish()

    def _is_done(self, pending: _Pending) -> bool:
        """Whether this rank has done what training need not wait for: written its files, or sealed the folder."""
        if pending.is_collected:
            return pending.sealing is None or pending.sealing.done()
        return not pending.has_files or pending.written is not None or self._writer.is_done()

    def wait(self) -> None:
        """Complete all pending saves, however long that takes.

        Raises:
            CheckpointError: as save does.
        """
        while self.pending:
            first = self.pending[0]
            if not first.is_collected:
                with first.standing_still():
                    self._collect(first)
            self._finish()

    def _finish(self) -> None:
        """Complete the first pending save, which is collected."""
        pending = self.pending.popleft()
        with pending.standing_still(), self._together(pending):
            if pending.sealing is not None:
                pending.sealing.result()
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
                remove(pending.partial)
                pending.partial.mkdir(parents=True)
                if free_mib(pending.final) < LEAST_FREE_MIB:  # rank 0 alone would fail inside of megatron-core
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with self._together(pending):
            tensors = state()
        with self._together(pending):  # apart from what ranks do together: one may have no memory for it
            copies = [] if self.writer is None else _put_copies(tensors, self.writer)
        with self._together(pending), ThreadPoolExecutor(COPY_THREADS) as beside:
            # A plan needs the interpreter and a copy does not, so each thread has one call to make.
            copying = [beside.submit(_copy, copies[number::COPY_THREADS]) for number in range(COPY_THREADS)]
            keep_results_in_process()
            strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
            request = save_state(tensors, str(pending.partial), sharded_strategy=strategy, async_sharded_save=True)
            assert request is not None
            pending.request = request
            if self.mesh.is_main:
                for name, text in {"run.yaml": run_yaml, **self.texts}.items():
                    (pending.partial / name).write_text(text, encoding="utf-8")
            for part in copying:
                part.result()

    def _write(self, pending: _Pending) -> None:
        """Write this rank's files, or have them written; if there are any, and the writer has nothing else to do."""
        if not pending.has_files:
            return
        files = self._files(pending)
        try:
            if self.writer is None:
                pending.written = [write_file(file) for file in files]
            else:
                self.writer.start(files)
        except OSError as error:
            pending.written = error

    def _files(self, pending: _Pending) -> list[FileOfRank]:
        """What megatron-core plans as one file: the optimizer's state is a file of its own."""
        _rank, [(path, _name, (objects, tensors))], _results = pending.request.async_fn_args
        of_optimizer = [item for item in tensors if item[0].index.fqn.startswith(OPTIMIZER)]
        others = [item for item in tensors if not item[0].index.fqn.startswith(OPTIMIZER)]
        kinds = (("weights", objects, others), ("optimizer", [], of_optimizer))
        rank, files = self.mesh.world.rank(), []
        for kind, of_objects, of_tensors in kinds:
            final, staged = Path(path).with_name(f"{kind}_{rank:05d}.distcp"), None
            if self.staging is not None:
                own = staging_folder(self.staging, pending.final.parents[1])
                staged = own / f"{pending.final.parent.name}-{pending.final.name}-{final.name}"
            if of_objects or of_tensors:
                files.append(FileOfRank(final, of_objects, of_tensors, staged))
        return files

    def _collect(self, pending: _Pending) -> None:
        """Have rank 0 know what all have written, and seal it; the writer goes on with the next folder."""
        digests: dict[str, str] = {}
        if pending.has_files and pending.written is None:
            pending.written = self._writer.result()
        if len(self.pending) > 1:
            self._write(self.pending[1])
        with self._together(pending):
            if pending.written is not None:
                written, (*_, results) = pending.written, pending.request.async_fn_args
                if isinstance(written, Exception):
                    raise written
                results.put({0: list(itertools.chain.from_iterable(file.results for file in written))})
                digests = {file.name: file.digest for file in written}
        with self._together(pending):
            for finalize in pending.request.finalize_fns:
                finalize()
        found: list[dict[str, str]] = [{} for _ in range(self.mesh.world.size())]
        dist.all_gather_object(found, digests, group=self.mesh.world)
        if self.mesh.is_main:
            of_all = dict(itertools.chain.from_iterable(of_rank.items() for of_rank in found))
            arguments = (pending.partial, pending.final, pending.progress, of_all)
            pending.sealing = self.sealer.submit(seal, *arguments)
        pending.is_collected = True

    @contextlib.contextmanager
    def _together(self, pending: _Pending) -> Iterator[None]:
        """Where any rank fails of what is inside, tidy up and raise on every rank, so that none goes on alone."""
        failure: BaseException | None = None
        try:
            yield
        except (OSError, MemoryError, RuntimeError, CheckpointingException, CheckpointException) as error:
            failure = error
        reasons: list[str | None] = [None] * self.mesh.world.size()
        dist.all_gather_object(reasons, None if failure is None else _reason(failure, pending), group=self.mesh.world)
        found = [f"rank {rank}: {reason}" for rank, reason in enumerate(reasons) if reason is not None]
        if not found:
            return
        if self.mesh.is_main:  # all have looked at the disk before it is tidied
            remove(pending.partial)
        raise CheckpointError(
            f"could not write the checkpoint of step {pending.progress.step} to {pending.final.parent}: {found[0]}; "
            "earlier checkpoints are untouched; make room and run the same command again"
        ) from failure


def _reason(failure: BaseException, pending: _Pending) -> str:
    """Why this rank could not write, in a line; a disk without room is named, whatever came of it."""
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC and failure.filename is not None:
        return f"the disk is full: {failure.filename}"
    if (free := free_mib(pending.final)) < LEAST_FREE_MIB:
        return f"the disk is full: {pending.final.parent} ({free:.1f} MiB are free)"
    log.warning("%s: %s", type(failure).__name__, failure)
    return f"{type(failure).__name__}: {failure}".splitlines()[-1]


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
        copy_each(copies, originals)
