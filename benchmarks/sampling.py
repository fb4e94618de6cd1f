"""Sampling of ours against diffusers' Cosmos pipelines: same weights, first noise, text states and schedule, fp32, CPU.

    python benchmarks/sampling.py --sizes demo medium --rounds 5 --steps 10 --threads 1

Text2World, and Video2World with one conditioning latent frame, by diffusers' schedule and guidance of 7
(configs/sample/diffusers.yaml). Text states and conditioning latents are given and latents come out: encoders and
decoder are left out on both sides. diffusers also evaluates the network at the last noise level, for a step of length
0; ours does not. Prints one JSON line per size and pipeline: median seconds of a whole run on each side, the ratios
ours / diffusers (below 1, ours is faster; see interleaved.py), and the largest difference of the sampled latents as a
part of the largest value.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any, cast

from dit_step import SIZES, Size, relative
from interleaved import time_in_turns
from provenance import ROOT, provenance

SEED, FPS, SIGMA_DATA = 0, 24, 0.5
AUGMENT_SIGMA = 1e-6
"""diffusers draws the conditions' light noise anew at every step, ours does not: none to speak of on either side."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Sampling of ours against diffusers' pipelines.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "medium"])
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one before them does not")
    parser.add_argument("--steps", type=int, default=10, help="noise levels")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    options = parser.parse_args()
    where = {
        "steps": options.steps,
        "threads": options.threads,
        **provenance(),
    }
    for name in options.sizes:
        for pipeline in ("text2world", "video2world"):
            figures = compare(
                SIZES[name], options.steps, options.rounds, options.threads, has_input=pipeline == "video2world"
            )
            line = {"benchmark": "sampling", "size": name, "pipeline": pipeline, **figures, **where}
            print(json.dumps(line), flush=True)


def compare(size: Size, num_steps: int, rounds: int, threads: int, *, has_input: bool) -> dict[str, Any]:
    """Times of both sides in turn, and how far their latents are apart."""
    sides, latents = make_sides(size, num_steps, threads, has_input=has_input)
    times = time_in_turns(sides, rounds, warmups=1)
    generated = slice(1, None) if has_input else slice(None)  # diffusers does not give the first frame back exactly
    difference = relative(latents["ours"][:, :, generated], latents["diffusers"][:, :, generated])
    return {"tokens": size.num_tokens, **times, "difference": float(f"{difference:.1e}")}


def make_sides(
    size: Size, num_steps: int, threads: int, *, has_input: bool
) -> tuple[dict[str, Callable[[], None]], dict[str, Any]]:
    """({side: one run of it}, the latents of each side's last run)."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch: this is the CPU's benchmark
    sys.path.append(str(ROOT / "tests"))
    import torch
    from omegaconf import OmegaConf
    from support.diffusers_dit import diffusers_twin

    from cosmos_train.generate.config import SampleConfig
    from cosmos_train.generate.network import in_turn
    from cosmos_train.generate.world import Scene, sample_scene
    from cosmos_train.models.dit.config import DiTConfig
    from cosmos_train.models.dit.world import build_world_model
    from cosmos_train.parallel import init
    from cosmos_train.parallel.config import ParallelConfig

    torch.set_num_threads(threads)
    model = DiTConfig(
        num_blocks=size.num_blocks,
        num_heads=size.num_heads,
        head_dim=size.head_dim,
        adaln_rank=size.adaln_rank,
        text_width=size.text_width,
        condition_mask=has_input,
    )
    parallel = ParallelConfig(layers="native")
    [world], _ = build_world_model(model, parallel, init.start(parallel, seed=0), dtype=torch.float32, seed=0)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, param in world.net.named_parameters():
            if name.endswith("modulation.up.weight"):  # zero at first, which would leave the blocks out
                param.normal_(std=0.02, generator=draw)
    own = {"num_steps": num_steps, "augment_sigma": AUGMENT_SIGMA}
    named = OmegaConf.merge(SampleConfig, OmegaConf.load(ROOT / "configs/sample/diffusers.yaml"), own)
    config = cast(SampleConfig, OmegaConf.to_object(named))

    t, h, w = size.grid_THW
    shape_CTHW = (model.latent_channels, t, 2 * h, 2 * w)
    text, negative = torch.randn(2, 1, size.text_tokens, size.text_width, generator=draw)
    given = torch.randn(1, model.latent_channels, 1, 2 * h, 2 * w, generator=draw) * SIGMA_DATA if has_input else None
    scene = Scene(
        text_BSE=text,
        negative_text_BSE=negative,
        fps_B=[float(FPS)],
        shape_CTHW=shape_CTHW,
        seed_B=[SEED],
        given_BCTHW=given,
    )
    first_noise = torch.randn(shape_CTHW, generator=torch.Generator().manual_seed(2 * SEED))[None]
    pipeline = make_pipeline(diffusers_twin(world.net), config, first_noise, given)
    latents: dict[str, Any] = {}

    def ours() -> None:
        latents["ours"] = sample_scene(
            in_turn(world.net), scene, config, sigma_data=SIGMA_DATA, has_condition_mask=model.condition_mask
        )

    def diffusers() -> None:
        with torch._C.DisableTorchFunction():  # ours lets megatron-core run on a CPU; diffusers does not need it
            latents["diffusers"] = pipeline(
                prompt_embeds=text,
                negative_prompt_embeds=negative,
                height=16 * h,
                width=16 * w,
                num_frames=1 + 8 * (t - 1),
                num_inference_steps=num_steps,
                guidance_scale=config.guidance,
                fps=FPS,
                latents=first_noise,
                output_type="latent",
            ).frames

    return {"ours": ours, "diffusers": diffusers}, latents


def make_pipeline(twin: Any, config: Any, first_noise: Any, given: Any) -> Callable[..., Any]:
    """diffusers' Text2World pipeline, or its Video2World one, which takes `given` in the place of what it encodes."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl_cosmos import AutoencoderKLCosmos
    from diffusers.pipelines.cosmos.pipeline_cosmos_text2world import CosmosTextToWorldPipeline
    from diffusers.pipelines.cosmos.pipeline_cosmos_video2world import CosmosVideoToWorldPipeline
    from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler

    class Unchecked:
        """Random weights make no video that a safety checker could judge."""

        def to(self, device: Any) -> None:
            pass

    class FromLatents(CosmosVideoToWorldPipeline):
        def prepare_latents(self, *args: Any, **kwargs: Any) -> Any:
            _, _, t, h, w = first_noise.shape
            indicator = torch.zeros(1, 1, t, 1, 1)
            indicator[:, :, :1] = 1
            mask = indicator.expand(1, 1, t, h, w)
            conditions = torch.cat((given, torch.zeros_like(first_noise[:, :, 1:])), dim=2)
            return first_noise * config.sigma_max, conditions, indicator, indicator, mask, mask

    scheduler = EDMEulerScheduler(
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        sigma_data=SIGMA_DATA,
        rho=config.rho,
        final_sigmas_type="sigma_min",
    )
    kind: Any = CosmosTextToWorldPipeline if given is None else FromLatents
    # The pipelines ask the tokenizer for its rates and number format, here for nothing else: a tiny one.
    vae = AutoencoderKLCosmos(encoder_block_out_channels=(8, 8), decode_block_out_channels=(8, 8), num_layers=1)
    parts = {"text_encoder": None, "tokenizer": None, "vae": vae, "transformer": twin, "scheduler": scheduler}
    pipeline = kind(**parts, safety_checker=Unchecked())
    pipeline.set_progress_bar_config(disable=True)
    if given is None:
        return pipeline
    frame = torch.zeros(1, 3, first_noise.shape[3] * 8, first_noise.shape[4] * 8)
    return lambda **arguments: pipeline(image=frame, augment_sigma=config.augment_sigma, **arguments)


if __name__ == "__main__":
    main()
