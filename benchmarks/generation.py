"""Codes per second of the autoregressive model, against itself without a cache and against transformers' Llama.

    python benchmarks/generation.py --sizes demo medium --rounds 5 --threads 1

Greedy, fp32, CPU, from one given latent frame to the end of the grid. The plain loop reads all codes so far again for
each one. The Llama has the same sizes, random weights and transformers' static cache; it lacks queries' and keys' norms
and our three axes of positions. Prints one JSON line per size and rival: median seconds of a whole video on each side
and the ratios ours / rival (below 1, ours is faster; see interleaved.py).

    python benchmarks/generation.py --medusa RUN --input VIDEO --heads 0 3 6 9

Forward passes and seconds of a trained run with Medusa heads, for so many of them; greedy, and the videos are compared.
"""

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interleaved import time_in_turns
from provenance import provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A model and the grid that it fills."""

    model: dict[str, Any]
    """Of WorldARConfig."""
    grid_THW: tuple[int, int, int]


SIZES = {
    "demo": Size(
        model={"num_blocks": 6, "width": 192, "num_heads": 6, "num_kv_heads": 2, "head_dim": 32}
        | {"ffn_width": 512, "vocab_size": 1000},
        grid_THW=(5, 8, 8),
    ),
    "medium": Size(
        model={"num_blocks": 8, "width": 1024, "num_heads": 8, "num_kv_heads": 2, "head_dim": 128}
        | {"ffn_width": 3584, "vocab_size": 8000},
        grid_THW=(3, 8, 16),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Codes per second of the autoregressive model.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["demo", "medium"])
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count; one before them does not")
    parser.add_argument("--batch", type=int, default=1, help="videos at once")
    parser.add_argument("--threads", type=int, default=1, help="torch threads")
    parser.add_argument("--medusa", type=Path, help="a trained run with Medusa heads, to compare numbers of heads of")
    parser.add_argument("--input", type=Path, help="with --medusa: the video whose first frames are given")
    parser.add_argument("--heads", nargs="+", type=int, default=[0, 3, 6, 9], help="with --medusa: how many of them")
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch: this is the CPU's benchmark
    where = {"threads": options.threads, **provenance()}
    import torch

    torch.set_num_threads(options.threads)
    if options.medusa is not None:
        for figures in compare_heads(options.medusa, options.input, options.heads):
            print(json.dumps({"benchmark": "medusa", **figures, **where}), flush=True)
        return
    for name in options.sizes:
        ours, rivals = make_sides(SIZES[name], options.batch)
        frames, height, width = SIZES[name].grid_THW
        for rival, run in rivals.items():
            figures = time_in_turns({"ours": ours, rival: run}, options.rounds, warmups=1)
            rate = options.batch * (frames - 1) * height * width / figures["ours_sec"]
            line = {"benchmark": "generation", "size": name, "against": rival, "batch": options.batch}
            print(json.dumps(line | figures | {"codes_per_sec": round(rate, 1)} | where), flush=True)


def make_sides(size: Size, batch: int) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """(a video of ours, {rival: a video of it}); the plain loop makes the same video."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from cosmos_train.generate.codes import CodeScene, generate_codes
    from cosmos_train.generate.config import CodeSampleConfig
    from cosmos_train.generate.decoder import Decoder
    from cosmos_train.models.world_ar.build import build_world_ar
    from cosmos_train.models.world_ar.config import WorldARConfig
    from cosmos_train.parallel import init
    from cosmos_train.parallel.config import ParallelConfig

    parallel, cpu = ParallelConfig(layers="native"), torch.device("cpu")
    config, mesh = WorldARConfig(**size.model), init.start(parallel, seed=0)
    pieces, engine_config = build_world_ar(config, parallel, mesh, dtype=torch.float32, seed=0)
    decoder = Decoder([piece.eval() for piece in pieces], engine_config, mesh)
    frames, height, width = size.grid_THW
    num_given, num_codes = height * width, frames * height * width
    given = torch.randint(config.vocab_size, (batch, 1, height, width), generator=torch.Generator().manual_seed(0))
    scene = CodeScene(grid_THW=size.grid_THW, seed_B=range(batch), given_BTHW=given)
    videos: dict[str, Any] = {}

    def ours() -> None:
        videos["ours"] = generate_codes(decoder, scene, CodeSampleConfig(temperature=0.0), device=cpu)

    @torch.no_grad()
    def plain() -> None:
        ids_BL = given.flatten(1)
        while ids_BL.shape[1] < num_codes:
            logits_LBV, _ = decoder.piece(ids_BL, (height, width))
            ids_BL = torch.cat((ids_BL, logits_LBV[-1].argmax(-1)[:, None]), dim=1)
        assert torch.equal(ids_BL.unflatten(1, size.grid_THW), videos["ours"]), "the cache changes what is said"

    llama: Any = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=config.num_blocks,
            hidden_size=config.width,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.ffn_width,
            vocab_size=config.vocab_size,
            max_position_embeddings=num_codes,
        )
    ).eval()

    def transformers() -> None:
        with torch._C.DisableTorchFunction():  # ours lets megatron-core run on a CPU; transformers does not need it
            llama.generate(
                given.flatten(1),
                attention_mask=torch.ones_like(given.flatten(1)),
                do_sample=False,
                min_new_tokens=num_codes - num_given,
                max_new_tokens=num_codes - num_given,
                cache_implementation="static",
                pad_token_id=0,
            )

    ours()
    return ours, {"transformers": transformers, "plain loop": plain}


def compare_heads(run_dir: Path, given: Path, numbers: Sequence[int]) -> list[dict[str, Any]]:
    """For each number of heads: passes of a video, codes a pass, seconds, and whether the codes are those of none."""
    import time

    import torch

    from cosmos_data.videos.media import read_first_frames
    from cosmos_train.config.schema import WorldARRun
    from cosmos_train.generate.codes import CodeScene, generate_codes
    from cosmos_train.generate.medusa import generate_guessed_codes
    from cosmos_train.worlds.autoregressive import AutoregressiveWorld
    from cosmos_train.worlds.opening import open_world
    from cosmos_train.worlds.run import find_run

    found_run = find_run(run_dir, ["sample.temperature=0"])
    run = found_run.run
    assert isinstance(run, WorldARRun), f"{run_dir} is of a {run.recipe} run"
    world = open_world(found_run)
    assert isinstance(world, AutoregressiveWorld), "of such a run"
    _, frames, height, width = world.require_windows().latent_shape
    pixels_3THW = read_first_frames(given, world.frames_for(run.sample.num_condition_frames), run.data, crop=False)
    scene = CodeScene(grid_THW=(frames, height, width), seed_B=[0], given_BTHW=world.encode(pixels_3THW[None]))
    num_new = (frames - run.sample.num_condition_frames) * height * width
    plain = generate_codes(world.decoder, scene, run.sample, device=world.device)
    found = []
    for number in numbers:
        before, begin = world.decoder.num_passes, time.perf_counter()
        heads = {"num_heads": number} if number else {}
        make: Callable[..., torch.Tensor] = generate_guessed_codes if number else generate_codes
        codes = make(world.decoder, scene, run.sample, device=world.device, **heads)
        passes = world.decoder.num_passes - before
        found.append(
            {"heads": number, "passes": passes, "codes_per_pass": round(num_new / passes, 2)}
            | {"sec": round(time.perf_counter() - begin, 3), "same_codes": torch.equal(codes, plain)}
        )
    return found


if __name__ == "__main__":
    main()
