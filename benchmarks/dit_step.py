"""A DiT training step of ours against diffusers' CosmosTransformer3DModel: same sizes, weights and inputs, fp32, CPU.

    python benchmarks/dit_step.py --sizes demo medium --rounds 15 --threads 1

A step is forward and backward. Prints one JSON line per size: median seconds of a step on each side, the ratios ours /
diffusers (below 1, ours is faster), tokens and GFLOP per second, peak memory, and the largest difference of output and
gradients as a part of the largest value of the tensor. The sides take turns within a round, so that a busy moment of
the machine meets both; time_ratio is the median over rounds of wall time, cpu_ratio that of processor time, which other
processes disturb less. Memory is what a process that holds one side only needs beyond its weights during its first
step: activations and gradients (Linux; the high-water mark of resident memory).
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interleaved import time_in_turns
from own_process import compared_peaks, peak_mib_of
from provenance import ROOT, provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What one line measures; the released models' proportions where nothing is said."""

    num_blocks: int
    num_heads: int
    head_dim: int
    grid_THW: tuple[int, int, int]
    """Patches; a patch is 2 x 2 latent cells."""
    batch: int
    text_tokens: int
    text_width: int
    adaln_rank: int

    @property
    def num_tokens(self) -> int:
        t, h, w = self.grid_THW
        return t * h * w

    def gflop(self) -> float:
        """Of the matrix products of one step; a backward pass counts as two forward passes."""
        d, tokens, text = self.num_heads * self.head_dim, self.num_tokens, self.text_tokens
        linears = tokens * 14 * d * d + text * 2 * self.text_width * d  # 4 + 2 + 8: self, cross, MLP; then text k, v
        products = 2 * tokens * (tokens + text) * d
        modulation = 3 * 4 * d * self.adaln_rank
        per_sample = self.num_blocks * (linears + products + modulation) + tokens * d * 4 * (18 + 16)
        return 3 * 2 * self.batch * per_sample / 1e9


SIZES = {
    # configs/model/dit_demo.yaml on the latents of configs/data/footage_96x128.yaml
    "demo": Size(
        num_blocks=6,
        num_heads=4,
        head_dim=64,
        grid_THW=(3, 6, 8),
        batch=4,
        text_tokens=32,
        text_width=384,
        adaln_rank=32,
    ),
    "medium": Size(
        num_blocks=8,
        num_heads=8,
        head_dim=64,
        grid_THW=(5, 8, 12),
        batch=2,
        text_tokens=64,
        text_width=1024,
        adaln_rank=64,
    ),
    # Heads, text and modulation as in the released models; a quarter of the 7B's width, a seventh of its depth.
    "wide": Size(
        num_blocks=4,
        num_heads=8,
        head_dim=128,
        grid_THW=(4, 16, 16),
        batch=1,
        text_tokens=512,
        text_width=1024,
        adaln_rank=256,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="A DiT training step of ours against diffusers'.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="all of them by default")
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count; two before them do not")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--peak-of", choices=("ours", "diffusers"), help="print one side's peak memory in MiB, no more")
    options = parser.parse_args()
    if options.peak_of:
        print(peak_mib(SIZES[options.sizes[0]], options.peak_of, options.threads))
        return
    where = {"threads": options.threads, **provenance()}
    for name in options.sizes:
        memory = compared_peaks(__file__, ["--sizes", name, "--threads", str(options.threads)], ("ours", "diffusers"))
        figures = compare(SIZES[name], options.rounds, options.threads)
        print(json.dumps({"benchmark": "dit_step", "size": name, **figures, **memory, **where}), flush=True)


def compare(size: Size, rounds: int, threads: int) -> dict[str, Any]:
    """Times of both sides in turn, and how far their answers are apart."""
    sides, difference = make_sides(size, threads)
    figures: dict[str, Any] = {
        "width": size.num_heads * size.head_dim,
        "blocks": size.num_blocks,
        "tokens": size.num_tokens,
        "batch": size.batch,
        **time_in_turns(sides, rounds, warmups=2),
    }
    for side in sides:
        figures |= {
            f"{side}_tokens_per_sec": round(size.batch * size.num_tokens / figures[f"{side}_sec"]),
            f"{side}_gflop_per_sec": round(size.gflop() / figures[f"{side}_sec"], 1),
        }
    return figures | difference()


def peak_mib(size: Size, side: str, threads: int) -> float:
    """Peak memory of the first step of one side, beyond what is resident before it."""
    return peak_mib_of(make_sides(size, threads, only=side)[0][side])


def make_sides(
    size: Size, threads: int, only: str = ""
) -> tuple[dict[str, Callable[[], Any]], Callable[[], dict[str, float]]]:
    """({side: one step of it}, the largest relative differences after both have made a step)."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch: this is the CPU's benchmark
    sys.path.append(str(ROOT / "tests"))
    import torch
    from support.diffusers_dit import diffusers_twin, twin_names

    from cosmos_train.models.dit.config import DiTConfig
    from cosmos_train.models.dit.world import build_world_model
    from cosmos_train.parallel import init
    from cosmos_train.parallel.config import ParallelConfig

    torch.set_num_threads(threads)
    config = DiTConfig(
        num_blocks=size.num_blocks,
        num_heads=size.num_heads,
        head_dim=size.head_dim,
        adaln_rank=size.adaln_rank,
        text_width=size.text_width,
        condition_mask=True,
    )
    parallel = ParallelConfig(layers="native")
    [world], _ = build_world_model(config, parallel, init.start(parallel, seed=0), dtype=torch.float32, seed=0)
    dit = world.net
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in dit.named_parameters():
            if name.endswith("modulation.up.weight"):  # zero at first, which would make every gate and most gradients 0
                param.normal_(std=0.02, generator=draw)
    twin = diffusers_twin(dit) if only != "ours" else None

    t, h, w = size.grid_THW
    x = torch.randn(size.batch, config.latent_channels, t, 2 * h, 2 * w, generator=draw)
    mask = torch.zeros(size.batch, 1, t, 2 * h, 2 * w)
    mask[:, :, :1] = 1
    padding = torch.zeros(1, 1, 16 * h, 16 * w)
    c_noise = torch.randn(size.batch, generator=draw)
    text = torch.randn(size.batch, size.text_tokens, size.text_width, generator=draw)
    output_gradient = torch.randn(x.shape, generator=draw)
    outputs: dict[str, torch.Tensor] = {}

    def ours() -> None:
        dit.zero_grad(set_to_none=True)
        output = dit(x, c_noise, text, fps_B=[24.0] * size.batch, condition_mask_B1THW=mask)
        output.backward(output_gradient)
        outputs["ours"] = output.detach()

    def diffusers() -> None:
        assert twin is not None
        twin.zero_grad(set_to_none=True)
        # Without the function mode that lets megatron-core run on a CPU: diffusers does not need it.
        with torch._C.DisableTorchFunction():
            arguments = {"fps": 24, "condition_mask": mask, "padding_mask": padding, "return_dict": False}
            output = twin(x, c_noise, text, **arguments)[0]
        output.backward(output_gradient)
        outputs["diffusers"] = output.detach()

    def difference() -> dict[str, float]:
        assert twin is not None
        found = twin_names(
            config, {name: param.grad for name, param in dit.named_parameters() if param.grad is not None}
        )
        gradients = [relative(found[name], param.grad) for name, param in twin.named_parameters()]
        return {
            "output_difference": float(f"{relative(outputs['ours'], outputs['diffusers']):.1e}"),
            "gradient_difference": float(f"{max(gradients):.1e}"),
        }

    steps = {"ours": ours, "diffusers": diffusers}
    return {side: step for side, step in steps.items() if not only or side == only}, difference


def relative(found: Any, wanted: Any) -> float:
    """Largest difference of two tensors, as a part of the largest value."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


if __name__ == "__main__":
    main()
