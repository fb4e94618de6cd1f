"""Two world models, the source of a conversion and its result, on one fixed input.

Weights are loaded block by block, so that a model larger than the memory can be compared. Where diffusers is installed
and a folder of its layout fits into memory, that side is run by diffusers' own class instead.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from cosmos_train.interop import compare_ar
from cosmos_train.interop.names import official_tensors
from cosmos_train.interop.names_dit import diffusers_name
from cosmos_train.interop.pipeline import transformer_arguments
from cosmos_train.interop.single_blocks import filled, single_blocks
from cosmos_train.interop.source import WorldSource
from cosmos_train.interop.stores import TensorStore
from cosmos_train.models.common.uncertainty import LearnedUncertainty
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.model import NORM_EPS, DiT
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.layers import native_layers
from cosmos_train.parallel.mcore import transformer_config

FPS = 10.0


@dataclass(frozen=True, slots=True)
class FixedInput:
    """A small video with padding, conditioning frames and whatever else the network reads."""

    x_BCTHW: Tensor
    c_noise_B: Tensor
    text_BSE: Tensor
    condition_mask_B1THW: Tensor | None
    padding_mask_B1HW: Tensor | None
    extra_BCTHW: Tensor | None
    action_BTRA: Tensor | None
    embodiment_B: Tensor | None

    @classmethod
    def of(cls, config: DiTConfig) -> "FixedInput":
        """Up to 3 frames of 3 x 5 patches, smaller where the position tables are."""
        limits = config.table_rows if config.position_tables else (3, 3, 5)
        t, h, w = (min(size, limit) for size, limit in zip((3, 3, 5), limits, strict=True))
        height, width = h * config.patch_spatial, w * config.patch_spatial
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        x, text = draw(1, config.latent_channels, t, height, width), draw(1, 6, config.text_width)
        condition = torch.zeros(1, 1, t, height, width)
        condition[:, :, 0] = 1
        padding = torch.zeros(1, 1, height, width)
        padding[..., width // 2 :] = 1
        return cls(
            x,
            torch.tensor([0.4]),
            text,
            condition if config.condition_mask else None,
            padding if config.padding_mask else None,
            draw(1, config.extra_channels, t, height, width) if config.extra_channels else None,
            draw(1, t if config.action_frames == "each" else 1, 1, config.action_width)
            if config.action_width
            else None,
            torch.zeros(1, dtype=torch.int64) if config.num_embodiments else None,
        )


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a world model makes of its fixed input, in fp32."""

    output: Tensor
    """F of a diffusion model, logits of an autoregressive one."""
    uncertainty: Tensor | None
    """u(sigma), where a diffusion model learned it."""
    by: str
    """What computed it."""
    size_THW: tuple[int, int, int]
    """Latent frames, rows and columns of the input."""


@torch.inference_mode()
def outputs(source: WorldSource) -> Outputs:
    """Of the fixed input of a world model's kind."""
    if isinstance(source.config, WorldARConfig):
        return Outputs(compare_ar.logits(source), None, "the weights as read", compare_ar.SIZE_THW)
    given = FixedInput.of(source.config)
    peer = _diffusers_network(source) if source.layout == "diffusers" else None
    uncertainty = _uncertainty(source.ours)(given.c_noise_B) if source.learned_uncertainty else None
    _, _, t, h, w = given.x_BCTHW.shape
    if peer is not None:
        return Outputs(peer(given), uncertainty, "diffusers' CosmosTransformer3DModel", (t, h, w))
    return Outputs(_forward(source, source.config, given), uncertainty, "the weights as read", (t, h, w))


def _forward(source: WorldSource, config: DiTConfig, given: FixedInput) -> Tensor:
    """Our network, one block in memory at a time."""
    parallel = ParallelConfig()
    mesh = init.start(parallel, seed=0)
    mcore = transformer_config(
        parallel, dtype=torch.float32, num_layers=config.num_blocks, width=config.width, num_heads=config.num_heads
    )
    layers, hidden = native_layers(parallel, mcore, mesh), None
    for stage in single_blocks(config.num_blocks):
        hidden = filled(lambda stage=stage: DiT(config, layers, stage), source.ours, "net.")(
            given.x_BCTHW,
            given.c_noise_B,
            given.text_BSE,
            fps_B=[FPS],
            condition_mask_B1THW=given.condition_mask_B1THW,
            padding_mask_B1HW=given.padding_mask_B1HW,
            extra_BCTHW=given.extra_BCTHW,
            action_BTRA=given.action_BTRA,
            embodiment_B=given.embodiment_B,
            hidden_LBD=hidden,
        )
    assert hidden is not None, "a world model has at least one block"
    return hidden


def _uncertainty(ours: TensorStore) -> LearnedUncertainty:
    module = LearnedUncertainty()
    names = ("frequency", "phase", "linear.weight")
    module.load_state_dict({name: ours.read(f"uncertainty.{name}").float() for name in names})
    return module


def _diffusers_network(source: WorldSource) -> Callable[[FixedInput], Tensor] | None:
    needed = 4 * source.num_parameters
    if importlib.util.find_spec("diffusers") is None or needed > psutil.virtual_memory().available / 2:
        return None
    network = diffusers_network(source)

    def forward(given: FixedInput) -> Tensor:
        has_frames = given.x_BCTHW.shape[2] > 1
        return network(
            given.x_BCTHW,
            given.c_noise_B,
            given.text_BSE,
            fps=FPS if has_frames else None,
            condition_mask=given.condition_mask_B1THW,
            padding_mask=given.padding_mask_B1HW,
            return_dict=False,
        )[0]

    return forward


def diffusers_network(source: WorldSource) -> Any:
    """diffusers' CosmosTransformer3DModel with a source's weights, in fp32 and eval mode."""
    module = transformer_module()
    network = module.CosmosTransformer3DModel(**transformer_arguments(source.require_dit()))
    entries = [entry for entry in source.entries if entry.ours.startswith("net.")]
    tensors = official_tensors(entries, source.ours)
    network.load_state_dict({diffusers_name(name): tensor.float() for name, tensor in tensors}, assign=True)
    return use_released_epsilon(network)


def transformer_module() -> Any:
    """diffusers' module of the network. It resizes the padding mask with torchvision, which nothing else here needs.

    Without torchvision the module lacks that name, and its network ends in a NameError; its nearest is torch's.
    """
    module: Any = importlib.import_module("diffusers.models.transformers.transformer_cosmos")
    if not hasattr(module, "transforms"):
        module.transforms = SimpleNamespace(
            InterpolationMode=SimpleNamespace(NEAREST="nearest"),
            functional=SimpleNamespace(
                resize=lambda x, size, interpolation: F.interpolate(x, size, mode=interpolation)
            ),
        )
    return module


def use_released_epsilon(network: Any) -> Any:
    """The network in eval mode with 1e-6 in the norms of queries and keys: diffusers leaves its own default, 1e-5."""
    for block in network.transformer_blocks:
        for attention in (block.attn1, block.attn2):
            attention.norm_q.eps = attention.norm_k.eps = NORM_EPS
    return network.eval()
