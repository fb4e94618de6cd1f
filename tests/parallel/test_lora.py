"""Adapters: what they add, where they are added, and what a rank may get wrong. Parity of layouts: test_engine.py."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from parity import GRADIENT_TOLERANCE, LOSS_TOLERANCE, Case, Parity
from support import mistakes, tiny_lora, tiny_world
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.footprint import Plan, make_plan
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.lora import Adapter, has_adapter, note_joined
from cosmos_train.train.config import LoraConfig

LORA = LoraConfig(rank=3, alpha=6.0, base="unused")


@pytest.fixture(scope="module")
def parity(ranks: Callable[[int], RankPool], tmp_path_factory: pytest.TempPathFactory) -> Parity:
    return Parity(ranks, tmp_path_factory.mktemp("parity"), num_steps=1)


def linear(d_in: int, d_out: int, rows: tuple[int, ...] = ()) -> tuple[torch.nn.Module, Adapter]:
    """A layer, joined of matrices with so many rows a turn, and its adapter with random numbers."""
    torch.manual_seed(d_in)
    layer = torch.nn.Linear(d_in, d_out, bias=False)
    layer = note_joined(layer, rows) if rows else layer
    adapter = Adapter(layer, LORA, init.start(ParallelConfig(), seed=0))
    for param in adapter.parameters():
        torch.nn.init.normal_(param)
    return layer, adapter


def test_it_adds_alpha_over_r_b_a():
    _, adapter = linear(5, 4)
    x = torch.randn(7, 2, 5)
    torch.testing.assert_close(adapter(x), 2.0 * x @ adapter.a.T @ adapter.b.T)


def test_joined_matrices_have_each_their_own():
    """Two turns of three rows of the first matrix and one of the second."""
    _, adapter = linear(5, 8, rows=(3, 1))
    x = torch.randn(7, 5)
    rows_of_first = torch.tensor([0, 1, 2, 4, 5, 6])
    first, second = (2.0 * x @ a.T @ adapter.b.T for a in adapter.a.chunk(2))
    torch.testing.assert_close(adapter(x)[:, rows_of_first], first[:, rows_of_first])
    torch.testing.assert_close(adapter(x)[:, [3, 7]], second[:, [3, 7]])


def adapted(lora: LoraConfig) -> torch.nn.Module:
    mesh = init.start(ParallelConfig(), seed=3)
    [model], _ = build_world_model(tiny_world.MODEL, ParallelConfig(), mesh, dtype=torch.float32, seed=3, lora=lora)
    return model


def test_by_default_it_is_on_what_is_released_with_adapters():
    model = adapted(LORA)
    names = {name.removeprefix("net.blocks.0.") for name, module in model.named_modules() if has_adapter(module)}
    in_block = {name for name in names if not name.startswith("net.")}
    wanted = {"self_attention.qkv", "self_attention.out", "mlp.up", "mlp.down"}
    wanted |= {f"cross_attention.{layer}" for layer in ("q", "kv", "out")}
    assert in_block == wanted
    assert len(names) == 4 * len(in_block), "of four blocks, and nothing else"


def test_weights_keep_names_and_values():
    plain, with_adapters = (dict(adapted(lora).named_parameters()) for lora in (LoraConfig(), LORA))
    assert all(torch.equal(value, with_adapters[name]) for name, value in plain.items())
    added = with_adapters.keys() - plain.keys()
    assert added and all(name.endswith((".lora.a", ".lora.b")) for name in added)
    for name in added:
        bound = 1 / with_adapters[name].shape[1] ** 0.5
        largest = with_adapters[name].abs().max().item()
        assert largest == 0 if name.endswith("b") else 0.8 * bound < largest < bound


@pytest.mark.parametrize("target", ["*.qkv.weight", "*layernorm", "qkv"])
def test_a_target_that_fits_nothing(target: str):
    lora = LoraConfig(rank=3, alpha=6.0, base="unused", targets=("*.mlp.*", target))
    with pytest.raises(ConfigError, match=r"lora\.targets has '.*', which fits no linear layer .* such as net\.embed"):
        adapted(lora)


@pytest.mark.parametrize(("key", "lacking"), [("alpha", "{rank: 4, base: x}"), ("base", "{rank: 4, alpha: 4}")])
def test_what_a_rank_needs(key: str, lacking: str):
    with pytest.raises(ConfigError, match=rf"lora\.rank=4 needs lora\.{key}, which is not given"):
        load_run("run/demo_world", [f"lora={lacking}"])


def test_a_model_to_train_and_one_to_keep_exclude_each_other():
    with pytest.raises(
        ConfigError, match=r"checkpoint\.init_from=a would be trained, and lora\.rank=4 trains adapters of"
    ):
        load_run("run/demo_world", ["lora={rank: 4, alpha: 4, base: b}", "checkpoint.init_from=a"])


def plan_of_7b(*words: str) -> Plan:
    init.stop()  # a plan has groups of its own
    return make_plan(load_run("run/pretrain/dit_7b_720p", ["checkpoint.init_from=null", "parallel.pp=2", *words]), 64)


def test_a_plan_counts_adapters_alone():
    """The 7B on 64 ranks in two stages has no gradients and no optimizer of its base; a target must fit somewhere."""
    lora = "lora={{rank: 16, alpha: 16, base: b, targets: ['{}']}}"
    plan, whole = plan_of_7b(lora.format("*.blocks.0.mlp.*")), plan_of_7b()
    width = 4096
    assert plan.parameters - whole.parameters == 2 * 16 * (width + 4 * width)
    assert plan.kinds[0].memory.total < 0.5 * whole.kinds[0].memory.total
    with pytest.raises(ConfigError, match=r"lora\.targets has '\*\.blocks\.99\.\*', which fits no linear layer"):
        plan_of_7b(lora.format("*.blocks.99.*"))


@pytest.mark.parametrize(
    ("mistake", "layout", "loss_differs"),
    [
        ("adapters added on each tensor rank", {"tp": 2}, True),
        ("adapters added on each tensor rank", {"tp": 2, "sequence_parallel": True}, True),
        ("adapters' gradients not summed", {"tp": 2, "sequence_parallel": True}, False),
        ("adapters' gradients not passed on whole", {"tp": 2}, False),
    ],
)
def test_a_mistake_is_seen(parity: Parity, mistake: str, layout: dict[str, int | bool], loss_differs: bool):
    case = Case(name=mistake, ranks=2, parallel=ParallelConfig(**layout), model="lora")
    line = parity.check(case, measure=mistakes.Made(mistake, tiny_lora.answers))
    assert not line["ok"] and line["gradient_error"] > 1000 * GRADIENT_TOLERANCE, line
    assert ".lora." in line["gradient_of"]
    assert (line["loss_error"] > 10 * LOSS_TOLERANCE) == loss_differs, line


def test_the_base_has_neither_gradients_nor_optimizer(ranks: Callable[[int], RankPool], tmp_path: Path):
    cache = tiny_world.write_cache(tmp_path / "cache")
    ranks(1).run(tiny_lora.write_base_of, cache, False)
    for held in ranks(2).run(tiny_lora.held, cache, tmp_path / "run", ParallelConfig(tp=2)):
        assert held["trained"] == held["gradients"] == held["optimizer"] and held["trained"]
        assert all(".lora." in name for name in held["trained"])
