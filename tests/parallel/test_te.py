"""What is passed to TransformerEngine is what it takes: its signatures are recorded, so no GPU and no installation is
needed to find an argument that was renamed. What runs on a GPU is in tests/gpu."""

import ast
import functools
import importlib
import inspect
import itertools
import json
from collections.abc import Iterator
from importlib.metadata import distribution
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args, get_type_hints

import pytest
import torch
from megatron.core.transformer.module import MegatronModule
from support import gpu_dit, te_signatures
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run
from cosmos_train.parallel import init
from cosmos_train.parallel.config import CAPABILITIES, ParallelConfig, PrecisionConfig, check_precision, check_recipe
from cosmos_train.parallel.engine import make_layers
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.precision import RECIPES, row_multiple, stays_bf16, te_recipe

HERE = Path(__file__).resolve()
TE: dict[str, Any] = json.loads((HERE.parent / "data/te_2.11.json").read_text())
MAKER = ast.parse((HERE.parents[2] / "cosmos_train/parallel/te.py").read_text())
MEGATRON_FILE = "megatron/core/extensions/transformer_engine.py"
MEGATRON = ast.parse(Path(str(distribution("megatron-core").locate_file(MEGATRON_FILE))).read_text())
IMPORTED: dict[str, str] = {}
for node in MAKER.body:
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("megatron", "transformer_engine")):
        IMPORTED |= {alias.name: node.module or "" for alias in node.names}
"""Name -> the module that te.py imports it from."""
RECIPE_NAMES = list(RECIPES)


def config_of(parallel: ParallelConfig, dtype: torch.dtype = torch.bfloat16):
    return transformer_config(parallel, dtype=dtype, num_layers=4, width=4, num_heads=2)


def mesh_on(device: str) -> Mesh:
    """As far as layers ask it when they are made."""
    group = SimpleNamespace(rank=lambda: 0, size=lambda: 1)
    return cast(Mesh, SimpleNamespace(tp=group, cp=group, device=torch.device(device)))


def with_recipe(recipe: Any, **fields: Any) -> ParallelConfig:
    return ParallelConfig(precision=PrecisionConfig(recipe=recipe, **fields))


# Calls


def recorded(name: str) -> list[te_signatures.Parameter]:
    """Of a class or function of TransformerEngine, by the end of its dotted name."""
    if name == "RMSNorm.__init__":  # hands on what it does not know
        mine, base = (TE[f"transformer_engine.pytorch.{m}.rmsnorm.{name}"] for m in ("module", "ops.basic"))
        known = [parameter for parameter, *_ in mine]
        return [*mine, *(p for p in base if p[0] not in known)]
    [found] = [value for key, value in TE.items() if key.endswith(f".{name}")]
    return found


def megatron_method(owner: str, method: str) -> ast.FunctionDef:
    """Of one of megatron-core's TransformerEngine classes, or of the class that it inherits from."""
    node = te_signatures.find(MEGATRON.body, owner)
    assert isinstance(node, ast.ClassDef)
    try:
        found = te_signatures.find(node.body, method)
    except KeyError:
        [base] = node.bases
        return megatron_method(ast.unparse(base), method)
    assert isinstance(found, ast.FunctionDef)
    return found


def signature_of(target: str) -> inspect.Signature:
    """Of a function, a class's constructor or a method that te.py calls."""
    owner, _, method = target.partition(".")
    if owner not in IMPORTED:  # te.py's own class
        node = te_signatures.find(MAKER.body, owner)
        assert isinstance(node, ast.ClassDef)
        function = te_signatures.find(node.body, method)
        assert isinstance(function, ast.FunctionDef)
        return te_signatures.signature_of(te_signatures.parameters_of(function, skip_first=True))
    if IMPORTED[owner].startswith("transformer_engine"):
        return te_signatures.signature_of(recorded(target))
    if method:  # a class whose base is a mock here
        return te_signatures.signature_of(te_signatures.parameters_of(megatron_method(owner, method), skip_first=True))
    return inspect.signature(getattr(importlib.import_module(IMPORTED[owner]), owner))


def calls() -> Iterator[tuple[str, ast.Call, bool]]:
    """(target, call, whether it is a partial one) for what te.py calls of others and of its own base classes."""
    for owner in [node for node in MAKER.body if isinstance(node, ast.ClassDef)]:
        for node in ast.walk(owner):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("super()."):
                base = ast.unparse(owner.bases[-1])
                if base != "nn.Module":
                    yield f"{base}.{ast.unparse(node.func).removeprefix('super().')}", node, False
    for node in ast.walk(MAKER):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPORTED:
            yield node.func.id, node, False
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "functools.partial":
            called = ast.unparse(node.args[0])
            if called in IMPORTED:
                yield called, ast.Call(node.func, node.args[1:], node.keywords), True


def bind(signature: inspect.Signature, call: ast.Call, *, is_partial: bool = False) -> None:
    """TypeError where the call does not suit the signature."""
    given = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    (signature.bind_partial if is_partial else signature.bind)(*call.args, **given)


def test_the_maker_calls_megatron_and_transformer_engine_as_they_want_to_be_called():
    checked = set()
    for target, call, is_partial in calls():
        bind(signature_of(target), call, is_partial=is_partial)
        checked.add(target)
    owners = ("TEColumnParallelLinear", "TERowParallelLinear", "TEDotProductAttention", "TEColumnLinear")
    methods = {f"{owner}.{method}" for owner, method in product(owners, ("__init__", "forward"))}
    classes = {"TEQuantizationParams", "TEQuantizationRecipe", "ProcessGroupCollection"}
    functions = {
        "autocast",
        "checkpoint",
        "check_recipe_support",
        "destroy_ub",
        "initialize_ub",
        "get_amax_reduction_group",
        "quantized_model_init",
        "set_save_original_input",
    }
    assert checked == methods | classes | functions | {"RMSNorm.__init__"}


def test_what_the_maker_imports_is_there():
    exported = {name for name, module in IMPORTED.items() if module == "transformer_engine.pytorch"}
    assert exported and exported <= set(TE["transformer_engine.pytorch"])
    assert "recipe" in IMPORTED and any(key.startswith("transformer_engine.common.recipe.") for key in TE)


def test_a_weight_is_made_8_bit_as_transformer_engine_does_it():
    """By methods of a layer that take no argument, after a change of what it keeps of the parameter's making."""
    assert {"init_fn", "get_rng_state_tracker"} <= {name for name, *_ in recorded("_ParameterInitMeta")}
    for method in ("TransformerEngineBaseModule.init_fp8_metadata", "Linear.reset_parameters"):
        te_signatures.signature_of(recorded(method)).bind()


@pytest.mark.parametrize(
    ("wrapper", "wrapped"), [("TELinear", "Linear"), ("TEDotProductAttention", "DotProductAttention")]
)
def test_megatron_passes_on_what_transformer_engine_takes(wrapper: str, wrapped: str):
    """megatron-core 0.16.1 and the recorded version belong together."""
    for method in ("__init__", "forward"):
        taken = {name for name, *_ in recorded(f"{wrapped}.{method}")}
        for node in ast.walk(megatron_method(wrapper, method)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == f"super().{method}":
                assert {keyword.arg for keyword in node.keywords} - {None} <= taken
    assert "save_original_input" in {name for name, *_ in recorded("Linear.__init__")}, "what keeps_input sets"


@pytest.mark.parametrize(
    ("target", "call", "complaint"),
    [
        ("TEColumnParallelLinear.__init__", "f(1)", "missing a required argument: 'output_size'"),
        ("autocast", "f(fp8_recipe=1)", "unexpected keyword argument 'fp8_recipe'"),
        ("RMSNorm.__init__", "f(8, colour=3)", "unexpected keyword argument 'colour'"),
        ("check_recipe_support", "f(1, 2)", "too many positional arguments"),
    ],
)
def test_a_wrong_call_is_found_out(target: str, call: str, complaint: str):
    node = ast.parse(call, mode="eval").body
    assert isinstance(node, ast.Call)
    with pytest.raises(TypeError, match=complaint):
        bind(signature_of(target), node)


def test_layers_leave_out_extra_state_which_native_ones_do_not_have():
    """By the first base of every class; and what that base does is what torch looks for."""
    classes = [node for node in MAKER.body if isinstance(node, ast.ClassDef)]
    of_te = [node for node in classes if set(map(ast.unparse, node.bases)) & IMPORTED.keys()]
    assert len(of_te) == 4 and all(ast.unparse(node.bases[0]) == "Stateless" for node in of_te)

    class Stateful(nn.Module):
        def get_extra_state(self) -> Tensor:
            return torch.ones(1)

    class Stateless(Stateful):
        get_extra_state = nn.Module.get_extra_state

    assert Stateful().state_dict() and not Stateless().state_dict()


# Recipes


@pytest.mark.parametrize(
    ("recipe", "number_format"),
    [
        ("nvfp4", "auto"),
        *itertools.product([name for name in RECIPE_NAMES if name != "nvfp4"], ("auto", "e4m3", "hybrid")),
    ],
)
def test_a_recipe_is_called_as_transformer_engine_wants_it(recipe: Any, number_format: Any):
    extra = {"amax_history_len": 16, "amax_compute": "most_recent"} if recipe == "fp8_delayed" else {}
    te_class, arguments = te_recipe(PrecisionConfig(recipe=recipe, format=number_format, **extra))
    te_signatures.signature_of(recorded(te_class)).bind(**arguments)
    if "fp8_format" in arguments:
        assert arguments["fp8_format"] in recorded("Format")
        assert number_format == "auto" or arguments["fp8_format"] == number_format.upper()
    assert {arguments.get("amax_history_len"), arguments.get("amax_compute_algo")} == (
        {16, "most_recent"} if extra else {None}
    )


def test_every_recipe_of_the_configuration_is_known():
    names = set(get_args(get_type_hints(PrecisionConfig)["recipe"]))
    assert names == {"none", *RECIPES} == {"none", *CAPABILITIES}
    assert [row_multiple(PrecisionConfig(recipe=cast(Any, name))) for name in ("none", *RECIPE_NAMES)] == [
        *(1, 16, 16, 128, 32, 128)
    ]


@pytest.mark.parametrize("recipe", ["none", *RECIPE_NAMES])
def test_megatron_renews_8_bit_weights_exactly_where_there_are_some(recipe: str):
    """Its schedules tell modules of a step's first micro-batch only where TransformerConfig names a recipe."""
    config = config_of(with_recipe(recipe))
    model = MegatronModule(config)
    model.add_module("linear", nn.Linear(2, 2))
    setattr(model.linear, "is_first_microbatch", False)  # noqa: B010 as megatron-core's TE linears have it
    model.set_is_first_microbatch()
    assert model.linear.is_first_microbatch == (recipe != "none")
    told = config.fp4_recipe if recipe == "nvfp4" else config.fp8_recipe
    assert recipe == "none" or told == RECIPES[recipe].megatron
    assert (config.fp8 is None) == (recipe in ("none", "nvfp4")) and (config.fp4 is None) == (recipe != "nvfp4")


@pytest.mark.parametrize("recipe", ["fp8_delayed", "fp8_current", "fp8_blockwise"])
def test_weights_kept_in_8_bits_are_announced_to_the_engine(recipe: str):
    """Which tells megatron-core's DDP and optimizer, once te.py has made them so."""
    assert config_of(with_recipe(recipe, fp8_param_gather=True)).fp8_param
    assert not config_of(with_recipe(recipe)).fp8_param


@pytest.mark.parametrize(
    ("capability", "legal"),
    [
        ((8, 0), "none"),
        ((8, 9), "none, fp8_delayed, fp8_current"),
        ((9, 0), "none, fp8_delayed, fp8_current, fp8_blockwise"),
        ((10, 0), "none, fp8_delayed, fp8_current, fp8_blockwise, mxfp8, nvfp4"),
        ((12, 0), "none, fp8_delayed, fp8_current, fp8_blockwise, nvfp4"),
    ],
)
def test_a_gpu_is_asked_for_what_it_has_only(capability: tuple[int, int], legal: str):
    for recipe in ("none", *RECIPE_NAMES):
        check = functools.partial(check_precision, PrecisionConfig(recipe=cast(Any, recipe)), capability, "a GPU")
        if recipe in legal.split(", "):
            check()
            continue
        with pytest.raises(ConfigError) as caught:
            check()
        message = str(caught.value)
        assert message.startswith(f"parallel.precision.recipe={recipe} needs a compute capability of ")
        assert message.endswith(f"but a GPU has {capability[0]}.{capability[1]}; use {legal}")


def test_a_recipe_needs_cuda():
    parallel = with_recipe("fp8_current")
    with pytest.raises(ConfigError, match=r"^parallel.precision.recipe=fp8_current needs .* on cpu .*; use none$"):
        make_layers(parallel, config_of(parallel), mesh_on("cpu"))


@pytest.mark.parametrize("parallel", [with_recipe("mxfp8"), ParallelConfig(layers="te")], ids=["recipe", "te"])
def test_a_plan_needs_none(parallel: ParallelConfig):
    """A login node says what the ranks of a FP8 run would hold."""
    assert make_layers(parallel, config_of(parallel), mesh_on("meta")).name == "native"


@pytest.mark.parametrize(
    ("config", "weights", "num_blocks", "complaint"),
    [
        (PrecisionConfig(recipe="mxfp8"), "fp32", 4, "train.precision=fp32; set train.precision=bf16"),
        (PrecisionConfig(recipe="mxfp8"), "bf16", 2, "leave none of model.num_blocks=2 to recipe=mxfp8"),
    ],
)
def test_a_recipe_has_something_to_do(config: PrecisionConfig, weights: str, num_blocks: int, complaint: str):
    check_recipe(PrecisionConfig(), weights, num_blocks)
    check_recipe(config, "bf16", 4)
    with pytest.raises(ConfigError, match=complaint):
        check_recipe(config, weights, num_blocks)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"recipe": "nvfp4", "format": "hybrid"}, "format=hybrid is an 8-bit format"),
        ({"recipe": "mxfp8", "amax_history_len": 4}, "amax_history_len=4 .* read by recipe=fp8_delayed only"),
        ({"amax_history_len": 0}, "amax_history_len=0 must be at least 1"),
        ({"recipe": "mxfp8", "fp8_param_gather": True}, "fp8_param_gather=true is for recipe fp8_delayed, .*=mxfp8"),
        ({"fp8_param_gather": True}, "fp8_param_gather=true .* but recipe=none; use one of these, or switch it off"),
        ({"bf16_last_blocks": -1}, "bf16_last_blocks=-1 must be at least 0"),
    ],
)
def test_a_key_that_would_do_nothing_is_refused(fields: dict[str, Any], complaint: str):
    with pytest.raises(ValueError, match=f"^parallel.precision.{complaint}"):
        PrecisionConfig(**fields)


def test_native_layers_have_no_recipes():
    with pytest.raises(ValueError, match=r"recipe=mxfp8 is TransformerEngine's, but parallel\.layers=native"):
        ParallelConfig(layers="native", precision=PrecisionConfig(recipe="mxfp8"))


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["parallel.precision.recipe=mxfp8"], "computes on bf16 weights"),
        (["parallel.precision.recipe=fp9"], "parallel.precision.recipe=fp9 is not one of none, fp8_delayed"),
        (
            ["parallel.precision.recipes=mxfp8"],
            "unknown key parallel.precision.recipes; the nearest: parallel.precision.recipe",
        ),
    ],
)
def test_the_section_is_checked_before_a_run(overrides: list[str], complaint: str):
    with pytest.raises(ConfigError, match=complaint):
        load_run("run/pretrain/dit_7b_720p", ["train.precision=fp32", *overrides])


def test_the_section_comes_from_yaml_and_overrides():
    run = load_run(
        "run/pretrain/dit_7b_720p", ["parallel.precision.recipe=mxfp8", "parallel.precision.bf16_modules=[a.*,b]"]
    )
    assert run.parallel.precision == PrecisionConfig(recipe="mxfp8", bf16_modules=("a.*", "b"))


# What stays in bf16


def test_first_and_last_blocks_stay_in_bf16_by_default():
    chosen = [stays_bf16(PrecisionConfig(recipe="mxfp8"), f"blocks.{i}.mlp.up", 12) for i in range(12)]
    assert chosen == [True, *[False] * 10, True]
    config = PrecisionConfig(recipe="mxfp8", bf16_first_blocks=0, bf16_last_blocks=2)
    assert [stays_bf16(config, f"blocks.{i}.mlp.up", 4) for i in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("pattern", "name", "stays"),
    [
        ("blocks.*.mlp.down", "blocks.2.mlp.down", True),
        ("blocks.*.mlp.down.weight", "blocks.2.mlp.down", True),
        ("*.cross_attention.*", "blocks.2.cross_attention.kv", True),
        ("blocks.2.*", "blocks.3.mlp.up", False),
        ("mlp.down", "blocks.2.mlp.down", False),
    ],
)
def test_names_stay_in_bf16_by_pattern(pattern: str, name: str, stays: bool):
    assert stays_bf16(PrecisionConfig(recipe="mxfp8", bf16_modules=(pattern,)), name, 8) is stays


# Padding


def test_padding_changes_neither_output_nor_gradients():
    """Of the network that tests/gpu asks the same of in 8 bits."""
    mesh = init.start(ParallelConfig(), seed=1)
    try:
        plain, padded = (gpu_dit.build(gpu_dit.NATIVE, mesh, torch.float32)[0].net for _ in range(2))
        padded = gpu_dit.padded(padded, gpu_dit.NATIVE, mesh, align=128)
        assert padded.layers.split(gpu_dit.NUM_TOKENS).num_padded == 256
        found, wanted = (gpu_dit.answers(network, torch.float32) for network in (padded, plain))
    finally:
        init.stop()
    assert max(gpu_dit.errors(found, wanted).values()) < 1e-5
