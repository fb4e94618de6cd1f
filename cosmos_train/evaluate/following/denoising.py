"""At which noise levels a clip is denoised better under its own command than under another clip's.

The noise of a clip is the same under every command, so that the command alone makes the difference. Where a little
noise hides nothing, no command is needed; where it hides what moves, the right one helps in nearly every clip, or it is
not followed. A loss over all levels may hide that.

B clips, T frames, H W pixels, or latent cells where latents are meant.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cosmos_train.conditions.conditioner import ConditionTensors
from cosmos_train.evaluate.following.figure import Figure
from cosmos_train.objectives.edm import NoiseDraw, add_noise, c_noise, edm_loss
from cosmos_train.worlds.diffusion import DiffusionWorld

SIGMAS = (0.3, 1.0, 3.0, 10.0, 30.0)

Errors = Callable[[float, Sequence[int]], np.ndarray]
"""(noise level sigma, whose command each clip is told) -> error of each clip [B], always under the same noise"""


def noise_level_figures(errors: Errors, true_BTHW3: np.ndarray, sigmas: Sequence[float] = SIGMAS) -> list[Figure]:
    """Return the share of clips that are denoised better under their own command than under the next clip's, at each
    noise level.

    The floor is the share of clips whose true frames are not the next clip's, which are all that can tell commands
    apart. The ceiling compares the commands of the next clip and of the one after that, both of which are wrong.

    Args:
        true_BTHW3: the true frames of the clips.

    Raises:
        ValueError: there are fewer than three clips, of which no two others' commands can be taken.
    """
    num_clips = len(true_BTHW3)
    if num_clips < 3:
        raise ValueError(f"{num_clips} clips have no two other commands for each; give three or more")
    own, next_one, one_after = (np.roll(np.arange(num_clips), -by).tolist() for by in (0, 1, 2))
    differs = [not np.array_equal(true_BTHW3[number], true_BTHW3[other]) for number, other in enumerate(next_one)]
    figures = list[Figure]()
    for sigma in sigmas:
        right_B, wrong_B, other_wrong_B = (errors(sigma, told) for told in (own, next_one, one_after))
        figures.append(
            Figure(
                name=f"denoised better under the own command at sigma {sigma:g}",
                value=float(np.mean(right_B < wrong_B)),
                floor=float(np.mean(differs)),
                ceiling=float(np.mean(wrong_B < other_wrong_B)),
                num_clips=num_clips,
                unit="of clips",
            )
        )
    return figures


@dataclass(frozen=True, kw_only=True, slots=True)
class DenoisingErrors:
    """These are `Errors` of a model: squared errors of latents behind the first latent frame, which is given."""

    world: DiffusionWorld
    latents_BCTHW: Tensor
    """`encode` makes them of the true frames."""
    text_BSE: Tensor
    fps: float
    steering: ConditionTensors
    """They steer the clips, each its own."""
    seed: int = 0

    @torch.inference_mode()
    def __call__(self, sigma: float, told: Sequence[int]) -> np.ndarray:
        """Return the error of each clip [B] under the command of the clip that `told` names."""
        config, x0_BCTHW = self.world.objective, self.latents_BCTHW
        noise = torch.randn(x0_BCTHW.shape, generator=torch.Generator().manual_seed(self.seed)).to(x0_BCTHW.device)
        zeros_B = torch.zeros(len(x0_BCTHW), device=x0_BCTHW.device)
        draw = NoiseDraw(
            sigma_B=zeros_B + sigma,
            noise_BCTHW=noise,
            augment_sigma_B=zeros_B,
            augment_noise_BCTHW=torch.zeros_like(noise),
            num_condition_frames_B=zeros_B.long() + 1,
            drop_condition_B=zeros_B.bool(),
            drop_text_B=zeros_B.bool(),
            drop_steering_B=zeros_B.bool(),
        )
        noisy = add_noise(x0_BCTHW, draw, config)
        steering = self.steering.with_tensors([tensor[list(told)] for tensor in self.steering.tensors])
        output_BCTHW = self.world(
            noisy.net_input_BCTHW.to(self.world.dtype),
            c_noise(draw.sigma_B),
            self.text_BSE,
            fps=self.fps,
            condition_mask_B1THW=noisy.condition_mask_B1T11.expand(-1, -1, -1, *x0_BCTHW.shape[3:]),
            **steering.named,
        )
        return edm_loss(x0_BCTHW, output_BCTHW, noisy, draw.sigma_B, None, config)[2].cpu().numpy()
