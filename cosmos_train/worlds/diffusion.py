"""A diffusion world model that can be called: network, denoiser, loss, samplers of latents and of videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import torch
from torch import Tensor

from cosmos_tok.model import shown, to_unit_range
from cosmos_train.conditions.conditioner import ConditionTensors
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_sampling
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.network import Evaluate, in_turn, on_halves, pipelined
from cosmos_train.generate.world import NOT_STEERED, Scene, sample_scene
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.models.dit.world import WorldModel, build_world_model
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.objectives.edm import NoiseDraw, add_noise, c_in, c_noise, denoised, edm_loss
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.worlds.world import OnStep, Prompts, WindowRequest, World, require_undivided

FramesPerSecond = float | Sequence[float] | Tensor | None
"""A number, or one for each sample; None leaves the rotary positions in time as they are, a latent frame 1 apart from
the next, as config.base_fps does."""


class Conditions(TypedDict, total=False):
    """The network is told these by name besides latents, noise level and text."""

    fps: FramesPerSecond
    """It may be left out of images alone, T = 1."""
    condition_mask_B1THW: Tensor | None
    """1 at the conditioning frames; of Video2World models."""
    padding_mask_B1HW: Tensor | None
    """1 where there is padding, of latent cells or of pixels; none means nowhere."""
    extra_BCTHW: Tensor | None
    """The further channels of a model that has any, such as Pluecker coordinates."""
    action_BTRA: Tensor | None
    """The actions of each latent frame, of a model that is steered by them (models.dit.model.DiT.forward)."""
    embodiment_B: Tensor | None
    """Whose they are, of a model that knows several embodiments."""
    text_mask_BS: Tensor | None
    """1 at the text states that cross-attention sees; none, as in the released models: all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusionWorld(World):
    """Latents x are whitened and scaled to sigma_data, [B, C, T, H, W]; text are encoder states, [B, S, E].

    `encode`, `decode`, `sample` and `sample_latents` work on every layout. What calls the network by itself, `denoise`
    and `loss` too, wants it whole, without a pipeline.
    """

    pieces: Sequence[WorldModel]
    network_on_layout: Evaluate
    """It computes F of each input, on the layout of the ranks."""
    objective: EdmConfig
    sampling: SampleConfig

    @classmethod
    def build(
        cls,
        config: DiTConfig,
        parallel: ParallelConfig,
        mesh: Mesh,
        *,
        path: Path,
        dtype: torch.dtype,
        seed: int,
        learned_uncertainty: bool,
        objective: EdmConfig,
        sampling: SampleConfig,
    ) -> "DiffusionWorld":
        """Build the network with its first weights, and nothing around it."""
        pieces, engine_config = build_world_model(
            config, parallel, mesh, dtype=dtype, seed=seed, learned_uncertainty=learned_uncertainty
        )
        networks = [piece.eval().net for piece in pieces]
        network_on_layout = in_turn(networks[0]) if mesh.pp.size() == 1 else pipelined(networks, engine_config, mesh)
        return cls(
            path=path,
            mesh=mesh,
            dtype=dtype,
            pieces=pieces,
            network_on_layout=network_on_layout,
            objective=objective,
            sampling=sampling,
        )

    @property
    def config(self) -> DiTConfig:
        """Return the architecture."""
        return self.pieces[0].net.config

    @property
    def networks(self) -> list[DiT]:
        """Return this rank's pieces of the network, without the learned uncertainty."""
        return [piece.net for piece in self.pieces]

    @property
    def model(self) -> WorldModel:
        """Return the network and its learned uncertainty. Raises ConfigError where a pipeline divides them."""
        require_undivided(self.pieces, self.mesh)
        return self.pieces[0]

    @property
    def network(self) -> DiT:
        """Return the network alone. Raises ConfigError where a pipeline divides it."""
        return self.model.net

    @property
    def num_parallel(self) -> int:
        """Return how many data-parallel ranks work on the same videos: two where they share the guidance."""
        return 2 if self.sampling.cfg_parallel else 1

    def __call__(self, x_BCTHW: Tensor, c_noise: Tensor, text_BSE: Tensor, **conditions: Unpack[Conditions]) -> Tensor:
        """Return F, what the raw network says.

        Args:
            x_BCTHW: already times c_in.
            c_noise: ln(sigma) / 4, the official `timesteps`; [B] or one number.
        """
        if "fps" not in conditions and x_BCTHW.shape[2] > 1:
            raise ConfigError(
                f"fps is missing, and {x_BCTHW.shape[2]} latent frames need one; give frames per second, e.g. 24, or "
                "None for no scaling by it"
            )
        fps_B = self._fps_of(conditions.pop("fps", None), len(x_BCTHW))
        _require_text(conditions.get("text_mask_BS"))
        return self.network(x_BCTHW, c_noise.reshape(-1), text_BSE, fps_B=fps_B, **conditions)

    def denoise(
        self, x_BCTHW: Tensor, sigma: Tensor | float, text_BSE: Tensor, **conditions: Unpack[Conditions]
    ) -> Tensor:
        """Return D(x; sigma), the estimate of the clean sample; sigma is one number or [B]."""
        sigma_B = torch.as_tensor(sigma, dtype=torch.float32, device=x_BCTHW.device).reshape(-1)
        net_input = x_BCTHW * c_in(sigma_B, self.objective.sigma_data)[:, None, None, None, None]
        output = self(net_input, c_noise(sigma_B), text_BSE, **conditions)
        return denoised(output, x_BCTHW, sigma_B, self.objective.sigma_data)

    def uncertainty(self, sigma_B: Tensor) -> Tensor | None:
        """Return u(sigma) [B], the official `logvar`; None where it was not learned."""
        return None if self.model.uncertainty is None else self.model.uncertainty(c_noise(sigma_B))

    def loss(
        self,
        x0_BCTHW: Tensor,
        noise_BCTHW: Tensor,
        sigma_B: Tensor,
        text_BSE: Tensor,
        *,
        fps: FramesPerSecond,
        num_condition_frames: int | Tensor = 0,
        augment_noise_BCTHW: Tensor | None = None,
        augment_sigma_B: Tensor | None = None,
        drop_condition_B: Tensor | None = None,
        padding_mask_B1HW: Tensor | None = None,
        extra_BCTHW: Tensor | None = None,
        text_mask_BS: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, Tensor]:
        """Return the EDM loss of given data and draws, and its weighted squared error without the learned uncertainty.

        Args:
            num_condition_frames: Video2World's first frames, [B] or one number: no error, but in the mean.
            augment_noise_BCTHW, augment_sigma_B: what is added to those frames; nothing by default.
            drop_condition_B: samples whose conditions and their mask are zeroed.
            reduction: mean over a sample's elements, or their sum (the official default); then the mean over samples.
        """
        batch, device = len(x0_BCTHW), x0_BCTHW.device
        zeros_B = torch.zeros(batch, device=device)
        draw = NoiseDraw(
            sigma_B=sigma_B,
            noise_BCTHW=noise_BCTHW,
            augment_sigma_B=zeros_B if augment_sigma_B is None else augment_sigma_B,
            augment_noise_BCTHW=torch.zeros_like(x0_BCTHW) if augment_noise_BCTHW is None else augment_noise_BCTHW,
            num_condition_frames_B=zeros_B.long() + num_condition_frames,
            drop_condition_B=zeros_B.bool() if drop_condition_B is None else drop_condition_B,
            drop_text_B=zeros_B.bool(),
            drop_steering_B=zeros_B.bool(),
        )
        noisy = add_noise(x0_BCTHW, draw, self.objective)
        mask = noisy.condition_mask_B1T11.expand(-1, -1, -1, *x0_BCTHW.shape[3:])
        output = self(
            noisy.net_input_BCTHW,
            c_noise(sigma_B),
            text_BSE,
            fps=fps,
            condition_mask_B1THW=mask if self.config.condition_mask else None,
            padding_mask_B1HW=padding_mask_B1HW,
            extra_BCTHW=extra_BCTHW,
            text_mask_BS=text_mask_BS,
        )
        loss, error = edm_loss(x0_BCTHW, output, noisy, sigma_B, self.uncertainty(sigma_B), self.objective)[:2]
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction={reduction!r} is neither mean nor sum")
        num_elements = x0_BCTHW[0].numel() if reduction == "sum" else 1
        return loss * num_elements, error * num_elements

    def sample_latents(
        self,
        noise_BCTHW: Tensor,
        text_BSE: Tensor,
        *,
        fps: FramesPerSecond,
        config: SampleConfig | str | None = None,
        negative_text_BSE: Tensor | None = None,
        text_mask_BS: Tensor | None = None,
        negative_text_mask_BS: Tensor | None = None,
        given_BCTHW: Tensor | None = None,
        augment_noise_BCTHW: Tensor | None = None,
        padding_mask_B1HW: Tensor | None = None,
        steering: ConditionTensors = NOT_STEERED,
    ) -> Tensor:
        """Return the latents that the sampler makes of a first noise of deviation 1; `config` scales it.

        Args:
            config: one of configs/sample by name, or a SampleConfig; `sampling` by default.
            negative_text_BSE: what guidance leads away from; zeros by default, as in the official code.
            text_mask_BS, negative_text_mask_BS: 1 at the states of either that are seen; all by default, as released.
            given_BCTHW: Video2World: latents whose first config.num_condition_frames are the conditions.
            augment_noise_BCTHW: noise of deviation 1 that config.augment_sigma puts on them, of all frames or [1, ...];
                by default that of the sample's number as a seed.
            padding_mask_B1HW: see Conditions.
            steering: camera path and actions, as `conditioner` makes them.
        """
        for mask in (text_mask_BS, negative_text_mask_BS):
            _require_text(mask)
        scene = Scene(
            text_BSE=text_BSE,
            negative_text_BSE=torch.zeros_like(text_BSE) if negative_text_BSE is None else negative_text_BSE,
            text_mask_BS=text_mask_BS,
            negative_text_mask_BS=negative_text_mask_BS,
            fps_B=self._fps_of(fps, len(noise_BCTHW)),
            shape_CTHW=tuple(noise_BCTHW.shape[1:]),  # pyright: ignore[reportArgumentType] four numbers
            seed_B=range(len(noise_BCTHW)),
            given_BCTHW=given_BCTHW,
            noise_BCTHW=noise_BCTHW,
            augment_noise_BCTHW=augment_noise_BCTHW,
            padding_mask_B1HW=padding_mask_B1HW,
            steering=steering,
        )
        return self._sample_scene(scene, load_sampling(config) if isinstance(config, str) else config or self.sampling)

    @torch.inference_mode()
    def encode(self, pixels_B3THW: Tensor) -> Tensor:
        """Return whitened latents times sigma_data of uint8 pixels."""
        codec = self.require_codec()
        z_BCTHW = codec.tokenizer.encode(to_unit_range(pixels_B3THW.to(self.device)))
        return codec.require_statistics().whiten(z_BCTHW.float()) * self.objective.sigma_data

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 pixels [B, 3, T, H, W] of whitened latents times sigma_data, on the CPU."""
        codec = self.require_codec()
        z_BCTHW = codec.require_statistics().unwhiten(latents / self.objective.sigma_data)
        return shown(codec.tokenizer.decode(z_BCTHW), f"a sample of {self.path}").cpu()

    def read_prompts(self, named: dict[str, str]) -> Prompts:
        """Return the states of texts and of the negative prompt: zeros, as training has for dropped text, if empty."""
        config = self.sampling
        negative = config.negative_prompt
        states_PSE = self.encode_text({**named, "negative prompt": negative})
        if not negative:
            states_PSE[-1] = 0
        return Prompts(text_PSE=states_PSE[:-1], negative_text_1SE=states_PSE[-1:])

    def num_steps(self, num_latent_frames: int) -> int:
        """Return the updates of the sample, which are as many however long it is."""
        return self.sampling.num_updates

    def sample_window(self, request: WindowRequest, on_step: OnStep = lambda _step: None) -> Tensor:
        """Return the latents of a window for each seed."""
        prompts = request.prompts
        assert prompts is not None and prompts.negative_text_1SE is not None, "read_prompts gives both"
        channels, _, height, width = self.require_windows().latent_shape
        scene = Scene(
            text_BSE=prompts.text_PSE,
            negative_text_BSE=prompts.negative_text_1SE,
            fps_B=request.fps_B,
            shape_CTHW=(channels, request.num_latent_frames, height, width),
            seed_B=request.seeds,
            given_BCTHW=request.given,
            steering=self.steering(request),
        )
        return self._sample_scene(scene, self.sampling, on_step)

    def _sample_scene(self, scene: Scene, config: SampleConfig, on_step: OnStep = lambda _step: None) -> Tensor:
        return sample_scene(
            on_halves(self.network_on_layout, self.mesh) if config.cfg_parallel else self.network_on_layout,
            scene,
            config,
            sigma_data=self.objective.sigma_data,
            has_condition_mask=self.config.condition_mask,
            on_step=on_step,
        )

    def _fps_of(self, fps: FramesPerSecond, batch: int) -> list[float]:
        """One rate a sample. Raises ConfigError for what is no rate."""
        if fps is None:
            return [self.config.base_fps] * batch
        rates = torch.as_tensor(fps, dtype=torch.float64).reshape(-1).tolist()
        if len(rates) not in (1, batch) or not all(0 < rate < float("inf") for rate in rates):
            raise ConfigError(f"fps={rates} must be one number greater than 0, or {batch}, one for each sample")
        return rates * (batch // len(rates))


def _require_text(mask_BS: Tensor | None) -> None:
    """Raises ConfigError for a text mask that leaves a sample nothing to attend to."""
    if mask_BS is not None and not bool(mask_BS.bool().any(dim=-1).all()):
        raise ConfigError("a text mask has a row of zeros, which leaves no text to attend to; mark at least one state")
