"""Autoregressive world models of NVIDIA's layout: the same logits, the same greedy codes, in and out, refusals."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import converted_ar, official_ar
from support.converted_ar import GREEDY
from support.official_dit import small_config, write_official
from support.ranks import RankPool
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop import compare_ar
from cosmos_train.interop import official_ar as official_module
from cosmos_train.interop.convert import convert
from cosmos_train.interop.official_ar import derive_config
from cosmos_train.interop.source import is_world_model, open_source
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.worlds.autoregressive import AutoregressiveWorld
from cosmos_train.worlds.diffusion import DiffusionWorld
from cosmos_train.worlds.opening import open_world

KINDS = official_ar.KINDS
GRID_THW = (3, 4, 5)


def inputs(arguments: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Ids of two whole grids, their first frames, and text where there is any."""
    generator, has_text = torch.Generator().manual_seed(3), official_ar.has_text(arguments)
    codes = torch.randint(48, (2, 60), generator=generator)
    ids = torch.cat((torch.full((2, 1), 48), codes), dim=1) if has_text else codes
    text = torch.randn(2, 7, 16, generator=generator) if has_text else None
    return ids, codes.unflatten(1, GRID_THW), text


def expected(arguments: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """(logits, greedy codes [B, T H W]) of the plain network."""
    tensors, (ids, given, text) = official_ar.state(arguments), inputs(arguments)
    codes = official_ar.greedy(tensors, arguments, given[:, 0].flatten(1), 60, text)
    assert not torch.equal(codes[0, 20:], codes[1, 20:])
    return official_ar.logits(tensors, arguments, ids, text), codes


def write(folder: Path, arguments: dict[str, Any]) -> Path:
    """model.pt, and arguments.json beside it."""
    source = official_ar.write(folder / "model.pt", arguments)
    (folder / "arguments.json").write_text(json.dumps(arguments))
    return source


def require_same(found: Path, wanted: dict[str, Tensor]) -> None:
    loaded = torch.load(found, weights_only=True)
    assert loaded.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


# The same function


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_greedy_codes(tmp_path: Path, kind: str) -> None:
    arguments, (ids, given, text) = KINDS[kind], inputs(KINDS[kind])
    model = open_world(official_ar.write(tmp_path / "model.pt", arguments), arguments=arguments)
    logits, codes = expected(arguments)
    assert (model(ids, GRID_THW[1:], text) - logits).abs().max() < 1e-4 < logits.abs().max()
    found = model.sample_latents(GRID_THW, config=GREEDY, given_BTHW=given, text_BSE=text, seeds=(0, 1))
    assert torch.equal(found.flatten(1), codes)
    assert torch.equal(found[:, 0], given[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_on_two_tensor_parallel_ranks(ranks: Callable[[int], RankPool], tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, KINDS[kind])
    logits, codes = expected(KINDS[kind])
    for found, found_codes in ranks(2).run(converted_ar.answers, source, ParallelConfig(tp=2), *inputs(KINDS[kind])):
        assert (found - logits).abs().max() < 1e-4
        assert torch.equal(found_codes.flatten(1), codes)


def test_positions_are_told_by_the_arguments_alone(tmp_path: Path) -> None:
    """The same tensors without YaRN, and without the sinusoid, are other networks; without arguments as released."""
    arguments, (ids, _, text) = KINDS["13B video2world"], inputs(KINDS["13B video2world"])
    source = official_ar.write(tmp_path / "model.pt", arguments)
    logits, _ = expected(arguments)
    for change in ({"apply_yarn": False}, {"apply_abs_pos_emb": False}, {"rope_theta": 10_000}):
        other = open_world(source, arguments=arguments | change)
        assert (other(ids, GRID_THW[1:], text) - logits).abs().max() > 1e-3
    released = open_world(source)
    assert released.notes == ("no tensor tells the positions; took no YaRN and sinusoid, as released",)
    assert released.config.absolute_positions and released.config.yarn_scale == 1


# In and out


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(tmp_path: Path, kind: str) -> None:
    source = write(tmp_path, KINDS[kind])
    done = convert(source, tmp_path / "ours")
    assert (done.layout, done.difference, done.notes) == ("official", 0, ())
    again = convert(tmp_path / "ours", tmp_path / "official", to="official")
    assert again.config == done.config and again.layout == "ours"
    require_same(tmp_path / "official/model.pt", official_ar.state(KINDS[kind]))
    assert open_source(tmp_path / "official").config == done.config, "arguments.json beside the file is read"


@pytest.mark.parametrize(("kind", "dtype"), [("4B", "float32"), ("13B video2world", "bfloat16")])
def test_through_a_checkpoint_of_ours(ranks: Callable[[int], RankPool], tmp_path: Path, kind: str, dtype: str) -> None:
    """official -> a run on TP2 x PP2 -> official: the tensors are bit-identical."""
    source, wanted = write(tmp_path, KINDS[kind]), official_ar.state(KINDS[kind])
    wanted = {name: tensor.to(getattr(torch, dtype)) for name, tensor in wanted.items()}
    torch.save(wanted, source)
    ranks(4).run(converted_ar.save_distributed, source, tmp_path / "run", ParallelConfig(tp=2, pp=2), dtype)
    done = convert(tmp_path / "run", tmp_path / "back", to="official")
    assert done.layout == "checkpoint" and done.config == open_source(source).config
    require_same(tmp_path / "back/model.pt", wanted)


def test_tensor_parallel_shards(tmp_path: Path) -> None:
    """As the official code divides a checkpoint, in and out; norms that drifted apart are averaged."""
    arguments = KINDS["5B video2world"]
    wanted = official_ar.state(arguments)
    shards = official_ar.shard(wanted, 2)
    for rank, tensors in enumerate(shards):
        torch.save({"model": tensors, "iteration": 100}, tmp_path / f"iter_000000100_model_mp_{rank}.pt")
    for source in (tmp_path, tmp_path / "iter_000000100_model_mp_1.pt"):
        assert is_world_model(source)
        model = open_world(source, arguments=arguments)
        assert model.notes == ("put together from 2 tensor-parallel shards",)
    convert(tmp_path, tmp_path / "whole", to="official", arguments=arguments)
    require_same(tmp_path / "whole/model.pt", wanted)
    convert(tmp_path / "whole", tmp_path / "divided", to="training", tp=2)
    for rank, tensors in enumerate(shards):
        require_same(tmp_path / f"divided/iter_000000000_model_mp_{rank}.pt", tensors)

    shards[1]["model.norm.weight"] = shards[0]["model.norm.weight"] + 0.5
    torch.save(shards[1], tmp_path / "iter_000000100_model_mp_1.pt")
    found = open_source(tmp_path, arguments).ours.read("final_norm.weight")
    torch.testing.assert_close(found, wanted["model.norm.weight"] + 0.25)


@pytest.mark.parametrize("hidden", [1, 50])
def test_any_width_of_the_mlp(tmp_path: Path, hidden: int) -> None:
    """No multiple of 16: the same function, and the same tensors back, whole and in shards."""
    arguments = KINDS["5B video2world"] | {"ffn_hidden_size": hidden}
    source, (ids, given, text) = write(tmp_path, arguments), inputs(arguments)
    done = convert(source, tmp_path / "ours")
    assert done.notes == (f"its MLP of {hidden} hidden units has {-hidden % 16} more here that are zero",)
    assert done.num_parameters == sum(tensor.numel() for tensor in official_ar.state(arguments).values())
    logits, codes = expected(arguments)
    for place in (source, tmp_path / "ours"):
        model = open_world(place)
        assert (model(ids, GRID_THW[1:], text) - logits).abs().max() < 1e-4 < logits.abs().max()
        found = model.sample_latents(GRID_THW, config=GREEDY, given_BTHW=given, text_BSE=text, seeds=(0, 1))
        assert torch.equal(found.flatten(1), codes)
    convert(tmp_path / "ours", tmp_path / "official", to="official")
    require_same(tmp_path / "official/model.pt", official_ar.state(arguments))
    assert json.loads((tmp_path / "official/arguments.json").read_text())["ffn_hidden_size"] == hidden
    if hidden % 2:
        with pytest.raises(ConfigError, match=rf"--tp 2 does not divide model.ffn_width={hidden}"):
            convert(tmp_path / "ours", tmp_path / "shards", to="training", tp=2)
        return
    convert(tmp_path / "ours", tmp_path / "shards", to="training", tp=2)
    for rank, tensors in enumerate(official_ar.shard(official_ar.state(arguments), 2)):
        require_same(tmp_path / f"shards/iter_000000000_model_mp_{rank}.pt", tensors)
    assert open_source(tmp_path / "shards").config == done.config


def test_a_width_with_zeros_trains_and_is_exported_without_them(
    ranks: Callable[[int], RankPool], tmp_path: Path
) -> None:
    """By a run's checkpoint on two ranks. In a new model the padding is zero too, and has no gradient."""
    arguments = KINDS["4B"] | {"ffn_hidden_size": 50}
    source = write(tmp_path, arguments)
    ranks(2).run(converted_ar.save_distributed, source, tmp_path / "run", ParallelConfig(tp=2), "float32")
    convert(tmp_path / "run", tmp_path / "back", to="official")
    require_same(tmp_path / "back/model.pt", official_ar.state(arguments))
    config, mesh = open_source(source).require_ar(), init.start(ParallelConfig(), seed=0)
    [model], _ = build_world_ar(config, ParallelConfig(), mesh, dtype=torch.float32, seed=1)
    result = model(inputs(arguments)[0], GRID_THW[1:])
    assert isinstance(result, tuple)
    result[0].sum().backward()
    up, down = (model.get_parameter(f"blocks.0.mlp.{name}.weight") for name in ("up", "down"))
    for tensor in (up, down, up.grad, down.grad):
        assert tensor is not None
        padded = tensor[:, -14:] if tensor.shape[0] == 40 else tensor.unflatten(0, (-1, 2, 16))[-1, :, -14:]
        assert padded.abs().max() == 0 < tensor.abs().max()


def renamed(state: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in state.items()}


LOOKS: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "without model.": lambda s: renamed(s, lambda name: name.removeprefix("model.")),
    "in a container": lambda s: {"model": s, "iteration": 3},
    "FSDP": lambda s: renamed(s, lambda name: name.replace("model.", "model._fsdp_wrapped_module.")),
    "DDP": lambda s: renamed(s, lambda name: f"module.{name}"),
    "TransformerEngine": lambda s: s | {"model.layers.0.attention.q_norm._extra_state": io.BytesIO(b"state")},
    "positions": lambda s: s | {"model.rope.cos_cached": torch.ones(1, 64, 1, 24)},
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_file_that_looks(tmp_path: Path, look: str) -> None:
    state = official_ar.state(KINDS["4B"])
    torch.save(LOOKS[look](state), tmp_path / "model.pt")
    assert is_world_model(tmp_path)
    assert torch.equal(open_source(tmp_path).ours.read("final_norm.weight"), state["model.norm.weight"])


def test_medusa_heads_stay_in_our_layouts(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """A run with heads, as our folder with heads, as an official file without; started from, they are new or unused."""
    source, wanted = write(tmp_path, KINDS["4B"]), official_ar.state(KINDS["4B"])
    heads = ParallelConfig(tp=2), "float32", {"medusa_heads": 3}
    ranks(2).run(converted_ar.save_distributed, source, tmp_path / "run", *heads)
    done = convert(tmp_path / "run", tmp_path / "ours")
    assert done.num_parameters == open_source(source).num_parameters + 3 * 40 * 40
    model, (ids, given, _) = open_world(tmp_path / "ours"), inputs(KINDS["4B"])
    logits, codes = expected(KINDS["4B"])
    assert (model(ids, GRID_THW[1:]) - logits).abs().max() < 1e-4
    assert torch.equal(model.sample_latents(GRID_THW, config=GREEDY, given_BTHW=given, seeds=(0, 1)).flatten(1), codes)
    done = convert(tmp_path / "ours", tmp_path / "official", to="official")
    assert done.notes == ("its 3 Medusa heads are left out: the official files have no place for them",)
    require_same(tmp_path / "official/model.pt", wanted)


def test_a_result_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path, KINDS["12B"])
    arguments = official_module.official_arguments

    def careless(config: WorldARConfig) -> dict[str, Any]:
        return arguments(config) | {"apply_yarn": False}

    monkeypatch.setattr(official_module, "official_arguments", careless)
    with pytest.raises(ConfigError, match="converted, is of another architecture"):
        convert(source, tmp_path / "official", to="official")
    assert not (tmp_path / "official").exists()


def test_a_result_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, folder = write(tmp_path, KINDS["4B"]), tmp_path / "ours"
    logits = compare_ar.logits
    monkeypatch.setattr(compare_ar, "logits", lambda one: logits(one) + (0.1 if one.layout == "ours" else 0))
    with pytest.raises(ConfigError, match=r"does not compute what it did: outputs of up to .* nothing was written"):
        convert(source, folder)
    assert not folder.exists()


def test_safetensors(tmp_path: Path) -> None:
    save_file(official_ar.state(KINDS["4B"]), tmp_path / "model.safetensors")
    assert open_source(tmp_path).require_ar().num_kv_heads == 4


# What is refused


def derived(kind: str, **change: Any) -> Any:
    return derive_config(official_ar.state(KINDS[kind]), KINDS[kind] | change, "model.pt", [])


def test_arguments_that_are_silent_mean_the_constructors_defaults() -> None:
    """Neither YaRN nor sinusoid; arguments that say nothing of the function pass."""
    state, notes = official_ar.state(KINDS["5B video2world"]), list[str]()
    silent = {"n_layers": 2, "max_seq_len": 64, "n_kv_heads": None, "flash_attn": True, "action_dim": 8}
    config = derive_config(state, silent, "model.pt", notes)
    assert (config.absolute_positions, config.yarn_scale, config.rope_theta) == (False, 1.0, 500_000.0)
    assert notes == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_heads": 4}, "its tensors say n_heads=8, the arguments n_heads=4"),
        ({"vocab_size": 64}, "its tensors say vocab_size=48, the arguments vocab_size=64"),
        ({"insert_cross_attn": False}, "its tensors say insert_cross_attn=True"),
        ({"training_type": "video_to_video"}, "its tensors say training_type=text_to_video"),
        ({"rope_dim": "1D"}, "only rope_dim=3D can be converted"),
        ({"norm_eps": 1e-6}, "only norm_eps=1e-05 can be converted"),
        ({"insert_cross_attn_every_k_layers": 2}, "only insert_cross_attn_every_k_layers=1"),
        ({"yarn_beta_fast": None}, "apply_yarn=True needs yarn_beta_fast; add them"),
        ({"use_action_condition": True}, "only use_action_condition=False"),
        ({"n_views": 3, "flash": 1}, "unknown arguments n_views=3, flash=1; known are _target_, act_ckpt_enabled, "),
    ],
)
def test_arguments_of_another_network(change: dict[str, Any], said: str) -> None:
    assert derived("13B video2world").begin_token
    with pytest.raises(ConfigError, match=re.escape(said)):
        derived("13B video2world", **change)


def test_a_network_of_actions_goes_in_and_out(tmp_path: Path) -> None:
    """As NVIDIA's post-training of the 5B names it."""
    arguments, width = KINDS["5B video2world"], 16
    sizes = {"0.weight": (width // 4, 7), "0.bias": (width // 4,), "2.weight": (width, width // 4), "2.bias": (width,)}
    of_actions = {f"model.action_mlp.{name}": torch.randn(shape) for name, shape in sizes.items()}
    source = write(tmp_path, arguments)
    torch.save(official_ar.state(arguments) | of_actions, source)
    done = convert(source, tmp_path / "ours")
    assert isinstance(done.config, WorldARConfig) and done.config.action_width == 7 and done.difference == 0
    convert(tmp_path / "ours", tmp_path / "back", to="official")
    back = torch.load(tmp_path / "back/model.pt", weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in of_actions.items())


@pytest.mark.parametrize("name", ["action_embedding_layers.0.weight", "vision_encoder.conv.weight"])
def test_names_the_feature_of_a_file_that_has_more(tmp_path: Path, name: str) -> None:
    torch.save(official_ar.state(KINDS["5B video2world"]) | {f"model.{name}": torch.ones(2)}, tmp_path / "model.pt")
    feature = {"a": "actions in another way than the released one", "v": r"images as tokens \(a vision encoder\)"}[
        name[0]
    ]
    with pytest.raises(ConfigError, match=rf"has model.{name}: its network takes {feature}, which no world model"):
        open_world(tmp_path / "model.pt", arguments=KINDS["5B video2world"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("output.weight", "has no model.output.weight: it is no autoregressive world model"),
        ("layers.1.ffn_norm.weight", "model.layers.1.ffn_norm.weight: absent in the file, 40 in the architecture"),
        ("layers.0.attention.q_norm.weight", "has no model.layers.0.attention.q_norm.weight"),
    ],
)
def test_a_tensor_is_missing(tmp_path: Path, change: str, said: str) -> None:
    state = official_ar.state(KINDS["4B"])
    del state[f"model.{change}"]
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=re.escape(said)):
        convert(tmp_path / "model.pt", tmp_path / "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}


def test_layouts_that_have_no_place(tmp_path: Path) -> None:
    source = official_ar.write(tmp_path / "model.pt", KINDS["4B"])
    for to, tp, said in (
        ("transformers", 1, "is not a LlamaForCausalLM: that class neither normalises the queries and keys"),
        ("diffusers", 1, "diffusers has none; use --to official"),
        ("ours", 2, "--tp 2 is for the official layouts"),
        ("official", 3, "--tp 3 does not divide model.num_kv_heads=4"),
        ("official", 0, "--tp 0 must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            convert(source, tmp_path / "theirs", to=to, tp=tp)
    dit = write_official(tmp_path / "dit/model.pt", small_config())
    with pytest.raises(ConfigError, match="diffusion world model, and transformers has none; use --to diffusers"):
        convert(dit, tmp_path / "theirs", to="transformers")
    assert not (tmp_path / "theirs").exists()
    convert(source, tmp_path / "paper", arguments=KINDS["12B"])
    config = json.loads((tmp_path / "paper/config.json").read_text())
    config["config"]["yarn_spatial"] = False
    (tmp_path / "paper/config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"yarn_spatial=False and .* the official code only has True"):
        convert(tmp_path / "paper", tmp_path / "theirs", to="official")


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    shards = official_ar.shard(official_ar.state(KINDS["4B"]), 4)
    for rank in (0, 1, 3):
        torch.save(shards[rank], tmp_path / f"model_model_mp_{rank}.pt")
    with pytest.raises(ConfigError, match=r"has the shards \[0, 1, 3\] of model_model_mp_\*.pt; copy those between"):
        open_source(tmp_path)
    del shards[2]["model.norm.weight"]
    torch.save(shards[2], tmp_path / "model_model_mp_2.pt")
    with pytest.raises(ConfigError, match=r"shards 0 and 2 differ in model\.norm\.weight"):
        open_source(tmp_path)


def test_the_other_kind(tmp_path: Path) -> None:
    source = official_ar.write(tmp_path / "model.pt", KINDS["4B"])
    dit = write_official(tmp_path / "dit/model.pt", small_config())
    assert isinstance(open_world(source), AutoregressiveWorld) and isinstance(open_world(dit), DiffusionWorld)
    with pytest.raises(ConfigError, match="is an autoregressive world model, not a diffusion one"):
        open_source(source).require_dit()
    with pytest.raises(ConfigError, match="is a diffusion world model, not an autoregressive one"):
        open_source(dit).require_ar()


def test_ids_outside_the_vocabulary(tmp_path: Path) -> None:
    base = open_world(official_ar.write(tmp_path / "model.pt", KINDS["4B"]))
    with pytest.raises(ConfigError, match="run from 0 to 48, but this model knows 0 to 47; use the tokenizer"):
        base(torch.tensor([[0, 48]]), (4, 5))
