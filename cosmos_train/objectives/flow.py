"""The optical-flow term of the tokenizer: errors must not flicker along the video's own motion.

F_t is the flow from frame t to t + 1 of the video x, so x_t(p) = x_{t+1}(p + F_t(p)) where nothing is hidden, and W_F
is the warp by it. What a reconstruction y changes along the motion, and the video does not, is

    (y_t - W_F y_{t+1}) - (x_t - W_F x_{t+1}) = e_t - W_F e_{t+1},    e = y - x,

because a warp is linear: zero for the video itself, whatever is hidden or badly estimated, and linear in y. So the flow
is a constant of the video, and OpenCV's DIS (Kroeger et al., arXiv 1603.03590), which has no weights and no gradient,
is enough. With the weights of a flow network at hand (`FlowNetwork`), the term is that of the released training code:
mean |F(y) - F(x)| of RAFT's flows (Teed and Deng, arXiv 2003.12039) of both videos, with the network's gradient.

B batch, T frames, H rows, W columns; a flow's two channels are (x, y) in pixels.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.torchscript import load_archive
from cosmos_train.config.errors import ConfigError

FLOW_MULTIPLE = 8
"""What a flow network's height and width are padded to a multiple of: RAFT's coarsest step."""


def flow_consistency(video_B3THW: Tensor, reconstruction_B3THW: Tensor) -> Tensor:
    """Mean |e_t - W_F e_{t+1}| and |e_{t+1} - W_B e_t|, B the flow back; 0 for a single frame."""
    if video_B3THW.shape[2] == 1:
        return reconstruction_B3THW.new_zeros(())
    error_BT3HW = (reconstruction_B3THW - video_B3THW).transpose(1, 2)
    before, after = error_BT3HW[:, :-1].flatten(0, 1), error_BT3HW[:, 1:].flatten(0, 1)
    forth_N2HW, back_N2HW = dis_flows(video_B3THW)
    flicker_forth, flicker_back = before - warp(after, forth_N2HW), after - warp(before, back_N2HW)
    return (flicker_forth.abs().mean() + flicker_back.abs().mean()) / 2


class FlowNetwork:
    """A frozen network in TorchScript: frames [N, 3, H, W] in [-1, 1] and the next -> flows [N, 2, H, W] in pixels.

    It may return a list of refinements, of which the last counts, as torchvision's RAFT does; the file of that one is
    made by `torch.jit.script(raft_large(weights=...)).save(file)`.
    """

    def __init__(self, file: Path, device: torch.device, *, halve: bool) -> None:
        """halve: compare at half the resolution. Raises ConfigError where the file holds no such network."""
        try:
            self._network = load_archive(file, device)
        except TokenizerError as error:
            raise ConfigError(f"loss.motion.file: {error}; or leave it out for DIS") from error
        for param in self._network.parameters():
            param.requires_grad_(False)
        self._file, self._halve = file, halve

    def difference(self, video_B3THW: Tensor, reconstruction_B3THW: Tensor) -> Tensor:
        """Mean |F(y) - F(x)| over both directions of time; 0 for a single frame. Its gradient goes to y alone."""
        if video_B3THW.shape[2] == 1:
            return reconstruction_B3THW.new_zeros(())
        with torch.no_grad():
            real = self._flows(video_B3THW)
        return (self._flows(reconstruction_B3THW) - real).abs().mean()

    def _flows(self, video_B3THW: Tensor) -> Tensor:
        frames_BT3HW = video_B3THW.float().transpose(1, 2)
        before, after = frames_BT3HW[:, :-1].flatten(0, 1), frames_BT3HW[:, 1:].flatten(0, 1)
        first_N3HW, second_N3HW = torch.cat([before, after]), torch.cat([after, before])
        if self._halve:
            first_N3HW, second_N3HW = F.avg_pool2d(first_N3HW, 2), F.avg_pool2d(second_N3HW, 2)
        height, width = first_N3HW.shape[-2:]
        margins = (0, -width % FLOW_MULTIPLE, 0, -height % FLOW_MULTIPLE)
        padded = [F.pad(frames, margins, mode="replicate") for frames in (first_N3HW, second_N3HW)]
        try:
            found = self._network(*padded)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, torch.jit.Error) as error:
            reason = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"loss.motion.file={self._file} can not take frames of {width}x{height} px: {reason}; train on larger "
                "ones, set loss.motion.halve=false, or leave the file out for DIS"
            ) from error
        flow_N2HW = found if isinstance(found, Tensor) else found[-1]
        return flow_N2HW[..., :height, :width]


def warp(frames_NCHW: Tensor, flow_N2HW: Tensor) -> Tensor:
    """frames(p + flow(p)), between pixels bilinear; outside the picture its edge."""
    height, width = frames_NCHW.shape[-2:]
    y_H1 = torch.arange(height, device=flow_N2HW.device, dtype=flow_N2HW.dtype)[:, None]
    x_W = torch.arange(width, device=flow_N2HW.device, dtype=flow_N2HW.dtype)
    x_NHW, y_NHW = x_W + flow_N2HW[:, 0], y_H1 + flow_N2HW[:, 1]
    # To grid_sample, -1 and 1 are the centres of the outermost pixels.
    places_NHW2 = torch.stack((2 * x_NHW / (width - 1) - 1, 2 * y_NHW / (height - 1) - 1), dim=-1)
    return F.grid_sample(frames_NCHW, places_NHW2, padding_mode="border", align_corners=True)


@torch.no_grad()
def dis_flows(video_B3THW: Tensor) -> tuple[Tensor, Tensor]:
    """Flows [B (T - 1), 2, H, W] from each frame to the next and back, of a video in [-1, 1], on its device.

    Computed on the CPU, one pair after the other: about 1 ms for 64 x 64 pixels.
    """
    cv2 = import_cv2()
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    luma_BTHW = (video_B3THW.float() * video_B3THW.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1, 1)).sum(dim=1)
    gray_BTHW = luma_BTHW.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for clip_THW in gray_BTHW:
        pairs += itertools.pairwise(clip_THW)

    def flows(ordered: list[tuple[np.ndarray, np.ndarray]]) -> Tensor:
        found_NHW2 = np.stack([estimator.calc(a, b, None) for a, b in ordered])
        return torch.from_numpy(found_NHW2).permute(0, 3, 1, 2).to(video_B3THW.device)

    return flows(pairs), flows([(b, a) for a, b in pairs])


def import_cv2() -> Any:
    """OpenCV, which is an option of the installation and heavy. Raises ConfigError where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            f"loss.flow.weight is above 0 and needs OpenCV, which can not be imported ({error}); "
            "pip install 'cosmos-train[losses]', or set loss.flow.weight=0"
        ) from error
    return cv2
