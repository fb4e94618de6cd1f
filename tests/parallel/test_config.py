"""Layouts that can not be are refused with what could be, before torch is there."""

from typing import Any

import pytest

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig, check_heads, check_vocabulary

SEQUENCE: dict[str, Any] = {"tp": 2, "sequence_parallel": True}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tp": 2, "tp_overlap": True}, r"tp_overlap=true hides .* parallel\.sequence_parallel=false; switch that on"),
        (SEQUENCE | {"tp_overlap": True, "layers": "native"}, r"tp_overlap=true is .*, but parallel\.layers=native"),
        (
            SEQUENCE | {"tp_overlap": True, "precision": PrecisionConfig(recipe="fp8_blockwise")},
            r"tp_overlap=true sends .*, but parallel\.precision\.recipe=fp8_blockwise; use another recipe",
        ),
        (
            {"pp": 2, "compile": "cuda_graphs"},
            r"compile=cuda_graphs keeps .* parallel\.pp=2 has .*; use compile=blocks",
        ),
    ],
)
def test_combinations_that_are_refused(fields: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=rf"^parallel\.{message}"):
        ParallelConfig(**fields)


def test_combinations_that_are_not():
    ParallelConfig(**SEQUENCE, tp_overlap=True, precision=PrecisionConfig(recipe="mxfp8"))
    ParallelConfig(pp=2, compile="blocks")


@pytest.mark.parametrize(
    ("fields", "heads", "message"),
    [
        (
            {"tp": 3},
            (32, None),
            r"model\.num_heads=32 is not divisible by parallel\.tp=3; use a tp of 1, 2, .*, 32",
        ),
        ({"tp": 16}, (32, 8), r"model\.num_kv_heads=8 is not divisible by parallel\.tp=16; use a tp of 1, 2, 4, 8"),
        (
            {"tp": 4, "cp": 4, "cp_comm": "a2a"},
            (32, 8),
            r"parallel\.cp_comm=a2a divides the 2 heads of a rank \(model\.num_kv_heads=8 / parallel\.tp=4\) by "
            r"parallel\.cp=4, which leaves a rest; use a cp of 1, 2, or cp_comm=all_gather",
        ),
    ],
)
def test_heads_that_do_not_divide(fields: dict[str, Any], heads: tuple[int, int | None], message: str):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        check_heads(ParallelConfig(**fields), *heads)


def test_heads_that_divide():
    check_heads(ParallelConfig(tp=4, cp=2, cp_comm="a2a"), 32, 8)


def test_codes_divide_over_tensor_parallel_ranks():
    check_vocabulary(ParallelConfig(tp=8), 64000)
    with pytest.raises(
        ConfigError, match=r"^model\.vocab_size=64000 is not divisible by parallel\.tp=6; .* 1, 2, 4, 5$"
    ):
        check_vocabulary(ParallelConfig(tp=6), 64000)
