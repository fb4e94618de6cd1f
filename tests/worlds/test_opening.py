"""`open_world`, as docs/python.md shows it: a run, an official file, a diffusers folder; what they lack is named."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from support import filled_run, official_ar, tiny_t5
from support.official_dit import small_config, write_official
from support.training import train_stirred

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official import official_tensors
from cosmos_tok.store import save_tokenizer
from cosmos_tok.whitening import LatentStatistics
from cosmos_train.config.errors import ConfigError
from cosmos_train.text.config import TextConfig
from cosmos_train.train.checkpoint.folder import CheckpointError
from cosmos_train.worlds.file import WindowSize
from cosmos_train.worlds.opening import open_world
from cosmos_train.worlds.run import find_run

PAGE = Path(__file__).parents[2] / "docs/python.md"
WINDOW = WindowSize(num_frames=17, height_px=32, width_px=48, fps=24)
STATISTICS = LatentStatistics(torch.full((4, 3), 0.25), torch.full((4, 3), 2.0))
X = torch.ones(1, 4, 3, 4, 6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page names: released/ with models, tokenizers and a text encoder, and a run of one step."""
    folder = tmp_path_factory.mktemp("opening")
    (folder / "released/t5").mkdir(parents=True)
    tiny_t5.write_t5(folder / "released/t5")
    torch.manual_seed(0)
    old = CausalVideoTokenizer(TokenizerConfig(channels=4, spatial_rate=16, extra_resampling=True))
    torch.save(official_tensors(old), folder / "released/model.pt")
    config = TokenizerConfig(channels=4, z_channels=4, latent_channels=4)
    tokenizer = CausalVideoTokenizer(config).eval()
    save_tokenizer(folder / "released/tokenizer", tokenizer, config, {}, statistics=STATISTICS)
    write_official(folder / "released/world/model.pt", small_config(condition_mask=True, text_width=8))
    official_ar.write(folder / "released/world_ar/model.pt", official_ar.KINDS["5B video2world"])

    inputs = folder / "inputs"
    inputs.mkdir()
    run = filled_run.make_run(filled_run.write_inputs(inputs), folder / "cache", folder / "runs/my/world")
    run = dataclasses.replace(run, train=dataclasses.replace(run.train, num_steps=1))
    train_stirred(run)
    return folder


def test_the_pages_python_runs(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    mask = torch.zeros(1, 1, 3, 4, 6)
    mask[:, :, 0] = 1
    given: dict[str, Any] = {
        "video_uint8_B3THW": torch.zeros(1, 3, 9, 32, 32, dtype=torch.uint8),
        "first_frames_3THW": torch.full((3, 1, 32, 48), 200, dtype=torch.uint8),
        "text_BSE": torch.randn(1, 5, 8),
        "sigma_B": torch.tensor([1.0]),
        "ids_BL": torch.tensor([[48, 1, 2, 3, 4]]),  # the begin token, then codes
        "given_codes_BTHW": torch.ones(1, 1, 2, 2, dtype=torch.int64),
        "text_of_codes_BSE": torch.randn(1, 5, 16),
        "condition_mask_B1THW": mask,
        "padding_mask_B1HW": torch.zeros(1, 1, 32, 48),
        **{name: torch.randn(1, 4, 3, 4, 6) for name in ("x_BCTHW", "x0_BCTHW", "noise_BCTHW", "given_BCTHW")},
    }
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    _, of_run, of_file, with_parts, of_codes, of_diffusers = (_run(block, given) for block in blocks)
    assert of_run["videos_B3THW"].shape == (2, 3, 9, 32, 48) and of_run["longer_B3THW"].shape == (1, 3, 17, 32, 48)
    assert torch.equal(of_run["longer_B3THW"][:, :, :9], of_run["videos_B3THW"][:1]), "it begins like the first one"
    assert of_run["latents"].shape == (2, 4, 3, 4, 6) and of_run["pixels_B3THW"].dtype == torch.uint8
    assert of_file["denoised"].shape == X.shape and of_file["loss"].isfinite()
    assert with_parts["videos_B3THW"].shape == (1, 3, 17, 32, 48)
    assert of_codes["codes_BTHW"].shape == (2, 3, 2, 2)
    world = of_diffusers["world"]
    assert torch.equal(world.codec.statistics.std_CT, STATISTICS.std_CT), "the vae's own"
    z_BCTHW = (of_diffusers["latents"] / 0.5) * 2.0 + 0.25
    pixels_B3THW = (world.codec.tokenizer.decode(z_BCTHW).clamp(-1, 1) + 1) * 127.5
    assert (of_diffusers["video_B3THW"].float() - pixels_B3THW).abs().max() < 1


def _run(block: str, given: dict[str, Any]) -> dict[str, Any]:
    """What a block of Python has named."""
    names = dict(given)
    exec(block, names)
    return names


def test_what_a_file_does_not_have_is_named_with_its_remedy(folder: Path):
    source = folder / "released/world/model.pt"
    world = open_world(source)
    with pytest.raises(ConfigError, match=r"model.pt came without a tokenizer; pass open_world\(..., tokenizer=PATH\)"):
        world.decode(X)
    with pytest.raises(ConfigError, match=r"without a text encoder; pass open_world\(..., text_encoder=TextConfig"):
        world.read_prompts({"prompt": "a ball"})
    with pytest.raises(ConfigError, match=r"without a size of its windows; pass open_world\(..., window=WindowSize"):
        world.sample("a ball")
    with pytest.raises(ConfigError, match="is no run of ours, whose data it could be judged on; name a run's folder"):
        world.require_trained()
    with pytest.raises(ConfigError, match="came without a tokenizer, which makes latents of a window; pass tokenizer="):
        open_world(source, window=WINDOW)
    with pytest.raises(ConfigError, match=r"only a run has settings to override; got 'sample.num_steps=3'"):
        open_world(source, ["sample.num_steps=3"])


def test_a_run_refuses_what_is_for_other_files(folder: Path):
    run = folder / "runs/my/world"
    with pytest.raises(ConfigError, match=r"dtype=torch.bfloat16 is not for runs, and .*my/world is one.*; leave it"):
        open_world(run, dtype=torch.bfloat16, window=WINDOW)
    found = find_run(run)
    with pytest.raises(ConfigError, match=r"window=WindowSize.* is not for runs"):
        open_world(found, window=WINDOW)
    with pytest.raises(ConfigError, match=r"found already; give find_run the override 'sample.num_steps=3'"):
        open_world(found, ["sample.num_steps=3"])


@pytest.mark.parametrize(
    ("begun", "overrides"), [("run.yaml", []), ("checkpoints", []), ("logs", ["sample.num_steps=3"])]
)
def test_a_run_without_a_checkpoint_is_told_so(tmp_path: Path, begun: str, overrides: list[str]):
    (tmp_path / begun).mkdir()
    with pytest.raises(CheckpointError, match=r"is neither a complete checkpoint .* nor a run folder with one"):
        open_world(tmp_path, overrides)


def test_what_does_not_belong_together_is_refused(folder: Path, tmp_path: Path):
    source, config = folder / "released/world/model.pt", TokenizerConfig(channels=4, z_channels=4)
    save_tokenizer(tmp_path / "bare", CausalVideoTokenizer(config), config, {})
    with pytest.raises(ConfigError, match="is continuous, with 16 channels, and this model reads continuous latents"):
        open_world(source, tokenizer=tmp_path / "bare")
    with pytest.raises(ConfigError, match="is continuous, and this model reads 48 codes of a discrete one; name"):
        open_world(folder / "released/world_ar/model.pt", tokenizer=folder / "released/tokenizer")
    world = open_world(source, text_encoder=TextConfig(max_tokens=8))
    with pytest.raises(ConfigError, match=r"has states of width 384, and .* reads model.text_width=8; name"):
        world.read_prompts({"prompt": "a ball"})


def test_statistics_may_be_given(folder: Path, tmp_path: Path):
    source, config = folder / "released/world/model.pt", TokenizerConfig(channels=4, z_channels=4, latent_channels=4)
    save_tokenizer(tmp_path / "bare", CausalVideoTokenizer(config), config, {})
    pixels_B3THW = torch.full((1, 3, 17, 32, 48), 50, dtype=torch.uint8)
    with pytest.raises(ConfigError, match="the tokenizer has no latent statistics, and a diffusion"):
        open_world(source, tokenizer=tmp_path / "bare").encode(pixels_B3THW)
    found = open_world(source, tokenizer=tmp_path / "bare", statistics=STATISTICS)
    raw_BCTHW = found.require_codec().tokenizer.encode(pixels_B3THW / 127.5 - 1)
    torch.testing.assert_close(found.encode(pixels_B3THW), (raw_BCTHW - 0.25) / 2.0 * 0.5)
