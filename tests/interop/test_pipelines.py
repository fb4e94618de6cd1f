"""Converted folders load with from_pretrained and run in diffusers' pipelines; our samplers give the same videos."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.converted import sample_on_ranks
from support.official_dit import small_config, write_official
from support.ranks import RankPool
from torch import Tensor

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_train.config.load import load_sampling
from cosmos_train.generate.world import Scene
from cosmos_train.interop.compare import transformer_module
from cosmos_train.interop.convert import convert
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.worlds.opening import open_world

FRAMES, HEIGHT, WIDTH = 17, 32, 48
SHAPE = (4, 3, 4, 6)
"""Latents of that: 4 channels, 8 x 8 x 8 smaller."""


class PassThrough:
    """In the place of the safety checker, whose networks are not here."""

    def to(self, _device: Any) -> None:
        pass

    def check_text_safety(self, _prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: Any) -> Any:
        return frames


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer") / "tiny"
    config = TokenizerConfig(channels=4, z_channels=4, latent_channels=4)
    save_tokenizer(folder, CausalVideoTokenizer(config).eval(), config, {})
    return folder


def converted(folder: Path, tokenizer: Path, **sizes: Any) -> Path:
    """A diffusers folder of an official file."""
    source = write_official(folder / "model.pt", small_config(**sizes))
    convert(source, folder / "diffusers", to="diffusers", tokenizer=tokenizer)
    return folder / "diffusers"


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def load_pipeline(name: str, folder: Path) -> Any:
    import diffusers

    transformer_module()
    given = {"text_encoder": None, "tokenizer": None, "safety_checker": PassThrough()}
    pipeline = getattr(diffusers, name).from_pretrained(folder, dtype=torch.float32, **given)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance", [7.0, 0.0])
def test_text_to_world(ranks: Callable[[int], RankPool], tmp_path: Path, tokenizer: Path, guidance: float) -> None:
    folder = converted(tmp_path, tokenizer)
    text, negative, noise = drawn(1, 1, 6, 32), drawn(2, 1, 6, 32), drawn(3, 1, *SHAPE)
    pipeline = load_pipeline("CosmosTextToWorldPipeline", folder)
    wanted = pipeline(
        prompt_embeds=text, negative_prompt_embeds=negative, latents=noise, output_type="latent",
        height=HEIGHT, width=WIDTH, num_frames=FRAMES, num_inference_steps=10, fps=16, guidance_scale=guidance,
    ).frames  # fmt: skip
    config = replace(load_sampling("diffusers"), num_steps=10, guidance=guidance)
    found = open_world(folder).sample_latents(noise, text, negative_text_BSE=negative, fps=16, config=config)
    assert (found - wanted).abs().max() < 1e-3 < wanted.abs().max()

    scene = Scene(
        text_BSE=text, negative_text_BSE=negative, fps_B=[16], shape_CTHW=SHAPE, seed_B=[0], noise_BCTHW=noise
    )
    for on_rank in ranks(2).run(sample_on_ranks, folder, ParallelConfig(tp=2), scene, config):
        assert (on_rank - wanted).abs().max() < 1e-3


def test_video_to_world(ranks: Callable[[int], RankPool], tmp_path: Path, tokenizer: Path) -> None:
    folder = converted(tmp_path, tokenizer, condition_mask=True, rope_scale_h=2.0)
    text, negative, noise = drawn(1, 1, 6, 32), drawn(2, 1, 6, 32), drawn(3, 1, *SHAPE)
    picture = torch.rand(1, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(4))
    pipeline = load_pipeline("CosmosVideoToWorldPipeline", folder)
    wanted = pipeline(
        image=picture,
        prompt_embeds=text,
        negative_prompt_embeds=negative,
        latents=noise,
        output_type="latent",
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=10,
        fps=16,
        augment_sigma=0.0,
    ).frames  # fmt: skip  augment_sigma: diffusers draws that noise anew in every step
    config = replace(load_sampling("diffusers"), num_steps=10, augment_sigma=0.0)
    with torch.no_grad():
        given = pipeline.vae.encode(picture[:, :, None] * 2 - 1).latent_dist.mode() * 0.5
    world = open_world(folder)
    found = world.sample_latents(noise, text, negative_text_BSE=negative, fps=16, config=config, given_BCTHW=given)
    assert torch.equal(found[:, :, :1], given)
    assert (found - wanted)[:, :, 1:].abs().max() < 1e-3 < wanted.abs().max()
    without = world.sample_latents(noise, text, negative_text_BSE=negative, fps=16, config=config)
    assert (without - wanted)[:, :, 1:].abs().max() > 1e-2, "the given frame is seen"

    scene = Scene(
        text_BSE=text,
        negative_text_BSE=negative,
        fps_B=[16],
        shape_CTHW=SHAPE,
        seed_B=[0],
        given_BCTHW=given,
        noise_BCTHW=noise,
    )
    for on_rank in ranks(2).run(sample_on_ranks, folder, ParallelConfig(tp=2), scene, config):
        assert (on_rank - wanted)[:, :, 1:].abs().max() < 1e-3


def test_a_decoded_video(tmp_path: Path, tokenizer: Path) -> None:
    """The vae in the folder is the tokenizer that was named."""
    pipeline = load_pipeline("CosmosTextToWorldPipeline", converted(tmp_path, tokenizer))
    frames = pipeline(
        prompt_embeds=drawn(1, 1, 6, 32), negative_prompt_embeds=drawn(2, 1, 6, 32), output_type="np",
        height=HEIGHT, width=WIDTH, num_frames=FRAMES, num_inference_steps=2,
    ).frames  # fmt: skip
    assert frames.shape == (1, FRAMES, HEIGHT, WIDTH, 3)
