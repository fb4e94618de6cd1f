"""Official files and diffusers folders, both ways: architectures told by tensors, conventions, proof, and bad files.

The official files here are laid out as NVIDIA's, from weights of ours. That NVIDIA's layers give the same outputs is
shown for video by diffusers, which is run for real, and for images by the definition below.
"""

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cosmos_tok import convert as converting
from cosmos_tok import fsq, haar
from cosmos_tok.config import HAAR, TokenizerConfig, TokenizerError
from cosmos_tok.convert import convert, read_tokenizer
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.official import BUFFERS, official_tensors, training_tensors
from cosmos_tok.official_architecture import official_arguments
from cosmos_tok.store import load_tokenizer
from cosmos_tok.whitening import load_statistics

IMAGE: dict[str, Any] = {"media": "image", "temporal_rate": 1, "channels": 32, "channel_multipliers": (1, 2)}
CODES: dict[str, Any] = {"kind": "discrete", "latent_channels": 6, "z_channels": 20}
SMALL: dict[str, Any] = {"channels": 4, "num_res_blocks": 1}
FAMILY = {
    "CV4x8x8-360p": TokenizerConfig(**SMALL, temporal_rate=4, patch=2),
    "CV8x8x8-720p": TokenizerConfig(**SMALL),
    "CV8x16x16": TokenizerConfig(**SMALL, spatial_rate=16),
    "CV4x8x8": TokenizerConfig(**SMALL, temporal_rate=4),
    "CV4x4x4": TokenizerConfig(**SMALL, temporal_rate=4, spatial_rate=4),
    "DV4x8x8-360p": TokenizerConfig(**SMALL, **CODES, temporal_rate=4, patch=2),
    "DV8x8x8": TokenizerConfig(**SMALL, **CODES),
    "DV8x16x16-720p": TokenizerConfig(**SMALL, **CODES, spatial_rate=16),
    "odd": TokenizerConfig(
        channels=3, channel_multipliers=(1, 3, 2, 2), num_res_blocks=2, spatial_rate=16, z_channels=5, latent_channels=7
    ),
    "levels": TokenizerConfig(**SMALL, kind="discrete", latent_channels=4, fsq_levels=(7, 5, 5, 5)),
    "attention": TokenizerConfig(**SMALL, encoder_attention=(1,), decoder_attention=(1,)),
    "legacy": TokenizerConfig(**SMALL, patch=2, legacy_upsampling=True),
    "CI8x8-360p": TokenizerConfig(**IMAGE, patch=2),
    "CI16x16": TokenizerConfig(**IMAGE, spatial_rate=16),
    "DI8x8": TokenizerConfig(**IMAGE, **CODES),
    "DI16x16": TokenizerConfig(**IMAGE, **CODES, spatial_rate=16),
}


def tokenizer(config: TokenizerConfig, seed: int = 0) -> CausalVideoTokenizer:
    """Random weights that keep activations of order 1, so that an error anywhere shows."""
    torch.manual_seed(seed)
    model = CausalVideoTokenizer(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.7 / parameter[0].numel() ** 0.5)
            else:
                nn.init.normal_(parameter, mean=0.0 if name.endswith("bias") else 1.0, std=0.1)
    return model


def save(path: Path, tensors: Any) -> Path:
    torch.save(tensors, path)
    return path


def weights_equal(a: CausalVideoTokenizer, b: CausalVideoTokenizer) -> bool:
    theirs = b.state_dict()
    return a.state_dict().keys() == theirs.keys() and all(torch.equal(t, theirs[n]) for n, t in a.state_dict().items())


# Official files


@pytest.mark.parametrize("name", FAMILY)
def test_the_tensors_tell_the_architecture(tmp_path: Path, name: str) -> None:
    model = tokenizer(FAMILY[name])
    read, config = read_tokenizer(save(tmp_path / "model.pt", official_tensors(model)))
    assert config == model.config
    assert weights_equal(read, model)
    # Beside the arguments that made it, too: none of them contradicts.
    assert read_tokenizer(tmp_path / "model.pt", official_arguments(model.config))[1] == model.config


@pytest.mark.parametrize("name", ["CV8x8x8-720p", "DV8x8x8", "DI8x8"])
def test_there_and_back(tmp_path: Path, name: str) -> None:
    model = tokenizer(FAMILY[name])
    source = save(tmp_path / "model.pt", official_tensors(model))
    done = convert(source, tmp_path / "ours")
    assert (done.layout, done.config) == ("official", model.config)
    assert done.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert done.decode_difference <= converting.TOLERANCE
    assert done.encode_difference <= (0 if name.startswith("D") else converting.TOLERANCE)
    assert weights_equal(load_tokenizer(tmp_path / "ours")[0], model)
    for to, file in (("official", "model.pt"), ("training", "checkpoint.pt")):
        convert(tmp_path / "ours", tmp_path / to, to=to)
        written = torch.load(tmp_path / to / file, weights_only=True)
        found = official_tensors(model) if to == "official" else training_tensors(model)
        written = written["model"] if to == "training" else written
        assert written.keys() == found.keys()
        assert all(torch.equal(tensor, written[name]) for name, tensor in found.items())
        assert read_tokenizer(tmp_path / to / file)[1] == model.config
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "official", "ours", "training"]


def test_buffers_are_those_of_the_official_code(tmp_path: Path) -> None:
    """Section 11, 17: with these and no others, cosmos-predict1 loads strictly."""
    found = {name for name in official_tensors(tokenizer(FAMILY["DV8x8x8"])) if BUFFERS.fullmatch(name)}
    haar = {"encoder.patcher3d.wavelets", "encoder.patcher3d._arange", "encoder.patcher3d.patch_size_buffer"}
    haar |= {"decoder.unpatcher3d.wavelets", "decoder.unpatcher3d._arange"}
    assert found == haar | {"quantizer._levels", "quantizer._basis", "quantizer.implicit_codebook"}
    image = official_tensors(tokenizer(FAMILY["CI16x16"]))
    assert {name for name in image if BUFFERS.fullmatch(name)} == {
        "encoder.patcher.wavelets",
        "encoder.patcher._arange",
        "decoder.unpatcher.wavelets",
        "decoder.unpatcher._arange",
    }
    assert official_tensors(tokenizer(FAMILY["levels"]))["quantizer._basis"].tolist() == [1, 7, 35, 175]


@pytest.mark.parametrize("name", ["CV8x8x8-720p", "DI8x8"])
def test_a_file_cast_to_bfloat16_keeps_the_scale_of_its_wavelets(tmp_path: Path, name: str) -> None:
    """Section 11, 17: the official code that loads such a file filters with 0.70703125."""
    model = tokenizer(FAMILY[name])
    cast = {name: tensor.bfloat16() for name, tensor in official_tensors(model).items()}
    convert(save(tmp_path / "bf16.pt", cast), tmp_path / "ours")
    read, config = load_tokenizer(tmp_path / "ours")
    assert config == dataclasses.replace(model.config, wavelet=0.70703125)
    assert read.dtype == torch.float32
    filters = 4 if config.media == "image" else 6  # two levels, one filter per axis
    gain = (0.70703125 / HAAR) ** filters
    exact = model.encoder.patches(torch.ones(1, 3, 1, 16, 16))
    torch.testing.assert_close(read.encoder.patches(torch.ones(1, 3, 1, 16, 16)), exact * gain)
    assert config.wavelet_gain == pytest.approx(gain)


def test_a_file_without_buffers_says_what_was_assumed(tmp_path: Path) -> None:
    def bare(name: str) -> dict[str, Tensor]:
        return {k: v for k, v in official_tensors(tokenizer(FAMILY[name])).items() if not BUFFERS.fullmatch(k)}

    done = convert(save(tmp_path / "model.pt", bare("DI8x8")), tmp_path / "ours")
    assert done.config == FAMILY["DI8x8"]
    assert any("discrete with the levels (8, 8, 8, 5, 5, 5), by its 6 latent channels" in note for note in done.notes)
    assert read_tokenizer(tmp_path / "model.pt", {"latent_channels": 6})[1].kind == "continuous"
    path = save(tmp_path / "levels.pt", bare("levels"))
    assert read_tokenizer(path, {"levels": [7, 5, 5, 5], "embedding_dim": 4})[1] == FAMILY["levels"]
    with pytest.raises(
        TokenizerError, match=r'4 code channels and does not say their levels; pass --arguments with {"le'
    ):
        read_tokenizer(path, {"embedding_dim": 4})


@pytest.mark.parametrize("rates", [(4, 8), (8, 8), (8, 16)])
def test_the_first_release_has_layers_that_are_never_used(tmp_path: Path, rates: tuple[int, int]) -> None:
    """Section 11, 17: its tensors do not tell the rates; arguments do, or the name of the file."""
    temporal, spatial = rates
    model = tokenizer(TokenizerConfig(**SMALL, temporal_rate=temporal, spatial_rate=spatial, extra_resampling=True))
    tensors = official_tensors(model)
    assert not any(BUFFERS.fullmatch(name) for name in tensors)
    path = save(tmp_path / "model.pt", tensors)
    with pytest.raises(TokenizerError, match=r"do not tell its rates; pass --arguments"):
        read_tokenizer(path)
    arguments = {"temporal_compression": temporal, "spatial_compression": spatial}
    read, config = read_tokenizer(path, arguments)
    assert config == model.config
    assert weights_equal(read, model)
    named = tmp_path / f"Cosmos-0.1-Tokenizer-CV{temporal}x{spatial}x{spatial}"
    named.mkdir()
    save(named / "model.pt", tensors)
    assert read_tokenizer(named)[1] == model.config
    convert(path, tmp_path / "diffusers", to="diffusers", arguments=arguments)  # runs diffusers without them
    convert(named, tmp_path / "official", to="official")
    assert read_tokenizer(tmp_path / "official")[1] == model.config  # by arguments.json, written beside model.pt


def test_training_checkpoints(tmp_path: Path) -> None:
    """The network's names have a prefix, its average's have dashes, and the rest is not the tokenizer's."""
    network, average = (official_tensors(tokenizer(FAMILY["DV8x8x8"], seed)) for seed in (0, 1))
    state = {f"network.{name}": tensor for name, tensor in network.items()}
    dashed = {f"network.{name}".replace(".", "-"): t for name, t in average.items() if not BUFFERS.fullmatch(name)}
    state |= {f"ema.{name}": tensor for name, tensor in dashed.items()} | {"loss.flow.weight": torch.zeros(2)}
    path = save(tmp_path / "iter_000000010.pt", {"model": state, "optimizer": {"step": 10}, "iteration": 10})
    done = convert(path, tmp_path / "ours")
    assert any("took 'network.'" in note for note in done.notes)
    assert weights_equal(load_tokenizer(tmp_path / "ours")[0], tokenizer(FAMILY["DV8x8x8"], 0))
    read, config = read_tokenizer(path, weights="ema")
    assert config == FAMILY["DV8x8x8"]
    assert weights_equal(read, tokenizer(config, 1))
    only = save(tmp_path / "ema.pt", {f"ema.{name}": tensor for name, tensor in dashed.items()})
    assert weights_equal(read_tokenizer(only)[0], read)


class _Part(nn.Module):
    """What the official code traces: an encoder with its quantiser, or a decoder."""

    def __init__(self, model: CausalVideoTokenizer, *, encodes: bool) -> None:
        super().__init__()
        if encodes:
            self.encoder, self.quant_conv = model.encoder, model.quant_conv
        else:
            self.post_quant_conv, self.decoder = model.post_quant_conv, model.decoder
        self.encodes = encodes

    def forward(self, x: Tensor) -> Any:
        if self.encodes:
            z = self.quant_conv(self.encoder(x))
            return z, (torch.zeros(1), torch.zeros(1))
        return self.decoder(self.post_quant_conv(x))


@pytest.mark.parametrize("extra", [False, True])
def test_torchscript_archives(tmp_path: Path, extra: bool) -> None:
    """Section 11, 18: the names are those of the state dict, encode returns (z, (...)); the archive itself is run."""
    model = tokenizer(TokenizerConfig(**SMALL, temporal_rate=4, patch=4, extra_resampling=extra))
    clip = torch.rand(1, 3, 9, 32, 32)
    for name, encodes, value in (("encoder", True, clip), ("decoder", False, model.encode(clip).detach())):
        traced = torch.jit.trace(_Part(model, encodes=encodes), value, check_trace=False, strict=False)
        torch.jit.save(traced, tmp_path / f"{name}.jit")
    for source in (tmp_path, tmp_path / "encoder.jit", tmp_path / "decoder.jit"):
        read, config = read_tokenizer(source)
        assert config == model.config  # of the first release's layers, the rates by running the archive
        assert weights_equal(read, model)
    done = convert(tmp_path / "decoder.jit", tmp_path / "ours")
    assert done.compared_with == "the TorchScript archive"
    (tmp_path / "decoder.jit").unlink()
    with pytest.raises(TokenizerError, match=r"encoder.jit is half a tokenizer; put decoder.jit beside it"):
        read_tokenizer(tmp_path / "encoder.jit")


def test_statistics_are_rounded_as_the_official_code_rounds_them(tmp_path: Path) -> None:
    """Section 11, 20: bfloat16; one frame has statistics of its own. On request they stay as they are."""
    source = tmp_path / "source"
    source.mkdir()
    save(source / "model.pt", official_tensors(tokenizer(FAMILY["CV8x8x8-720p"])))
    mean, std = torch.linspace(-1, 1, 48), torch.linspace(0.3, 1, 48)
    save(source / "mean_std.pt", (mean, std))
    save(source / "image_mean_std.pt", (mean[:16], std[:16]))
    convert(source, tmp_path / "ours")
    video = load_statistics(tmp_path / "ours" / "latent_statistics.safetensors")
    assert torch.equal(video.mean_CT, mean.bfloat16().float().view(16, 3))
    assert torch.equal(video.std_CT, std.bfloat16().float().view(16, 3))
    image = load_statistics(tmp_path / "ours" / "image_latent_statistics.safetensors")
    assert torch.equal(image.std_CT, std[:16].bfloat16().float().view(16, 1))
    convert(tmp_path / "ours", tmp_path / "official", to="official")
    assert torch.equal(torch.load(tmp_path / "official/mean_std.pt")[0], video.mean_CT)
    assert torch.equal(torch.load(tmp_path / "official/image_mean_std.pt")[1], image.std_CT)
    convert(source, tmp_path / "whole", statistics="fp32")
    for name, stored in (("latent_statistics", std.view(16, 3)), ("image_latent_statistics", std[:16].view(16, 1))):
        found = load_statistics(tmp_path / "whole" / f"{name}.safetensors")
        assert torch.equal(found.std_CT, stored) and not torch.equal(stored.bfloat16().float(), stored)
    with pytest.raises(TokenizerError, match=r"statistics=fp16 is no number format of them; use bf16 or fp32"):
        convert(source, tmp_path / "half", statistics="fp16")
    save(source / "mean_std.pt", (mean[:5], std[:5]))
    with pytest.raises(TokenizerError, match=r"mean_std.pt does not hold a mean and a deviation of 16 channels"):
        read_tokenizer(source)


# diffusers


@pytest.mark.parametrize("name", ["CV8x8x8-720p", "CV4x8x8-360p", "CV8x16x16", "attention", "wavelet"])
@torch.inference_mode()
def test_diffusers_folders_there_and_back(tmp_path: Path, name: str) -> None:
    from diffusers import AutoencoderKLCosmos

    config = FAMILY.get(name) or TokenizerConfig(**SMALL, wavelet=0.70703125)
    model = tokenizer(config)
    convert(save(tmp_path / "model.pt", official_tensors(model)), tmp_path / "theirs", to="diffusers")
    peer: Any = AutoencoderKLCosmos.from_pretrained(tmp_path / "theirs", low_cpu_mem_usage=False)
    done = convert(tmp_path / "theirs", tmp_path / "ours")
    assert done.compared_with == "diffusers' AutoencoderKLCosmos"
    read, read_config = load_tokenizer(tmp_path / "ours")
    assert read_config == dataclasses.replace(config, wavelet=HAAR)
    assert name == "wavelet" or weights_equal(read, model)
    for frames, height, width in ((1, 1, 3), (2, 3, 1), (3, 5, 2)):
        shape = (1, 3, config.pixel_frames(frames), height * config.spatial_rate, width * config.spatial_rate)
        clip = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
        z = peer.encode(clip).latent_dist.mode()
        for one in (model, read):
            torch.testing.assert_close(one.encode(clip), z, rtol=0, atol=1e-4)
            torch.testing.assert_close(one.decode(z), peer.decode(z).sample, rtol=0, atol=1e-4)


def test_diffusers_statistics_and_pipelines(tmp_path: Path) -> None:
    """Channel by channel, each with its frames; a pipeline keeps its tokenizer in `vae`."""
    from diffusers import AutoencoderKLCosmos

    widths = {"encoder_block_out_channels": (4, 8, 16, 16), "decode_block_out_channels": (8, 16, 16, 16)}
    AutoencoderKLCosmos(**widths, num_layers=1).save_pretrained(tmp_path / "pipeline" / "vae")
    convert(tmp_path / "pipeline", tmp_path / "ours")
    statistics = load_statistics(tmp_path / "ours" / "latent_statistics.safetensors")
    assert statistics.mean_CT.shape == (16, 16)
    assert statistics.std_CT[12, :2].tolist() == pytest.approx([0.35586974, 0.68723857])
    convert(tmp_path / "ours", tmp_path / "theirs", to="diffusers")
    stored, written = (
        json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("pipeline/vae", "theirs")
    )
    assert written["latents_std"] == pytest.approx(stored["latents_std"], abs=1e-7)


@pytest.mark.parametrize(
    ("name", "key"),
    [("DV8x8x8", "kind=discrete"), ("CI16x16", "media=image"), ("odd", "z_channels=5"), ("legacy", "legacy_up")],
)
def test_what_diffusers_cannot_express_is_named(tmp_path: Path, name: str, key: str) -> None:
    source = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY[name])))
    with pytest.raises(TokenizerError, match=rf"tokenizer.{key}.* has no place in diffusers' AutoencoderKLCosmos"):
        convert(source, tmp_path / "theirs", to="diffusers")
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


# Images, by their definition


def _functional(tensors: dict[str, Tensor], name: str, x: Tensor, **more: Any) -> Tensor:
    return F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **more)


def _norm(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-6)


def _block(tensors: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    h = _functional(tensors, f"{name}.conv1", F.silu(_norm(tensors, f"{name}.norm1", x)), padding=1)
    h = _functional(tensors, f"{name}.conv2", F.silu(_norm(tensors, f"{name}.norm2", h)), padding=1)
    is_wider = f"{name}.nin_shortcut.weight" in tensors
    return h + (_functional(tensors, f"{name}.nin_shortcut", x) if is_wider else x)


def _middle(tensors: dict[str, Tensor], part: str, x: Tensor) -> Tensor:
    x = _block(tensors, f"{part}.mid.block_1", x)
    h = _norm(tensors, f"{part}.mid.attn_1.norm", x)
    q, k, v = (_functional(tensors, f"{part}.mid.attn_1.{name}", h).flatten(2) for name in "qkv")
    weight = (torch.einsum("bci,bcj->bij", q, k) * q.shape[1] ** -0.5).softmax(-1)
    h = torch.einsum("bij,bcj->bci", weight, v).unflatten(2, x.shape[2:])
    return _block(tensors, f"{part}.mid.block_2", x + _functional(tensors, f"{part}.mid.attn_1.proj_out", h))


@pytest.mark.parametrize("name", ["CI8x8-360p", "CI16x16"])
@torch.inference_mode()
def test_image_tokenizers_are_what_the_official_files_mean(tmp_path: Path, name: str) -> None:
    """Section 11, 16: norms of 32 groups; resampling by convolution alone, zeros right and below; no residual."""
    config = FAMILY[name]
    t = official_tensors(tokenizer(config))
    convert(save(tmp_path / "model.pt", t), tmp_path / "ours")
    model, _ = load_tokenizer(tmp_path / "ours")
    image = torch.rand(2, 3, 3 * config.spatial_rate, 5 * config.spatial_rate) * 2 - 1
    x = _functional(t, "encoder.conv_in", haar.patch_frames(image.unsqueeze(2), config.patch).squeeze(2), padding=1)
    for i in range(2):
        for j in range(2):
            x = _block(t, f"encoder.down.{i}.block.{j}", x)
        if f"encoder.down.{i}.downsample.conv.weight" in t:
            x = _functional(t, f"encoder.down.{i}.downsample.conv", F.pad(x, (0, 1, 0, 1)), stride=2)
    x = F.silu(_norm(t, "encoder.norm_out", _middle(t, "encoder", x)))
    z = _functional(t, "quant_conv", _functional(t, "encoder.conv_out", x, padding=1))
    torch.testing.assert_close(model.encode(image), z, rtol=0, atol=1e-4)
    x = _functional(t, "decoder.conv_in", _functional(t, "post_quant_conv", z), padding=1)
    x = _middle(t, "decoder", x)
    for i in (1, 0):
        for j in range(3):
            x = _block(t, f"decoder.up.{i}.block.{j}", x)
        if f"decoder.up.{i}.upsample.conv.weight" in t:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
            x = _functional(t, f"decoder.up.{i}.upsample.conv", x, padding=1)
    x = _functional(t, "decoder.conv_out", F.silu(_norm(t, "decoder.norm_out", x)), padding=1)
    video = haar.unpatch_frames(x.unsqueeze(2), config.patch).squeeze(2)
    torch.testing.assert_close(model.decode(z), video, rtol=0, atol=1e-4)


# Proof


def test_a_result_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that damages one tensor is found by the tensors, and by the clip where those are not compared."""
    source = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY["CV8x8x8-720p"])))
    convert(source, tmp_path / "ours")
    really = converting.save_tokenizer

    def damaging(folder: Path, model: CausalVideoTokenizer, *rest: Any, **more: Any) -> None:
        damaged = CausalVideoTokenizer(model.config)
        damaged.load_state_dict(model.state_dict() | {"decoder.norm_out.norm.bias": torch.ones(8)})
        really(folder, damaged, *rest, **more)

    monkeypatch.setattr(converting, "save_tokenizer", damaging)
    with pytest.raises(TokenizerError, match=r"differs in decoder.norm_out.norm.bias; nothing was written"):
        convert(source, tmp_path / "damaged")
    with pytest.raises(
        TokenizerError, match=r"does not decode a fixed clip as the source does: the largest difference"
    ):
        convert(tmp_path / "ours", tmp_path / "damaged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "ours"]


def without_quantiser(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the official training configuration saves a discrete tokenizer (persistent_quantizer=False)."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("quantizer.")}


@pytest.mark.parametrize("name", ["DV8x8x8", "DI8x8", "levels"])
def test_a_discrete_tokenizer_without_its_quantiser_is_not_taken_for_a_continuous_one(
    tmp_path: Path, name: str
) -> None:
    config = FAMILY[name]
    path = save(tmp_path / "model.pt", without_quantiser(official_tensors(tokenizer(config))))
    for given in (None, {"spatial_compression": config.spatial_rate}):
        with pytest.raises(TokenizerError, match=r"[46] latent channels and no quantiser.*levels.*latent_channels"):
            read_tokenizer(path, given)
    assert read_tokenizer(path, {"latent_channels": config.latent_channels})[1].kind == "continuous"
    assert read_tokenizer(path, {"levels": list(config.fsq_levels)})[1] == config


@pytest.mark.parametrize(
    "given",
    [
        {"embedding_dim": 6},
        {"persistent_quantizer": False},
        {"quantizer": "FSQ"},
        {"name": "DI"},
        {"name": "CausalDV"},
        {"name": "CausalDiscreteFactorizedVideoTokenizer", "formulation": None},
        {"_target_": "cosmos_predict1.tokenizer.networks.discrete_video.CausalDiscreteVideoTokenizer"},
        {"formulation": "FSQ"},
    ],
)
def test_arguments_tell_the_kind(tmp_path: Path, given: dict[str, Any]) -> None:
    tensors = without_quantiser(official_tensors(tokenizer(FAMILY["DV8x8x8"])))
    assert read_tokenizer(save(tmp_path / "model.pt", tensors), given)[1] == FAMILY["DV8x8x8"]
    # With another number of channels the levels can not be guessed, and are asked for.
    path = save(tmp_path / "levels.pt", without_quantiser(official_tensors(tokenizer(FAMILY["levels"]))))
    four = {key: 4 if key == "embedding_dim" else value for key, value in given.items()}
    with pytest.raises(TokenizerError, match=r"discrete tokenizer of 4 code channels and does not say their levels"):
        read_tokenizer(path, four)
    assert read_tokenizer(path, four | {"levels": [7, 5, 5, 5]})[1] == FAMILY["levels"]


@pytest.mark.parametrize(
    "given", [{"name": "CV"}, {"name": "ContinuousImageTokenizer"}, {"formulation": "AE"}, {"latent_channels": 6}]
)
def test_arguments_of_a_continuous_tokenizer(tmp_path: Path, given: dict[str, Any]) -> None:
    whole = official_tensors(tokenizer(FAMILY["DV8x8x8"]))
    path = save(tmp_path / "model.pt", without_quantiser(whole))
    assert read_tokenizer(path, given)[1].kind == "continuous"
    with pytest.raises(TokenizerError, match=r"embedding_dim=6 belongs to a discrete tokenizer and .* to a continuous"):
        read_tokenizer(path, given | {"embedding_dim": 6})
    with pytest.raises(TokenizerError, match=r"has a quantiser, and the arguments are those of a continuous tokenizer"):
        read_tokenizer(save(tmp_path / "whole.pt", whole), given)


def test_quantisers_other_than_fsq_are_named(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", without_quantiser(official_tensors(tokenizer(FAMILY["DV8x8x8"]))))
    with pytest.raises(TokenizerError, match=r"has the quantiser LFQ; only FSQ can be read"):
        read_tokenizer(path, {"quantizer": "LFQ"})


@pytest.mark.parametrize("has_buffers", [False, True])
def test_quantiser_buffers_are_written_where_the_source_had_them(tmp_path: Path, has_buffers: bool) -> None:
    """Straight from the official file, and by way of a folder of ours, which remembers it."""
    whole = official_tensors(tokenizer(FAMILY["DV8x8x8"]))
    named = tmp_path / "DV8x8x8"  # by which the kind is known
    named.mkdir()
    source = save(named / "model.pt", whole if has_buffers else without_quantiser(whole))
    convert(source, tmp_path / "ours")
    for way, start in (("straight", source), ("around", tmp_path / "ours")):
        convert(start, tmp_path / way / "official", to="official")
        convert(start, tmp_path / way / "training", to="training")
        official = torch.load(tmp_path / way / "official" / "model.pt")
        training = torch.load(tmp_path / way / "training" / "checkpoint.pt")["model"]
        assert official.keys() == (whole if has_buffers else without_quantiser(whole)).keys()
        assert {name.removeprefix("network.") for name in training if name.startswith("network.")} == official.keys()
        # By arguments.json beside them they are read again, without a question.
        for folder in ("official", "training"):
            assert read_tokenizer(tmp_path / way / folder)[1] == FAMILY["DV8x8x8"]
            arguments = json.loads((tmp_path / way / folder / "arguments.json").read_text())
            assert arguments["persistent_quantizer"] is has_buffers


@pytest.mark.parametrize(
    ("levels_off_middle", "nudge", "accepted"), [(0.0, 2e-6, True), (0.0, 1.0, False), (0.002, 0.01, False)]
)
def test_a_code_between_two_levels_may_be_either(levels_off_middle: float, nudge: float, accepted: bool) -> None:
    """What computes alike differs by 1e-6, and here the value before rounding is 1.5 to that. 8 levels a channel.

    Not accepted: two levels apart, or one level apart at a value that is not as close to the middle.
    """
    model = tokenizer(FAMILY["DV8x8x8"])
    half, offset = 3.5 * (1 + fsq.SLACK), 0.5
    middle = math.atanh((1.5 + levels_off_middle + offset) / half) - math.atanh(offset / half)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for one, bias in ((model, middle - nudge / 2), (other, middle + nudge / 2)):
            one.quant_conv.conv3d.weight[0] = 0
            one.quant_conv.conv3d.bias[0] = bias
    source, result = (
        converting.FoundTokenizer("ours", Path(name), one, converting._our_runner(one))
        for name, one in (("source", model), ("result", other))
    )
    if not accepted:
        with pytest.raises(TokenizerError, match=r"does not encode a fixed clip as the source does"):
            converting._compare(source, result)
        return
    done = converting._compare(source, result)
    assert done.encode_difference == 0
    assert done.notes == ("45 of 270 codes lie between two levels and were rounded either way",)


def test_an_existing_folder_and_an_unknown_layout_are_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY["CV8x8x8-720p"])))
    with pytest.raises(TokenizerError, match=r"exists already; remove it or convert to another folder"):
        convert(source, tmp_path)
    with pytest.raises(
        TokenizerError, match=r"to=onnx is not a layout; use one of ours, official, training, diffusers"
    ):
        convert(source, tmp_path / "x", to="onnx")


# Bad files


def _without(tensors: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if name not in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {f"unet.{k}".replace("conv_in", "stem"): v for k, v in t.items()}, "has an unknown layout: none of"),
        (
            lambda t: _without(t, "encoder.conv_out.0.conv3d.weight"),
            "lacks encoder.conv_out.0.conv3d.weight, which eve",
        ),
        (
            lambda t: _without(t, "decoder.norm_out.norm.bias") | {"decoder.extra": torch.zeros(2)},
            r"decoder.extra: \[2\] in the file, absent in.*decoder.norm_out.norm.bias: absent in the file, \[8\] in",
        ),
        (lambda t: t | {"encoder.mid.block_1.norm1.norm.bias": torch.zeros(3)}, r"norm1.norm.bias: \[3\] in the file"),
        (lambda t: t | {"quant_conv.conv3d.weight": torch.zeros(32, 16, 1, 1, 1)}, "has the VAE formulation"),
        (lambda t: t | {"encoder.patcher3d.wavelets": torch.ones(2)}, "only Haar wavelets are known"),
        (
            lambda t: t | {"encoder.conv_in.0.conv3d.weight": torch.zeros(4, 5, 1, 3, 3)},
            "takes 5 channels after its pa",
        ),
        (lambda t: [1, 2], "holds a list, not a state dict"),
    ],
)
def test_a_file_of_another_architecture_is_refused(tmp_path: Path, change: Callable, message: str) -> None:
    tensors = official_tensors(tokenizer(FAMILY["CV8x8x8-720p"]))
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(save(tmp_path / "model.pt", change(tensors)))


def test_arguments_that_contradict_the_tensors_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY["CV8x8x8-720p"])))
    with pytest.raises(TokenizerError, match=r"argument patch_size=2 contradicts .*model.pt, whose tensors say 4"):
        read_tokenizer(path, {"patch_size": 2})
    with pytest.raises(TokenizerError, match=r"argument spatial_compression=16 contradicts"):
        read_tokenizer(path, {"spatial_compression": 16})


def test_unknown_arguments_are_named(tmp_path: Path) -> None:
    for name in ("CV8x8x8-720p", "DI8x8"):
        path = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY[name])))
        without_effect = {"dropout": 0.1, "resolution": 256, "name": None, "_target_": None, "num_groups": None}
        assert read_tokenizer(path, without_effect)[1] == FAMILY[name]
        with pytest.raises(TokenizerError, match=r"unknown arguments colour=1, n_views=3; known are .*channels_mult"):
            read_tokenizer(path, {"colour": 1, "patch_size": 4, "n_views": 3})


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("a pickle ran code",))


def test_pickles_that_run_code_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TokenizerError, match=r"is not read, since a pickle can run code.*save its state dict alone"):
        read_tokenizer(save(tmp_path / "model.pt", {"model": _Code()}))
    assert "ran code" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 10, 3000, -20])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, kept: int) -> None:
    path = tmp_path / f"model{suffix}"
    tensors = official_tensors(tokenizer(FAMILY["CI16x16"]))
    save(path, tensors) if suffix == ".pt" else save_file(tensors, path)
    assert read_tokenizer(path)[1] == FAMILY["CI16x16"]
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=rf"model{suffix} .*copy the file again"):
        read_tokenizer(path)


def test_damaged_diffusers_folders_are_named(tmp_path: Path) -> None:
    source = save(tmp_path / "model.pt", official_tensors(tokenizer(FAMILY["CV8x8x8-720p"])))
    folder = tmp_path / "theirs"
    convert(source, folder, to="diffusers")
    weights, config = folder / "diffusion_pytorch_model.safetensors", folder / "config.json"
    whole, stored = weights.read_bytes(), json.loads(config.read_text())
    save_file(_without(load_file(weights), "encoder.norm_out.norm.weight"), weights)
    with pytest.raises(TokenizerError, match=r"encoder.norm_out.norm.weight: absent in the file, \[16\] in"):
        read_tokenizer(folder)
    weights.write_bytes(whole[:1000])
    with pytest.raises(TokenizerError, match=r"diffusion_pytorch_model.safetensors cannot be read"):
        read_tokenizer(folder)
    weights.write_bytes(whole)
    config.write_text(json.dumps(stored | {"decode_block_out_channels": [8, 16, 16]}))
    with pytest.raises(TokenizerError, match=r"decode_block_out_channels=\[8, 16, 16\]; known are"):
        read_tokenizer(folder)
    config.write_text(json.dumps(stored | {"patch_type": "rearrange"}))
    with pytest.raises(TokenizerError, match=r"patch_type=rearrange"):
        read_tokenizer(folder)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_no_tokenizer_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TokenizerError, match=r"does not exist; name a checkpoint|is no tokenizer: it has neither"):
        read_tokenizer(tmp_path / name)
