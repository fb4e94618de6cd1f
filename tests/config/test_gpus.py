"""A GPU's peaks by the name of the device, and none by a name that only looks like one."""

import pytest

from cosmos_train.config.gpus import GPUS, NumberFormat, peak_tflops, product_format


@pytest.mark.parametrize(
    ("device_name", "bf16", "fp8", "fp4"),
    [
        # As torch.cuda.get_device_name gives them.
        ("NVIDIA A100-SXM4-80GB", 312, None, None),
        ("NVIDIA A100 80GB PCIe", 312, None, None),
        ("NVIDIA H100 80GB HBM3", 989.4, 1978.9, None),
        ("NVIDIA H100 PCIe", 756, 1513, None),
        ("NVIDIA H100 NVL", 835.5, 1670.5, None),
        ("NVIDIA GH200 480GB", 989.4, 1978.9, None),
        ("NVIDIA H200", 989.4, 1978.9, None),
        ("NVIDIA H200 NVL", 835.5, 1670.5, None),
        ("NVIDIA B200", 2250, 4500, 9000),
        ("NVIDIA GB200", 2500, 5000, 10000),
        ("NVIDIA B300 SXM6 AC", 2250, 4500, 13500),
        ("NVIDIA GB300", 2500, 5000, 15000),
        ("NVIDIA L4", 121, 242.5, None),
        ("NVIDIA L40", 181.05, 362, None),
        ("NVIDIA L40S", 362.05, 733, None),
        ("NVIDIA RTX 6000 Ada Generation", 364.2, 728.5, None),
        # Names that look like one of them.
        ("NVIDIA RTX A6000", None, None, None),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", None, None, None),
        ("NVIDIA H100 96GB HBM2e", None, None, None),
        ("cpu", None, None, None),
    ],
)
def test_peak_by_name(device_name: str, bf16: float | None, fp8: float | None, fp4: float | None):
    formats: tuple[NumberFormat, ...] = ("bf16", "fp8", "fp4")
    assert tuple(peak_tflops(device_name, number_format) for number_format in formats) == (bf16, fp8, fp4)


def test_peaks_are_dense():
    """Each halving of the format doubles the peak at most; a sparse figure among dense ones would stand out."""
    for name, gpu in GPUS.items():
        if gpu.fp8 is not None:
            assert gpu.fp8 / gpu.bf16 == pytest.approx(2, rel=0.02), name
        if gpu.fp4 is not None:
            assert gpu.fp8 is not None and 2 <= gpu.fp4 / gpu.fp8 <= 3, name


@pytest.mark.parametrize(
    ("recipe", "number_format"), [("none", "bf16"), ("fp8_current", "fp8"), ("mxfp8", "fp8"), ("nvfp4", "fp4")]
)
def test_a_recipe_has_the_peak_of_its_format(recipe: str, number_format: str):
    assert product_format(recipe) == number_format
