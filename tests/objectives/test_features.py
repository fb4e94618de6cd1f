"""The frozen networks: VGG from a file against torch's own layers, EfficientNet-Lite0 from PyPI against its sizes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.objectives.config import FeaturesConfig
from cosmos_train.objectives.features import LITE_SCALES, VGG_WEIGHTS, LiteFeatures, VggFeatures, load_features

BLOCKS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)


def narrow_vgg(num_layers: int) -> nn.Sequential:
    """torchvision's `features` at a sixteenth of its width: convolution, activation, ..., pooling, all numbered."""
    torch.manual_seed(num_layers)
    layers, narrow = [], 3
    for convolutions, wide in zip(BLOCKS[num_layers], (4, 8, 16, 32, 32), strict=True):
        for _ in range(convolutions):
            layers += [nn.Conv2d(narrow, wide, 3, padding=1), nn.ReLU()]
            narrow = wide
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def frames(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5)) * 2 - 1


@pytest.mark.parametrize("num_layers", [16, 19])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_vgg_is_that_of_the_file(tmp_path: Path, num_layers: int, suffix: str):
    vgg, file = narrow_vgg(num_layers), tmp_path / f"vgg{suffix}"
    state = {f"features.{name}": tensor for name, tensor in vgg.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(2, 2)  # the released files have a classifier, too
    save_file(state, file) if suffix == ".safetensors" else torch.save(state, file)

    features = load_features(FeaturesConfig(file=str(file)))
    x, wanted = frames(2, 3, 32, 48), []
    with torch.no_grad():
        y = ((x + 1) / 2 - IMAGENET[0]) / IMAGENET[1]
        for layer in vgg:
            if isinstance(layer, nn.MaxPool2d):
                wanted.append(y)
            y = layer(y)
    found = features(x)
    assert [tuple(f.shape[1:]) for f in found] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (32, 2, 3)]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert features.layer_weights == VGG_WEIGHTS


def test_lpips_has_other_words_before_the_numbers():
    slices = {range(4): 1, range(4, 9): 2, range(9, 16): 3, range(16, 23): 4, range(23, 30): 5}
    vgg = narrow_vgg(16)
    renamed = {}
    for name, tensor in vgg.state_dict().items():
        number = int(name.split(".")[0])
        [of] = [s for numbers, s in slices.items() if number in numbers]
        renamed[f"net.slice{of}.{name}"] = tensor
    plain = VggFeatures({f"features.{name}": tensor for name, tensor in vgg.state_dict().items()})
    for mine, theirs in zip(VggFeatures(renamed)(frames(1, 3, 16, 16)), plain(frames(1, 3, 16, 16)), strict=True):
        assert torch.equal(mine, theirs)


def test_nothing_of_it_trains_or_is_saved():
    vgg = VggFeatures({f"features.{name}": tensor for name, tensor in narrow_vgg(16).state_dict().items()})
    assert not list(vgg.parameters()) and not vgg.state_dict()


def test_configured_weights_stand_over_the_networks_own(tmp_path: Path):
    save_file({f"features.{n}": t for n, t in narrow_vgg(16).state_dict().items()}, tmp_path / "vgg.safetensors")
    config = FeaturesConfig(file=str(tmp_path / "vgg.safetensors"), layer_weights=(1.0, 0.0, 0.0, 0.0, 2.0))
    assert load_features(config).layer_weights == (1.0, 0.0, 0.0, 0.0, 2.0)


def test_what_is_no_vgg_is_refused(tmp_path: Path):
    save_file({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other.safetensors")
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for file, said in (
        ("other.safetensors", "1 tensors features.N.weight"),
        ("broken.pth", "can not be read"),
        ("missing.safetensors", "can not be read"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_features(FeaturesConfig(file=str(tmp_path / file)))


# The stand-in.


@pytest.fixture(scope="module")
def lite() -> LiteFeatures:
    found = load_features(FeaturesConfig())
    assert isinstance(found, LiteFeatures)
    return found


def test_lite_has_five_layers_each_half_the_size(lite: LiteFeatures):
    shapes = [tuple(f.shape[1:]) for f in lite(frames(1, 3, 64, 96))]
    assert shapes == [(16, 32, 48), (24, 16, 24), (40, 8, 12), (112, 4, 6), (320, 2, 3)]
    assert [f.shape[-1] for f in lite(frames(1, 3, 33, 33))] == [17, 9, 5, 3, 2], "odd sizes are rounded up"


def test_lite_is_the_network_of_the_weights(lite: LiteFeatures):
    """Means of the same layers in the package efficientnet-lite-pytorch 0.1.0, with these weights, on this picture."""
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    picture = torch.stack([torch.sin(x / 9 + y / 23), torch.cos(y / 7), torch.sin((x - y) / 5)])[None]
    wanted = (6.4429, 8.9865, 7.7606, 4.3764, 1.8576)
    for features, mean, scale in zip(lite(picture), wanted, LITE_SCALES, strict=True):
        assert features.abs().mean().item() * scale == pytest.approx(mean, abs=2e-4)


def test_lite_sees_blur_more_than_a_shift_of_brightness(lite: LiteFeatures):
    x = torch.nn.functional.interpolate(frames(2, 3, 32, 32), size=128, mode="bilinear") * 0.5
    blurred = torch.nn.functional.avg_pool2d(x, 9, 1, 4, count_include_pad=False)
    brighter = x + (blurred - x).abs().mean()
    near, far = (
        sum((a - b).abs().mean() for a, b in zip(lite(x), lite(other), strict=True)) for other in (brighter, blurred)
    )
    assert far > 1.5 * near
