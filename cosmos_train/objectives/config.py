"""Constants of the diffusion objective. No torch in here."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class EdmConfig:
    """EDM noise, weighting and Video2World conditioning, as the released Cosmos training code has them."""

    sigma_data: float = 0.5
    """Standard deviation that whitened latents are scaled to before noise is added."""
    log_sigma_mean: float = 0.0
    """Mean of the normal distribution of ln(sigma) in training."""
    log_sigma_std: float = 1.0
    """Standard deviation of the normal distribution of ln(sigma) in training."""
    scale_sigma_by_frames: bool = True
    """Multiply sigma by sqrt(latent frames of the configured window), so that video is noised harder than images."""
    loss_scale: float = 1.0
    """Factor of the whole loss: 10 in the paper (for bf16), 1 in the released code."""
    learned_uncertainty: bool = True
    """Balance noise levels with the learned u(sigma): loss * exp(-u) + u."""
    min_condition_frames: int = 0
    """Video2World: the number of conditioning latent frames is uniform from this ..."""
    max_condition_frames: int = 0
    """... to this. 0 is Text2World."""
    condition_dropout: float = 0.2
    """Video2World: probability that a sample's conditioning frames and their mask are both dropped."""
    log_augment_sigma_mean: float = -3.0
    """Video2World: mean of ln(sigma) of the noise put on conditioning frames."""
    log_augment_sigma_std: float = 2.0
    """Video2World: standard deviation of ln(sigma) of the noise put on conditioning frames."""
    text_dropout: float = 0.2
    """Probability that a sample's text states are replaced by zeros."""

    def __post_init__(self) -> None:
        for key, value in (("condition_dropout", self.condition_dropout), ("text_dropout", self.text_dropout)):
            if not 0 <= value <= 1:
                raise ValueError(f"objective.{key}={value} is not a probability; use a number from 0 to 1")
        for key, value in (("sigma_data", self.sigma_data), ("log_sigma_std", self.log_sigma_std)):
            if value <= 0:
                raise ValueError(f"objective.{key}={value} must be greater than 0")
        if not 0 <= self.min_condition_frames <= self.max_condition_frames:
            raise ValueError(
                f"objective.min_condition_frames={self.min_condition_frames} must lie between 0 and "
                f"objective.max_condition_frames={self.max_condition_frames}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionConfig:
    """Weighted terms of the tokenizer's loss."""

    l1: float = 1.0
    """Weight of the mean absolute difference of pixels in [-1, 1]."""
