"""Whether a checkpoint is whole: all ranks compare it with its digests, and share the reading."""

import itertools
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cosmos_train.parallel.mesh import Mesh, from_main
from cosmos_train.train.checkpoint.folder import MARKER, CheckpointError, damage_of
from cosmos_train.train.checkpoint.metadata import files_of

SHOWN = 3
"""An error names so many of what it is about."""


def require_whole(folder: Path, mesh: Mesh | None, *, contents: bool, kinds: Sequence[str] | None = None) -> None:
    """Compare a checkpoint that is about to be read with its digests.

    Args:
        mesh: all of its ranks call this, and share the reading; None: this process reads all.
        contents: checkpoint.verify; without it sizes are compared.
        kinds: which tensors are about to be read, such as model; files without any of them are not looked at.

    Raises:
        CheckpointError: it is damaged.
    """
    if mesh is None:
        only = None if kinds is None else files_of(folder, kinds)
        damage = first_few(damage_of(folder, contents=contents, only=only))
    else:
        only = None if kinds is None else from_main(mesh, lambda: files_of(folder, kinds))
        damage = damage_on_all(folder, mesh, contents=contents, only=only)
    if damage:
        raise CheckpointError(f"{folder} is damaged ({damage}); restore it, or name another one")


def damage_on_all(folder: Path, mesh: Mesh, *, contents: bool, only: Collection[str] | None = None) -> str:
    """Say what differs from its digests, as damage_of has it, the same on every rank.

    Every rank calls it; they share the reading.

    Raises:
        CheckpointError: on every rank, where a rank sees another folder than rank 0, or damage_of raises on one.
    """
    found: list[Any] = [None] * mesh.world.size()
    try:
        mine = damage_of(folder, contents=contents, only=only, part=mesh.world.rank(), num_parts=mesh.world.size())
    except CheckpointError as error:
        mine = error
    dist.all_gather_object(found, (_seal_of(folder), mine), group=mesh.world)
    others = [str(rank) for rank, (seal, _) in enumerate(found) if seal != found[0][0]]
    if others:  # no damage: rank 0 may see what they do not see yet, or have what lies on its own node alone
        raise CheckpointError(
            f"{folder} is not the same on all nodes: rank {', '.join(others[:SHOWN])} sees another {MARKER} than rank "
            "0; put it on a file system that all nodes see, and start again"
        )
    for _, of_rank in found:
        if isinstance(of_rank, CheckpointError):
            raise of_rank
    phrases = itertools.chain.from_iterable(of_rank for _, of_rank in found)
    return first_few(dict.fromkeys(phrases))


def first_few(phrases: Iterable[str]) -> str:
    """Join so many of the phrases as an error shows, and say how many more there are."""
    shown = list(phrases)
    more = [f"and {len(shown) - SHOWN} more"] if len(shown) > SHOWN else []
    return "; ".join([*shown[:SHOWN], *more])


def _seal_of(folder: Path) -> bytes | None:
    """Read what this rank sees of complete.json; None where it sees none."""
    try:
        return (folder / MARKER).read_bytes()
    except OSError:
        return None
