"""Fréchet video distance: how far apart two sets of videos lie in the features of a video network.

    FVD = |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

m and S are mean and covariance (of a sample) of the videos' features (Unterthiner et al., arXiv 1812.01717). rFVD is
that of videos and their reconstructions. The network comes from a TorchScript file: in the published figures of the
Cosmos tokenizers the I3D of StyleGAN-V, `i3d_torchscript.pt`, with its 400 values in front of the softmax, of frames
whose shorter side is scaled to 224 pixels, bilinearly and without antialiasing, and whose middle is cut out.

N videos, F features, T frames.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.torchscript import load_archive

SIDE_PX = 224
I3D_ARGUMENTS = {"rescale": False, "resize": False, "return_features": True}
"""Passed to a network whose forward has arguments of these names."""


class VideoFeatures:
    """A feature network from a TorchScript file: float [1, 3, T, 224, 224] in [-1, 1] -> [1, F]."""

    def __init__(self, path: Path, device: torch.device) -> None:
        if not path.is_file() and not path.is_symlink():
            raise TokenizerError(f"{path} is no file; name a TorchScript network such as i3d_torchscript.pt")
        self._network = load_archive(path, device)
        names = {argument.name for argument in self._network.forward.schema.arguments}
        self._arguments = {name: value for name, value in I3D_ARGUMENTS.items() if name in names}
        self._path, self._device = path, device

    @torch.inference_mode()
    def __call__(self, video_3THW: Tensor) -> Tensor:
        """Features [F], float64 on the CPU, of a video as `feature_frames` makes it."""
        try:
            features = self._network(video_3THW[None].to(self._device), **self._arguments)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise TokenizerError(
                f"{self._path} cannot take a video of {video_3THW.shape[1]} frames at {SIDE_PX}x{SIDE_PX} px: "
                f"{reason}; use longer clips, or another network"
            ) from error
        return features.flatten().double().cpu()


def feature_frames(video_3THW: Tensor) -> Tensor:
    """uint8 frames of any size -> what the network sees of them: float [3, T, 224, 224] in [-1, 1]."""
    height, width = video_3THW.shape[-2:]
    scale = SIDE_PX / min(height, width)
    size = (SIDE_PX, math.ceil(width * scale)) if height < width else (math.ceil(height * scale), SIDE_PX)
    frames = F.interpolate(video_3THW.float() / 255, size=size, mode="bilinear", align_corners=False)
    top, left = ((side - SIDE_PX) // 2 for side in size)
    return frames[..., top : top + SIDE_PX, left : left + SIDE_PX] * 2 - 1


def frechet_distance(a_NF: Tensor, b_NF: Tensor) -> float:
    """Of two sets of features; ValueError with fewer than two videos in either, whose covariance is unknown.

    With X and Y the centred features over sqrt(N - 1), S_a = X'X and S_b = Y'Y, the eigenvalues of S_a S_b are the
    squared singular values of X Y': no root of a matrix is taken, which for few videos is singular.
    """
    if min(len(a_NF), len(b_NF)) < 2:
        raise TokenizerError(
            f"sets of {len(a_NF)} and {len(b_NF)} videos have no Fréchet distance; use 2 or more in each"
        )
    a_NF, b_NF = a_NF.double(), b_NF.double()
    x, y = ((set_NF - set_NF.mean(dim=0)) / math.sqrt(len(set_NF) - 1) for set_NF in (a_NF, b_NF))
    means = (a_NF.mean(dim=0) - b_NF.mean(dim=0)).square().sum()
    return (means + x.square().sum() + y.square().sum() - 2 * torch.linalg.svdvals(x @ y.T).sum()).item()
