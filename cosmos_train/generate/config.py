"""How a trained model is sampled. No torch in here."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Interval

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, NotNegative, Positive, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """Sampling with classifier-free guidance. The defaults are the released inference code's; see configs/sample/."""

    sampler: Literal["euler", "heun", "2ab", "2mid"] = "euler"
    """First order; second order with two evaluations a step; second order from the last two steps' estimates; second
    order from a step's begin and middle. The last two are the released training code's, called RES."""
    num_steps: Count = 35
    """Sigmas from sigma_max down to sigma_min; one network evaluation each (two with guidance, twice as many with Heun
    and 2mid)."""
    start_std: Literal["hypot", "sigma_max"] = "hypot"
    """Deviation of the first noise: sqrt(sigma_max^2 + 1), as data of deviation 1 would add, or sigma_max alone."""
    last_step: Literal["clean", "none"] = "clean"
    """From sigma_min to the estimate of the clean sample, or stop there, as diffusers' converted pipelines do."""
    sigma_max: Positive = 80.0
    """First noise level."""
    sigma_min: Positive = 0.0002
    """Last noise level before the clean end: 0.0002 in the released inference code, 0.002 in diffusers' conversion."""
    rho: Positive = 7.0
    """Curvature of the noise levels (Karras et al. 2022, equation 5)."""
    guidance: NotNegative = 7.0
    """g of guidance_from. Where it means no guidance (0 from cond, 1 from uncond) the work is halved."""
    guidance_from: Literal["cond", "uncond"] = "cond"
    """cond: x0 = cond + g * (cond - uncond), as the released models and diffusers' Cosmos pipelines count; uncond:
    x0 = uncond + g * (cond - uncond), as most other models do. 7 of the first is 8 of the second."""
    guide_frames: bool = False
    """Video2World: lead away from having no conditioning frames, too: uncond sees zeros in their place and no mask,
    which condition dropout has trained. The released inference code gives them to both, unless it is asked to add
    input-frame guidance."""
    guide_condition: bool = False
    """Models that are steered: lead away from having no camera path and no actions, too: uncond sees zeros in their
    place, which condition.dropout has trained. Otherwise both branches see them."""
    cfg_parallel: bool = False
    """Compute cond and uncond at the same time, on two halves of the data-parallel ranks."""
    augment_sigma: NotNegative = 0.001
    """Video2World: noise level put on the conditioning frames."""
    num_condition_frames: CountOrZero = 1
    """Video2World: conditioning latent frames; 1 stands for one pixel frame, 2 for 1 + temporal_rate."""
    negative_prompt: str = ""
    """Prompt of uncond. Where it is empty, uncond sees text states of zeros, which text dropout has trained; for a
    model that was trained without text dropout guidance then needs a negative prompt."""

    def __post_init__(self) -> None:
        check_ranges(self, "sample")
        least = 1 if self.last_step == "clean" else 2
        if self.num_steps < least:
            raise ConfigError(
                f"sample.num_steps={self.num_steps} must be at least {least} with sample.last_step={self.last_step}"
            )
        if self.sigma_min >= self.sigma_max:
            raise ConfigError(f"sample.sigma_min={self.sigma_min} must be less than sample.sigma_max={self.sigma_max}")
        off = {"cond": 0, "uncond": 1}[self.guidance_from]
        if self.guidance < off:
            raise ConfigError(
                f"sample.guidance={self.guidance} must be {off} (off) or greater with sample.guidance_from="
                f"{self.guidance_from}"
            )
        for key, value, what in (
            ("cfg_parallel", self.cfg_parallel, "computes the two branches of guidance at once"),
            ("guide_frames", self.guide_frames, "takes the conditioning frames from one branch of guidance"),
            ("guide_condition", self.guide_condition, "takes camera path and actions from one branch of guidance"),
        ):
            if value and not self.is_guided:
                raise ConfigError(
                    f"sample.{key}=true {what}, but sample.guidance={self.guidance} is none; set {key}=false"
                )

    @property
    def num_updates(self) -> int:
        """Times that the sample changes: once less than there are levels, unless the clean sample comes after them."""
        return self.num_steps if self.last_step == "clean" else self.num_steps - 1

    @property
    def guidance_weight(self) -> float:
        """w in x0 = cond + w * (cond - uncond), whichever way guidance is counted."""
        return self.guidance if self.guidance_from == "cond" else self.guidance - 1

    @property
    def is_guided(self) -> bool:
        """Whether there is an uncond branch at all."""
        return self.guidance_weight != 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeSampleConfig:
    """How the codes of an autoregressive model are chosen."""

    temperature: NotNegative = 1.0
    """Logits are divided by it; 0 is greedy: always the most likely code."""
    top_p: Annotated[float, Interval(gt=0, le=1)] = 0.8
    """Draw among the most likely codes that together have this probability; 1: all. Released: 0.8 (4B, 13B), 0.9 (12B),
    0.7 (5B)."""
    top_k: CountOrZero = 0
    """Draw among so many of the most likely codes, before top_p; 0: all."""
    num_condition_frames: CountOrZero = 1
    """Latent frames that --input gives; 1 stands for one pixel frame, 2 for 1 + temporal_rate."""
    medusa_heads: CountOrZero | None = None
    """Medusa heads that guess the codes after the next one; none: all that the model has. Draws with another number are
    other draws, of the same distribution; greedy videos are the same."""

    def __post_init__(self) -> None:
        check_ranges(self, "sample")


def require_halves(world_size: int, *, tp: int, pp: int, cp: int) -> None:
    """Raises ConfigError where sample.cfg_parallel can not halve the data-parallel ranks of so many processes."""
    replicas = world_size // (tp * pp * cp)
    if replicas % 2:
        raise ConfigError(
            f"sample.cfg_parallel=true needs two halves of the data-parallel ranks, but {world_size} processes / "
            f"(parallel.tp={tp} * pp={pp} * cp={cp}) are {replicas}; start {2 * world_size} processes, or use "
            "sample.cfg_parallel=false"
        )
