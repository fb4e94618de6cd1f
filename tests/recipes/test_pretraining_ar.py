"""The shipped runs of the autoregressive models: each is valid at its own command's size, and its head is true."""

import re
from pathlib import Path

import pytest
from support import pretraining

from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldARRun
from cosmos_train.config.validate import check_run
from cosmos_train.footprint import make_plan
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.parallel.param_groups import lr_factor

RUNS = pretraining.shipped("world_ar_*.yaml")
STAGES = {
    "4b": ("17_frames", "33_frames", "cool_down"),
    "12b": ("17_frames", "33_frames", "cool_down"),
    "5b_video2world": ("text", "text_tuning", "cool_down"),
    "13b_video2world": ("text", "text_tuning", "cool_down"),
}
PARAMETERS = {"world_ar_5b_video2world_text": 4_584_845_312, "world_ar_12b_33_frames": 11_560_975_360}


def read(path: Path) -> tuple[str, WorldARRun, int]:
    """(its head, the run, ranks of its command)"""
    head, run, world_size = pretraining.read(path)
    assert isinstance(run, WorldARRun)
    return head, run, world_size


def test_all_models_have_all_their_stages():
    expected = set()
    for model, stages in STAGES.items():
        expected |= {f"world_ar_{model}_{stage}" for stage in stages}
    assert {path.stem for path in RUNS} == expected


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_is_valid_and_its_head_complete(path: Path):
    head, run, world_size = read(path)
    check_run(run, world_size)
    pretraining.check_head(head)
    assert run.data.num_frames == (17 if "17_frames" in path.stem else 33)
    assert run.model.cross_attention == run.model.begin_token == ("video2world" in path.stem)
    assert run.optim.decay == ("linear" if "cool_down" in path.stem else "cosine")
    is_large, is_first = run.model.num_blocks == 40, "17_frames" in path.stem
    assert run.model.yarn_scale == (2.0 if is_large and not is_first else 1.0)
    assert (run.checkpoint.init_from is None) == is_first
    assert ("embed.weight" in run.checkpoint.init_new) == ("_text" in path.stem)
    assert bool(run.optim.lr_factors) == path.stem.endswith("_tuning")


@pytest.mark.parametrize("path", [path for path in RUNS if "17_frames" not in path.stem], ids=lambda path: path.stem)
def test_each_stage_goes_on_from_one_that_is_there(path: Path):
    """Of the same size, and with text only where text is inserted or has been."""
    run = read(path)[1]
    before = load_run(f"run/pretrain/{str(run.checkpoint.init_from).removeprefix('runs/')}")
    assert isinstance(before, WorldARRun)
    assert (before.model.num_blocks, before.model.width) == (run.model.num_blocks, run.model.width)
    assert before.run_dir == run.checkpoint.init_from
    assert before.model.cross_attention == (run.model.cross_attention and "_text" not in path.stem)


def test_text_tuning_trains_what_the_released_code_does():
    """Embedding, norms, output and cross-attention; of the 5B all else is 16 blocks' self-attention and MLP."""
    [path] = [path for path in RUNS if path.stem == "world_ar_5b_video2world_text_tuning"]
    factors, config = read(path)[1].optim.lr_factors, read(path)[1].model
    names = [entry.ours for entry in ar_table(config)]
    frozen = {re.sub(r"\d+", "*", name) for name in names if lr_factor(name, factors) == 0}
    assert frozen == {
        f"blocks.*.{part}.weight" for part in ("self_attention.qkv", "self_attention.out", "mlp.up", "mlp.down")
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_head_says_what_the_plan_says(name: str):
    [path] = [path for path in RUNS if path.stem == name]
    head, run, world_size = read(path)
    plan = make_plan(run, world_size)
    assert plan.sample is not None and plan.sample.tokens == 12_799 + run.model.begin_token
    assert plan.parameters == PARAMETERS[name]
    pretraining.check_memory(head, plan, world_size)
