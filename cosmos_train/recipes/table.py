"""`recipe` of a run -> what makes its task."""

from cosmos_train.config.schema import RunConfig, TokenizerRun, WorldARRun, WorldDiTRun
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.recipes.medusa import MedusaTask
from cosmos_train.recipes.tokenizer import TokenizerTask
from cosmos_train.recipes.world_ar import WorldARTask
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.task import Task


def make_task(run: RunConfig, mesh: Mesh) -> Task:
    """The task of a run of this kind, on this rank."""
    match run:
        case TokenizerRun():
            return TokenizerTask(run, mesh)
        case WorldDiTRun():
            return WorldDiTTask(run, mesh)
        case WorldARRun():
            return MedusaTask(run, mesh) if run.model.medusa_heads else WorldARTask(run, mesh)
    raise AssertionError(f"recipe {run.recipe!r} is in config.schema.RUNS, but has no task")
