"""Which action leads from one frame to the next, read by a small network that was trained on real pairs of frames.

What it reads in generated frames says whether they show the actions that were commanded. It learns from real frames
alone, of clips that are not the ones that are judged.

N pairs of frames, A dimensions.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cosmos_train.evaluate.following.figure import Figure

NUM_POINTS, WIDTH = 16, 96


class PairReader(nn.Module):
    """Points of interest of each frame (the mean place of an attention map, arXiv 1504.00702), then an MLP on those of
    both frames."""

    def __init__(self, num_dimensions: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, NUM_POINTS, 1),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(4 * NUM_POINTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, num_dimensions),
        )  # fmt: skip

    def forward(self, before_N3HW: Tensor, after_N3HW: Tensor) -> Tensor:
        """Return the action between two frames of 0 to 1, [N, A]."""
        before, after = self._points(before_N3HW), self._points(after_N3HW)
        return self.head(torch.cat((before, (after - before) * 10), dim=1))

    def _points(self, frames_N3HW: Tensor) -> Tensor:
        maps = self.maps(frames_N3HW)
        share = maps.flatten(2).softmax(dim=2).unflatten(2, maps.shape[2:])
        height, width = maps.shape[2:]
        y = (share.sum(dim=3) * torch.linspace(-1, 1, height)).sum(dim=2)
        x = (share.sum(dim=2) * torch.linspace(-1, 1, width)).sum(dim=2)
        return torch.cat((x, y), dim=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class InverseDynamics:
    """A trained reader of actions."""

    network: PairReader
    mean_A: Tensor
    std_A: Tensor

    @classmethod
    def trained(
        cls, clips_BTHW3: np.ndarray, actions_BTA: np.ndarray, *, num_steps: int = 400, batch: int = 64, seed: int = 0
    ) -> "InverseDynamics":
        """Learn from real clips, uint8; action k leads from frame k to frame k + 1, and the last one is not seen."""
        before, after, actions_NA = _pairs(clips_BTHW3, actions_BTA)
        mean_A, std_A = actions_NA.mean(dim=0), actions_NA.std(dim=0).clamp(min=1e-9)
        wanted_NA = (actions_NA - mean_A) / std_A
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PairReader(actions_BTA.shape[-1])
        draws = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
        for _ in range(num_steps):
            chosen = torch.randint(0, len(wanted_NA), (batch,), generator=draws)
            loss = F.mse_loss(network(before[chosen], after[chosen]), wanted_NA[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return cls(network=network.eval().requires_grad_(False), mean_A=mean_A, std_A=std_A)

    @torch.inference_mode()
    def read(self, clips_BTHW3: np.ndarray) -> np.ndarray:
        """Return the actions that lead from each frame to the next, [B, T - 1, A]."""
        read = [
            self.network(frames[:-1], frames[1:]) * self.std_A + self.mean_A for frames in map(_frames, clips_BTHW3)
        ]
        return torch.stack(read).numpy()

    def figure(self, generated_BTHW3: np.ndarray, true_BTHW3: np.ndarray, commanded_BTA: np.ndarray) -> Figure:
        """Return R^2 of what is read in generated frames, mean over dimensions, beside that of true frames under the
        same commands."""
        found, true, commanded = self.read(generated_BTHW3), self.read(true_BTHW3), commanded_BTA[:, :-1]
        return Figure(
            name="inverse dynamics R^2",
            value=explained(found, commanded),
            floor=explained(true, commanded),
            ceiling=explained(found, np.roll(commanded, 1, axis=0)),
            num_clips=len(found),
        )


def explained(found_BTA: np.ndarray, commanded_BTA: np.ndarray) -> float:
    """Return R^2, the share of the commands' variance that is found, mean over dimensions that vary."""
    axes = (0, 1)
    variance_A = commanded_BTA.var(axis=axes)
    error_A = ((found_BTA - commanded_BTA) ** 2).mean(axis=axes)
    varies_A = variance_A > 1e-12
    return float((1 - error_A[varies_A] / variance_A[varies_A]).mean())


def _pairs(clips_BTHW3: np.ndarray, actions_BTA: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
    frames = [_frames(clip_THW3) for clip_THW3 in clips_BTHW3]
    before, after = torch.cat([clip[:-1] for clip in frames]), torch.cat([clip[1:] for clip in frames])
    return before, after, torch.from_numpy(actions_BTA[:, :-1].reshape(len(before), -1)).float()


def _frames(clip_THW3: np.ndarray) -> Tensor:
    """Return [T, 3, H, W] of 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(clip_THW3)).permute(0, 3, 1, 2).float() / 255
