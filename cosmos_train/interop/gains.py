"""What a run's network may have more than the checkpoint that it starts from, and how that begins.

Diffusion: further input channels, such as Video2World from Text2World or a camera's path, whose columns of the patch
embedding are zero; and networks of actions, whose last layers are zero. Autoregressive: cross-attention, whose output
is zero, or a network of actions, which then gives it zeros to read. At first none changes what the network computes,
but where actions take the place of text. A begin token is new input, and its rows of the table of codes keep their
first weights.
"""

import fnmatch
from collections.abc import Sequence

import torch
from torch import Tensor

from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import local_slice

Config = DiTConfig | WorldARConfig
CHANNELS, TOKENS = "net.embed.weight", "embed.weight"
"""The tensors that grow."""
ADDED = (
    "blocks.*.cross_attention.out.weight",
    "net.action.*.out.weight",
    "net.action.*.out.bias",
    "action.out.weight",
    "action.out.bias",
)
"""New ones that add to what a trained network computes. The diffusion model always has cross-attention."""
ACTIONS = "net.action.*"
"""Pattern of the tensors of a network of actions."""
TEXT = "blocks.*.cross_attention.*, blocks.*.cross_norm.weight"
"""Patterns of cross-attention's tensors."""


def growing(found: Config, wanted: Config) -> str:
    """The name of the one tensor that both have, larger in the run; empty where none is."""
    if isinstance(found, DiTConfig) and isinstance(wanted, DiTConfig) and _is_wider(found, wanted):
        return CHANNELS
    if isinstance(found, WorldARConfig) and isinstance(wanted, WorldARConfig) and _begins(found, wanted):
        return TOKENS
    return ""


def begin(name: str, tensor: Tensor) -> None:
    """First values of a tensor that the checkpoint lacks, which otherwise keeps those that it has."""
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in ADDED):
        tensor.zero_()


def fill_grown(tensor: Tensor, whole: Tensor, found: Config, wanted: Config, mesh: Mesh) -> None:
    """The rank's part of the tensor that grows, out of the checkpoint's whole one."""
    if isinstance(found, DiTConfig) and isinstance(wanted, DiTConfig):
        tensor.copy_(local_slice(_with_new_channels(whole, found, wanted), tensor, mesh))
    elif isinstance(wanted, WorldARConfig):
        row = local_slice(torch.arange(wanted.embedding_rows), tensor, mesh)
        is_given = row < len(whole)
        tensor[is_given] = whole[row[is_given]].to(tensor)


def remedy(found: Config, wanted: Config, differing: Sequence[str]) -> str:
    """What to set where these tensors differ; empty where nothing is known."""
    if isinstance(found, DiTConfig) and isinstance(wanted, DiTConfig):
        parts = [_remedy_of_channels(found, wanted) if CHANNELS in differing else "", _remedy_of_actions(found, wanted)]
        return "; ".join(filter(None, parts))
    if isinstance(found, WorldARConfig) and isinstance(wanted, WorldARConfig):
        parts = []
        if _begins(found, wanted) and TOKENS in differing:
            parts.append(f"a begin token of its own: {TOKENS}")
        if wanted.cross_attention and not found.cross_attention:
            parts.append(f"attention to text, which at first adds nothing: {TEXT}")
        if wanted.action_width and not found.action_width:
            parts.append("actions in the text's place, which at first say nothing: action.*")
        return f"to start from it, list in checkpoint.init_new what this run adds: {'; '.join(parts)}" if parts else ""
    return ""


def _begins(found: WorldARConfig, wanted: WorldARConfig) -> bool:
    same = (found.width, found.vocab_size) == (wanted.width, wanted.vocab_size)
    return same and wanted.begin_token and not found.begin_token


def _channels(config: DiTConfig) -> list[str]:
    """What each input channel of the network is, in order."""
    masks = ["condition mask"] * config.condition_mask
    extra = [f"extra channel {i}" for i in range(config.extra_channels)]
    return (
        [f"latent {i}" for i in range(config.latent_channels)] + masks + extra + ["padding mask"] * config.padding_mask
    )


def _is_wider(found: DiTConfig, wanted: DiTConfig) -> bool:
    same = found.width == wanted.width and found.patch_spatial == wanted.patch_spatial
    return same and set(_channels(found)) < set(_channels(wanted))


def _with_new_channels(embed: Tensor, found: DiTConfig, wanted: DiTConfig) -> Tensor:
    """[D, C p p] of the checkpoint -> [D, C' p p] with zeros at the channels that it does not have."""
    cells = wanted.patch_spatial**2
    source, channels = embed.unflatten(1, (-1, cells)), _channels(found)
    target = embed.new_zeros(len(embed), wanted.in_channels, cells)
    for column, channel in enumerate(_channels(wanted)):
        if channel in channels:
            target[:, column] = source[:, channels.index(channel)]
    return target.flatten(1)


def _remedy_of_actions(found: DiTConfig, wanted: DiTConfig) -> str:
    if found.action_width and not wanted.action_width:
        return (
            "its network is steered by actions, which this run's does not read: set model.action_frames and "
            f"model.action_width={found.action_width}, or list {ACTIONS} in checkpoint.init_unused"
        )
    if wanted.action_width and not found.action_width:
        return (
            f"its network reads no actions: to start from it, list {ACTIONS} in checkpoint.init_new, and they add "
            "nothing at first"
        )
    return ""


def _remedy_of_channels(found: DiTConfig, wanted: DiTConfig) -> str:
    if _is_wider(found, wanted):
        added = [channel for channel in _channels(wanted) if channel not in _channels(found)]
        return (
            f"its network reads {found.in_channels} channels, this run's {wanted.in_channels}, with "
            f"{', '.join(added)} besides: to start from it, set checkpoint.init_new=[{CHANNELS}], and the new columns "
            "begin at zero"
        )
    if _is_wider(wanted, found):
        return (
            f"its network reads {found.in_channels} channels and this run's only {wanted.in_channels}; set "
            f"model.condition_mask={str(found.condition_mask).lower()}"
        )
    return ""
