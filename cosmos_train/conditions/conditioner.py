"""From the conditions of windows to the tensors that a network reads: one function for training and for sampling.

B windows, L latent frames, H W latent rows and columns, R steps of an action for a latent frame, A dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from cosmos_data.manifests.conditions import Action, Camera
from cosmos_data.sample_plan.window_conditions import WindowConditions
from cosmos_train.conditions.action_statistics import ActionStatistics, Embodiments
from cosmos_train.conditions.actions import next_frame_11A, packed_LRA, steps_per_frame
from cosmos_train.conditions.config import PLUCKER_CHANNELS, ActionConditionConfig, ConditionConfig
from cosmos_train.conditions.rays import plucker_6LHW, pooled_frames
from cosmos_train.config.errors import ConfigError
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reads:
    """Reads says what a network takes besides latents and text."""

    camera: bool = False
    action_frames: Literal["none", "next", "each"] = "none"
    action_width: int = 0
    """Numbers of a latent frame, R A."""
    num_embodiments: int = 0

    @property
    def action(self) -> bool:
        """Return whether it reads actions."""
        return self.action_frames != "none"

    @property
    def names(self) -> list[str]:
        """Return the fields of WindowConditions that it needs."""
        return ["camera"] * self.camera + ["action"] * self.action


def reads_of(model: DiTConfig | WorldARConfig) -> Reads:
    """Return what a network of this architecture reads."""
    if isinstance(model, WorldARConfig):
        return Reads(action_frames="next" if model.action_width else "none", action_width=model.action_width)
    return Reads(
        camera=model.extra_channels == PLUCKER_CHANNELS,
        action_frames=model.action_frames,
        action_width=model.action_width,
        num_embodiments=model.num_embodiments,
    )


class SteeringConditions(TypedDict):
    """The arguments of a network that steer it, by name."""

    extra_BCTHW: Tensor | None
    action_BTRA: Tensor | None
    embodiment_B: Tensor | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionTensors:
    """The arguments of a network that steer it; each is None where the model has none. fp32, on the CPU as made."""

    extra_BCTHW: Tensor | None = None
    """Pluecker rays [B, 6, L, H, W], zero where there is padding."""
    action_BTRA: Tensor | None = None
    """[B, L, 1, R A], zero at latent frame 0, or [B, 1, 1, A] of the one next frame: the steps of a latent frame side
    by side, since embodiments of other rates have others of them."""
    embodiment_B: Tensor | None = None
    """Whose actions they are: rows of the model's table."""

    @property
    def named(self) -> SteeringConditions:
        """Return them as the network is told them."""
        return {
            "extra_BCTHW": self.extra_BCTHW,
            "action_BTRA": self.action_BTRA,
            "embodiment_B": self.embodiment_B,
        }

    @property
    def tensors(self) -> list[Tensor]:
        """Return those that there are."""
        return [one for one in (self.extra_BCTHW, self.action_BTRA, self.embodiment_B) if one is not None]

    def with_tensors(self, tensors: Sequence[Tensor]) -> "ConditionTensors":
        """Return the same of copies of `tensors`, in their order, such as on another device."""
        left = iter(tensors)
        return replace(self, **{name: next(left) for name, one in self.named.items() if one is not None})

    def zeros(self, is_zero_B: Tensor | None = None) -> "ConditionTensors":
        """Return them with zeros for the camera and the actions of all samples, or of those where the mask is true."""

        def without(tensor: Tensor | None) -> Tensor | None:
            if tensor is None:
                return None
            if is_zero_B is None:
                return torch.zeros_like(tensor)
            return tensor.masked_fill(is_zero_B.reshape(-1, *[1] * (tensor.ndim - 1)), 0)

        return replace(self, extra_BCTHW=without(self.extra_BCTHW), action_BTRA=without(self.action_BTRA))

    def rolled(self) -> "ConditionTensors":
        """Return each sample with the condition of the one before it in the batch."""
        return self.with_tensors([tensor.roll(1, dims=0) for tensor in self.tensors])


class Conditioner:
    """A conditioner makes what a model's network reads of what is known of windows."""

    def __init__(
        self,
        config: ConditionConfig | ActionConditionConfig,
        model: DiTConfig | WorldARConfig,
        embodiments: Embodiments | None,
        *,
        temporal_rate: int,
        fps: float | None = None,
    ) -> None:
        """Take what the model was, or is to be, trained with.

        Args:
            embodiments: statistics of the actions; None where the model reads none.
            temporal_rate: pixel frames of a latent frame.
            fps: frames per second of the training's windows. It tells the steps of a frame of the one embodiment whose
                statistics do not; several may each have a rate of frames of their own.

        Raises:
            ConfigError: there are more embodiments than the model's table has rows.
        """
        self.config, self.reads, self.temporal_rate, self.fps = config, reads_of(model), temporal_rate, fps
        self.embodiments = embodiments
        num_found = 0 if embodiments is None else len(embodiments.statistics)
        rows = self.reads.num_embodiments
        if self.reads.action and num_found > max(rows, 1):
            if isinstance(model, WorldARConfig):
                rule = "an autoregressive model reads those of one; train one for each, or a diffusion model"
            else:
                rule = f"model.num_embodiments={rows} has no row for each; set {num_found}"
            raise ConfigError(f"the training clips have actions of {num_found} embodiments, and {rule}")

    def check(self, conditions: WindowConditions, fps: float) -> None:
        """Compare what a user gave, whatever its length, with what the model was trained on.

        Args:
            fps: frames per second of the video that is steered.

        Raises:
            ConfigError: a condition is missing, the model does not read it, or it was trained on other actions, or on
                more or fewer steps of them for each frame.
        """
        for name in ("camera", "action"):
            if getattr(conditions, name) is not None and name not in self.reads.names:
                raise ConfigError(
                    f"a condition was given, {name}, that this model was not trained with; it reads "
                    f"{' and '.join(self.reads.names) or 'none'}; leave it out, or name another model"
                )
        self._require(conditions)
        if conditions.action is not None and self.embodiments is not None:
            self.embodiments.fit(conditions.action)
            self.steps_of_latent(conditions.action.embodiment, fps)

    def check_width(self) -> None:
        """Raise ConfigError where the actions of an embodiment, as they were trained, do not fit the network.

        Where it is not known how many steps a frame had, one is the least.
        """
        statistics = {} if self.embodiments is None else self.embodiments.statistics
        for name, one in statistics.items():
            steps = (self._trained_steps(name) or 1) * self.temporal_rate
            self._require_readable(name, steps)
            if steps * len(one.names) > self.reads.action_width:
                raise ConfigError(
                    f"model.action_width={self.reads.action_width}, but a latent frame has {steps} steps{_whose(name)} "
                    f"of {len(one.names)} dimensions ({', '.join(one.names)}); set {steps * len(one.names)} or more"
                )

    def check_frames(self, num_latent_frames: int) -> None:
        """Raise ConfigError where windows have more latent frames than the actions that are read bring about."""
        if self.reads.action_frames == "next" and num_latent_frames > 2:
            raise ConfigError(
                f"this model reads the one action that leads to the next frame, and windows have {num_latent_frames} "
                "latent frames; use windows of 2 (data.num_frames=2), or a model of action_frames=each"
            )

    def steps_of_latent(self, embodiment: str, fps: float) -> int:
        """Return R of the actions of an embodiment, at a rate of frames.

        Raises:
            ConfigError: it is no whole number, it does not divide the network's width, it is another than in training,
                or the network reads one step alone and more than one leads to the next latent frame.
        """
        rate_hz = self._statistics(embodiment).rate_hz
        per_frame, trained = steps_per_frame(rate_hz, fps), self._trained_steps(embodiment)
        if trained is not None and per_frame != trained:
            raise ConfigError(
                f"at {fps:g} fps a latent frame has {per_frame * self.temporal_rate} steps of actions"
                f"{_whose(embodiment)} at {rate_hz:g} Hz, and at {rate_hz / trained:g} fps, which the model was "
                f"trained at, it has {trained * self.temporal_rate}; use that rate of frames"
            )
        self._require_readable(embodiment, per_frame * self.temporal_rate)
        return per_frame * self.temporal_rate

    def _trained_steps(self, embodiment: str) -> int | None:
        """Return the steps from a frame to the next in the training of an embodiment; None where nothing tells."""
        one = self._statistics(embodiment)
        if one.steps_per_frame is not None:
            return one.steps_per_frame
        is_alone = self.embodiments is not None and len(self.embodiments.statistics) == 1
        return steps_per_frame(one.rate_hz, self.fps) if self.fps is not None and is_alone else None

    def _require_readable(self, embodiment: str, steps: int) -> None:
        """Raise ConfigError where the network has no place for so many steps of a latent frame."""
        rate_hz, whose = self._statistics(embodiment).rate_hz, _whose(embodiment)
        if self.reads.action_frames == "next" and steps != 1:
            raise ConfigError(
                f"this model reads the one action that leads to the next frame, but a latent frame of "
                f"{self.temporal_rate} frames has {steps} steps of actions{whose} at {rate_hz:g} Hz; use a tokenizer "
                "of images and frames at the actions' rate, or a model of action_frames=each"
            )
        if self.reads.action_width % steps:
            raise ConfigError(
                f"model.action_width={self.reads.action_width} is no multiple of the {steps} steps that a latent frame "
                f"of {self.temporal_rate} frames has of actions{whose} at {rate_hz:g} Hz; use {steps} times the "
                "dimensions of an action"
            )

    def _statistics(self, embodiment: str) -> ActionStatistics:
        assert self.embodiments is not None, "of a model that reads actions"
        return self.embodiments.statistics[embodiment]

    def tensors(
        self,
        conditions: Sequence[WindowConditions],
        *,
        num_latent_frames: int,
        latent_HW: tuple[int, int],
        num_pixel_frames: int,
        fps_B: Sequence[float],
        padding_B1HW: Tensor | None = None,
    ) -> ConditionTensors:
        """Return what the network reads of each window.

        Args:
            num_pixel_frames: frames of the windows, so many as their cameras' paths have.
            fps_B: frames per second of each.
            padding_B1HW: 1 where a latent cell is padding; rays are zero there.

        Raises:
            ConfigError, DataError: a condition is missing, too short or of another kind than trained on, or a matrix
                of a camera is no pose. What the network does not read may be there.
        """
        for one in conditions:
            self._require(one)
        extra_BCTHW = action_BTRA = embodiment_B = None
        if self.reads.camera:
            rays = [self._rays(one.camera, num_latent_frames, latent_HW, num_pixel_frames) for one in conditions]
            extra_BCTHW = torch.from_numpy(np.stack(rays))
            if padding_B1HW is not None:
                extra_BCTHW = extra_BCTHW * (1 - padding_B1HW[:, :, None])
        if self.reads.action:
            actions = [
                self._packed(one.action, num_latent_frames, fps) for one, fps in zip(conditions, fps_B, strict=True)
            ]
            action_BTRA = torch.from_numpy(np.stack(actions))
        if self.reads.num_embodiments:
            embodiment_B = torch.tensor([self._row(one.action) for one in conditions])
        return ConditionTensors(extra_BCTHW=extra_BCTHW, action_BTRA=action_BTRA, embodiment_B=embodiment_B)

    def _require(self, conditions: WindowConditions) -> None:
        for name in self.reads.names:
            if getattr(conditions, name) is None:
                raise ConfigError(f"this model is steered by its {name}, and a window comes without one; give it")

    def _rays(
        self, camera: Camera | None, num_latent_frames: int, latent_HW: tuple[int, int], num_frames: int
    ) -> np.ndarray:
        assert camera is not None and isinstance(self.config, ConditionConfig), "_require: there is one"
        return plucker_6LHW(
            camera,
            num_frames=num_frames,
            frames=pooled_frames(num_latent_frames, self.temporal_rate),
            latent_HW=latent_HW,
            order=self.config.plucker_order,
            scale=self.config.camera_scale,
            unit_m=self.config.camera_unit_m,
        )

    def _packed(self, action: Action | None, num_latent_frames: int, fps: float) -> np.ndarray:
        assert action is not None and self.embodiments is not None, "_require: there is one"
        values_ND = self.embodiments.fit(action).normalized(action.values_ND())
        if self.reads.action_frames == "next":
            self.check_frames(num_latent_frames)
            if num_latent_frames == 1:  # an image: nothing comes next
                return np.zeros((1, 1, self.reads.action_width), dtype=np.float32)
            self.steps_of_latent(action.embodiment, fps)
            return next_frame_11A(values_ND, num_dimensions=self.reads.action_width)
        steps = self.steps_of_latent(action.embodiment, fps)
        steps_LRA = packed_LRA(
            values_ND,
            num_latent_frames=num_latent_frames,
            steps_of_latent=steps,
            num_dimensions=self.reads.action_width // steps,
        )
        return steps_LRA.reshape(num_latent_frames, 1, self.reads.action_width)

    def _row(self, action: Action | None) -> int:
        assert action is not None and self.embodiments is not None, "_require: there is one"
        return self.embodiments.row(action.embodiment)


def _whose(embodiment: str) -> str:
    return f" of embodiment {embodiment!r}" if embodiment else ""
