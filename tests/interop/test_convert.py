"""World models of NVIDIA's and diffusers' layouts in and out of ours, and what is refused."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support.converted import save_distributed
from support.official_dit import official_state, small_config, write_official
from support.ranks import RankPool
from torch import Tensor

from cosmos_tok.config import TokenizerError
from cosmos_tok.weights import Weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop import compare, stores
from cosmos_train.interop import convert as conversion
from cosmos_train.interop.convert import RECORD, convert
from cosmos_train.interop.official_dit import derive_config, official_arguments
from cosmos_train.interop.source import is_world_model, open_source
from cosmos_train.parallel.config import ParallelConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "text_to_world": {},
    "video_to_world": {"condition_mask": True, "rope_scale_t": 1.5, "rope_scale_h": 2.0, "rope_scale_w": 3.0},
    "camera": {"condition_mask": True, "extra_channels": 6},
    "actions": {
        "condition_mask": True,
        "action_frames": "next",
        "action_width": 7,
        "action_into": "modulation",
    },
    "no_tables": {"position_tables": False, "max_latent_frames": 128, "max_latent_size": 240},
    "no_padding_mask": {"padding_mask": False},
    "no_lora": {"adaln_rank": 0},
    "no_timestep_norm": {"timestep_norm": False},
    "other_sizes": {"num_blocks": 3, "num_heads": 2, "head_dim": 12, "mlp_ratio": 3, "max_latent_width": 16},
    "patches_of_one": {"patch_spatial": 1, "latent_channels": 3},
}


def weights_of(path: Path) -> dict[str, Tensor]:
    """Without the rotary positions' buffer, which is computed."""
    loaded = torch.load(path, weights_only=True)
    return {name: tensor for name, tensor in loaded.items() if not name.startswith("net.pos_embedder")}


def require_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back(tmp_path: Path, name: str) -> None:
    """The architecture is the file's, with the constructor's arguments; every tensor comes back bit for bit."""
    config = small_config(**VARIANTS[name])
    source = write_official(tmp_path / "model.pt", config, learned_uncertainty=name != "no_tables")
    done = convert(source, tmp_path / "ours", arguments=official_arguments(config))
    assert (done.config, done.layout, done.difference) == (config, "official", 0)
    again = convert(tmp_path / "ours", tmp_path / "official", to="official")
    assert again.config == config
    require_same(weights_of(tmp_path / "official/model.pt"), weights_of(source))
    assert open_source(tmp_path / "official").config == config, "arguments.json beside the file is read"
    record = json.loads((tmp_path / "ours" / RECORD).read_text())
    assert record["difference"] == 0 and record["config"]["num_blocks"] == config.num_blocks


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_through_every_layout(ranks: Callable[[int], RankPool], tmp_path: Path, dtype: str) -> None:
    """official -> a checkpoint of ours on TP2 x PP2 -> diffusers -> official: the tensors are bit-identical."""
    config = small_config(condition_mask=True)
    source = write_official(tmp_path / "model.pt", config)
    if dtype == "bf16":  # the uncertainty stays in fp32, as in training
        state = {k: t if k.startswith("logvar") else t.bfloat16() for k, t in official_state(config).items()}
        torch.save(state, source)
    (tmp_path / "arguments.json").write_text(json.dumps(official_arguments(config)))
    ranks(4).run(save_distributed, source, tmp_path / "run", ParallelConfig(tp=2, pp=2), dtype)
    done = convert(tmp_path / "run", tmp_path / "diffusers", to="diffusers")
    assert done.layout == "checkpoint" and done.compared_with == "diffusers' CosmosTransformer3DModel"
    assert done.difference < 1e-4
    back = convert(tmp_path / "diffusers", tmp_path / "back", to="official")
    assert back.layout == "diffusers" and back.config == config
    require_same(weights_of(tmp_path / "back/model.pt"), weights_of(source))


def test_shards_with_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and their index are what the libraries of safetensors and diffusers read."""
    monkeypatch.setattr(stores, "MAX_SHARD_BYTES", 100_000)
    source = write_official(tmp_path / "model.pt", small_config())
    convert(source, tmp_path / "diffusers", to="diffusers")
    folder = tmp_path / "diffusers/transformer"
    shards = sorted(folder.glob("*-of-*.safetensors"))
    index = json.loads((folder / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert len(shards) > 3
    stored = {}
    for shard in shards:
        stored |= dict.fromkeys(load_file(shard), shard.name)
    assert index["weight_map"] == stored
    for shard in shards:
        with safe_open(shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
    network = compare.transformer_module().CosmosTransformer3DModel.from_pretrained(folder)
    wanted = load_file(folder / stored["proj_out.weight"])["proj_out.weight"]
    assert torch.equal(network.proj_out.weight, wanted)

    (folder / shards[1].name).unlink()
    with pytest.raises(
        TokenizerError, match=rf"names {len(shards)} shards, and 1 of them are missing, first {shards[1].name}"
    ):
        open_source(tmp_path / "diffusers")


def test_no_more_than_the_largest_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a writer is handed is let go before the next: nobody collects the tensors."""
    source = write_official(tmp_path / "model.pt", small_config(num_blocks=4))
    alive: set[int] = set()
    most = 0
    read = Weights.read

    def counted(self: Weights, name: str) -> Tensor:
        nonlocal most
        tensor = read(self, name).clone()
        alive.add(id(tensor))
        import weakref

        weakref.finalize(tensor, alive.discard, id(tensor))
        most = max(most, len(alive))
        return tensor

    monkeypatch.setattr(Weights, "read", counted)
    found = open_source(source)
    for to in ("ours", "official", "diffusers"):
        (tmp_path / to).mkdir()
        conversion._write(tmp_path / to, found, to)
    assert 3 <= most <= 5, "queries, keys and values that become one matrix"


# What files look like


def renamed(state: dict[str, Tensor], rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in state.items()}


LOOKS: dict[str, tuple[str, str, Callable[[dict[str, Tensor]], Any]]] = {
    "without net.": ("model.pt", "network", lambda s: renamed(s, lambda name: name.removeprefix("net."))),
    "in a container": ("model.pt", "network", lambda s: {"model": s, "iteration": 3}),
    "FSDP": ("model.pt", "network", lambda s: renamed(s, lambda n: n.replace("net.", "net._fsdp_wrapped_module."))),
    "a training run": ("iter_000000200_reg_model.pt", "network", lambda s: s),
    "averages with dashes": (
        "iter_000000200_ema_model.pt",
        "ema",
        lambda s: renamed(s, lambda name: "ema." + name.replace(".", "-")),
    ),
    "averages without a prefix": ("iter_000000200_ema_model.pt", "ema", lambda s: s),
    "TransformerEngine": (
        "model.pt",
        "network",
        lambda s: s | {"net.blocks.block0.blocks.0.block.attn.attn_op._extra_state": io.BytesIO(b"state")},
    ),
    "patches by convolution": (
        "model.pt",
        "network",
        lambda s: {
            name.replace("proj.1", "proj"): t.unflatten(1, (-1, 1, 2, 2)) if "x_embedder" in name else t
            for name, t in s.items()
        },
    ),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_file_that_looks(tmp_path: Path, look: str) -> None:
    file, weights, change = LOOKS[look]
    state = official_state(small_config())
    torch.save(change(state), tmp_path / file)
    assert is_world_model(tmp_path) and is_world_model(tmp_path / file)
    found = open_source(tmp_path, weights=weights)
    assert found.config.num_blocks == 2 and found.learned_uncertainty
    assert torch.equal(found.ours.read("net.embed.weight"), state["net.x_embedder.proj.1.weight"])


def test_both_networks_in_a_file(tmp_path: Path) -> None:
    network, average = (official_state(small_config(), seed=seed) for seed in (1, 2))
    dashed = renamed({k: t for k, t in average.items() if "logvar.0" not in k}, lambda n: "ema." + n.replace(".", "-"))
    torch.save(network | dashed, tmp_path / "model.pt")
    for weights, state in (("network", network), ("ema", average)):
        found = open_source(tmp_path / "model.pt", weights=weights)
        assert torch.equal(found.ours.read("net.final.linear.weight"), state["net.final_layer.linear.weight"])
        assert torch.equal(found.ours.read("uncertainty.linear.weight"), state["logvar.1.weight"])
        assert torch.equal(found.ours.read("uncertainty.phase"), network["logvar.0.phases"]), "a buffer has no average"


# What tensors do not tell


def derived(arguments: dict[str, Any] | None = None, **sizes: Any) -> tuple[Any, list[str]]:
    notes: list[str] = []
    return derive_config(official_state(small_config(**sizes)), arguments, "model.pt", notes), notes


def test_without_arguments_it_is_as_released() -> None:
    config, notes = derived(condition_mask=True)
    assert config == small_config(condition_mask=True)
    assert "took 2, 1, 1 of time, rows and columns" in notes[0]
    assert derived({})[0].rope_scale_t == 2.0


def test_arguments_that_are_silent_mean_the_constructors_defaults() -> None:
    arguments = {"num_blocks": 2, "rope_h_extrapolation_ratio": 1.5, "use_checkpoint": True, "pos_emb_cls": None}
    config, notes = derived(arguments)
    assert (config.rope_scale_t, config.rope_scale_h, config.rope_scale_w) == (1.0, 1.5, 1.0)
    assert notes == []
    assert derived({"adaln_lora_dim": 256}, adaln_rank=0)[0].adaln_rank == 0


def test_channels_without_a_padding_mask() -> None:
    config, _ = derived({"concat_padding_mask": False}, condition_mask=True, padding_mask=False)
    assert config.condition_mask and not config.padding_mask


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"num_heads": 8}, "its tensors say num_heads=4, the arguments num_heads=8"),
        ({"in_channels": 17}, "its tensors say in_channels=4, the arguments in_channels=17"),
        ({"max_img_h": 240}, "its tensors say max_img_h=24, the arguments max_img_h=240"),
        ({"use_adaln_lora": False}, "its tensors say use_adaln_lora=True"),
        ({"block_config": "CA-MLP"}, "only block_config=FA-CA-MLP can be converted"),
        ({"add_augment_sigma_embedding": True}, "only add_augment_sigma_embedding=False"),
        ({"extra_per_block_abs_pos_emb_type": "sincos"}, "only extra_per_block_abs_pos_emb_type=learnable"),
        ({"is_diffusion_decoder": True}, "only is_diffusion_decoder=False"),
        ({"num_blocks": 2, "n_views": 3}, "unknown arguments n_views=3; known are _target_, adaln_lora_dim, "),
    ],
)
def test_arguments_of_another_network(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        derived(arguments)


# What is refused


def without(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {one: tensor for one, tensor in state.items() if one != name}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, "net.final_layer.linear.weight"), "has no net.final_layer.linear.weight"),
        (lambda s: without(s, "net.blocks.block1.blocks.2.block.layer1.weight"), "absent in the file"),
        (lambda s: s | {"net.more.weight": torch.ones(3, 3)}, "net.more.weight: 3x3 in the"),
        (lambda s: {"encoder.conv_in.0.conv3d.weight": torch.ones(1)}, "is no diffusion world model"),
    ],
)
def test_refuses_a_file(tmp_path: Path, change: Callable[[dict[str, Tensor]], Any], said: str) -> None:
    torch.save(change(official_state(small_config())), tmp_path / "model.pt")
    with pytest.raises(ConfigError, match=said):
        convert(tmp_path / "model.pt", tmp_path / "ours")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}


@pytest.mark.parametrize(
    ("name", "feature"),
    [
        ("view_embeddings.weight", r"takes several views at once \(multi-view\)"),
        ("repeat_frame_embedding.bias", r"takes several views at once"),
        ("token_embedder.weight", r"takes codes of a discrete tokenizer as its condition \(a diffusion decoder\)"),
        ("action_embedder_B_3D_agi.fc1.weight", r"takes actions in another way than the released one"),
        ("augment_sigma_embedder.1.linear_1.weight", r"takes the noise of the conditioning frames"),
    ],
)
@pytest.mark.parametrize("prefix", ["net.", "module.net."])
def test_names_the_feature_of_a_file_that_has_more(tmp_path: Path, name: str, feature: str, prefix: str) -> None:
    """Whatever arguments were given: it is not they that are wrong. More channels go in, too."""
    config = small_config(condition_mask=True, extra_channels=6)
    state = {key.replace("net.", prefix, 1): tensor for key, tensor in official_state(config).items()}
    torch.save(state | {prefix + name: torch.ones(3, 3)}, tmp_path / "model.pt")
    for arguments in (None, {"n_views": 3}, official_arguments(config)):
        with pytest.raises(ConfigError, match=rf"has net.{name}: its network {feature}.*name a file without it"):
            convert(tmp_path / "model.pt", tmp_path / "ours", arguments=arguments)


@pytest.mark.parametrize(
    "sizes",
    [
        {"adaln_rank": 0},
        {"extra_channels": 6, "condition_mask": True},
        {"timestep_norm": False},
        {"action_width": 7, "action_frames": "next", "action_into": "modulation"},
    ],
)
def test_refuses_what_diffusers_has_no_place_for(tmp_path: Path, sizes: dict[str, Any]) -> None:
    config = small_config(**sizes)
    source = write_official(tmp_path / "model.pt", config)
    with pytest.raises(ConfigError, match=rf"model.{next(iter(sizes))}=.* has no place in diffusers'"):
        convert(source, tmp_path / "theirs", to="diffusers", arguments=official_arguments(config))
    assert not (tmp_path / "theirs").exists()


def test_how_actions_are_read_is_the_released_way_unless_said_otherwise(tmp_path: Path) -> None:
    """No tensor tells it: the same file is the paper's network, or one with actions of each latent frame."""
    released = small_config(**VARIANTS["actions"])
    source = write_official(tmp_path / "model.pt", released)
    found = open_source(source)
    assert (found.require_dit().action_frames, found.require_dit().action_into) == ("next", "modulation")
    assert any("into the modulation alone" in note for note in found.notes)
    for name, said in (("paper", {"action_into": "both"}), ("each", {"action_frames": "each"})):
        arguments = official_arguments(released) | said
        done = convert(source, tmp_path / name, arguments=arguments)
        assert {key: getattr(done.config, key) for key in said} == said
        with pytest.raises(
            ConfigError, match=rf"model\.{next(iter(said))}=.*: the official network of actions only has"
        ):
            convert(tmp_path / name, tmp_path / "back", to="official")
    one, other = (compare.outputs(open_source(path)).output for path in (source, tmp_path / "paper"))
    assert (one - other).abs().max() > 1e-2


def test_refuses_a_result_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_official(tmp_path / "model.pt", small_config())
    monkeypatch.setattr(compare, "NORM_EPS", 0.3)
    with pytest.raises(ConfigError, match=r"does not compute what it did: outputs of up to .* nothing was written"):
        convert(source, tmp_path / "theirs", to="diffusers")
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt"}


def test_refuses_a_result_with_another_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_official(tmp_path / "model.pt", small_config())
    write = conversion.write_ours

    def careless(folder: Path, *arguments: Any, **options: Any) -> None:
        write(folder, *arguments, **options)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-3, io.SEEK_END)
            file.write(b"\x01")

    monkeypatch.setattr(conversion, "write_ours", careless)
    with pytest.raises(ConfigError, match=r"converted, differs in uncertainty.linear.weight"):
        convert(source, tmp_path / "ours")


def test_refuses_what_is_there_already(tmp_path: Path) -> None:
    source = write_official(tmp_path / "model.pt", small_config())
    with pytest.raises(ConfigError, match="exists already"):
        convert(source, tmp_path)
    with pytest.raises(ConfigError, match="to=onnx is not a layout; use one of ours, official, training, diff"):
        convert(source, tmp_path / "x", to="onnx")
    with pytest.raises(ConfigError, match="does not exist"):
        convert(tmp_path / "nowhere", tmp_path / "x")
    with pytest.raises(ConfigError, match="a tokenizer is part of a diffusers folder"):
        convert(source, tmp_path / "x", tokenizer=tmp_path)
