"""A thread of each rank that ends it when the run can not go on: no step is finished, or another rank has failed.

A collective waits for a rank that is gone until its own timeout, half an hour, and says nothing. The watchdog of each
rank writes the stacks of its threads to RUN/stacks and leaves. A rank that holds Python's lock in native code, where no
thread can run, is ended a little later by faulthandler, which needs no lock.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from cosmos_train.train.failures import UNKNOWN_HOST, has_failed, record_failure

POLL_SEC = 1.0
POLLS_PER_SEC = 500
"""Of all ranks together at most: the folder of failures lies on a file system that they share."""
GRACE_SEC = 4.0
"""Given to ranks that were told of a failure by a collective: they leave by themselves, with what they have to say."""


class Watchdog:
    """`with Watchdog(...) as watchdog:` and `watchdog.beat()` after each step and each save.

    Args:
        stacks: folder for the stacks; those of an earlier hang are replaced.
        failures: where ranks write down their failures; None where nobody reads them.
        limit_sec: seconds between two beats after which the run hangs; 0 is never.
    """

    def __init__(self, stacks: Path, failures: Path | None, *, rank: int, num_ranks: int, limit_sec: float) -> None:
        self.stacks, self.failures = stacks, failures
        self.rank, self.num_ranks, self.limit_sec = rank, num_ranks, limit_sec
        self.hosts: Sequence[str] = [UNKNOWN_HOST] * num_ranks
        """Of each rank, once they have told each other."""
        self.on_hang: Callable[[str], None] = lambda _sentence: None
        """Called once where the run hangs, some seconds before this rank ends."""
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.own_file = self.stacks / f"rank-{self.rank:05d}.txt"
        self.own_file.unlink(missing_ok=True)
        self.beat()
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.thread.join()
        faulthandler.cancel_dump_traceback_later()

    def beat(self) -> None:
        """The run goes on."""
        self.last_beat = time.monotonic()
        if self.limit_sec:
            faulthandler.dump_traceback_later(self.limit_sec + 3 * GRACE_SEC, exit=True)

    def _watch(self) -> None:
        while not self.stopped.wait(max(POLL_SEC, self.num_ranks / POLLS_PER_SEC)):
            if self.limit_sec and time.monotonic() - self.last_beat > self.limit_sec:
                self._end_hung()
            if self.failures is not None and has_failed(self.failures):
                self._dump()
                if not self.stopped.wait(GRACE_SEC):
                    os._exit(1)

    def _dump(self) -> None:
        self.stacks.mkdir(parents=True, exist_ok=True)
        with self.own_file.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)

    def _end_hung(self) -> None:
        self._dump()
        self.on_hang(f"no step was finished in {self.limit_sec:g} s (train.hang_sec)")
        time.sleep(GRACE_SEC)  # the others' time is up within moments, too
        silent = [rank for rank in range(self.num_ranks) if not (self.stacks / f"rank-{rank:05d}.txt").exists()]
        named = ", ".join(map(str, silent[:8])) + (", ..." if len(silent) > 8 else "")
        sentence = (
            f"no step was finished in {self.limit_sec:g} s (train.hang_sec); "
            + (f"rank {named} gave no sign, others' stacks are" if silent else "the stacks of all ranks are")
            + f" in {self.stacks}"
        )
        if self.failures is not None:
            cause, host = (silent[0], self.hosts[silent[0]]) if silent else (self.rank, UNKNOWN_HOST)
            record_failure(self.failures, rank=cause, host=host, code=1, sentence=sentence, was_silent=bool(silent))
        print(f"cosmos-train: rank {self.rank}: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)
