"""Encode and decode of ours against diffusers' AutoencoderKLCosmos: CV8x8x8 at full width, the same random weights.

    python benchmarks/tokenizer.py --sizes 256p 720p --frames 1 9 --rounds 3 --threads 2
    python benchmarks/tokenizer.py --device cuda --variants eager compiled graphed

Prints one JSON line per size, number of frames, direction and variant. The sides take turns within a round, so that a
busy moment of the machine meets both; time_ratio is diffusers / ours (above 1, ours is faster), the median over rounds;
cpu_ratio is that of processor time, which other processes disturb less. `*_roof_share` is the floating-point operations
of the architecture as written, over the time, over the rate of a large matrix product measured in the same rounds:
folding and Winograd leave operations out, so that ours can be above 1.

Memory is what a process that holds one side only needs beyond its weights and its input during its first call: on a CPU
the high-water mark of resident memory (Linux), on a GPU of torch's allocator. On a GPU both sides are bfloat16, and a
variant is a way of running ours: `eager`; `compiled` by torch.compile; `graphed`, compiled and replayed as CUDA graphs.
diffusers' side is channels-last and compiled likewise, without graphs where it cannot be captured.
"""

import argparse
import gc
import json
import os
import statistics
from collections.abc import Callable
from typing import Any

from interleaved import median_ratio, timings_in_turns
from own_process import MIB, compared_peaks, peak_mib_of
from provenance import provenance

SIZES = {"256p": (256, 256), "512p": (512, 512), "720p": (704, 1280)}
SIDES = ("ours", "diffusers")
GEMM_SIDE = {"cpu": 2048, "cuda": 8192}


def main() -> None:
    options = parse()
    if options.peak_of:
        print(peak_mib(options))
        return
    where = {"threads": options.threads, **provenance("" if options.device == "cpu" else gpu_name())}
    for size in options.sizes:
        for frames in options.frames:
            for part in options.parts:
                for variant in options.variants:
                    line = {"benchmark": "tokenizer", "part": part, "size": size, "frames": frames, "variant": variant}
                    line |= compare(options, size, frames, part, variant)
                    if not options.no_memory:
                        line |= memory(options, size, frames, part, variant)
                    print(json.dumps(line | where), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The tokenizer's encode and decode against diffusers'.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="all of them by default")
    parser.add_argument("--frames", nargs="+", type=int, default=[1, 9, 17], help="1 + 8 n; default 1 9 17")
    parser.add_argument("--parts", nargs="+", choices=("encode", "decode"), default=["encode", "decode"])
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count; one before them does not")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch threads")
    parser.add_argument("--no-memory", action="store_true", help="measure times only")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--variants", nargs="+", choices=("eager", "compiled", "graphed"), default=["eager"])
    parser.add_argument("--peak-of", choices=SIDES, help="print one side's peak memory in MiB, no more")
    options = parser.parse_args()
    if options.device == "cpu" and options.variants != ["eager"]:
        parser.error("--variants compiled and graphed are for --device cuda; leave the option out on a CPU")
    return options


def compare(options: argparse.Namespace, size: str, frames: int, part: str, variant: str) -> dict[str, Any]:
    """Times of both sides and of a matrix product in turn, and how far their answers are apart."""
    calls, flops = make_calls(options, size, frames, part, variant)
    calls["gemm"] = make_gemm(options.device)
    results = {side: calls[side]().float().cpu() for side in SIDES}  # also the round that does not count
    calls["gemm"]()
    timings = timings_in_turns(calls, options.rounds, warmups=0, wait=device_wait(options.device))
    gemm_rate = 2 * GEMM_SIDE[options.device] ** 3 / statistics.median(timings.seconds["gemm"])
    figures: dict[str, Any] = {"rounds": options.rounds, "tflop": round(flops / 1e12, 3)}
    figures["gemm_gflop_per_sec"] = round(gemm_rate / 1e9, 1)
    for side in SIDES:
        median = statistics.median(timings.seconds[side])
        figures[f"{side}_sec"] = round(median, 4)
        figures[f"{side}_roof_share"] = round(flops / median / gemm_rate, 3)
    for key, times in (("time_ratio", timings.seconds), ("cpu_ratio", timings.cpu_seconds)):
        figures[key] = median_ratio(times["diffusers"], times["ours"])
    difference = (results["ours"] - results["diffusers"]).abs().max().item()
    return figures | {
        "max_difference": float(f"{difference:.1e}"),
        "largest_value": float(f"{results['diffusers'].abs().max().item():.2g}"),
        "dtype": "float32" if options.device == "cpu" else "bfloat16",
    }


def memory(options: argparse.Namespace, size: str, frames: int, part: str, variant: str) -> dict[str, float]:
    """peak_mib of either side, each in a process of its own."""
    arguments = [__file__, "--sizes", size, "--frames", str(frames), "--parts", part, "--variants", variant]
    arguments += ["--device", options.device, "--threads", str(options.threads)]
    return compared_peaks(__file__, arguments, SIDES)


def peak_mib(options: argparse.Namespace) -> float:
    """Peak memory of one side's first call, beyond what is there before it."""
    import torch

    side = options.peak_of
    size, frames, part, variant = options.sizes[0], options.frames[0], options.parts[0], options.variants[0]
    call = make_calls(options, size, frames, part, variant, only=side)[0][side]
    if options.device == "cuda":
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    return peak_mib_of(call)


def make_calls(
    options: argparse.Namespace, size: str, frames: int, part: str, variant: str, only: str = ""
) -> tuple[dict[str, Callable[[], Any]], float]:
    """({side: one call of it}, the floating-point operations of the architecture as written)."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_cosmos import AutoencoderKLCosmos

    from cosmos_tok.config import TokenizerConfig
    from cosmos_tok.kl_cosmos import names
    from cosmos_tok.model import CausalVideoTokenizer

    torch.set_num_threads(options.threads)
    config = TokenizerConfig()
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    weights = random_weights(config)
    height, width = SIZES[size]
    draw = torch.Generator().manual_seed(0)
    shape = (1, 3, frames, height, width)
    if part == "decode":
        shape = (1, config.latent_channels, config.latent_frames(frames), *config.latent_size(height, width))
    value = (torch.rand(shape, generator=draw) * 2 - 1).to(options.device, dtype)
    calls: dict[str, Callable[[], Any]] = {}
    if only != "diffusers":
        with torch.device("meta"):
            ours = CausalVideoTokenizer(config).eval()
        ours.load_state_dict(weights, assign=True)
        ours.to(options.device, dtype)
        calls["ours"] = run_as(variant, ours.encode if part == "encode" else ours.decode, value)
    if only != "ours":
        table = names(config)
        theirs: Any = AutoencoderKLCosmos().eval()
        theirs.load_state_dict({table[name]: tensor for name, tensor in weights.items()}, assign=True)
        if dtype != torch.float32:
            theirs.to(dtype)
        theirs.to(options.device)
        if options.device == "cuda":
            theirs.to(memory_format=torch.channels_last_3d)
        run = (
            (lambda x: theirs.encode(x).latent_dist.mode()) if part == "encode" else (lambda z: theirs.decode(z).sample)
        )
        calls["diffusers"] = run_as("eager" if variant == "eager" else "compiled", run, value)
    return calls, 0.0 if only else count_flops(config, value.to("meta"), part)


def random_weights(config: Any) -> dict[str, Any]:
    """Weights that keep activations of order 1, so that differences of outputs mean something."""
    import torch

    from cosmos_tok.model import CausalVideoTokenizer

    with torch.device("meta"):
        model = CausalVideoTokenizer(config)
    draw = torch.Generator().manual_seed(0)
    weights = {}
    for name, param in model.named_parameters():
        mean = 0.0 if param.ndim > 1 or name.endswith("bias") else 1.0
        std = 0.7 / param[0].numel() ** 0.5 if param.ndim > 1 else 0.02
        weights[name] = torch.empty(param.shape).normal_(mean, std, generator=draw)
    return weights


def run_as(variant: str, function: Callable[[Any], Any], value: Any) -> Callable[[], Any]:
    """One call on the value, in inference mode."""
    import torch

    if variant == "compiled":
        function = torch.compile(function, dynamic=False)
    elif variant == "graphed":
        function = torch.compile(function, dynamic=False, mode="reduce-overhead")  # replays CUDA graphs

    def call() -> Any:
        with torch.inference_mode():
            return function(value)

    return call


def count_flops(config: Any, value: Any, part: str) -> float:
    """Of the plain layers, as torch counts them."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from cosmos_tok.model import CausalVideoTokenizer

    with torch.device("meta"):
        model = CausalVideoTokenizer(config).to(value.dtype)
    with FlopCounterMode(display=False) as counter:
        model.encode(value) if part == "encode" else model.decode(value)
    return counter.get_total_flops()


def make_gemm(device: str) -> Callable[[], Any]:
    """A matrix product large enough to run at the machine's rate."""
    import torch

    side = GEMM_SIDE[device]
    a, b = torch.randn(2, side, side, device=device, dtype=torch.float32 if device == "cpu" else torch.bfloat16)
    return lambda: a @ b


def device_wait(device: str) -> Callable[[], None]:
    import torch

    return torch.cuda.synchronize if device == "cuda" else lambda: None


def gpu_name() -> str:
    import torch

    return torch.cuda.get_device_name()


if __name__ == "__main__":
    main()
