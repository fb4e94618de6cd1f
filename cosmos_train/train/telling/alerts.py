"""What somebody should be told of a run that goes on: it waits for data, or it has become slow. No torch in here.

An alert is given when its cause begins, and again only after that was gone.
"""

import statistics
from collections import deque
from collections.abc import Mapping

from cosmos_train.train.config import TrackingConfig

NUM_NOW, NUM_BEFORE, MIN_BEFORE = 3, 20, 5
"""Logged values that are compared: those of now, those before them, and the fewest of those."""

NOT_FINITE, HANGS, DATA_WAIT, SLOW = "not finite", "hangs", "waits for data", "slow"
"""Causes of alerts; the first two are found elsewhere."""


class SpeedAlerts:
    """Watches what is logged of a run's speed."""

    def __init__(self, tracking: TrackingConfig) -> None:
        self.tracking = tracking
        self.step_sec: deque[float] = deque(maxlen=NUM_BEFORE + NUM_NOW)
        self.given: set[str] = set()

    def check(self, values: Mapping[str, float]) -> dict[str, str]:
        """Values of a logged step -> cause of each new alert, and a sentence."""
        self.step_sec.append(values["step_sec"])
        found = self._data_wait(values["data_wait_share"]) | self._slow()
        new = {cause: sentence for cause, sentence in found.items() if cause not in self.given}
        self.given = set(found)
        return new

    def _data_wait(self, share: float) -> dict[str, str]:
        limit = self.tracking.alert_data_wait_share
        if not limit or share <= limit:
            return {}
        told = f"a step waits for data for {share:.0%} of its time"
        return {DATA_WAIT: f"{told} (tracking.alert_data_wait_share={limit:g})"}

    def _slow(self) -> dict[str, str]:
        """The best of now with the median of before: a slow step, or images in turn with videos, are no drop."""
        limit = self.tracking.alert_throughput_drop
        before, now = [*self.step_sec][:-NUM_NOW], [*self.step_sec][-NUM_NOW:]
        if not limit or len(before) < MIN_BEFORE:
            return {}
        now_sec, before_sec = min(now), statistics.median(before)
        drop = 1 - before_sec / now_sec
        if drop <= limit:
            return {}
        told = f"a step takes {now_sec:.4g} s, and took {before_sec:.4g} s before: throughput fell by {drop:.0%}"
        return {SLOW: f"{told} (tracking.alert_throughput_drop={limit:g})"}
