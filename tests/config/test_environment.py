"""The variables that launchers, pods and shells leave: what they mean, and the sentence where they contradict."""

import os

import pytest

from cosmos_train.config import environment
from cosmos_train.config.environment import Ranks, check_not_copied, own_ranks, rank_for_messages, wandb_mode
from cosmos_train.config.errors import ConfigError

OF_TWO = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch):
    """variables({name: value}): these, and none besides of those that are read."""

    def put(values: dict[str, str]) -> None:
        for name in (*environment.RANK_VARIABLES, "SLURM_STEP_NUM_TASKS", "WANDB_MODE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.mark.parametrize(
    ("values", "num_wanted", "found"),
    [
        ({}, None, Ranks()),
        ({}, 2, Ranks()),
        ({"RANK": "", "WORLD_SIZE": " "}, 2, Ranks()),
        ({"MASTER_ADDR": "host", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}, None, Ranks()),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None, Ranks(is_given=True)),
        ({"RANK": "0", "WORLD_SIZE": "1"}, 1, Ranks(is_given=True)),
        (OF_TWO, None, Ranks(1, 2, 1, "host:29500", is_given=True)),
        (OF_TWO, 2, Ranks(1, 2, 1, "host:29500", is_given=True)),
        ({"SLURM_JOB_ID": "77", "SLURM_NTASKS": "8", "SLURM_PROCID": "3"}, None, Ranks()),
    ],
)
def test_ranks_are_those_of_whoever_started_them(
    variables, values: dict[str, str], num_wanted: int | None, found: Ranks
):
    variables(values)
    assert own_ranks(num_wanted) == found


@pytest.mark.parametrize(
    ("values", "num_wanted", "said"),
    [
        (
            {"RANK": "0", "WORLD_SIZE": "1"},
            2,
            "--nproc 2, but RANK=0 and WORLD_SIZE=1 make this process rank 0 of 1; unset",
        ),
        (OF_TWO, 1, "--nproc 1, but RANK=1 and WORLD_SIZE=2 make this process rank 1 of 2"),
        (OF_TWO, 4, "--nproc 4, but RANK=1 and WORLD_SIZE=2"),
        ({"RANK": "0"}, None, "RANK=0 is set without WORLD_SIZE"),
        ({"WORLD_SIZE": "2"}, None, "WORLD_SIZE=2 is set without RANK"),
        (OF_TWO | {"RANK": "2"}, None, "RANK=2 is not below WORLD_SIZE=2"),
        (OF_TWO | {"RANK": "one"}, None, "RANK=one is not a whole number of 0 or more"),
        (OF_TWO | {"RANK": "-1"}, None, "RANK=-1 is not a whole number of 0 or more"),
        (OF_TWO | {"RANK": "1.0"}, None, "RANK=1.0 is not a whole number"),
        (OF_TWO | {"WORLD_SIZE": "0"}, None, "WORLD_SIZE=0 is not a whole number of 1 or more"),
        (OF_TWO | {"WORLD_SIZE": "9" * 20}, None, "is not a whole number of 1 or more"),
        (OF_TWO | {"LOCAL_RANK": "x"}, None, "LOCAL_RANK=x is not a whole number of 0 or more"),
        (OF_TWO | {"MASTER_PORT": "http"}, None, "MASTER_PORT=http is not a whole number"),
        (OF_TWO | {"MASTER_PORT": "70000"}, None, "MASTER_PORT=70000 is no port"),
        *[
            (OF_TWO | {name: ""}, None, f"are set without {name}")
            for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        ],
    ],
)
def test_what_contradicts_itself_is_named_with_the_remedy(
    variables, values: dict[str, str], num_wanted: int | None, said: str
):
    variables(values)
    with pytest.raises(ConfigError) as caught:
        own_ranks(num_wanted)
    assert said in str(caught.value)
    assert "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT" in str(caught.value)


def test_messages_come_from_some_rank_whatever_is_set(variables):
    for text, rank in (("3", 3), ("x", 0), ("-1", 0), ("", 0)):
        variables({"RANK": text})
        assert rank_for_messages() == rank


def test_copies_that_srun_made_are_refused(variables):
    variables({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "0"})
    with pytest.raises(ConfigError, match=r"srun started 8 tasks .*cosmos-train submit.*--nproc 1"):
        check_not_copied()
    for alone in ({"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_NTASKS": "8"}, {}):
        variables(alone)
        check_not_copied()


@pytest.mark.parametrize(
    ("text", "mode"),
    {
        "": None,
        "online": "online",
        "run": "online",
        "shared": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }.items(),
)
def test_modes_of_wandb(variables, text: str, mode: str | None):
    variables({"WANDB_MODE": text})
    assert wandb_mode() == mode


def test_a_mode_that_wandb_does_not_have_is_refused(variables):
    variables({"WANDB_MODE": "ofline"})
    with pytest.raises(ConfigError, match="WANDB_MODE=ofline is no mode of W&B's; use one of online, "):
        wandb_mode()


def test_empty_variables_of_wandb_are_dropped_and_no_others(variables):
    variables({"WANDB_RUN_ID": "", "WANDB_PROJECT": " ", "WANDB_NAME": "kept", "OTHER": ""})
    environment.drop_empty_wandb_variables()
    assert "WANDB_RUN_ID" not in os.environ and "WANDB_PROJECT" not in os.environ
    assert os.environ["WANDB_NAME"] == "kept" and os.environ["OTHER"] == ""
