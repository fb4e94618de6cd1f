"""What is known of NVIDIA's GPUs by name: compute capability and dense peaks. No torch: the GPU need not be here.

The peaks are dense ones of NVIDIA's data sheets, which print those with 2:4 sparsity: twice as much. A card that is not
in the table, or is clocked down, is told by the cluster file (cosmos_train.config.cluster) or by train.peak_tflops.
"""

import re
from dataclasses import dataclass
from typing import Literal

NumberFormat = Literal["bf16", "fp8", "fp4"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """CUDA compute capability, and TFLOP/s of the tensor cores with fp32 accumulation."""

    capability: tuple[int, int]
    bf16: float
    fp8: float | None = None
    """None where the tensor cores do not know the format."""
    fp4: float | None = None

    def peak(self, number_format: NumberFormat) -> float | None:
        """Dense TFLOP/s in the format."""
        return {"bf16": self.bf16, "fp8": self.fp8, "fp4": self.fp4}[number_format]


GPUS: dict[str, Gpu] = {
    "A100": Gpu((8, 0), 312),  # data sheet of 2021; SXM and PCIe alike
    "H100 HBM3": Gpu((9, 0), 989.4, 1978.9),  # SXM; H100 architecture white paper, table 2
    "H100 PCIe": Gpu((9, 0), 756, 1513),  # the same
    "H100 NVL": Gpu((9, 0), 835.5, 1670.5),  # H100 data sheet of 2024, half of it
    "GH200": Gpu((9, 0), 989.4, 1978.9),  # GH200 data sheet: the H100's
    "H200": Gpu((9, 0), 989.4, 1978.9),  # SXM; H200 data sheet, half of it
    "H200 NVL": Gpu((9, 0), 835.5, 1670.5),  # the same
    "B200": Gpu((10, 0), 2250, 4500, 9000),  # HGX B200, an eighth of half of it
    "GB200": Gpu((10, 0), 2500, 5000, 10000),  # GB200 NVL72, a 72nd of half of it
    "B300": Gpu((10, 3), 2250, 4500, 13500),  # HGX B300; FP4 is printed dense
    "GB300": Gpu((10, 3), 2500, 5000, 15000),  # GB300 NVL72; FP4 is printed dense
    "L4": Gpu((8, 9), 121, 242.5),  # data sheet, half of it
    "L40": Gpu((8, 9), 181.05, 362),  # data sheet, printed dense
    "L40S": Gpu((8, 9), 362.05, 733),  # data sheet, printed dense
    "RTX 6000 Ada": Gpu((8, 9), 364.2, 728.5),  # Ada architecture white paper, appendix A
}
"""Words of a device's name, as torch.cuda.get_device_name gives it -> the GPU. Capabilities: NVIDIA's list of GPUs."""


def find_gpu(device_name: str) -> Gpu | None:
    """The entry with the most words, all of which the name has; None where there is none.

    Whole words: a GH200 is no H200. A slice of a card (MIG) has a part of the peak that its name does not tell: None.
    """
    words = set(re.split(r"[^a-z0-9]+", device_name.lower()))
    known = [key for key in GPUS if set(key.lower().split()) <= words]
    if not known or "mig" in words:
        return None
    return GPUS[max(known, key=lambda key: len(key.split()))]


def peak_tflops(device_name: str, number_format: NumberFormat) -> float | None:
    """Dense TFLOP/s of the device in the format; None where the table does not know either."""
    gpu = find_gpu(device_name)
    return None if gpu is None else gpu.peak(number_format)


def product_format(recipe: str) -> NumberFormat:
    """The format in which parallel.precision.recipe computes matrix products, by which its peak is chosen."""
    return "bf16" if recipe == "none" else "fp4" if recipe == "nvfp4" else "fp8"
