"""Groups of a layout: who is together with whom, one layout after another in the same processes; what is refused."""

from collections.abc import Callable

import pytest
from support import layouts
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig, check_layout

GROUPS = ("tp", "pp", "cp", "dp", "replicas", "tp_cp")
TOGETHER = ([0, 1], 11)
ALONE = [([0], 1), ([1], 10)]


@pytest.mark.parametrize("axis", ["tp", "pp", "cp", "dp", "tp"], ids=["tp", "pp", "cp", "dp", "tp again"])
def test_groups_of_two_ranks(ranks: Callable[[int], RankPool], axis: str):
    """The cases run in the same two processes, each replacing the groups of the one before."""
    parallel = ParallelConfig() if axis == "dp" else ParallelConfig(**{axis: 2})
    found = ranks(2).run(layouts.groups, parallel)
    for rank, seen in enumerate(found):
        joined = {"tp": ("tp", "tp_cp"), "pp": ("pp",), "cp": ("cp", "tp_cp", "replicas"), "dp": ("dp", "replicas")}
        expected = dict.fromkeys(GROUPS, ALONE[rank]) | dict.fromkeys(("world", *joined[axis]), TOGETHER)
        assert seen["sums"] == expected
        degrees = {name: 2 if name == axis else 1 for name in ("tp", "pp", "cp", "dp")}
        assert seen["layout"] == " ".join(f"{name}{degree}" for name, degree in degrees.items())
        place = ", ".join(f"{name} {rank if name == axis else 0}" for name in degrees)
        assert seen["position"] == f"rank {rank} ({place})"
        assert (seen["first"], seen["last"]) == ((rank == 0, rank == 1) if axis == "pp" else (True, True))
        assert (seen["main"], seen["device"]) == (rank == 0, "cpu")
    assert found[0]["draw"] == found[1]["draw"], "outside of named states all ranks draw alike"


def test_one_process_is_a_layout(ranks: Callable[[int], RankPool]):
    [seen] = ranks(1).run(layouts.groups, ParallelConfig())
    assert seen["sums"] == dict.fromkeys(("world", *GROUPS), ([0], 1))
    assert (seen["layout"], seen["first"], seen["last"], seen["main"]) == ("tp1 pp1 cp1 dp1", True, True, True)


def test_a_layout_that_does_not_divide_is_refused_on_every_rank(ranks: Callable[[int], RankPool]):
    for said in ranks(2).run(layouts.refused_layout, ParallelConfig(tp=4)):
        assert said == (
            "parallel.tp=4 * parallel.pp=1 * parallel.cp=1 = 4 does not divide the 2 processes of this run; "
            "their product may be 1, 2"
        )


def test_leaving_and_coming_back(ranks: Callable[[int], RankPool]):
    assert ranks(1).run(layouts.stop_and_start) == [[True, False, False, True]]


@pytest.mark.parametrize(
    ("tp", "pp", "cp", "world_size"), [(1, 1, 1, 1), (2, 1, 1, 2), (2, 3, 1, 12), (1, 5, 1, 5), (2, 2, 2, 8)]
)
def test_a_layout_that_divides(tp: int, pp: int, cp: int, world_size: int):
    check_layout(ParallelConfig(tp=tp, pp=pp, cp=cp), world_size)


@pytest.mark.parametrize(
    ("tp", "pp", "cp", "world_size", "legal"),
    [(2, 1, 1, 1, "1"), (2, 2, 1, 6, "1, 2, 3, 6"), (3, 2, 1, 8, "1, 2, 4, 8"), (1, 1, 3, 8, "1, 2, 4, 8")],
)
def test_a_layout_that_does_not_divide_names_those_that_do(tp: int, pp: int, cp: int, world_size: int, legal: str):
    said = (
        f"parallel.tp={tp} * parallel.pp={pp} * parallel.cp={cp} = {tp * pp * cp} does not divide the {world_size} "
        f"processes of this run; their product may be {legal}"
    )
    with pytest.raises(ConfigError) as caught:
        check_layout(ParallelConfig(tp=tp, pp=pp, cp=cp), world_size)
    assert str(caught.value) == said
