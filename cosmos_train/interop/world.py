"""A diffusion world model out of any file or folder, to be called from Python: network, denoiser, loss, samplers.

In one process.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_sampling
from cosmos_train.generate.config import SampleConfig
from cosmos_train.generate.world import Scene, sample_world
from cosmos_train.interop.load import load_world
from cosmos_train.interop.source import open_world
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import DiT
from cosmos_train.models.dit.world import WorldModel, build_world_model
from cosmos_train.objectives.config import EdmConfig
from cosmos_train.objectives.edm import NoiseDraw, add_noise, c_in, c_noise, denoised, edm_loss
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig


def read_world_model(
    path: Path | str,
    arguments: Mapping[str, Any] | None = None,
    *,
    weights: str = "network",
    dtype: torch.dtype = torch.float32,
    objective: EdmConfig | None = None,
) -> "World":
    """The diffusion world model in a file or folder of any layout (see `source`); nothing is written.

    The process is another one afterwards. torch.distributed and megatron-core have groups, of this process alone unless
    the environment names more, until cosmos_train.parallel.init.stop(), after which the model still computes. Where
    there is no GPU, some functions of torch.cuda and of megatron-core have been replaced for the rest of the process,
    and "cuda" means the CPU (cosmos_train.parallel.cpu). Importing this module does none of that.

    Args:
        arguments: of the official constructor, for what an official file's tensors do not tell.
        weights: network or ema, for what holds both.
        dtype: number format of the network; the learned uncertainty stays in fp32.
        objective: sigma_data and loss_scale; the defaults are the released ones.

    Raises:
        ConfigError, TokenizerError: there is none, or it is damaged.
    """
    source = open_world(path, arguments, weights=weights)
    config, parallel = source.require_dit(), ParallelConfig()
    mesh = init.start(parallel, seed=0)
    with mesh.device:
        [model], _ = build_world_model(
            config, parallel, mesh, dtype=dtype, seed=0, learned_uncertainty=source.learned_uncertainty
        )
    load_world(source, [model], mesh)
    return World(model.eval().requires_grad_(False), objective or EdmConfig(), tuple(source.notes))


def sample_config(name: str) -> SampleConfig:
    """One of the conventions in configs/sample (released, released_2ab, released_2mid, diffusers), or a YAML file."""
    return load_sampling(name)


@dataclass(frozen=True)
class World:
    """A loaded model. x are whitened latents times sigma_data, [B, C, T, H, W]; text are T5 states, [B, S, E].

    Conditions, by name, of every method but `loss` (which makes its own mask):
        fps: frames per second, a number, or one per sample; None leaves the rotary positions in time as they are, a
            latent frame 1 apart from the next, as config.base_fps does. Only for images, T = 1, may it be left out.
        condition_mask_B1THW: 1 at the conditioning frames; of Video2World models.
        padding_mask_B1HW: 1 where there is padding, of latent cells or of pixels; none means nowhere.
        extra_BCTHW: the further channels of a model that has any, such as Pluecker coordinates.
        text_mask_BS: 1 at the text states that cross-attention sees; none, as in the released models: all of them.
    """

    model: WorldModel
    objective: EdmConfig
    notes: tuple[str, ...] = ()
    """What the file did not tell, and what was taken instead."""

    @property
    def config(self) -> DiTConfig:
        """The architecture."""
        return self.network.config

    @property
    def network(self) -> DiT:
        """The network alone."""
        return self.model.net

    def __call__(self, x_BCTHW: Tensor, c_noise: Tensor, text_BSE: Tensor, **conditions: Any) -> Tensor:
        """F, the raw network: x already times c_in; c_noise = ln(sigma) / 4, the official `timesteps`, [B] or one."""
        if "fps" not in conditions and x_BCTHW.shape[2] > 1:
            raise ConfigError(
                f"fps is missing, and {x_BCTHW.shape[2]} latent frames need one; give frames per second, e.g. 24, or "
                "None for no scaling by it"
            )
        fps_B = self._fps_of(conditions.pop("fps", None), len(x_BCTHW))
        _require_text(conditions.get("text_mask_BS"))
        return self.network(x_BCTHW, c_noise.reshape(-1), text_BSE, fps_B=fps_B, **conditions)

    def denoise(self, x_BCTHW: Tensor, sigma: Tensor | float, text_BSE: Tensor, **conditions: Any) -> Tensor:
        """D(x; sigma), the estimate of the clean sample; sigma is one number or [B]."""
        sigma_B = torch.as_tensor(sigma, dtype=torch.float32, device=x_BCTHW.device).reshape(-1)
        net_input = x_BCTHW * c_in(sigma_B, self.objective.sigma_data)[:, None, None, None, None]
        output = self(net_input, c_noise(sigma_B), text_BSE, **conditions)
        return denoised(output, x_BCTHW, sigma_B, self.objective.sigma_data)

    def uncertainty(self, sigma_B: Tensor) -> Tensor | None:
        """u(sigma) [B], the official `logvar`; none where the file has none."""
        return None if self.model.uncertainty is None else self.model.uncertainty(c_noise(sigma_B))

    def loss(
        self,
        x0_BCTHW: Tensor,
        noise_BCTHW: Tensor,
        sigma_B: Tensor,
        text_BSE: Tensor,
        *,
        fps: float | Sequence[float] | Tensor | None,
        num_condition_frames: int | Tensor = 0,
        augment_noise_BCTHW: Tensor | None = None,
        augment_sigma_B: Tensor | None = None,
        drop_condition_B: Tensor | None = None,
        padding_mask_B1HW: Tensor | None = None,
        extra_BCTHW: Tensor | None = None,
        text_mask_BS: Tensor | None = None,
        reduction: str = "mean",
    ) -> tuple[Tensor, Tensor]:
        """(EDM loss, its weighted squared error without the learned uncertainty), of given data and draws.

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

    def sample(
        self,
        noise_BCTHW: Tensor,
        text_BSE: Tensor,
        *,
        fps: float | Sequence[float] | Tensor | None,
        config: SampleConfig | str = "released",
        negative_text_BSE: Tensor | None = None,
        text_mask_BS: Tensor | None = None,
        negative_text_mask_BS: Tensor | None = None,
        given_BCTHW: Tensor | None = None,
        augment_noise_BCTHW: Tensor | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Latents that the sampler makes of a first noise of deviation 1; `config` scales it.

        Args:
            config: one of configs/sample by name, or a SampleConfig.
            negative_text_BSE: what guidance leads away from; zeros by default, as in the official code.
            text_mask_BS, negative_text_mask_BS: 1 at the states of either that are seen; all by default, as released.
            given_BCTHW: Video2World: latents whose first config.num_condition_frames are the conditions.
            augment_noise_BCTHW: noise of deviation 1 that config.augment_sigma puts on them, of all frames or [1, ...];
                by default that of the sample's number as a seed.
        """
        chosen = sample_config(config) if isinstance(config, str) else config
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
        )
        return sample_world(
            partial(self.network, **conditions),
            scene,
            chosen,
            sigma_data=self.objective.sigma_data,
            has_condition_mask=self.config.condition_mask,
        )

    def _fps_of(self, fps: float | Sequence[float] | Tensor | None, batch: int) -> list[float]:
        """One rate a sample. ConfigError for what is no rate."""
        if fps is None:
            return [self.config.base_fps] * batch
        rates = torch.as_tensor(fps, dtype=torch.float64).reshape(-1).tolist()
        if len(rates) not in (1, batch) or not all(0 < rate < float("inf") for rate in rates):
            raise ConfigError(f"fps={rates} must be one number greater than 0, or {batch}, one for each sample")
        return rates * (batch // len(rates))


def _require_text(mask_BS: Tensor | None) -> None:
    """ConfigError for a text mask that leaves a sample nothing to attend to."""
    if mask_BS is not None and not bool(mask_BS.bool().any(dim=-1).all()):
        raise ConfigError("a text mask has a row of zeros, which leaves no text to attend to; mark at least one state")
