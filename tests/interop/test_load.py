"""Runs that start from another project's weights: what must be there, what may be new."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import tiny_world, training
from support.converted import first_loss
from support.official_dit import official_state, small_config, write_official
from support.ranks import RankPool

from cosmos_tok.config import NotFiniteError
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.convert import convert
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import open_source
from cosmos_train.models.dit.world import WorldModel, build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.loop import DONE
from cosmos_train.worlds.opening import open_world

EMBED = "net.embed.weight"


def model_of(*, learned_uncertainty: bool = True, **sizes: Any) -> tuple[WorldModel, Any]:
    parallel = ParallelConfig()
    mesh = init.start(parallel, seed=0)
    config = small_config(**sizes)
    [model], _ = build_world_model(
        config, parallel, mesh, dtype=torch.float32, seed=9, learned_uncertainty=learned_uncertainty
    )
    return model, mesh


@pytest.mark.parametrize("layout", ["official", "diffusers", "ours"])
def test_a_run_starts_from_it(ranks: Callable[[int], RankPool], tmp_path: Path, layout: str) -> None:
    """checkpoint.init_from, on two tensor-parallel ranks: the first loss is that of the given weights."""
    cache = tiny_world.write_cache(tmp_path / "cache")
    source = write_official(tmp_path / "official/model.pt", tiny_world.MODEL).parent
    if layout != "official":
        convert(source, tmp_path / layout, to=layout)
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(tmp_path / layout)}}
    tp2 = ParallelConfig(tp=2)
    assert ranks(2).run(training.run_loop, cache, tmp_path / "run", tp2, settings) == [DONE, DONE]
    assert ranks(2).run(training.run_loop, cache, tmp_path / "cold", tp2, {"num_steps": 1}) == [DONE, DONE]
    warm, cold = training.losses(tmp_path / "run")[1], training.losses(tmp_path / "cold")[1]
    expected = ranks(2).run(first_loss, cache, tmp_path / "one", source)
    assert warm == pytest.approx(expected[0], rel=1e-4)
    assert cold != pytest.approx(warm, rel=1e-2)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_no_run_starts_from_weights_that_are_not_finite(
    ranks: Callable[[int], RankPool], tmp_path: Path, suffix: str
) -> None:
    """Their tensor and file are named on both ranks, and the run is not begun; nor does Python get such a model."""
    cache, state = tiny_world.write_cache(tmp_path / "cache"), official_state(tiny_world.MODEL)
    name = "net.blocks.block1.blocks.2.block.layer2.weight"
    state[name][3, 4] = torch.nan
    source = tmp_path / f"model{suffix}"
    save_file(state, source) if suffix == ".safetensors" else torch.save(state, source)
    settings = {"num_steps": 1, "checkpoint": {"init_from": str(source)}}
    found = ranks(2).run(training.failure_of, training.run_loop, cache, tmp_path / "run", ParallelConfig(), settings)
    said = rf"model{suffix}: 1 of [\d,]+ numbers of {name} are not finite"
    assert [error for error, _ in found] == ["NotFiniteError"] * 2 and re.search(said, found[0][1])
    assert not (tmp_path / "run" / "checkpoints").exists()
    with pytest.raises(NotFiniteError, match=said):
        open_world(source)
    source.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    found = ranks(2).run(training.failure_of, training.run_loop, cache, tmp_path / "run", ParallelConfig(), settings)
    assert f"{source} is a Git LFS pointer" in found[0][1]


def test_video_to_world_from_text_to_world(tmp_path: Path) -> None:
    source = open_source(write_official(tmp_path / "model.pt", small_config()))
    model, mesh = model_of(condition_mask=True)
    said = "reads 5 channels, this run's 6, with condition mask besides.*set checkpoint.init_new=.net.embed.weight."
    with pytest.raises(ConfigError, match=said):
        load_pieces(source, [model], mesh)
    load_pieces(source, [model], mesh, new=[EMBED])
    x, text = torch.randn(1, 4, 2, 4, 4), torch.randn(1, 5, 32)
    mask = torch.ones(1, 1, 2, 4, 4)
    plain, _ = model_of()
    load_pieces(source, [plain], mesh)
    with torch.no_grad():
        found = model.net(x, torch.tensor([0.3]), text, fps_B=[24.0], condition_mask_B1THW=mask)
        wanted = plain.net(x, torch.tensor([0.3]), text, fps_B=[24.0])
    torch.testing.assert_close(found, wanted)


def test_text_to_world_from_video_to_world(tmp_path: Path) -> None:
    source = open_source(write_official(tmp_path / "model.pt", small_config(condition_mask=True)))
    model, mesh = model_of()
    with pytest.raises(ConfigError, match=r"reads 6 channels and this run's only 5; set model.condition_mask=true"):
        load_pieces(source, [model], mesh, new=[EMBED])


def test_what_differs_is_named_and_may_be_listed(tmp_path: Path) -> None:
    source = open_source(write_official(tmp_path / "model.pt", small_config()))
    model, mesh = model_of(num_blocks=3, learned_uncertainty=False)
    with pytest.raises(ConfigError) as error:
        load_pieces(source, [model], mesh)
    said = str(error.value)
    assert "missing: net.blocks.2.cross_attention.k_layernorm.weight, " in said and "net.blocks.2.mlp.up.weight" in said
    assert "unexpected: uncertainty.frequency, uncertainty.linear.weight, uncertainty.phase" in said
    before = model.get_parameter("net.blocks.2.mlp.up.weight").clone()
    load_pieces(source, [model], mesh, new=["net.blocks.2.*"], unused=["uncertainty.*"])
    assert torch.equal(model.get_parameter("net.blocks.2.mlp.up.weight"), before), "what is new keeps its first weights"
    wanted = official_state(small_config())["net.blocks.block1.blocks.2.block.layer1.weight"]
    assert torch.equal(model.get_parameter("net.blocks.1.mlp.up.weight"), wanted)


def test_another_size_is_no_start(tmp_path: Path) -> None:
    source = open_source(write_official(tmp_path / "model.pt", small_config()))
    model, mesh = model_of(max_latent_frames=16)
    with pytest.raises(ConfigError, match=r"of another size: net.position.t 8x96 instead of 16x96"):
        load_pieces(source, [model], mesh)
    model, mesh = model_of(num_heads=8, head_dim=12)
    with pytest.raises(ConfigError, match=r"has model.head_dim=24, this run 12; set the former"):
        load_pieces(source, [model], mesh)
