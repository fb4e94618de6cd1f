"""A world model of any layout into this rank's pieces of a run, a tensor at a time: warm starts and post-training.

What the run has and the checkpoint lacks keeps its first weights, but only where its name is on a list; else it is an
error that names all of it. Among them is one tensor that both have: the patch embedding of a network with more input
channels, such as Video2World from Text2World. Its new columns become zero, so that at first they change nothing.
"""

import fnmatch
import logging
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.source import WorldSource
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.world import WorldModel
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import local_slice, whole_shape

EMBED = "net.embed.weight"

log = logging.getLogger(__name__)


@torch.no_grad()
def load_world(
    source: WorldSource,
    pieces: Sequence[WorldModel],
    mesh: Mesh,
    *,
    new: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> None:
    """Fill the parameters and buffers of the pieces. Called on every rank.

    Args:
        new: names, or patterns of them, that the checkpoint may lack (checkpoint.init_new).
        unused: names, or patterns of them, that the run may lack (checkpoint.init_unused).

    Raises:
        ConfigError: tensors differ that are on no list; all are named.
    """
    config = pieces[0].net.config
    mine = {name: tensor for piece in pieces for name, tensor in piece.state_dict(keep_vars=True).items()}
    mine = {name: tensor for name, tensor in mine.items() if isinstance(tensor, Tensor)}
    wanted = _over_stages({name: whole_shape(tensor, mesh) for name, tensor in mine.items()}, mesh)
    found = {name: tuple(tensor.shape) for name, tensor in source.ours.meta.items()}
    _check_position(source.config, config, source)
    is_new = {name for name in wanted.keys() - found.keys() if _matches(name, new)}
    is_unused = {name for name in found.keys() - wanted.keys() if _matches(name, unused)}
    widened = wanted[EMBED] != found.get(EMBED) and _matches(EMBED, new) and _is_wider(source.config, config)
    differing = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name) and name not in is_new | is_unused and not (widened and name == EMBED)
    ]
    if differing:
        raise ConfigError(_difference(source, config, differing, wanted, found))
    for name, tensor in mine.items():
        if name in is_new:
            continue
        whole = source.ours.read(name)
        if widened and name == EMBED:
            whole = _with_new_channels(whole, source.config, config)
        tensor.copy_(local_slice(whole, tensor, mesh))


def _over_stages(mine: dict[str, tuple[int, ...]], mesh: Mesh) -> dict[str, tuple[int, ...]]:
    stages: list[dict[str, tuple[int, ...]]] = [{} for _ in range(mesh.pp.size())]
    dist.all_gather_object(stages, mine, group=mesh.pp)
    return {name: shape for stage in stages for name, shape in stage.items()}


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_position(found: DiTConfig, wanted: DiTConfig, source: WorldSource) -> None:
    """Rotary positions have no tensor that could differ. Another extrapolation is a choice; it is said aloud."""
    for key, theirs, ours in (
        ("head_dim", found.head_dim, wanted.head_dim),
        ("base_fps", found.base_fps, wanted.base_fps),
    ):
        if theirs != ours:
            raise ConfigError(f"{source.path} has model.{key}={theirs}, this run {ours}; set the former")
    scales, own = ((c.rope_scale_t, c.rope_scale_h, c.rope_scale_w) for c in (found, wanted))
    if scales != own:
        log.warning("%s has model.rope_scale_t, _h, _w = %s, this run %s", source.path, scales, own)


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


def _difference(
    source: WorldSource,
    config: DiTConfig,
    differing: list[str],
    wanted: dict[str, tuple[int, ...]],
    found: dict[str, tuple[int, ...]],
) -> str:
    missing = [name for name in differing if name not in found]
    unexpected = [name for name in differing if name not in wanted]
    sizes = [
        f"{name} {'x'.join(map(str, found[name]))} instead of {'x'.join(map(str, wanted[name]))}"
        for name in differing
        if name in wanted and name in found
    ]
    parts = [
        f"{what}: {', '.join(names)}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another size", sizes))
        if names
    ]
    remedy = "list what may be new in checkpoint.init_new and what may stay unused in checkpoint.init_unused"
    if EMBED in differing and _is_wider(source.config, config):
        added = [channel for channel in _channels(config) if channel not in _channels(source.config)]
        remedy = (
            f"its network reads {source.config.in_channels} channels, this run's {config.in_channels}, with "
            f"{', '.join(added)} besides: to start from it, set checkpoint.init_new=[{EMBED}], and the new columns "
            "begin at zero"
        )
    elif EMBED in differing and _is_wider(config, source.config):
        remedy = (
            f"its network reads {source.config.in_channels} channels and this run's only {config.in_channels}; set "
            f"model.condition_mask={str(source.config.condition_mask).lower()}"
        )
    return f"{source.path} is not the model of this run; {'; '.join(parts)}; {remedy}"
