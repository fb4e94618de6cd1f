"""One seed is one video in every layout and batch, of the same weights."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from support.ranks import RankPool
from support.sampling import SEEDS, sampled
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.network import on_halves
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig

LAYOUTS: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
    "tp": (2, {"tp": 2}, {}),
    "sequence parallel": (2, {"tp": 2, "sequence_parallel": True}, {}),
    "cp": (2, {"cp": 2}, {}),
    "cp by all-to-all": (2, {"cp": 2, "cp_comm": "a2a"}, {}),
    "pp": (2, {"pp": 2}, {}),
    "pp, uneven": (2, {"pp": 2, "pp_first_blocks": 1}, {}),
    "pp, interleaved": (2, {"pp": 2, "pp_chunks": 2}, {}),
    "videos divided": (2, {}, {}),
    "guidance divided": (2, {}, {"cfg_parallel": True}),
    "guidance divided, each half a pipeline": (4, {"pp": 2}, {"cfg_parallel": True}),
    "guidance and videos divided": (4, {}, {"cfg_parallel": True}),
    "tp and cp": (4, {"tp": 2, "cp": 2, "sequence_parallel": True}, {}),
}


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """Each seed by itself, in one process."""
    found = [sampled(ParallelConfig(), {}, [seed]) for seed in SEEDS]
    init.stop()
    assert found[0]["digest"] == found[1]["digest"]
    return {"latents": [one["latents"][0] for one in found], "digest": found[0]["digest"]}


def difference(found: Tensor, wanted: Tensor) -> float:
    return (found - wanted).abs().max().item()


def test_one_process_has_no_two_halves():
    wanted = r"needs two halves of the data-parallel ranks, but 1 processes / .* are 1; start 2 processes, or use"
    with pytest.raises(ConfigError, match=wanted):
        on_halves(lambda _inputs: [], init.start(ParallelConfig(), seed=0))
    init.stop()


def test_a_batch_is_its_videos(alone: dict[str, Any]):
    together = sampled(ParallelConfig(), {}, SEEDS)["latents"]
    init.stop()
    assert difference(together, torch.stack(alone["latents"])) < 1e-4
    assert difference(together[0], together[1]) > 0.1
    assert difference(together[0, :, 0], together[1, :, 0]) == 0, "the given frame"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_video_of_one_process(layout: str, alone: dict[str, Any], ranks: Callable[[int], RankPool]):
    num_ranks, parallel, settings = LAYOUTS[layout]
    answers = ranks(num_ranks).run(sampled, ParallelConfig(**parallel), settings, SEEDS)
    assert set(chain.from_iterable(answer["seeds"] for answer in answers)) == set(SEEDS)
    ranks_of_a_video = ParallelConfig(**parallel).ranks_per_replica * (2 if settings else 1)
    assert {len(answer["seeds"]) for answer in answers} == {len(SEEDS) * ranks_of_a_video // num_ranks}
    for answer in answers:
        wanted = torch.stack([alone["latents"][SEEDS.index(seed)] for seed in answer["seeds"]])
        assert difference(answer["latents"], wanted) < 1e-4
    if settings or parallel:
        assert answers[0]["digest"] == alone["digest"], "undivided, the weights are the same"
