"""One run under native layers and under TransformerEngine in turn, through real checkpoints, on a GPU."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_world, training
from support.gpu_dit import NATIVE, TE
from torch import Tensor

from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig, PrecisionConfig
from cosmos_train.recipes.world_dit import WorldDiTTask
from cosmos_train.train.checkpoint.folder import newest_checkpoint
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.train.loop import DONE, STOPPED

HAS_TE = torch.cuda.is_available() and importlib.util.find_spec("transformer_engine") is not None
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_TE, reason="needs CUDA and TransformerEngine")]


@pytest.fixture(autouse=True)
def groups() -> Iterator[None]:
    """Each of the runs builds its own; the last one's are gone afterwards."""
    yield
    init.stop()


def test_a_run_goes_from_native_to_transformer_engine_and_back(tmp_path: Path):
    """Through real checkpoints: each read in both layouts, bit for bit."""
    cache, model = tiny_world.write_cache(tmp_path / "cache"), {"head_dim": 16}
    settings = {"num_steps": 6, "precision": "bf16"}
    for stop, parallel in ((2, NATIVE), (4, TE), (None, NATIVE)):
        code = training.run_loop(cache, tmp_path / "run", parallel, settings | {"stop_at_step": stop}, model)
        assert code == (DONE if stop is None else STOPPED)
        native, te = (weights(tmp_path / "run", cache, layout, model) for layout in (NATIVE, TE))
        assert native.keys() == te.keys()
        assert all(torch.equal(native[name], te[name]) for name in native)
    assert len(training.losses(tmp_path / "run")) == 6


@pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="has no FP8")
def test_weights_kept_in_8_bits_go_through_checkpoints(tmp_path: Path):
    """Resumed as it went on without a stop, near what bf16 weights would give, and read by native layers."""
    cache, model = tiny_world.write_cache(tmp_path / "cache"), {"head_dim": 16, "num_blocks": 3}
    kept, copied = (
        dataclasses.replace(TE, precision=PrecisionConfig(recipe="fp8_current", fp8_param_gather=gather))
        for gather in (True, False)
    )
    settings = {"num_steps": 6, "precision": "bf16"}
    for name, parallel, stops in (("kept", kept, (None,)), ("resumed", kept, (3, None)), ("copied", copied, (None,))):
        for stop in stops:
            training.run_loop(cache, tmp_path / name, parallel, settings | {"stop_at_step": stop}, model)
    losses = {name: training.losses(tmp_path / name) for name in ("kept", "resumed", "copied")}
    assert losses["resumed"] == losses["kept"]
    assert losses["kept"] == pytest.approx(losses["copied"], rel=1e-2)
    native, te = (weights(tmp_path / "kept", cache, layout, model) for layout in (NATIVE, kept))
    assert all(torch.equal(native[name], te[name]) for name in native)


def weights(run_dir: Path, cache: Path, parallel: ParallelConfig, model: dict[str, Any]) -> dict[str, Tensor]:
    """What a layout reads from the run's newest checkpoint."""
    run = tiny_world.make_run(cache, run_dir, parallel, precision="bf16")
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, **model))
    mesh = init.start(parallel, seed=run.seed)
    task = WorldDiTTask(run, mesh)
    folder = newest_checkpoint(run_dir)
    assert folder is not None
    load_weights(folder, task.pieces, mesh)
    return tiny_world.whole_parameters(task, mesh)
