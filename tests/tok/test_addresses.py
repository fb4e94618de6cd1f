"""The same weights and the same clip give the same bits wherever files and callers keep them."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support.addresses import SHIFTS_BYTES, misaligned, shift_in_file, shifted
from support.tiny_tokenizer import CONTINUOUS, DISCRETE
from torch import Tensor

from cosmos_tok.convert import read_tokenizer
from cosmos_tok.kl_cosmos import write_folder
from cosmos_tok.latent_file import LatentFile, LatentOrigin, load_latents, save_latents
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.official import official_tensors
from cosmos_tok.padding import InnerBox
from cosmos_tok.store import load_tokenizer, save_tokenizer


@pytest.fixture(params=[CONTINUOUS, DISCRETE], ids=["continuous", "discrete"])
def model(request: pytest.FixtureRequest) -> CausalVideoTokenizer:
    torch.manual_seed(0)
    return CausalVideoTokenizer(request.param).eval()


def clip_uint8() -> Tensor:
    return torch.randint(256, (1, 3, 9, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def there_and_back(model: CausalVideoTokenizer, video: Tensor) -> tuple[Tensor, Tensor]:
    z = model.encode(video)
    return z, model.decode(z)


@pytest.mark.parametrize("shift_bytes", SHIFTS_BYTES)
def test_where_a_file_has_the_weights_changes_no_bit(
    tmp_path: Path, model: CausalVideoTokenizer, shift_bytes: int
) -> None:
    save_tokenizer(tmp_path / "tok", model, model.config, {})
    shift_in_file(tmp_path / "tok" / "model.safetensors", shift_bytes)
    loaded, _ = load_tokenizer(tmp_path / "tok")
    assert not misaligned(loaded)
    video = to_unit_range(clip_uint8())
    assert all(map(torch.equal, there_and_back(loaded, video), there_and_back(model, video)))


@pytest.mark.parametrize("shift_bytes", SHIFTS_BYTES)
def test_where_the_clip_and_its_latents_lie_changes_no_bit(model: CausalVideoTokenizer, shift_bytes: int) -> None:
    z, video = there_and_back(model, to_unit_range(clip_uint8()))
    moved_z, _ = there_and_back(model, to_unit_range(shifted(clip_uint8(), shift_bytes)))
    assert torch.equal(moved_z, z)
    with torch.no_grad():
        assert torch.equal(model.encode(shifted(to_unit_range(clip_uint8()), shift_bytes)), z)
        assert torch.equal(model.decode(shifted(z, shift_bytes)), video)


def test_weights_of_other_layouts_are_moved_as_well(tmp_path: Path) -> None:
    model = CausalVideoTokenizer(dataclasses.replace(CONTINUOUS, channel_multipliers=(1, 2, 2)))
    save_file(official_tensors(model), tmp_path / "model.safetensors")
    shift_in_file(tmp_path / "model.safetensors", 4)
    torch.save(official_tensors(model), tmp_path / "model.pt")
    (tmp_path / "theirs").mkdir()
    write_folder(tmp_path / "theirs", model, None)
    shift_in_file(tmp_path / "theirs" / "diffusion_pytorch_model.safetensors", 4)
    for name in ("model.safetensors", "model.pt", "theirs"):
        assert not misaligned(read_tokenizer(tmp_path / name)[0]), name


def test_stored_latents_are_aligned(tmp_path: Path) -> None:
    origin = LatentOrigin(tokenizer_digest="a", source_digest="b", transform={}, dtype="float32")
    z_CTHW = torch.rand(4, 3, 4, 6)
    file = LatentFile(origin=origin, source="clip", fps=24.0, box=InnerBox((0, 0, 0), (9, 32, 48)), latents=z_CTHW)
    save_latents(tmp_path / "z.safetensors", file)
    shift_in_file(tmp_path / "z.safetensors", 4)
    found = load_latents(tmp_path / "z.safetensors").latents
    assert torch.equal(found, z_CTHW) and found.data_ptr() % 64 == 0
