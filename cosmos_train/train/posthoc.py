"""A power-law average of another width than those that were kept, made of a finished run's snapshots.

    RUN/ema/step-00001000, ...      the averages of optim.ema_sigma_rels, as they stood after those steps

The snapshots are summed with the factors of cosmos_train.train.ema.reconstruction. What comes out is a checkpoint
folder with weights alone: `cosmos-train sample` and `evaluate` read it, and so does checkpoint.init_from.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cosmos_train.conditions.action_statistics import ACTIONS
from cosmos_train.config.load import load_run
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train.checkpoint.folder import SNAPSHOTS, CheckpointError, list_named, read_progress, resolve
from cosmos_train.train.checkpoint.load import read_tensors, tensor_names
from cosmos_train.train.checkpoint.save import save_tensors
from cosmos_train.train.checkpoint.verify import require_whole
from cosmos_train.train.ema import Snapshot, reconstruction, width_of


def reconstruct(
    run_dir: Path,
    out: Path,
    mesh: Mesh,
    *,
    sigma_rel: float,
    step: int | None = None,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
) -> float:
    """Write the average of that width after that step (none: the last snapshot's) to a folder, from one process.

    Holds the model once in fp32, and once more as one snapshot.

    Args:
        progress: called with (snapshots read, snapshots in all).

    Returns:
        How much of the wanted profile the snapshots can not express, as a part of it.

    Raises:
        CheckpointError: there is no snapshot of that step, one is damaged (checkpoint.verify), or `out` exists.
        ValueError: there is no power-law average of that width.
    """
    if out.exists():
        raise CheckpointError(f"--out {out} exists already; name a folder that does not")
    found, newest = find_snapshots(run_dir, step), resolve(run_dir)
    verify = load_run(str(newest / "run.yaml")).checkpoint.verify
    for folder in dict.fromkeys(folder for _, folder, _ in found):
        require_whole(folder, mesh, contents=verify)
    require_whole(newest, mesh, contents=verify, kinds=("model",))
    wanted = Snapshot(max(snapshot.step for snapshot, _, _ in found), sigma_rel)
    factors, missed = reconstruction([snapshot for snapshot, _, _ in found], wanted)
    total: dict[str, Tensor] = {}
    for number, ((_, folder, average), factor) in enumerate(zip(found, factors, strict=True), start=1):
        _add(total, folder, average, factor)
        progress(number, len(found))
    dtypes = {name: dtype for name, (_, dtype) in tensor_names(newest).items() if name.startswith("model.")}
    rest = read_tensors(newest, dtypes.keys() - total.keys())  # buffers have no average
    weights = {name: tensor.to(dtypes[name]) for name, tensor in (total | rest).items()}
    last = read_progress(newest)
    about = replace(
        last,
        step=wanted.step,
        samples_consumed=wanted.step * last.samples_consumed // max(1, last.step),
        layout=f"average of sigma_rel {sigma_rel:g}",
        skipped_steps=None,  # no optimizer comes along
    )
    beside = newest / ACTIONS
    texts = {ACTIONS: beside.read_text(encoding="utf-8")} if beside.is_file() else {}
    save_tensors(out, weights, mesh, about, (newest / "run.yaml").read_text(), texts)
    return missed


def find_snapshots(run_dir: Path, step: int | None) -> list[tuple[Snapshot, Path, str]]:
    """(what it is, its folder, what its tensors' names begin with) of every snapshot up to a step, or of all.

    Raises CheckpointError where there is none, one is damaged, or there is none of that step: later ones tell little of
    what lies between.
    """
    snapshots = run_dir / SNAPSHOTS
    named = list_named(run_dir, SNAPSHOTS)
    folders = {read_progress(folder).step: folder for folder in named}
    if not folders:
        raise CheckpointError(
            f"{snapshots} holds no snapshots of power-law averages; train with optim.ema_sigma_rels=[0.05,0.1], which "
            "can not be caught up on later"
        )
    if step is not None and step not in folders:
        raise CheckpointError(
            f"{snapshots} holds none of step {step}: there are {', '.join(map(str, sorted(folders)))}; name one of them"
        )
    found = []
    for saved in sorted(folders):
        if step is None or saved <= step:
            keys = {name.partition(".")[0] for name in tensor_names(folders[saved])}
            found += [(Snapshot(saved, width_of(key)), folders[saved], key) for key in sorted(keys)]
    return found


@torch.no_grad()
def _add(total: dict[str, Tensor], folder: Path, average: str, factor: float) -> None:
    names = [name for name in tensor_names(folder) if name.startswith(f"{average}.")]
    for name, tensor in read_tensors(folder, names).items():
        key = f"model.{name.removeprefix(f'{average}.')}"
        total[key] = total[key].add_(tensor, alpha=factor) if key in total else tensor.mul_(factor)
