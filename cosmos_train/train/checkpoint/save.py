"""What a run saves: all that it goes on from, its power-law averages alone, or whole tensors.

    RUN/checkpoints/step-00000200/
        *.distcp, .metadata, common.pt, metadata.json     megatron-core's: model, optimizer, moving averages
        run.yaml                                          the run as it was configured
        digests.json                                      SHA-256 of each file, compared before it is read
        complete.json                                     written last: step, samples consumed, digest of the data,
                                                          score, layout, W&B id, code version

One folder each, complete or absent, readable by any layout (megatron-core's dist_checkpointing). It is written as
step-00000200.partial and renamed; a folder without complete.json is damaged, and never read. There is no generator
state in it: what is random in a run is a function of the seed and the sample's index.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from cosmos_train.parallel import optimizer_state
from cosmos_train.parallel.engine import Engine
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.train.checkpoint.folder import CHECKPOINTS, SNAPSHOTS, Progress
from cosmos_train.train.checkpoint.judge import ADAM_STEP
from cosmos_train.train.checkpoint.saver import Saver
from cosmos_train.train.checkpoint.state import describe_run, describe_slices
from cosmos_train.train.ema import PLAIN, Ema


def save_run(saver: Saver, run_dir: Path, engine: Engine, ema: Ema | None, progress: Progress, run_yaml: str) -> None:
    """Save where the run stands.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / CHECKPOINTS / f"step-{progress.step:08d}"
    updates = optimizer_state.adam_step(engine.optimizer, engine.mesh)
    progress = replace(progress, skipped_steps=progress.step - updates)
    saver.save(final, lambda: describe_run(engine, ema) | {ADAM_STEP: updates}, progress, run_yaml)


def save_snapshot(saver: Saver, run_dir: Path, engine: Engine, ema: Ema, progress: Progress, run_yaml: str) -> None:
    """Save the power-law averages alone in RUN/ema/step-..., where all stay: `cosmos-train ema` reads them.

    Raises:
        CheckpointError: as Saver.save does.
    """
    final = run_dir / SNAPSHOTS / f"step-{progress.step:08d}"
    keys = [key for key in ema.keys if key != PLAIN]
    saver.save(final, lambda: describe_slices(ema.states(keys), engine, prefix=""), progress, run_yaml)


def save_tensors(
    folder: Path,
    tensors: Mapping[str, Tensor],
    mesh: Mesh,
    progress: Progress,
    run_yaml: str,
    texts: Mapping[str, str],
) -> None:
    """Write whole tensors by their names in a checkpoint, from one process, as a folder that checkpoints are read from.

    Args:
        texts: small files that are put beside them, by name.

    Raises:
        CheckpointError: as Saver.save does.
    """
    state = {name: ShardedTensor.from_rank_offsets(name, tensor) for name, tensor in tensors.items()}
    Saver(mesh, texts=texts).save(folder, lambda: state, progress, run_yaml)
