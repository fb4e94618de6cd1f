"""How a trained model is sampled. No torch in here."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Sampling with classifier-free guidance. The defaults are the released inference code's; see configs/sample/."""

    sampler: Literal["euler", "heun", "2ab"] = "euler"
    """First order; second order with two evaluations a step; second order from the last two steps' estimates."""
    num_steps: int = 35
    """Sigmas from sigma_max down to sigma_min; one network evaluation each (two with guidance, Heun twice as many)."""
    start_std: Literal["hypot", "sigma_max"] = "hypot"
    """Deviation of the first noise: sqrt(sigma_max^2 + 1), as data of deviation 1 would add, or sigma_max alone."""
    last_step: Literal["clean", "none"] = "clean"
    """From sigma_min to the estimate of the clean sample, or stop there, as diffusers' converted pipelines do."""
    sigma_max: float = 80.0
    """First noise level."""
    sigma_min: float = 0.0002
    """Last noise level before the clean end: 0.0002 in the released inference code, 0.002 in diffusers' conversion."""
    rho: float = 7.0
    """Curvature of the noise levels (Karras et al. 2022, equation 5)."""
    guidance: float = 7.0
    """g in x0 = cond + g * (cond - uncond): 0 means no guidance and halves the work."""
    augment_sigma: float = 0.001
    """Video2World: noise level put on the conditioning frames."""
    num_condition_frames: int = 1
    """Video2World: conditioning latent frames; 1 stands for one pixel frame, 2 for 1 + temporal_rate."""
    negative_prompt: str = ""
    """Prompt of the unguided branch; empty text states where it is empty."""

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"sample.num_steps={self.num_steps} must be at least 1")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sample.sigma_min={self.sigma_min} must lie between 0 and sample.sigma_max={self.sigma_max}"
            )
        if self.guidance < 0:
            raise ValueError(f"sample.guidance={self.guidance} must be 0 (off) or greater")
        if self.num_condition_frames < 0:
            raise ValueError(f"sample.num_condition_frames={self.num_condition_frames} must be 0 or more")
