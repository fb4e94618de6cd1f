"""Model FLOPs utilisation: how much of a device's peak a step reaches (arXiv 2204.02311, appendix B). No torch in here.

The peaks are dense ones of NVIDIA's data sheets, which print those with 2:4 sparsity: twice as much. Another device, or
a card that is clocked down, is told by train.peak_tflops. Where neither knows a peak there is no MFU: none is made up.
"""

import re
from dataclasses import dataclass
from typing import Literal

NumberFormat = Literal["bf16", "fp8", "fp4"]


@dataclass(frozen=True, slots=True)
class Peak:
    """Dense TFLOP/s of one GPU's tensor cores with fp32 accumulation; None where they do not know the format."""

    bf16: float
    fp8: float | None = None
    fp4: float | None = None


PEAKS: dict[str, Peak] = {
    "A100": Peak(312),  # data sheet of 2021; SXM and PCIe alike
    "H100 HBM3": Peak(989.4, 1978.9),  # SXM; H100 architecture white paper, table 2
    "H100 PCIe": Peak(756, 1513),  # the same
    "H100 NVL": Peak(835.5, 1670.5),  # H100 data sheet of 2024, half of it
    "GH200": Peak(989.4, 1978.9),  # GH200 data sheet: the H100's
    "H200": Peak(989.4, 1978.9),  # SXM; H200 data sheet, half of it
    "H200 NVL": Peak(835.5, 1670.5),  # the same
    "B200": Peak(2250, 4500, 9000),  # HGX B200, an eighth of half of it
    "GB200": Peak(2500, 5000, 10000),  # GB200 NVL72, a 72nd of half of it
    "B300": Peak(2250, 4500, 13500),  # HGX B300; FP4 is printed dense
    "GB300": Peak(2500, 5000, 15000),  # GB300 NVL72; FP4 is printed dense
    "L4": Peak(121, 242.5),  # data sheet, half of it
    "L40": Peak(181.05, 362),  # data sheet, printed dense
    "L40S": Peak(362.05, 733),  # data sheet, printed dense
    "RTX 6000 Ada": Peak(364.2, 728.5),  # Ada architecture white paper, appendix A
}
"""Words of a device's name, as torch.cuda.get_device_name gives it -> its peak."""


def peak_tflops(device_name: str, number_format: NumberFormat) -> float | None:
    """Of the entry with the most words, all of which the name has; None where there is none.

    Whole words: a GH200 is no H200. A slice of a card (MIG) has a part of the peak that its name does not tell: None.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    known = [key for key in PEAKS if set(key.lower().split()) <= words]
    if not known or "mig" in words:
        return None
    return getattr(PEAKS[max(known, key=lambda key: len(key.split()))], number_format)


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
