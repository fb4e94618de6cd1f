"""Each thing that cosmos_train/parallel/cpu.py answers for megatron-core, one test or more per point of its list.

Most run in a process in which the adapter is active; it stays active for good. The others read the sources, to see
that what is replaced is still there upstream and still asked for.
"""

import ast
from collections.abc import Callable
from functools import cache
from importlib.metadata import distribution
from itertools import chain
from pathlib import Path

import pytest
import torch
from support import cpu_points
from support.ranks import RankPool

ROOT = Path(__file__).resolve().parents[2]
SITE = Path(str(distribution("megatron-core").locate_file("")))
ALIASES = {
    "mcore_random": "megatron/core/tensor_parallel/random.py",
    "mcore_optimizer": "megatron/core/optimizer/__init__.py",
    "distrib_optimizer": "megatron/core/optimizer/distrib_optimizer.py",
}
"""Names under which cpu.py imports what it changes -> where that is."""


@pytest.fixture
def one(ranks: Callable[[int], RankPool]) -> Callable:
    """one(function, ...): its answer in a process with the adapter."""
    return lambda function, *arguments: ranks(1).run(function, *arguments)[0]


# What is replaced is still there, and still asked for.


def replaced() -> list[str]:
    """`mcore_random._get_cuda_rng_state`, `torch.cuda.synchronize` ...: what activate() replaces."""
    return [
        *_assigned_in("cpu", "activate"),
        *_assigned_in("mcore_private", "replace_cuda_rng_state"),
        *_assigned_in("adam", "use_own_adam"),
    ]


def _assigned_in(module: str, function: str) -> list[str]:
    tree = ast.parse((ROOT / f"cosmos_train/parallel/{module}.py").read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    assignments = [node for node in ast.walk(found) if isinstance(node, ast.Assign)]
    targets = chain.from_iterable(node.targets for node in assignments)
    targets = [target for target in targets if isinstance(target, ast.Attribute)]
    return [ast.unparse(target) for target in targets]


@cache
def upstream(path: str) -> str:
    return (SITE / path).read_text()


def test_the_list_of_what_is_replaced_is_read():
    assert len(replaced()) >= 12
    assert {name.split(".")[0] for name in replaced()} == {"torch", *ALIASES}


@pytest.mark.parametrize("name", [name for name in replaced() if not name.startswith("torch.")])
def test_megatron_still_has_and_uses_it(name: str):
    module, attribute = name.split(".")
    tree = ast.parse(upstream(ALIASES[module]))
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == attribute]
    made = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    made |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    made |= {alias.asname or alias.name for alias in chain.from_iterable(node.names for node in imports)}
    assert attribute in made, f"{ALIASES[module]} has no {attribute} any more"
    assert any(isinstance(node.ctx, ast.Load) for node in names), f"{ALIASES[module]} does not use {attribute} any more"


@pytest.mark.parametrize("name", [name for name in replaced() if name.startswith("torch.cuda.")])
def test_megatron_still_asks_torch_for_it(name: str):
    assert hasattr(torch.cuda, name.rsplit(".", 1)[1])
    assert any(f"{name}(" in path.read_text() for path in (SITE / "megatron/core").rglob("*.py"))


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("megatron/core/optimizer/clip_grads.py", ".type() == 'torch.cuda.FloatTensor'"),
        ("megatron/core/optimizer/distrib_optimizer.py", ".type() == 'torch.cuda.FloatTensor'"),
        ("megatron/core/optimizer/distrib_optimizer.py", "in ['torch.cuda.HalfTensor', 'torch.cuda.BFloat16Tensor']"),
        ("megatron/core/optimizer/clip_grads.py", "device='cuda'"),
        ("megatron/core/pipeline_parallel/p2p_communication.py", "device=torch.cuda.current_device()"),
    ],
)
def test_megatron_still_names_cuda(path: str, text: str):
    assert text in upstream(path), "upstream moved: look whether the adapter still answers, or can forget this point"


# 1 and 2: devices


def test_cuda_means_the_cpu(one: Callable):
    found = one(cpu_points.devices)
    assert found.pop("shapes only") == "meta"
    assert found == dict.fromkeys(found, "cpu")


# 3: types


def test_types_are_spelled_the_cuda_way(one: Callable):
    assert one(cpu_points.type_names) == {
        "torch.float32": "torch.cuda.FloatTensor",
        "torch.bfloat16": "torch.cuda.BFloat16Tensor",
        "cast": "torch.float64",
    }


def test_gradients_are_clipped_as_torch_clips_them(one: Callable):
    found = one(cpu_points.clip)
    assert found["norms"][0] == pytest.approx(found["norms"][1])
    for gradient, expected in found["gradients"]:
        torch.testing.assert_close(gradient, expected)
    assert found["largest"] == pytest.approx(max(g.abs().max().item() for _, g in found["gradients"]))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_the_distributed_optimizer_takes_cpu_tensors(one: Callable, dtype: torch.dtype, atol: float):
    found = one(cpu_points.optimizer_step, dtype)
    assert found["dtype"] == dtype
    assert (found["after"] - found["expected"]).abs().max() < atol
    assert found["optimizer"] == "FusedAdam" and set(found["steps"]) == {1}
    assert set(found["saved_steps"]) == {1}, "as megatron-core saves them"
    assert {"exp_avg", "exp_avg_sq"} <= set(found["states"]) and "step" not in found["states"]


def test_torchs_own_adam_is_refused_and_replaced(one: Callable):
    """On CUDA without TransformerEngine and apex, where a checkpoint said 0 updates and resuming failed."""
    found = one(cpu_points.as_if_nothing_was_installed)
    assert "keeps no step in its parameter groups" in found["refusal"]
    assert found["optimizer"] == "FusedAdam" and found["adam_step"] == 2


def test_a_parameter_without_gradient_is_named_in_the_first_step(one: Callable):
    """Where gradients are summed on the way, as on CUDA; upstream fails without a name, in the second step."""
    said = one(cpu_points.parameter_without_gradient)
    assert said.startswith("unused got no gradient in this step") and "optim.lr_factors" in said


# 4: random states


def test_named_states_are_apart_and_come_back(one: Callable):
    seen = one(cpu_points.random_states)
    assert seen["class"] == "CpuRngStatesTracker"
    assert {"a", "b", "model-parallel-rng", "data-parallel-rng"} <= set(seen["names"])
    assert not torch.equal(seen["a"], seen["b"]), "dropout in two states"
    assert not torch.equal(seen["a"], seen["a again"]), "a state goes on where it was"
    assert not torch.equal(seen["a"], seen["a after b"]), "and after another took its turn inside"
    assert torch.equal(seen["a"], seen["a from its seed"])
    for around, alone in zip(seen["outside around"], seen["outside alone"], strict=True):
        assert torch.equal(around, alone), "the process's own state did not move"
    assert torch.equal(seen["outside after an error"], seen["outside alone"][0])
    assert torch.equal(seen["a third"], seen["a third, set back"])
    assert "'c' was not added; there are ['a', 'b', " in seen["unknown"]


def test_adding_a_state_draws_nothing(one: Callable):
    assert torch.equal(*one(cpu_points.adding_draws_nothing))


def test_tensor_parallel_ranks_draw_apart(one: Callable):
    drawn = one(cpu_points.seeds_by_rank)
    assert not torch.equal(drawn[0], drawn[1])


def test_recompute_draws_the_same_masks(one: Callable):
    found = one(cpu_points.recompute)
    assert (found["output"][0] == 0).any() and (found["output"][0] != 0).any(), "there is dropout"
    for name, (kept, recomputed) in found.items():
        assert torch.equal(kept, recomputed), name


# 5: the optimizer


@pytest.mark.parametrize("adam_w_mode", [True, False])
def test_fused_adam_is_torchs_adam(one: Callable, adam_w_mode: bool):
    found = one(cpu_points.adam_steps, adam_w_mode)
    for mine, rival in found["pairs"]:
        torch.testing.assert_close(mine, rival, rtol=1e-6, atol=1e-7)
    assert found["step"] == 10
    assert found["states"] == [["exp_avg", "exp_avg_sq"]] * 2, "the step lives in the group"
    untouched, has_state = found["unused"]
    assert torch.equal(untouched, torch.ones(2)) and not has_state


# Activation itself


def test_it_refuses_where_cuda_is_in_use(one: Callable):
    said, untouched = one(cpu_points.refusal)
    assert said.startswith("the CPU adapter was asked for in a process that already uses a CUDA device; ")
    assert untouched


def test_a_second_activation_does_nothing(one: Callable):
    assert one(cpu_points.second_activation) == (True, True)


def test_the_log_says_so(one: Callable):
    assert one(cpu_points.first_words) == ["no CUDA device: megatron-core runs on the CPU (cosmos_train.parallel.cpu)"]
