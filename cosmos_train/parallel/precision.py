"""The precision section in TransformerEngine's and megatron-core's words. No torch and no TransformerEngine in here.

So what is passed to TransformerEngine is checked on a machine without it, against its recorded signatures.
"""

import fnmatch
import itertools
from dataclasses import dataclass
from typing import Any

from cosmos_train.parallel.config import PrecisionConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """What one recipe is called, and which sizes its matrix products take."""

    te_class: str
    """In transformer_engine.common.recipe."""
    megatron: str
    """TransformerConfig.fp8_recipe or fp4_recipe."""
    auto_format: str
    rows: int
    """What the rows of a rank's activations must be a multiple of."""
    sides: int
    """What both sides of a rank's part of a weight must be a multiple of."""


RECIPES = {
    "fp8_delayed": Recipe(te_class="DelayedScaling", megatron="delayed", auto_format="hybrid", rows=16, sides=16),
    "fp8_current": Recipe(
        te_class="Float8CurrentScaling", megatron="tensorwise", auto_format="hybrid", rows=16, sides=16
    ),
    "fp8_blockwise": Recipe(
        te_class="Float8BlockScaling", megatron="blockwise", auto_format="e4m3", rows=128, sides=128
    ),
    "mxfp8": Recipe(te_class="MXFP8BlockScaling", megatron="mxfp8", auto_format="e4m3", rows=32, sides=32),
    # 64 rows would do; with 128 the scales need no padding of their own (megatron-core, fp4_utils).
    "nvfp4": Recipe(te_class="NVFP4BlockScaling", megatron="nvfp4", auto_format="e2m1", rows=128, sides=32),
}


def te_recipe(config: PrecisionConfig) -> tuple[str, dict[str, Any]]:
    """The class of TransformerEngine and its arguments; `fp8_format` is a name in its Format, in capitals."""
    arguments: dict[str, Any] = {} if config.recipe == "nvfp4" else {"fp8_format": _format(config).upper()}
    if config.recipe == "fp8_delayed":
        arguments |= {"amax_history_len": config.amax_history_len, "amax_compute_algo": config.amax_compute}
    return RECIPES[config.recipe].te_class, arguments


def megatron_precision(config: PrecisionConfig) -> dict[str, Any]:
    """Fields of megatron-core's TransformerConfig.

    They make its schedules renew the 8-bit copies of the weights at the first micro-batch of a step; without them
    TransformerEngine would compute with the weights of the very first step for ever.
    """
    if config.recipe == "none":
        return {}
    kind = "fp4" if config.recipe == "nvfp4" else "fp8"
    fields = {kind: _format(config), f"{kind}_recipe": RECIPES[config.recipe].megatron}
    return fields | ({"fp8_param": True} if config.fp8_param_gather else {})


def row_multiple(config: PrecisionConfig) -> int:
    """What a rank's number of tokens is padded to a multiple of."""
    return 1 if config.recipe == "none" else RECIPES[config.recipe].rows


def stays_bf16(config: PrecisionConfig, module: str, num_blocks: int) -> bool:
    """Whether a layer computes in bf16.

    Args:
        module: its name in the whole model, such as blocks.3.mlp.down; patterns may name its weight instead.
        num_blocks: of the whole model.
    """
    parts = module.split(".")
    if parts[0] != "blocks":  # the output over a vocabulary
        return True
    block = int(parts[1])
    if block < config.bf16_first_blocks or block >= num_blocks - config.bf16_last_blocks:
        return True
    names = (module, f"{module}.weight")
    return any(fnmatch.fnmatchcase(name, pattern) for name, pattern in itertools.product(names, config.bf16_modules))


def _format(config: PrecisionConfig) -> str:
    return RECIPES[config.recipe].auto_format if config.format == "auto" else config.format
