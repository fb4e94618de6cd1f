"""Files of latents: the round trip of either kind, the way back to pixels, and files that are wrong."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_tok.latent_file import LatentFile, LatentOrigin, latents_of, load_latents, save_latents, stored_origin
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.padding import InnerBox

SIZES: dict = {"temporal_rate": 4, "channels": 8, "channel_multipliers": (1, 1, 1), "num_res_blocks": 1}
CONTINUOUS = TokenizerConfig(**SIZES, z_channels=4, latent_channels=4)
DISCRETE = TokenizerConfig(**SIZES, kind="discrete", z_channels=4, latent_channels=2, fsq_levels=(4, 3))
ORIGIN = LatentOrigin(tokenizer_digest="t", source_digest="s", transform={"padding": None}, dtype="float32")


def tokenizer(config: TokenizerConfig) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    return CausalVideoTokenizer(config).eval()


def encoded(model: CausalVideoTokenizer) -> tuple[torch.Tensor, LatentFile]:
    video = torch.rand(1, 3, 9, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = latents_of(model, video.split(4, dim=2))
    box = InnerBox((0, 1, 2), (8, 15, 20))
    return video, LatentFile(origin=ORIGIN, source="a", fps=29.97, box=box, latents=latents)


@torch.inference_mode()
@pytest.mark.parametrize("config", [CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def test_what_was_stored_is_decoded(config: TokenizerConfig, tmp_path: Path) -> None:
    model = tokenizer(config)
    video, file = encoded(model)
    save_latents(tmp_path / "deep" / "a.safetensors", file)
    loaded = load_latents(tmp_path / "deep" / "a.safetensors")
    assert (loaded.origin, loaded.source, loaded.fps, loaded.box) == (file.origin, "a", 29.97, file.box)
    assert loaded.latents.dtype == (torch.int32 if config.kind == "discrete" else torch.float32)
    assert stored_origin(tmp_path / "deep" / "a.safetensors") == ORIGIN
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.safetensors"]
    decoded = torch.cat(list(model.decode_stream(loaded.pieces(model, 2))), dim=2)
    torch.testing.assert_close(decoded, model.decode(model.encode(video)), rtol=0, atol=1e-4)


def test_another_kinds_latents_are_refused() -> None:
    _, file = encoded(tokenizer(CONTINUOUS))
    with pytest.raises(TokenizerError, match=r"latents of shape \[4, 3, 2, 3\] are not those of a discrete tokenizer"):
        list(file.pieces(tokenizer(DISCRETE), 1))


@pytest.mark.parametrize("kept", [0, 4, 100, -1])
def test_a_truncated_file_is_named(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_latents(path, encoded(tokenizer(CONTINUOUS))[1])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(TokenizerError, match=r"a.safetensors cannot be read: .*encode the clip again"):
        load_latents(path)
    with pytest.raises(TokenizerError, match=r"a.safetensors cannot be read: .*remove it"):
        stored_origin(path)


def test_other_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    assert stored_origin(path) is None
    with pytest.raises(TokenizerError, match=r"a.safetensors cannot be read"):
        load_latents(path)
    save_file({"z": torch.zeros(2)}, path)
    for read in (load_latents, stored_origin):
        with pytest.raises(TokenizerError, match=r"is no file of latents: its format is None, not 'cosmos-latents 1'"):
            read(path)
