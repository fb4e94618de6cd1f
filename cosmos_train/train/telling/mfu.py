"""Model FLOPs utilisation: how much of a device's peak a step reaches (arXiv 2204.02311, appendix B). No torch in here.

Where neither train.peak_tflops nor the table of GPUs (cosmos_train.config.gpus) knows a peak there is no MFU: none is
made up.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Utilization:
    """What the speed of a run's steps is measured by; the same for all of them."""

    step_tflop: float
    """Model TFLOPs of a step, over all ranks."""
    num_ranks: int
    peak_tflops: float | None
    """Of one rank's device."""

    def metrics(self, step_sec: float) -> dict[str, float]:
        """tflops_per_gpu and, where there is a peak, mfu: the share of it, from 0 to 1."""
        reached = self.step_tflop / self.num_ranks / step_sec
        return {"tflops_per_gpu": reached} | ({"mfu": reached / self.peak_tflops} if self.peak_tflops else {})
