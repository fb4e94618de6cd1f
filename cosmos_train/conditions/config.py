"""These keys say how a network reads what steers it besides text and first frames. No torch in here."""

from dataclasses import dataclass, fields
from typing import Literal

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import CountOrZero, Positive, Share, check_ranges

PLUCKER_CHANNELS = 6
"""Channels of a Pluecker ray: the direction and the moment, three numbers each."""

PluckerOrder = Literal["moment_first", "direction_first"]
ActionNormalize = Literal["quantiles", "standard", "scale", "none"]
CAMERA_KEYS = ("plucker_order", "camera_scale", "camera_unit_m")
"""Keys that say how a camera's path is read."""
ACTION_KEYS = ("action_normalize", "action_scale")
"""Keys that say how actions are read. A network has learned to read its conditions with these keys and the former."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionConditionConfig:
    """How a network reads actions."""

    action_normalize: ActionNormalize = "quantiles"
    """It says what each dimension of an action becomes. quantiles: its 1 % and 99 % quantiles -1 and 1; standard: mean
    0 and deviation 1; scale: times action_scale, as Bridge's released training has it; none: what the data says."""
    action_scale: tuple[float, ...] = ()
    """action_normalize=scale: the factor of each dimension, 20 for Bridge's six of the pose and 1 for its gripper."""

    def __post_init__(self) -> None:
        check_ranges(self, "condition")
        if (self.action_normalize == "scale") != bool(self.action_scale):
            raise ConfigError(
                f"condition.action_normalize={self.action_normalize} and condition.action_scale="
                f"{list(self.action_scale)} do not belong together; give the factors with action_normalize=scale alone"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionConfig(ActionConditionConfig):
    """How a network reads a camera's path and actions."""

    embodiments: tuple[str, ...] = ()
    """Names of the robots in the order of their rows in the table of model.num_embodiments; empty: those of
    checkpoint.init_from as they stand there, then those that the training data add, in the order of the alphabet."""
    dropout: Share = 0.0
    """Probability that a sample's camera path and actions are replaced by zeros, so that sampling can be guided away
    from them. Where zeros are an action, too, as of a hand that stands still, the model can not tell the two apart, and
    moves a hand that is told to stand."""
    probe_every_steps: CountOrZero = 0
    """Every so many steps log what the condition is worth: the error under the same noise with the right condition,
    with another sample's and with zeros, as condition/right, condition/shuffled and condition/zero; 0: never. It takes
    three forward passes, and another sample's needs train.micro_batch_size of 2 or more."""
    plucker_order: PluckerOrder = "moment_first"
    """The order of a ray's channels in model.extra_channels=6: moment c x d, then direction d, as NVIDIA's released
    code has it; or the direction first, as arXiv 2501.03575 prints it."""
    camera_scale: Literal["clip", "metres"] = "clip"
    """It says what length is 1 in a ray's moment. clip: the largest distance between two places of the window's camera,
    as released, which fits poses of unknown scale; metres: camera_unit_m, so that longer moves differ from shorter."""
    camera_unit_m: Positive = 1.0
    """camera_scale=metres: so many metres are 1."""

    def __post_init__(self) -> None:
        ActionConditionConfig.__post_init__(self)
        if len(set(self.embodiments)) != len(self.embodiments):
            raise ConfigError(f"condition.embodiments={list(self.embodiments)} has a name twice; each has one row")


def refuse_without_effect(condition: ActionConditionConfig, *, reads_camera: bool, reads_action: bool) -> None:
    """Raise ConfigError where a key is set that says how a condition is read which the network does not read."""
    lacking = dict[str, str]()
    if not reads_camera:
        lacking |= dict.fromkeys(CAMERA_KEYS, "no camera's path (model.extra_channels=6)")
    if not reads_action:
        lacking |= dict.fromkeys((*ACTION_KEYS, "embodiments"), "no actions (model.action_width)")
    if not reads_camera and not reads_action:
        neither = "neither a camera's path nor actions (model.extra_channels=6, model.action_width)"
        lacking |= dict.fromkeys(("dropout", "probe_every_steps"), neither)
    for field in fields(condition):
        value = getattr(condition, field.name)
        if field.name in lacking and value != field.default:
            raise ConfigError(
                f"condition.{field.name}={value}, but the model reads {lacking[field.name]}; leave it out, or use a "
                "model that does"
            )
