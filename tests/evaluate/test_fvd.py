"""The Fréchet distance against its formula, what the network is shown, and networks that cannot be used."""

from pathlib import Path

import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn

from cosmos_tok.config import TokenizerError
from cosmos_train.evaluate.fvd import SIDE_PX, VideoFeatures, feature_frames, frechet_distance


class Network(nn.Module):
    """A small video network; returns probabilities unless it is asked for features, as the I3D file does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 6, (2, 4, 4), stride=(1, 4, 4))

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False) -> Tensor:
        if rescale or resize:
            x = x * 0.0
        features = self.conv(x).relu().mean(dim=(2, 3, 4))
        return features if return_features else features.softmax(dim=1)


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


@pytest.fixture(scope="module")
def file(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "network.pt"
    torch.jit.script(network).save(str(path))
    return path


def draw(num_videos: int, num_features: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(num_features, num_features, generator=generator, dtype=torch.float64)
    return torch.randn(num_videos, num_features, generator=generator, dtype=torch.float64) @ mixed + seed


@pytest.mark.parametrize("num_videos", [2, 5, 40], ids=["rank 1", "singular", "full rank"])
def test_the_distance_is_the_formulas(num_videos: int) -> None:
    a, b = draw(num_videos, 8, 1), draw(num_videos + 3, 8, 2)
    covariances = torch.cov(a.T), torch.cov(b.T)
    root = torch.from_numpy(sqrtm((covariances[0] @ covariances[1]).numpy()).real)
    expected = (a.mean(0) - b.mean(0)).square().sum() + torch.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-4)  # the root of a singular matrix is poor


def test_a_set_is_near_itself_and_far_from_what_is_moved() -> None:
    a = draw(10, 4, 3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * 2**2)
    with pytest.raises(ValueError, match="sets of 1 and 10 videos have no Fréchet distance"):
        frechet_distance(a[:1], a)


def test_the_network_is_asked_for_features(network: Network, file: Path) -> None:
    frames = feature_frames(torch.randint(0, 256, (3, 5, 48, 80), dtype=torch.uint8))
    found = VideoFeatures(file, torch.device("cpu"))(frames)
    with torch.inference_mode():
        expected = network.conv(frames[None]).relu().mean(dim=(0, 2, 3, 4))
    torch.testing.assert_close(found, expected.double())


@pytest.mark.parametrize(("height", "width"), [(48, 80), (300, 232), (224, 224)])
def test_frames_are_the_middle_at_224_pixels(height: int, width: int) -> None:
    video = torch.randint(0, 256, (3, 2, height, width), dtype=torch.uint8)
    frames = feature_frames(video)
    assert frames.shape == (3, 2, SIDE_PX, SIDE_PX) and frames.min() >= -1 and frames.max() <= 1
    torch.testing.assert_close(feature_frames(video[:, 1:]), frames[:, 1:], msg="each frame by itself")
    torch.testing.assert_close(feature_frames(video.flip(2, 3)), frames.flip(2, 3), rtol=0, atol=1e-3)
    if height == width:
        torch.testing.assert_close(frames, video.float() / 255 * 2 - 1)


def test_what_is_no_network_is_named(tmp_path: Path, file: Path) -> None:
    with pytest.raises(TokenizerError, match=r"none.pt is no file; name a TorchScript network"):
        VideoFeatures(tmp_path / "none.pt", torch.device("cpu"))
    (tmp_path / "torn.pt").write_bytes(file.read_bytes()[:500])
    with pytest.raises(TokenizerError, match=r"torn.pt cannot be read: it is cut off or damaged.*copy the file again"):
        VideoFeatures(tmp_path / "torn.pt", torch.device("cpu"))


def test_a_clip_that_is_too_short_is_named(file: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot take a video of 1 frames at 224x224 px.*use longer clips"):
        VideoFeatures(file, torch.device("cpu"))(torch.zeros(3, 1, SIDE_PX, SIDE_PX))
