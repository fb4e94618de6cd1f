"""The shipped post-training runs of released sizes: each is valid at its own command's size, and its head is true."""

from pathlib import Path
from typing import Any

import pytest
from support import pretraining

from cosmos_train.conditions.conditioner import reads_of
from cosmos_train.config.load import configs_dir
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.config.validate import check_run
from cosmos_train.footprint import make_plan

RUNS = pretraining.shipped("*.yaml", "posttrain")
SEVEN, UNCERTAINTY, WIDTH = 7_236_208_640, 128, 4096


def mlp(d_in: int, hidden: int, d_out: int) -> int:
    """Two linears with biases."""
    return d_in * hidden + hidden + hidden * d_out + d_out


def actions(width: int) -> int:
    """Both networks of actions of the 7B."""
    return mlp(width, 4 * WIDTH, WIDTH) + mlp(width, 4 * WIDTH, 3 * WIDTH)


PARAMETERS = {
    "camera_7b": SEVEN + 6 * 4 * WIDTH + UNCERTAINTY,
    "action_7b_next_frame": SEVEN + actions(7) + UNCERTAINTY,
    "action_7b_each_frame": SEVEN + actions(56) + UNCERTAINTY,
    "action_ar_5b": 4_584_845_312 + mlp(7, 256, 1024),
    "instruction_7b": SEVEN + UNCERTAINTY,
}
TOKENS = {
    "camera_7b": 8 * 44 * 80,
    "action_7b_next_frame": 2 * 16 * 20,
    "action_7b_each_frame": 3 * 16 * 20,
    "action_ar_5b": 2 * 30 * 40,
    "instruction_7b": 8 * 16 * 20,
}


def test_every_kind_of_steering_has_a_run():
    assert {path.stem for path in RUNS} == set(PARAMETERS)
    reads: dict[str, Any] = {}
    for path in RUNS:
        run = pretraining.read(path)[1]
        assert isinstance(run, WorldDiTRun | WorldARRun)
        reads[path.stem] = reads_of(run.model)
    assert [name for name, one in reads.items() if one.camera] == ["camera_7b"]
    assert {one.action_frames for one in reads.values()} == {"none", "next", "each"}
    assert not reads["instruction_7b"].names


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_is_valid_and_its_head_says_what_the_plan_says(path: Path):
    head, run, world_size = pretraining.read(path)
    check_run(run, world_size)
    pretraining.check_head(head)
    plan = make_plan(run, world_size)
    assert plan.parameters == PARAMETERS[path.stem]
    assert plan.sample is not None and plan.sample.tokens == TOKENS[path.stem]
    pretraining.check_memory(head, plan, world_size)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_grows_a_shipped_one_by_what_it_reads(path: Path):
    run = pretraining.read(path)[1]
    base = str(run.checkpoint.init_from).removeprefix("runs/")
    assert (configs_dir() / f"run/pretrain/{base}.yaml").is_file()
    new = {"camera_7b": ("net.embed.weight",), "action_ar_5b": ("action.*",), "instruction_7b": ()}
    assert run.checkpoint.init_new == new.get(path.stem, ("net.action.*",))
