"""The DiT at the 7B's width on one GPU: speed, utilisation, memory, and what would be the most that the card can do.

    python benchmarks/gpu_step.py --tokens 10240 56320 --sides te te:fp8_current native diffusers

One JSON line per token count and side, after the ceilings of that token count: torch's matmul of the MLP's size in bf16
and fp8, and torch's attention over all tokens. A side has as many blocks as fit (28 at most), batch 1. What is timed:

    passes  forward and backward, no optimizer: the only thing that can be compared with diffusers
    step    a whole training step under the engine: the same, fp32 sums of gradients, clipping, Adam

TFLOP/s count model FLOPs (cosmos_train.models.dit.flops), not what a kernel computes besides; MFU is their share of the
card's dense peak in the side's number format. Shares are of the time in kernels, from one profiled pass. All blocks of
a recipe compute in it: with few blocks, first and last in bf16 would hide what it does for 28.
"""

import argparse
import gc
import json
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # a GPU machine has the checkout, rarely the installed package

LATENT_THW = {10240: (8, 64, 80), 28160: (8, 88, 160), 56320: (16, 88, 160)}
"""Tokens -> latents: 57 frames of 640 x 512, then 57 and 121 frames of 1280 x 704."""
SIDES = ["te", "te:fp8_current", "te:fp8_delayed", "te:fp8_blockwise", "te:mxfp8", "te:nvfp4", "native", "diffusers"]
TEXT_TOKENS, MAX_BLOCKS, GIB = 512, 28, 2**30
ATTENTION = re.compile(r"flash|fmha|sdpa|attention|attn", re.IGNORECASE)
GEMM = re.compile(r"gemm|nvjet|cutlass|xmma|matmul|cublas", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one side with one number of blocks."""

    sec: float
    range_sec: tuple[float, float]
    peak_gib: float


def main() -> None:
    parser = argparse.ArgumentParser(description="A DiT of the 7B's width on one GPU.")
    parser.add_argument("--tokens", nargs="+", type=int, choices=LATENT_THW, default=[10240, 56320])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["te", "te:fp8_current", "native", "diffusers"])
    parser.add_argument("--kinds", nargs="+", choices=("passes", "step"), default=["passes", "step"])
    parser.add_argument("--rounds", type=int, default=10, help="that count; three before them do not")
    parser.add_argument("--blocks", type=int, help="instead of as many as fit")
    options = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("gpu_step measures on a CUDA device, and torch sees none here; benchmarks/dit_step.py is for the CPU")
    from cosmos_train.config.errors import ConfigError
    from cosmos_train.parallel import init
    from cosmos_train.parallel.config import ParallelConfig

    mesh = init.start(ParallelConfig(), seed=0)
    where = {"torch": torch.__version__, **provenance(torch.cuda.get_device_name())}
    for tokens in options.tokens:
        for row in ceilings(tokens, options.rounds):
            report(tokens, row, where)
        for side in options.sides:
            for kind in options.kinds if side != "diffusers" else ["passes"]:
                try:
                    report(tokens, measure(side, kind, tokens, mesh, options.rounds, options.blocks), where)
                except (ConfigError, ImportError, torch.cuda.OutOfMemoryError) as error:
                    # Not this card's, not installed, or not even two blocks: a line says so, the others go on.
                    reason = str(error).splitlines()[0]
                    report(tokens, {"side": side, "kind": kind, "not_measured": reason}, where)
                free()
    init.stop()


def report(tokens: int, row: dict[str, Any], where: dict[str, Any]) -> None:
    """One JSON line."""
    print(json.dumps({"benchmark": "gpu_step", "tokens": tokens, **row, **where}), flush=True)


def measure(side: str, kind: str, tokens: int, mesh: Any, rounds: int, blocks: int | None) -> dict[str, Any]:
    """The row of one side, with as many blocks as fit."""
    import torch

    from cosmos_train.config.gpus import peak_tflops
    from cosmos_train.models.dit.flops import dit_cost

    blocks = blocks or blocks_that_fit(lambda few: timed(make(side, kind, few, tokens, mesh)[0], rounds=1))
    while True:
        try:
            run, parameters = make(side, kind, blocks, tokens, mesh)
            figures = timed(run, rounds=rounds)
            break
        except torch.cuda.OutOfMemoryError:
            if blocks == 1:
                raise
            blocks -= 1
        free()  # outside of the handler, whose traceback would keep the tensors
    config = model_config(blocks)
    cost = dit_cost(config, batch=1, latent_THW=LATENT_THW[tokens], text_tokens=TEXT_TOKENS).training
    tflops = cost.total / figures.sec / 1e12
    number_format = "fp4" if side == "te:nvfp4" else "fp8" if ":" in side else "bf16"
    peak = peak_tflops(torch.cuda.get_device_name(), number_format)
    return {
        "side": side,
        "kind": kind,
        "blocks": blocks,
        "width": config.width,
        "parameters": parameters,
        "sec": round(figures.sec, 5),
        "range_sec": [round(bound, 5) for bound in figures.range_sec],
        "tokens_per_sec": round(tokens / figures.sec),
        "tflops": round(tflops, 1),
        "mfu": None if peak is None else round(tflops / peak, 4),
        "mfu_of": number_format,
        "peak_gib": round(figures.peak_gib, 2),
        "model_attention_share": round(cost.attention / cost.total, 3),
        **kernel_shares(run),
    }


def blocks_that_fit(peak_with: Callable[[int], Figures]) -> int:
    """From the memory of one and of two blocks, with a tenth of the card left for what grows unevenly."""
    import torch

    one = peak_with(1).peak_gib
    free()
    two = peak_with(2).peak_gib
    free()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory / GIB
    return max(1, min(MAX_BLOCKS, int((0.9 * total - one) / (two - one)) + 1))


def model_config(blocks: int) -> Any:
    """The 7B's sizes but for the number of blocks."""
    from cosmos_train.models.dit.config import DiTConfig

    return DiTConfig(num_blocks=blocks, num_heads=32)


def make(side: str, kind: str, blocks: int, tokens: int, mesh: Any) -> tuple[Callable[[], None], int]:
    """(what is timed, number of parameters). bf16 weights and activations, random ones."""
    import torch

    config = model_config(blocks)
    batch: dict[str, Any] = {
        "x_BCTHW": torch.randn(1, config.latent_channels, *LATENT_THW[tokens], device="cuda", dtype=torch.bfloat16),
        "c_noise_B": torch.randn(1, device="cuda"),
        "text_BSE": torch.randn(1, TEXT_TOKENS, config.text_width, device="cuda", dtype=torch.bfloat16),
    }
    if side == "diffusers":
        network = make_diffusers(config, mesh)
        padding = torch.zeros(1, 1, *(8 * size for size in LATENT_THW[tokens][1:]), device="cuda", dtype=torch.bfloat16)
        arguments = {"fps": 24, "padding_mask": padding, "return_dict": False}
        return passes(network, lambda: network(*batch.values(), **arguments)[0]), count(network)
    network, engine_config = make_dit(side, config, mesh)
    batch["fps_B"] = [24.0]
    if kind == "passes":
        return passes(network, lambda: network(**batch)), count(network)
    return engine_step(network, engine_config, mesh, batch, tokens), count(network)


def make_dit(side: str, config: Any, mesh: Any) -> tuple[Any, Any]:
    """(our network, megatron-core's view of it)."""
    import torch

    from cosmos_train.models.dit.model import DiT
    from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig
    from cosmos_train.parallel.engine import make_layers
    from cosmos_train.parallel.mcore import transformer_config
    from cosmos_train.parallel.pipeline import plan_stages

    layers, _, recipe = side.partition(":")
    precision: Any = {"recipe": recipe or "none", "bf16_first_blocks": 0, "bf16_last_blocks": 0}
    maker: Any = layers
    parallel = ParallelConfig(layers=maker, precision=PrecisionConfig(**precision))
    engine_config = transformer_config(
        parallel,
        dtype=torch.bfloat16,
        num_layers=config.num_blocks,
        width=config.width,
        num_heads=config.num_heads,
    )
    with mesh.device:
        [stage] = plan_stages(config.num_blocks, parallel, mesh)
        network = DiT(config, make_layers(parallel, engine_config, mesh), stage).to(torch.bfloat16)
    return randomize(network), engine_config


def make_diffusers(config: Any, mesh: Any) -> Any:
    """diffusers' network of the same sizes, as its users have it: bf16, torch's attention."""
    import torch
    from support.diffusers_dit import diffusers_twin

    dit, _ = make_dit("native", config, mesh)
    with mesh.device:
        twin: Any = diffusers_twin(dit)
        return twin.to(torch.bfloat16)


def passes(network: Any, forward: Callable[[], Any]) -> Callable[[], None]:
    """Forward and backward."""
    import torch

    def run() -> None:
        network.zero_grad(set_to_none=True)
        output = forward()
        output.backward(torch.ones_like(output))

    return run


def engine_step(network: Any, engine_config: Any, mesh: Any, batch: dict[str, Any], tokens: int) -> Callable[[], None]:
    """A training step of one micro-batch."""
    import itertools

    from cosmos_train.parallel.engine import AdamSettings, Engine

    adam = AdamSettings(betas=(0.9, 0.99), eps=1e-10, weight_decay=0.1, clip_grad_norm=1.0)
    engine = Engine([network], engine_config, mesh, adam)

    def forward_loss(model: Any, arguments: dict[str, Any], _hidden: Any) -> Any:
        loss = model(**arguments).float().square().mean()
        return loss, {"loss": loss.detach()}

    def run() -> None:
        engine.train_step(forward_loss, itertools.repeat(batch), num_micro_batches=1, lr=1e-5, num_tokens=tokens)

    return run


def randomize(network: Any) -> Any:
    """Weights on the device itself: the layout-independent ones are drawn on the host, a minute for 7B."""
    import torch

    with torch.no_grad():
        for name, param in network.named_parameters():
            param.fill_(1.0) if name.endswith("norm.weight") else param.normal_(std=0.02)
    return network


def count(network: Any) -> int:
    """Parameters."""
    return sum(param.numel() for param in network.parameters())


def timed(run: Callable[[], Any], *, rounds: int) -> Figures:
    """Median seconds between two events on the device, and the peak of allocated memory."""
    import torch

    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        run()
    seconds = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1e3)
    return Figures(
        sec=statistics.median(seconds),
        range_sec=(min(seconds), max(seconds)),
        peak_gib=torch.cuda.max_memory_allocated() / GIB,
    )


def kernel_shares(run: Callable[[], None]) -> dict[str, Any]:
    """Share of the time in kernels that attention and matrix products take, and the kernels that took most."""
    import torch
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        run()
        torch.cuda.synchronize()
    kernels = [event for event in profiled.key_averages() if event.device_type == DeviceType.CUDA]
    total = sum(kernel.self_device_time_total for kernel in kernels)
    if not total:
        return {"kernel_shares": "the profiler saw no kernel"}
    attention = [kernel for kernel in kernels if ATTENTION.search(kernel.key)]
    gemm = [kernel for kernel in kernels if kernel not in attention and GEMM.search(kernel.key)]
    others = [kernel for kernel in kernels if kernel not in attention and kernel not in gemm]
    others.sort(key=lambda kernel: kernel.self_device_time_total, reverse=True)
    return {
        "attention_share": round(sum(kernel.self_device_time_total for kernel in attention) / total, 3),
        "gemm_share": round(sum(kernel.self_device_time_total for kernel in gemm) / total, 3),
        "other_kernels": {kernel.key[:60]: round(kernel.self_device_time_total / total, 3) for kernel in others[:5]},
    }


def ceilings(tokens: int, rounds: int) -> list[dict[str, Any]]:
    """What a bare matmul of the MLP's first linear and a bare attention reach."""
    import torch
    import torch.nn.functional as F

    config = model_config(1)
    d, hidden = config.width, config.mlp_ratio * config.width
    x, weight = (torch.randn(rows, d, device="cuda", dtype=torch.bfloat16) for rows in (tokens, hidden))
    rows = [ceiling("matmul", "bf16", 2 * tokens * d * hidden, lambda: F.linear(x, weight), rounds)]
    if torch.cuda.get_device_capability() >= (8, 9):
        x8, weight8 = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
        one = torch.ones((), device="cuda")

        def product() -> torch.Tensor:
            return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] there is no other for fp8
                x8, weight8.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
            )

        rows.append(ceiling("matmul", "fp8", 2 * tokens * d * hidden, product, rounds))
    shape = (1, config.num_heads, tokens, config.head_dim)
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    upstream = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
    flop = 4 * tokens * tokens * d

    def both() -> None:
        F.scaled_dot_product_attention(q, k, v).backward(upstream)

    with torch.no_grad():
        rows.append(ceiling("sdpa forward", "bf16", flop, lambda: F.scaled_dot_product_attention(q, k, v), rounds))
    rows.append(ceiling("sdpa forward and backward", "bf16", 3 * flop, both, rounds))
    return rows


def ceiling(name: str, number_format: str, flop: int, run: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """The row of a bare product."""
    import torch

    from cosmos_train.config.gpus import peak_tflops

    tflops = flop / timed(run, rounds=5 * rounds).sec / 1e12
    peak: float | None = peak_tflops(torch.cuda.get_device_name(), "fp8" if number_format == "fp8" else "bf16")
    return {
        "side": f"ceiling: {name}",
        "number_format": number_format,
        "tflops": round(tflops, 1),
        "of_peak": None if peak is None else round(tflops / peak, 4),
    }


def free() -> None:
    """Give the last side's memory back: modules and autograd's hooks refer to each other in circles.

    And TransformerEngine keeps the scales of every layer that ever ran with delayed ones.
    """
    import torch

    if quantization := sys.modules.get("transformer_engine.pytorch.quantization"):
        quantization.FP8GlobalStateManager.reset()
    gc.collect()
    torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
