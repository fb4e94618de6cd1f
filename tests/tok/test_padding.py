"""Padding to what a tokenizer takes, by name, and its undoing."""

import pytest
import torch

from cosmos_tok.config import PaddingPolicy, TokenizerConfig, TokenizerError
from cosmos_tok.padding import pad

CONFIG = TokenizerConfig(temporal_rate=4, patch=2)


def video(*shape: int) -> torch.Tensor:
    return torch.rand(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("policy", ["edge", "black", "official"])
@pytest.mark.parametrize("shape", [(1, 8, 16), (7, 13, 22), (6, 8, 1)])
def test_any_video_fits_and_comes_back(policy: PaddingPolicy, shape: tuple[int, int, int]) -> None:
    clip = video(*shape)
    padded, box = pad(clip, CONFIG, policy)
    CONFIG.latent_frames(padded.shape[2])
    CONFIG.latent_size(*padded.shape[3:])
    assert all(0 <= larger - size < rate for larger, size, rate in zip(padded.shape[2:], shape, (4, 8, 8), strict=True))
    assert torch.equal(box.crop(padded), clip)
    for length in (1, 2, 5):
        assert torch.equal(torch.cat(list(box.crop_pieces(padded.split(length, dim=2))), dim=2), clip)


def test_what_each_policy_puts_there() -> None:
    clip = video(3, 6, 8)
    edge, _ = pad(clip, CONFIG, "edge")
    assert torch.equal(edge[:, :, 3:, :6], clip[:, :, 2:].expand(-1, -1, 2, -1, -1))
    assert torch.equal(edge[:, :, :3, 6:], clip[:, :, :, 5:].expand(-1, -1, -1, 2, -1))
    black, _ = pad(clip, CONFIG, "black")
    assert (black[:, :, :, 6:] == -1).all()
    official, box = pad(clip, CONFIG, "official")
    assert box.start_THW == (1, 1, 0)
    assert torch.equal(official[:, :, 0], official[:, :, 1])
    assert (official[:, :, :, [0, 7]] == -1).all()


def test_images_keep_their_number_of_frames() -> None:
    image = TokenizerConfig(media="image", temporal_rate=1)
    assert pad(video(3, 9, 8), image, "edge")[0].shape == (1, 3, 3, 16, 8)


def test_what_cannot_be_padded_is_refused() -> None:
    with pytest.raises(TokenizerError, match="padding=mirror is not a policy; use edge, black or official"):
        pad(video(1, 8, 8), CONFIG, "mirror")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=r"torch.uint8.*use to_unit_range"):
        pad(torch.zeros(1, 3, 1, 8, 8, dtype=torch.uint8), CONFIG, "edge")
