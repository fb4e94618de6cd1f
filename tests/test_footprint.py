"""A plan says of each rank what that rank holds when it is really started, and of 1,024 ranks what they would hold."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from support import held, tiny_world
from support.ranks import RankPool

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.model import CausalVideoTokenizer
from cosmos_tok.store import save_tokenizer
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.footprint import make_plan, plan_sample
from cosmos_train.models.common.flops import Flops
from cosmos_train.parallel.config import ParallelConfig

LARGE = "run/pretrain/dit_7b_720p"
T2W_7B, UNCERTAINTY = 7_236_192_256, 128


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world.write_cache(tmp_path_factory.mktemp("plan") / "cache")


def large(*overrides: str) -> WorldDiTRun:
    run = load_run(LARGE, overrides)
    assert isinstance(run, WorldDiTRun)
    return run


@pytest.mark.parametrize(
    ("parallel", "precision"),
    [
        (ParallelConfig(), "bf16"),
        (ParallelConfig(), "fp32"),
        (ParallelConfig(tp=2, sequence_parallel=True), "bf16"),
        (ParallelConfig(pp=2, pp_first_blocks=1), "fp32"),
        (ParallelConfig(pp=2, pp_chunks=2), "bf16"),
        (ParallelConfig(cp=2), "bf16"),
    ],
    ids=["dp2", "dp2 fp32", "tp2", "pp2", "pp2 interleaved", "cp2"],
)
def test_a_plan_is_what_ranks_hold(
    ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path, parallel: ParallelConfig, precision: str
):
    found = ranks(2).run(held.held, cache, tmp_path, parallel, precision)
    plan = make_plan(tiny_world.make_run(cache, tmp_path, parallel, micro_batch_size=2, precision=precision), 2)
    assert sum(kind.num_ranks for kind in plan.kinds) == 2
    for rank in found:
        [kind] = [kind for kind in plan.kinds if rank["stage"] in kind.stages]
        assert (kind.parameters, kind.blocks, {kind.tokens}) == (rank["parameters"], rank["blocks"], rank["tokens"])
        for name in ("weights", "gradients"):
            assert getattr(kind.memory, name) == rank[name], name
        for name in ("optimizer", "ema"):  # of two replicas one may get more, because slices are aligned
            alike = [other[name] for other in found if other["stage"] == rank["stage"]]
            replicas = 2 // (parallel.tp * parallel.pp)
            mean = sum(alike) / len(alike)
            assert mean <= getattr(kind.memory, name) < mean + replicas
        assert plan.num_micro_batches == rank["micro_batches"]


@pytest.mark.parametrize(
    ("layout", "blocks", "stages"),
    [
        (["parallel.pp=4"], [7, 7, 7], [(0,), (1, 2), (3,)]),
        (["parallel.pp=8", "parallel.tp=4"], [4, 4, 3, 3], [(0,), (1, 2, 3), (4, 5, 6), (7,)]),
        (["parallel.pp=2", "parallel.tp=1", "parallel.sequence_parallel=false"], [14, 14], [(0,), (1,)]),
        (["parallel.pp=2", "parallel.pp_chunks=7", "parallel.cp=8"], [14, 14], [(0,), (1,)]),
        (["parallel.layers=te", "parallel.cp=2", "parallel.cp_comm=p2p"], [28], [(0,)]),
    ],
    ids=["pp4", "uneven", "pp2", "interleaved", "TransformerEngine's"],
)
def test_kinds_of_1024_ranks(layout: list[str], blocks: list[int], stages: list[tuple[int, ...]]):
    """Without a rank, a cache, a manifest or TransformerEngine."""
    run = large(*layout)
    plan = make_plan(run, 1024)
    assert [kind.blocks for kind in plan.kinds] == blocks
    assert [kind.stages for kind in plan.kinds] == stages
    assert [kind.num_ranks for kind in plan.kinds] == [len(each) * 1024 // run.parallel.pp for each in stages]
    assert plan.parameters == T2W_7B + UNCERTAINTY, "in any layout"
    assert {kind.tokens for kind in plan.kinds} == {
        56_320 // (run.parallel.cp * (run.parallel.tp if run.parallel.sequence_parallel else 1))
    }


def test_flops_do_not_depend_on_the_layout_but_on_recompute():
    plans = [make_plan(large(*more), 64) for more in ([], ["parallel.pp=4", "parallel.recompute=full"])]
    kept, recomputed = plans
    # A quarter of the steps are of 16 images of 3,520 tokens for each video of 56,320.
    videos = make_plan(large("image_share=0", "latents.image_folder=null"), 64).step_flops
    assert videos is not None and videos.total == pytest.approx(1024 * 6.63e15, rel=0.01)
    assert kept.step_flops == recomputed.step_flops
    assert kept.step_flops is not None
    assert kept.step_flops.total == pytest.approx(0.75 * videos.total + 0.25 * 1024 * 2.4e15, rel=0.01)
    assert kept.recompute_flops == Flops()
    assert recomputed.recompute_flops is not None
    assert recomputed.recompute_flops.total / kept.step_flops.total == pytest.approx(1 / 3, rel=0.01)


def test_optimizer_state_and_averages_are_divided_over_replicas():
    one, many = (make_plan(large(), world_size).kinds[0].memory for world_size in (8, 1024))
    assert (one.weights, one.gradients) == (many.weights, many.gradients)
    assert many.optimizer == -(-one.optimizer // 128) and many.ema == -(-one.ema // 128)
    assert one.ema == 4 * one.gradients, "a plain average and three power-law ones"
    assert one.optimizer == pytest.approx(6 * one.weights, rel=1e-4), "12 bytes beside 2"
    assert make_plan(large("optim.ema_decay=0", "optim.ema_sigma_rels=[]"), 8).kinds[0].memory.ema == 0


def test_a_tokenizer_has_neither_blocks_nor_counted_flops():
    plan = make_plan(load_run("run/demo_tokenizer"), 2)
    [kind] = plan.kinds
    assert (kind.num_ranks, kind.blocks, kind.tokens) == (2, 0, 0)
    assert plan.parameters == kind.parameters > 1e5
    assert (plan.sample, plan.step_flops, plan.recompute_flops) == (None, None, None)


# Where sizes are from.


def test_sizes_are_the_latent_caches_where_there_is_one(cache: Path, tmp_path: Path):
    sample = plan_sample(tiny_world.make_run(cache, tmp_path, ParallelConfig()))
    assert sample.latent_CTHW == tiny_world.SHAPE_CTHW
    assert sample.tokens == 3 * 2 * 3 and sample.source == f"the latent cache {cache}"


def test_sizes_are_the_tokenizers_where_there_is_one(tmp_path: Path):
    config = TokenizerConfig(temporal_rate=4, channels=8, channel_multipliers=(1, 1, 1), z_channels=4, patch=2)
    save_tokenizer(tmp_path / "tokenizer", CausalVideoTokenizer(config), config, {})
    sample = plan_sample(large(f"latents.tokenizer={tmp_path / 'tokenizer'}"))
    assert sample.latent_CTHW == (16, 31, 88, 160) and str(tmp_path) in sample.source


def test_sizes_are_those_of_a_released_tokenizer_else():
    sample = plan_sample(large())
    assert (sample.latent_CTHW, sample.tokens, sample.text_tokens) == ((16, 16, 88, 160), 56_320, 512)
    assert "8x8x8" in sample.source


# What can not be.


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["parallel.tp=3"], "model.num_heads=32 is not divisible by parallel.tp=3"),
        (["parallel.cp=3"], "= 24 does not divide the 1024 processes of this run"),
        (["train.global_batch_size=100"], "train.global_batch_size=100 is not a multiple of train.micro_batch_size=1"),
        (["parallel.pp=32"], "model.num_blocks=28 can not be cut into parallel.pp=32"),
        (["data.num_frames=120"], "data.num_frames=120 is not 1 + 8 * n; use 113 or 121"),
        (["data.height_px=700"], "data.height_px=700 is not a positive multiple of tokenizer.spatial_rate=8"),
        (["data.height_px=712"], "latents of 89 x 160 cells can not be cut into patches of model.patch_spatial=2"),
    ],
)
def test_what_can_not_be_trained_can_not_be_planned(overrides: list[str], said: str):
    with pytest.raises(ValueError) as caught:
        make_plan(large(*overrides), 1024)
    assert said in str(caught.value)


def test_a_cache_of_another_model_is_refused(cache: Path, tmp_path: Path):
    run = tiny_world.make_run(cache, tmp_path, ParallelConfig())
    with pytest.raises(ConfigError, match=r"model\.text_width=9, but the latent cache .* has 8; set 8"):
        make_plan(dataclasses.replace(run, model=dataclasses.replace(run.model, text_width=9)), 2)
