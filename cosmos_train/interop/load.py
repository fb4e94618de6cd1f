"""A world model of any layout into this rank's pieces of a network, a tensor at a time: to be called, or trained on.

What the run has and the checkpoint lacks keeps its first weights, but only where its name is on a list; else it is an
error that names all of it. What a trained network gains begins without an effect (`gains`).
"""

import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop import gains
from cosmos_train.interop.gains import Config
from cosmos_train.interop.names import NUM_SHOWN
from cosmos_train.interop.source import WorldSource, open_source
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.world import WorldModel
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.mesh import Mesh, over_stages
from cosmos_train.parallel.param_groups import lr_factor
from cosmos_train.parallel.shard import local_slice, whole_shape
from cosmos_train.train.config import ADAPTERS, CheckpointConfig

log = logging.getLogger(__name__)


def warm_start(
    path: Path,
    pieces: Sequence[WorldModel] | Sequence[WorldAR],
    mesh: Mesh,
    config: CheckpointConfig,
    lr_factors: Mapping[str, float],
) -> None:
    """Fill the pieces of a run that begins with the world model at a path. Called on every rank.

    Args:
        config: its init_new and init_unused say what may differ.
        lr_factors: of the run's optimizer (optim.lr_factors).

    Raises:
        ConfigError: more than that differs, all of which is named; or something new would never be trained.
    """
    source = open_source(path, verify=False)  # train.checkpoint.start has compared it, on all ranks together
    is_new = load_pieces(source, pieces, mesh, new=config.init_new, unused=config.init_unused)
    frozen = sorted(name for name in is_new if lr_factor(name, lr_factors) == 0)
    if frozen:
        raise ConfigError(
            f"{', '.join(frozen[:NUM_SHOWN])}{' and more' if len(frozen) > NUM_SHOWN else ''}: the checkpoint lacks it "
            f"(checkpoint.init_new={list(config.init_new)}), and optim.lr_factors={dict(lr_factors)} leaves it as it "
            "begins for ever; give its pattern a factor above 0"
        )


@torch.no_grad()
def load_pieces(
    source: WorldSource,
    pieces: Sequence[WorldModel] | Sequence[WorldAR],
    mesh: Mesh,
    *,
    new: Sequence[str] = (),
    unused: Sequence[str] = (),
) -> set[str]:
    """Fill the parameters and buffers of the pieces, and return the names of those that the checkpoint lacks, or has
    smaller. Called on every rank.

    Args:
        new: names, or patterns of them, that the checkpoint may lack (checkpoint.init_new).
        unused: names, or patterns of them, that the run may lack (checkpoint.init_unused).

    Raises:
        ConfigError: tensors differ that are on no list; all are named.
    """
    config = pieces[0].net.config if isinstance(pieces[0], WorldModel) else pieces[0].config
    stored = dict[str, object]()
    for piece in pieces:
        stored |= piece.state_dict(keep_vars=True)
    mine = {
        name: tensor
        for name, tensor in stored.items()
        if isinstance(tensor, Tensor) and not fnmatch.fnmatchcase(name, ADAPTERS)  # no source has a run's adapters
    }
    wanted = over_stages({name: whole_shape(tensor, mesh) for name, tensor in mine.items()}, mesh)
    found = {name: tuple(tensor.shape) for name, tensor in source.ours.meta.items()}
    _check_positions(source, config)
    is_new = {name for name in wanted.keys() - found.keys() if _matches(name, new)}
    is_unused = {name for name in found.keys() - wanted.keys() if _matches(name, unused)}
    growing = gains.growing(source.config, config)
    grown = {growing} if growing in wanted and _matches(growing, new) else set()
    differing = [
        name
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name) and name not in is_new | is_unused | grown
    ]
    if differing:
        raise ConfigError(_difference(source, config, differing, wanted, found))
    for name, tensor in mine.items():
        if name in is_new:
            gains.begin(name, tensor)
        elif name in grown:
            gains.fill_grown(tensor, source.ours.read(name), source.config, config, mesh)
        else:
            tensor.copy_(local_slice(source.ours.read(name), tensor, mesh))
    return is_new | grown


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _check_positions(source: WorldSource, wanted: Config) -> None:
    """Positions and padding have no tensor that could differ. Another choice of them is said aloud."""
    if isinstance(wanted, DiTConfig):
        found = source.require_dit()
        fixed = {"head_dim": (found.head_dim, wanted.head_dim), "base_fps": (found.base_fps, wanted.base_fps)}
        chosen: dict[str, tuple[object, object]] = {
            "rope_scale_t, _h, _w": (
                (found.rope_scale_t, found.rope_scale_h, found.rope_scale_w),
                (wanted.rope_scale_t, wanted.rope_scale_h, wanted.rope_scale_w),
            )
        }
        if found.action_width and wanted.action_width:
            chosen["action_into"] = (found.action_into, wanted.action_into)
            chosen["action_frames"] = (found.action_frames, wanted.action_frames)
    else:
        found = source.require_ar()
        fixed = {"head_dim": (found.head_dim, wanted.head_dim), "rope_theta": (found.rope_theta, wanted.rope_theta)}
        chosen = {
            "yarn_scale": (found.yarn_scale, wanted.yarn_scale),
            "yarn_beta_fast": (found.yarn_beta_fast, wanted.yarn_beta_fast),
            "yarn_beta_slow": (found.yarn_beta_slow, wanted.yarn_beta_slow),
            "yarn_original_THW": (found.yarn_original_THW, wanted.yarn_original_THW),
            "yarn_spatial": (found.yarn_spatial, wanted.yarn_spatial),
            "absolute_positions": (found.absolute_positions, wanted.absolute_positions),
            "ffn_padding": (found.ffn_padding, wanted.ffn_padding),
        }
    for key, (theirs, ours) in fixed.items():
        if theirs != ours:
            raise ConfigError(f"{source.path} has model.{key}={theirs}, this run {ours}; set the former")
    for key, (theirs, ours) in chosen.items():
        if theirs != ours and dist.get_rank() == 0:
            log.warning("%s has model.%s = %s, this run %s", source.path, key, theirs, ours)


def _difference(
    source: WorldSource,
    config: Config,
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
    remedy = gains.remedy(source.config, config, differing) or remedy
    return f"{source.path} is not the model of this run; {'; '.join(parts)}; {remedy}"
