"""A world model that can be called, whatever it was opened from: network, tokenizer, text encoder, one object.

What both kinds have stands here, `sample` above all. `diffusion` and `autoregressive` add what they say of latents, and
`opening.open_world` gives the one or the other.

B videos, P prompts, C latent channels, T H W frames, rows and columns, S text tokens, E width of a text state.
"""

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from cosmos_data.errors import DataError
from cosmos_data.sample_plan.window_conditions import BARE, WindowConditions
from cosmos_data.steering.long_videos import lengthened, part_of, require_length
from cosmos_train.conditions.conditioner import Conditioner, ConditionTensors, reads_of
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.generate.config import CodeSampleConfig, SampleConfig
from cosmos_train.generate.digest import weights_digest
from cosmos_train.generate.rollout import Rollout
from cosmos_train.generate.world import NOT_STEERED, window_seeds
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.text.encoder import TextEncoder
from cosmos_train.worlds.codec import Codec
from cosmos_train.worlds.steering import unsaid

OnStep = Callable[[int], None]
"""Told the number of finished steps of a window; a step is what World.num_steps counts."""
OnProgress = Callable[[int, int], None]
"""Told the number of finished steps of a video, and that of all of them."""
PartT = TypeVar("PartT")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedWindows:
    """The windows that a model was trained on, and samples."""

    latent_shape: tuple[int, ...]
    """[C, T, H, W]; of codes C is 1."""
    fps: float
    """Frames per second of one of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedRun:
    """The run of ours that trained a model, at the checkpoint that was opened, or that describes a file's model."""

    run: WorldDiTRun | WorldARRun
    folder: Path
    """The checkpoint, or the file."""
    step: int | None
    """None where no run of ours trained the weights."""
    averaged: bool
    """The weights are their moving average, which the run kept."""
    manifest_digest: str
    """The digest of the manifest that it was trained on is empty where the run does not say it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompts:
    """States of texts: one for all videos, or one for each of them."""

    text_PSE: Tensor
    negative_text_1SE: Tensor | None = None
    """Guidance leads away from this text; an autoregressive model has no guidance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowRequest:
    """A request asks a model for one window."""

    prompts: Prompts | None
    """None where the model reads no text."""
    seeds: Sequence[int]
    """One video for each."""
    fps_B: Sequence[float]
    num_latent_frames: int
    conditions: Sequence[WindowConditions] = ()
    """The camera path and the actions of each video, as long as the window; nothing of a model that is not steered."""
    given: Tensor | None
    """Latents whose first frames the window begins with: of all videos, or of each."""


@dataclass(slots=True)
class Clock:
    """Seconds of each part of the work of a sample, on this rank."""

    conditioned_sec: float = 0.0
    """Text and first frames, once for all videos."""
    sampled_sec: float = 0.0
    coded_sec: float = 0.0
    """Latents to pixels, and back where windows go on from each other."""
    last: float = field(default_factory=time.perf_counter, repr=False)

    def lap(self) -> float:
        """Return the seconds since the last call, or since the clock was made."""
        before, self.last = self.last, time.perf_counter()
        return self.last - before


@dataclass(frozen=True, kw_only=True, slots=True)
class World(ABC):
    """A world has what one rank needs to call a model; tokenizer and text encoder are whole on every rank.

    Latents are what the network makes and the tokenizer decodes, in the form that the kind of model has them in. A
    method that needs a part which is not there raises ConfigError, which names it. `dataclasses.replace` gives the same
    world with another `sampling`.
    """

    path: Path
    """File, folder or checkpoint that the weights come from."""
    mesh: Mesh
    dtype: torch.dtype
    """The network computes in this number format."""
    sampling: SampleConfig | CodeSampleConfig
    codec: Codec | None = None
    text: TextEncoder | None = None
    windows: TrainedWindows | None = None
    conditioner: Conditioner | None = None
    """It makes what steers the model; None where nothing but text and first frames does."""
    trained: TrainedRun | None = None
    """None where the weights are of no run of ours."""
    notes: tuple[str, ...] = ()
    """What a file did not tell, and what was taken instead."""

    @property
    def device(self) -> torch.device:
        """Return where this rank computes."""
        return self.mesh.device

    @property
    @abstractmethod
    def config(self) -> DiTConfig | WorldARConfig:
        """Return the architecture."""

    @property
    @abstractmethod
    def networks(self) -> Sequence[nn.Module]:
        """Return this rank's pieces of the network: one, or several of an interleaved pipeline."""

    @property
    @abstractmethod
    def num_parallel(self) -> int:
        """Return how many data-parallel ranks work on the same videos."""

    @abstractmethod
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """Return latents [B, ..., T, H, W] of uint8 pixels."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 pixels [B, 3, T, H, W] of latents, on the CPU."""

    @abstractmethod
    def read_prompts(self, named: dict[str, str]) -> Prompts | None:
        """Return the states of texts, which errors call by their names; None where the model reads no text."""

    @abstractmethod
    def num_steps(self, num_latent_frames: int) -> int:
        """Return the steps of a window of so many latent frames."""

    @abstractmethod
    def sample_window(self, request: WindowRequest, on_step: OnStep = lambda _step: None) -> Tensor:
        """Return the latents of a window for each seed."""

    def sample(
        self,
        prompt: str = "",
        first_frames_3THW: Tensor | None = None,
        *,
        seeds: Sequence[int] = (0,),
        conditions: Sequence[WindowConditions] = (),
        num_frames: int | None = None,
        fps: float | None = None,
        on_progress: OnProgress = lambda _done, _total: None,
        clock: Clock | None = None,
    ) -> Tensor:
        """Return videos of one prompt, uint8 [B, 3, T, H, W] on the CPU: each seed is another future of one state.

        A video that is longer than the model's windows is made of several, each of which begins with the last frames
        of the one before: the pixel frames of sampling.num_condition_frames latent frames, encoded anew.

        Args:
            first_frames_3THW: uint8 pixels that the videos begin with, as frames_for(sampling.num_condition_frames).
            seeds: those of this rank.
            conditions: the camera path and the actions of the whole video, one for all seeds or one for each: frame k
                is seen from pose k, and step k leads to the frame after it, whichever window shows them.
            num_frames: pixel frames of each video; those of a window by default.
            fps: frames per second; those that the model was trained on by default.
            clock: is told how long each part took. What passed since its last lap counts as conditioning, such as the
                reading of the first frames.

        Raises:
            ConfigError, DataError: the model can not be asked for such a video, or is not steered by such conditions.
        """
        windows, codec, clock = self.require_windows(), self.require_codec().config, clock or Clock()
        prompts = self.read_prompts({"prompt": prompt})
        if prompt and prompts is None:
            raise ConfigError(
                f"prompt={prompt!r} is for a model that reads text, and {self.path} reads none; leave it out"
            )
        given = None if first_frames_3THW is None else self.encode(first_frames_3THW[None])
        clock.conditioned_sec += clock.lap()
        num_frames, fps = num_frames or codec.pixel_frames(windows.latent_shape[1]), fps or windows.fps
        fitting, rollout = self._rollout(num_frames)
        steered = self._steered(conditions, seeds, num_frames, rollout.total_frames, fps)
        overlap_frames = rollout.overlap_frames
        per_window, video_B3THW = self.num_steps(fitting), torch.empty(len(seeds), 3, 0, 1, 1, dtype=torch.uint8)
        total_steps = rollout.num_windows * per_window
        for window in range(rollout.num_windows):
            if window:
                given = self.encode(video_B3THW[:, :, -overlap_frames:])
                clock.coded_sec += clock.lap()
            start, frames, of_frames = rollout.start_frame(window), rollout.window_frames, rollout.total_frames
            request = WindowRequest(
                prompts=prompts,
                seeds=window_seeds(seeds, window),
                fps_B=[fps] * len(seeds),
                num_latent_frames=fitting,
                conditions=[part_of(one, start, frames, of_frames=of_frames, fps=fps) for one in steered],
                given=given,
            )
            done = window * per_window
            latents = self.sample_window(request, lambda step, done=done: on_progress(done + step, total_steps))
            clock.sampled_sec += clock.lap()
            following = self.decode(latents)
            video_B3THW = torch.cat((video_B3THW, following[:, :, overlap_frames:]), dim=2) if window else following
            clock.coded_sec += clock.lap()
        return video_B3THW[:, :, :num_frames]

    def _rollout(self, num_frames: int) -> tuple[int, Rollout]:
        """Return the latent frames of a window, as many as the model was trained on at most, and where windows lie."""
        trained, codec = self.require_windows().latent_shape[1], self.require_codec().config
        fitting = 1
        while fitting < trained and codec.pixel_frames(fitting) < num_frames:
            fitting += 1
        overlap_frames = codec.pixel_frames(max(1, self.sampling.num_condition_frames))
        window_frames = codec.pixel_frames(fitting)
        return fitting, Rollout.of(num_frames, window_frames=window_frames, overlap_frames=overlap_frames)

    def steering(self, request: WindowRequest) -> ConditionTensors:
        """Return what steers each video of a window as the network reads it, on the device."""
        if self.conditioner is None:
            return NOT_STEERED
        _, _, height, width = self.require_windows().latent_shape
        made = self.conditioner.tensors(
            request.conditions,
            num_latent_frames=request.num_latent_frames,
            latent_HW=(height, width),
            num_pixel_frames=self.require_codec().config.pixel_frames(request.num_latent_frames),
            fps_B=request.fps_B,
        )
        return made.with_tensors([tensor.to(self.device) for tensor in made.tensors])

    def check_conditions(self, conditions: Sequence[WindowConditions], fps: float) -> None:
        """Raises ConfigError where the model is not steered by such conditions at this rate of frames, or is steered by
        what is missing."""
        for one in conditions or (BARE,):
            if self.conditioner is not None:
                self.conditioner.check(one, fps)
            elif reads_of(self.config).names:
                raise ConfigError(f"{unsaid(self.path, self.config)}; pass open_world(..., condition=...)")
            elif one.camera is not None or one.action is not None:
                raise ConfigError(
                    f"a camera path or actions were given, and {self.path} was trained with neither; leave them out, "
                    "or name a model that is steered"
                )

    def _steered(
        self,
        conditions: Sequence[WindowConditions],
        seeds: Sequence[int],
        num_frames: int,
        total_frames: int,
        fps: float,
    ) -> list[WindowConditions]:
        """Return the conditions of each seed's video, of all its windows; none of a model that is not steered."""
        self.check_conditions(conditions, fps)
        if len(conditions) not in (0, 1, len(seeds)):
            raise ConfigError(f"{len(conditions)} conditions for {len(seeds)} seeds; give one for all, or one for each")
        for one in conditions:
            require_length(one, num_frames, fps)
        of_each = [lengthened(one, num_frames, to_frames=total_frames, fps=fps) for one in conditions]
        return of_each * (len(seeds) if len(of_each) == 1 else 1)

    def frames_for(self, num_latent_frames: int) -> int:
        """Return the pixel frames behind the first latent frames.

        Raises DataError beyond what the model was trained on.
        """
        trained = self.require_windows().latent_shape[1]
        if num_latent_frames > trained:
            raise DataError(f"{num_latent_frames} latent frames were asked for, the model was trained on {trained}")
        return self.require_codec().config.pixel_frames(num_latent_frames)

    def encode_text(self, named: dict[str, str]) -> Tensor:
        """Return states [P, S, E] of the texts, in the order of their names; standard error tells what is cut off."""
        encoder = self._required(self.text, "text encoder", "text_encoder=TextConfig(...)")
        encoded = encoder.encode(list(named.values()))
        encoder.flush()
        if encoded.states_BSE.shape[-1] != self.config.text_width:
            raise ConfigError(
                f"the text encoder {encoder.name} has states of width {encoded.states_BSE.shape[-1]}, and {self.path} "
                f"reads model.text_width={self.config.text_width}; name the encoder that it was trained with"
            )
        if self.mesh.is_main:
            for name, dropped in zip(named, encoded.dropped_B.tolist(), strict=True):
                if dropped:
                    limit = encoder.max_tokens
                    print(f"the {name} is cut by {dropped} tokens to text.max_tokens={limit}", file=sys.stderr)
        return encoded.states_BSE.to(self.device, self.dtype)

    def weights_digest(self) -> str:
        """Return what names the weights, whatever they come from and whatever the layout. Every rank calls it."""
        return weights_digest(self.networks, self.mesh)

    def require_codec(self) -> Codec:
        """Return the tokenizer. Raises ConfigError where there is none."""
        return self._required(self.codec, "tokenizer", "tokenizer=PATH")

    def require_windows(self) -> TrainedWindows:
        """Return the windows. Raises ConfigError where they are not known."""
        return self._required(self.windows, "size of its windows", "window=WindowSize(...)")

    def require_trained(self) -> TrainedRun:
        """Return the run that trained the model. Raises ConfigError where no run of ours did."""
        if self.trained is None:
            raise ConfigError(f"{self.path} is no run of ours, whose data it could be judged on; name a run's folder")
        return self.trained

    def _required(self, part: PartT | None, what: str, argument: str) -> PartT:
        if part is None:
            raise ConfigError(f"{self.path} came without a {what}; pass open_world(..., {argument})")
        return part


def require_undivided(pieces: Sequence[nn.Module], mesh: Mesh) -> None:
    """Raises ConfigError where a pipeline divides the network, which is then no function to be called."""
    if mesh.pp.size() > 1:
        raise ConfigError(
            f"parallel.pp={mesh.pp.size()} leaves this rank {len(pieces)} pieces of the network, and it can only be "
            "called whole; open it with parallel.pp=1"
        )
