"""Which rank failed first, of all ranks of a job: each writes down its own failure, whoever started them reads.

A folder that all ranks see has a file for each rank that failed, of one line:

    0 or 1 <tab> time <tab> exit code <tab> host <tab> rank <tab> sentence

0: others wrote it, because the rank was killed or gave no sign. Who started it, or waited for it, does, and sorts it
before those that lost their connection to it. That may be the fault of its node; of what a rank says itself no node is
suspected. So the first line in sorted order is the cause, for Python here and for `sort` in slurm/train.sbatch.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from cosmos_train.train.telling.text_file import write_whole

UNKNOWN_HOST = "-"
"""Where no host is to blame, such as a collective in which all hang; it is never left out of a job."""


@dataclass(frozen=True, slots=True)
class Failure:
    """What one rank failed of."""

    was_silent: bool
    """It could not say so itself."""
    time: float
    code: int
    """Exit code for the command."""
    host: str
    rank: int
    sentence: str


def record_failure(folder: Path, *, rank: int, host: str, code: int, sentence: str, was_silent: bool = False) -> None:
    """Write a rank's failure down, once: what a rank fails of later is a consequence."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = (int(not was_silent), f"{time.time():.6f}", code, host, rank, " ".join(sentence.split()))
    path = folder / f"rank-{rank:05d}"
    if not path.exists():
        write_whole(path, "\t".join(map(str, fields)) + "\n")


def read_failures(folder: Path) -> list[Failure]:
    """Return the failures of all ranks, the cause of the others first."""
    failures = [_parse(path.read_text(encoding="utf-8")) for path in folder.glob("rank-*")]
    return sorted(failures, key=lambda failure: (not failure.was_silent, failure.time))


def has_failed(folder: Path) -> bool:
    """Whether any rank failed."""
    return any(folder.glob("rank-*"))


def describe(failure: Failure) -> str:
    """The last line of a log."""
    host = "" if failure.host == UNKNOWN_HOST else f" on {failure.host}"
    return f"the first error was of rank {failure.rank}{host}: {failure.sentence}"


def _parse(line: str) -> Failure:
    after_others, seconds, code, host, rank, sentence = line.rstrip("\n").split("\t")
    return Failure(after_others == "0", float(seconds), int(code), host, int(rank), sentence)
