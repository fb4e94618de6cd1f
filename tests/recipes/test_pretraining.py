"""The shipped pre-training runs: each is valid at its own command's size, and its head says what the plan says."""

from itertools import product
from pathlib import Path

import pytest
from support import pretraining

from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.config.validate import check_run
from cosmos_train.footprint import make_plan

RUNS = pretraining.shipped("dit_*.yaml")
TOKENS = {"512p": 10_240, "720p": 56_320, "hq": 56_320}
PARAMETERS = {
    ("7b", False): 7_236_192_256,
    ("7b", True): 7_236_208_640,
    ("14b", False): 14_267_149_312,
    ("14b", True): 14_267_169_792,
}
UNCERTAINTY = 128


def read(path: Path) -> tuple[str, WorldDiTRun, int]:
    """(its head, the run, ranks of its command)"""
    head, run, world_size = pretraining.read(path)
    assert isinstance(run, WorldDiTRun)
    return head, run, world_size


def test_both_sizes_have_all_stages_of_both_kinds():
    sorts = product(("7b", "14b"), ("", "_v2w"), TOKENS)
    assert {path.stem for path in RUNS} == {f"dit_{size}{kind}_{stage}" for size, kind, stage in sorts}


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_is_valid_and_its_head_complete(path: Path):
    head, run, world_size = read(path)
    check_run(run, world_size)
    pretraining.check_head(head)
    lr, weight_decay = (2.0**-15, 0.1) if "7b" in path.stem else (2.0**-16, 0.2)
    assert (run.optim.lr, run.optim.weight_decay) == (lr, weight_decay)
    assert (run.optim.betas, run.optim.eps) == ((0.9, 0.99), 1e-10)
    is_fine_tune = path.stem.endswith("_hq")
    assert run.optim.warmup_steps == (0 if is_fine_tune else 2500)
    assert run.optim.decay == ("linear" if is_fine_tune else "constant")
    assert run.model.condition_mask == (run.objective.max_condition_frames > 0) == ("v2w" in path.stem)
    if run.checkpoint.init_from is not None:  # each stage goes on from one that is there
        assert f"dit_{run.checkpoint.init_from.split('dit_')[1]}" in {other.stem for other in RUNS}


@pytest.mark.parametrize("name", ["dit_7b_hq", "dit_14b_v2w_512p"])
def test_the_head_says_what_the_plan_says(name: str):
    [path] = [path for path in RUNS if path.stem == name]
    head, run, world_size = read(path)
    plan = make_plan(run, world_size)
    assert plan.sample is not None and plan.sample.tokens == TOKENS[name.split("_")[-1]]
    assert plan.parameters == PARAMETERS[name.split("_")[1], "v2w" in name] + UNCERTAINTY
    pretraining.check_memory(head, plan, world_size)
