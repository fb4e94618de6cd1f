"""Which actions lead from one frame to a later one, read by a small network that was trained on real pairs of frames.

What it reads in generated frames says whether they show the actions that were commanded. It learns from real frames
alone, of clips that are not the ones that are judged. A world model over latents is told the actions of a latent frame
together, and its tokenizer smooths what moves between two of them: so pairs lie as many steps apart as a latent frame
has, and each step's action is read.

N pairs of frames, S steps between them, A dimensions.
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

    def __init__(self, num_numbers: int) -> None:
        super().__init__()
        self.maps = nn.Sequential(
            nn.Conv2d(3, 24, 5, padding=2), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(),
            nn.Conv2d(24, NUM_POINTS, 1),
        )  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(4 * NUM_POINTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(),
            nn.Linear(WIDTH, num_numbers),
        )  # fmt: skip

    def forward(self, before_N3HW: Tensor, after_N3HW: Tensor) -> Tensor:
        """Return the actions between two frames of 0 to 1, [N, S * A]."""
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
    steps_apart: int
    mean_SA: Tensor
    """Mean of each step's action between two frames, flat as the network gives them; likewise the deviation."""
    std_SA: Tensor

    @classmethod
    def trained(
        cls,
        clips_BTHW3: np.ndarray,
        actions_BTA: np.ndarray,
        *,
        steps_apart: int,
        num_steps: int = 400,
        batch: int = 64,
        seed: int = 0,
    ) -> "InverseDynamics":
        """Learn from real clips, uint8; action k leads from frame k to frame k + 1, and the last one is not seen.

        Args:
            steps_apart: how many actions lead from the first frame of a pair to the second.
            num_steps: steps of the training.
        """
        frames_NTHW3, actions_NSA = _stretches(clips_BTHW3, actions_BTA, steps_apart)
        before, after = _pictures(frames_NTHW3[:, 0]), _pictures(frames_NTHW3[:, -1])
        actions = torch.from_numpy(actions_NSA).float().flatten(1)
        mean_SA, std_SA = actions.mean(dim=0), actions.std(dim=0).clamp(min=1e-9)
        wanted = (actions - mean_SA) / std_SA
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = PairReader(wanted.shape[1])
        draws = torch.Generator().manual_seed(seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=num_steps)
        for _ in range(num_steps):
            chosen = torch.randint(0, len(wanted), (batch,), generator=draws)
            loss = F.mse_loss(network(before[chosen], after[chosen]), wanted[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        return cls(
            network=network.eval().requires_grad_(False), steps_apart=steps_apart, mean_SA=mean_SA, std_SA=std_SA
        )

    @torch.inference_mode()
    def read(self, frames_NTHW3: np.ndarray) -> np.ndarray:
        """Return the actions from the first frame to the last of stretches of frames, uint8, as [N, S, A]."""
        read = self.network(_pictures(frames_NTHW3[:, 0]), _pictures(frames_NTHW3[:, -1])) * self.std_SA + self.mean_SA
        return read.unflatten(1, (self.steps_apart, -1)).numpy()

    def figure(self, generated_BTHW3: np.ndarray, true_BTHW3: np.ndarray, commanded_BTA: np.ndarray) -> Figure:
        """Return R^2 of what is read in generated frames, mean over dimensions, beside that of true frames under the
        same commands."""
        generated_NTHW3, commanded_NSA = _stretches(generated_BTHW3, commanded_BTA, self.steps_apart)
        true_NTHW3, _ = _stretches(true_BTHW3, commanded_BTA, self.steps_apart)
        _, others_NSA = _stretches(generated_BTHW3, np.roll(commanded_BTA, 1, axis=0), self.steps_apart)
        found_NSA = self.read(generated_NTHW3)
        return Figure(
            name="inverse dynamics R^2",
            value=explained(found_NSA, commanded_NSA),
            floor=explained(self.read(true_NTHW3), commanded_NSA),
            ceiling=explained(found_NSA, others_NSA),
            num_clips=len(generated_BTHW3),
        )


def explained(found_BTA: np.ndarray, commanded_BTA: np.ndarray) -> float:
    """Return R^2, the share of the commands' variance that is found, mean over dimensions that vary."""
    axes = (0, 1)
    variance_A = commanded_BTA.var(axis=axes)
    error_A = ((found_BTA - commanded_BTA) ** 2).mean(axis=axes)
    varies_A = variance_A > 1e-12
    return float((1 - error_A[varies_A] / variance_A[varies_A]).mean())


def _stretches(clips_BTHW3: np.ndarray, actions_BTA: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut clips into stretches of steps + 1 frames, each of which begins where the last one ends, with their actions.

    Raises:
        ValueError: a clip has no stretch of so many steps.
    """
    num_stretches = (clips_BTHW3.shape[1] - 1) // steps
    if num_stretches == 0:
        raise ValueError(
            f"clips of {clips_BTHW3.shape[1]} frames have no two that lie {steps} steps apart; give longer ones"
        )
    frames, actions = list[np.ndarray](), list[np.ndarray]()
    for start in range(0, num_stretches * steps, steps):
        frames.append(clips_BTHW3[:, start : start + steps + 1])
        actions.append(actions_BTA[:, start : start + steps])
    return np.concatenate(frames), np.concatenate(actions)


def _pictures(frames_NHW3: np.ndarray) -> Tensor:
    """Return [N, 3, H, W] of 0 to 1."""
    return torch.from_numpy(np.ascontiguousarray(frames_NHW3)).permute(0, 3, 1, 2).float() / 255
