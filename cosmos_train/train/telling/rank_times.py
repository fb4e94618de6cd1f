"""Step time by rank and phase, as RUN/ranks.json keeps it, and the rank that the others wait for. No torch in here.

    data        waiting for a batch                                   a rank's own
    forward     model and loss of all micro-batches                   a rank's own, but for sums over tp and cp
    backward    the rest until gradients are summed                   ranks wait for each other
    optimizer   clipping, update, gathering of weights                ranks wait for each other
    save        standing still for a checkpoint                       ranks wait for each other

A rank that is slow is so in data and forward; the others show it as a longer backward.
"""

import json
import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cosmos_train.train.telling.text_file import write_whole

log = logging.getLogger(__name__)
PHASES = ("data", "forward", "backward", "optimizer", "save")
OWN_PHASES = ("data", "forward")
FILE = "ranks.json"
NOTABLE_SHARE = 0.1
"""A straggler is noted where it costs more than this part of a step."""


@dataclass(frozen=True, slots=True)
class Straggler:
    """The rank for which the others wait longest."""

    rank: int
    host: str
    phase: str
    """The one in which it loses most."""
    lost_sec: float
    """Of a step: by so much its own phases are longer than those of the median rank of its pipeline stage."""
    lost_share: float
    """The same as a part of the step."""


@dataclass(frozen=True, slots=True)
class RankTimes:
    """Seconds of a step by phase and rank: means over the steps since the one that was logged before."""

    step: int
    hosts: Sequence[str]
    """Of each rank."""
    stages: Sequence[int]
    """Pipeline stage of each rank; stages have unlike work, the last one a loss, and are not compared."""
    phases: dict[str, list[float]]

    def means(self) -> dict[str, float]:
        """Over the ranks, by the names that metrics.jsonl has for them."""
        return {f"{phase}_sec": statistics.fmean(seconds) for phase, seconds in self.phases.items()}

    def own_sec(self) -> list[float]:
        """Of each rank, what it did not wait for others."""
        return [sum(seconds) for seconds in zip(*(self.phases[phase] for phase in OWN_PHASES), strict=True)]

    def straggler(self) -> Straggler:
        """The rank that the others wait for longest."""
        lost = self._behind_median(self.own_sec())
        rank = lost.index(max(lost))
        phase = max(OWN_PHASES, key=lambda phase: self._behind_median(self.phases[phase])[rank])
        step_sec = statistics.fmean(sum(seconds) for seconds in zip(*self.phases.values(), strict=True))
        return Straggler(rank, self.hosts[rank], phase, lost[rank], lost[rank] / step_sec)

    def _behind_median(self, seconds: Sequence[float]) -> list[float]:
        """Of each rank, by how much it is behind the median of its stage; of two ranks that is the faster."""
        of_stage: dict[int, list[float]] = {}
        for own, stage in zip(seconds, self.stages, strict=True):
            of_stage.setdefault(stage, []).append(own)
        medians = {stage: statistics.median_low(owns) for stage, owns in of_stage.items()}
        return [own - medians[stage] for own, stage in zip(seconds, self.stages, strict=True)]

    def slowest_hosts(self) -> list[tuple[str, float]]:
        """(host, mean of its ranks' own seconds), the slowest first."""
        by_host: dict[str, list[float]] = {}
        for host, seconds in zip(self.hosts, self.own_sec(), strict=True):
            by_host.setdefault(host, []).append(seconds)
        means = [(host, statistics.fmean(seconds)) for host, seconds in by_host.items()]
        return sorted(means, key=lambda each: each[1], reverse=True)

    def write(self, run_dir: Path) -> None:
        """Replace RUN/ranks.json."""
        write_whole(run_dir / FILE, json.dumps(asdict(self)))


def read_rank_times(run_dir: Path) -> RankTimes | None:
    """RUN/ranks.json; None before the first logged step, and where the file is damaged, which is warned of."""
    path = run_dir / FILE
    if not path.is_file():
        return None
    try:
        found = RankTimes(**json.loads(path.read_text()))
        found.straggler()  # so all that is shown can be computed
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        log.warning("%s is damaged, and left out: %r", path, error)
        return None
    return found
