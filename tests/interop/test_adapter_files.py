"""Adapters in the files of others: read in every spelling, written so that diffusers and peft read them, refused."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import tiny_ar, tiny_lora, tiny_world
from support.diffusers_dit import diffusers_twin
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.adapter_files import (
    DIFFUSERS_FILE,
    KOHYA_FILE,
    LAYOUTS,
    METADATA,
    OFFICIAL_FILE,
    PEFT_CONFIG,
    PEFT_FILE,
    read_adapters,
    write_adapters,
)
from cosmos_train.interop.adapters import AdaptedTensors, Adapters, LowRank
from cosmos_train.interop.names import Entry
from cosmos_train.interop.names_ar import ar_table
from cosmos_train.interop.names_dit import dit_table
from cosmos_train.models.dit.world import WorldModel, build_world_model
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig

MODEL = replace(tiny_world.MODEL, num_blocks=2)
ENTRIES = dit_table(MODEL, learned_uncertainty=False)
QUERY = "net.blocks.block0.blocks.0.block.attn.to_q.0.weight"
TARGETS = (
    QUERY,
    "net.blocks.block1.blocks.1.block.attn.to_k.0.weight",
    "net.blocks.block0.blocks.2.block.layer1.weight",
)
"""A query of three in one matrix, a key in another block's cross-attention, and a matrix of its own."""


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) * 0.3


def made(entries: list[Entry], targets: tuple[str, ...], rank: int = 3, scale: float = 2.0) -> Adapters:
    found = dict[str, LowRank]()
    for entry in entries:
        for name, (d_out, d_in) in ((name, shape) for name, shape in entry.official.items() if name in targets):
            found[name] = LowRank(drawn(rank, d_in), drawn(d_out, rank), scale)
    assert len(found) == len(targets)
    return Adapters(matrices=found, where="here")


@pytest.fixture(scope="module")
def model() -> WorldModel:
    mesh = init.start(ParallelConfig(), seed=3)
    [model], _ = build_world_model(
        MODEL, ParallelConfig(), mesh, dtype=torch.float32, seed=3, learned_uncertainty=False
    )
    with torch.no_grad():
        for name, param in model.named_parameters():
            if name.endswith("modulation.up.weight"):
                param.copy_(drawn(*param.shape))
    return model


def output(network: nn.Module, adapters: list[Adapters]) -> Tensor:
    """Return the output of our network with adapters merged into it."""
    before = {name: tensor.clone() for name, tensor in network.named_parameters()}
    merged = AdaptedTensors(tiny_lora.HeldTensors(before), ENTRIES, adapters)
    with torch.no_grad():
        for name, tensor in network.named_parameters():
            tensor.copy_(merged.read(name))
        found, _ = network(drawn(1, 4, 3, 4, 6), torch.tensor([0.2]), drawn(1, 5, 8), fps_B=[24.0], **MASKED)
        for name, tensor in network.named_parameters():
            tensor.copy_(before[name])
    return found


MASKED = {"condition_mask_B1THW": torch.zeros(1, 1, 3, 4, 6)}


def output_of_diffusers(twin: nn.Module) -> Tensor:
    with torch.no_grad():
        return twin(
            hidden_states=drawn(1, 4, 3, 4, 6),
            timestep=torch.tensor([0.2]),
            encoder_hidden_states=drawn(1, 5, 8),
            fps=24,
            condition_mask=MASKED["condition_mask_B1THW"],
            padding_mask=torch.zeros(1, 1, 32, 48),
        ).sample


def test_diffusers_own_loader(model: WorldModel, tmp_path: Path):
    """Before, loaded, at half strength, fused, unloaded: the outputs are ours."""
    pytest.importorskip("peft")
    adapters = made(ENTRIES, TARGETS)
    write_adapters(tmp_path, adapters, "diffusers", in_diffusers=True)
    twin, plain = diffusers_twin(model.net), output(model, [])
    whole, half = output(model, [adapters]), output(model, [replace(adapters, strength=0.5)])
    assert (whole - plain).abs().max() > 0.1 < (whole - half).abs().max()
    close = {"rtol": 2e-5, "atol": 2e-5}
    torch.testing.assert_close(output_of_diffusers(twin), plain, **close)
    twin.load_lora_adapter(tmp_path, weight_name=DIFFUSERS_FILE, adapter_name="one")
    torch.testing.assert_close(output_of_diffusers(twin), whole, **close)
    twin.set_adapters("one", 0.5)
    torch.testing.assert_close(output_of_diffusers(twin), half, **close)
    twin.set_adapters("one", 1.0)
    twin.fuse_lora()
    torch.testing.assert_close(output_of_diffusers(twin), whole, **close)
    twin.unfuse_lora()
    twin.unload_lora()
    torch.testing.assert_close(output_of_diffusers(twin), plain, **close)


def test_pefts_own_loader(model: WorldModel, tmp_path: Path):
    peft = pytest.importorskip("peft")
    adapters = made(ENTRIES, TARGETS)
    write_adapters(tmp_path, adapters, "peft", in_diffusers=True)
    twin = peft.PeftModel.from_pretrained(diffusers_twin(model.net), tmp_path)
    torch.testing.assert_close(output_of_diffusers(twin), output(model, [adapters]), rtol=2e-5, atol=2e-5)


def test_what_diffusers_and_peft_write_is_read(model: WorldModel, tmp_path: Path):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_out.0", "ff.net.2"], init_lora_weights=False
    )
    twin = diffusers_twin(model.net)
    twin.add_adapter(config)
    twin.save_lora_adapter(tmp_path / "diffusers")
    wrapped = peft.get_peft_model(diffusers_twin(model.net), replace(config, use_rslora=True))
    wrapped.save_pretrained(tmp_path / "peft")
    for name, other in (("diffusers", twin), ("peft", wrapped)):
        path = tmp_path / name
        found = read_adapters(path / DIFFUSERS_FILE if name == "diffusers" else path, ENTRIES)
        assert len(found.matrices) == 2 * 5, "of two blocks: two queries, two outputs, one of the MLP"
        torch.testing.assert_close(output_of_diffusers(other), output(model, [found]), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("to", LAYOUTS)
@pytest.mark.parametrize("is_ar", [False, True])
def test_there_and_back(tmp_path: Path, to: str, is_ar: bool):
    """An autoregressive model's too, one matrix of which has rows that are only padding."""
    entries, targets = ENTRIES, TARGETS
    if is_ar:
        entries = ar_table(replace(tiny_ar.MODEL, ffn_width=64, ffn_padding=6))
        targets = tuple(f"model.layers.0.{name}.weight" for name in ("attention.wk", "feed_forward.w3"))
    adapters = replace(made(entries, targets, scale=0.7), strength=-0.5)
    if is_ar and to == "diffusers":
        with pytest.raises(ConfigError, match="is none of diffusers'; use --to peft"):
            write_adapters(tmp_path, adapters, to, in_diffusers=False)
        return
    write_adapters(tmp_path, adapters, to, in_diffusers=not is_ar)
    found = read_adapters(tmp_path, entries)
    for entry in entries:
        wanted, got = adapters.of(entry), found.of(entry)
        assert (wanted is None) == (got is None)
        if wanted is not None and got is not None:
            torch.testing.assert_close(got, wanted)


def test_ranks_and_strengths_may_differ(tmp_path: Path):
    one, other = made(ENTRIES, TARGETS[:1], rank=2, scale=3.0), made(ENTRIES, TARGETS[1:], rank=5, scale=0.2)
    both = Adapters(matrices={**one.matrices, **other.matrices}, where="here")
    for to in ("diffusers", "peft", "kohya"):
        (tmp_path / to).mkdir()
        write_adapters(tmp_path / to, both, to, in_diffusers=True)
        found = read_adapters(tmp_path / to, ENTRIES).matrices
        scales = {name: one.scale for name, one in found.items()}
        assert scales == pytest.approx({name: one.scale for name, one in both.matrices.items()}), to


SPELLINGS = {
    "as NVIDIA trains": "net.blocks.block0.blocks.0.block.attn.to_q.0.lora_{}.default.weight",
    "without a prefix": "blocks.block0.blocks.0.block.attn.to_q.0.lora_{}.weight",
    "of another front end": "diffusion_model.blocks.block0.blocks.0.block.attn.to_q.0.lora_{}.weight",
    "diffusers' without a prefix": "transformer_blocks.0.attn1.to_q.lora_{}.weight",
    "a pipeline's": "base_model.model.transformer.transformer_blocks.0.attn1.to_q.lora_{}.weight",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings(tmp_path: Path, spelling: str):
    """Names that diffusers leaves aside without a word. None of these files says how strong it is."""
    width = MODEL.width
    tensors = {
        SPELLINGS[spelling].format(part): drawn(*shape) for part, shape in {"A": (3, width), "B": (width, 3)}.items()
    }
    save_file(tensors, path := tmp_path / "lora.safetensors")
    with pytest.raises(
        ConfigError, match=r"does not say how strong .* give --alpha, which is as much as their rank, 3,"
    ):
        read_adapters(path, ENTRIES)
    [(name, found)] = read_adapters(path, ENTRIES, alpha=6).matrices.items()
    assert name == QUERY and found.scale == 2


def test_a_model_with_adapters_in_it_gives_them_alone(tmp_path: Path):
    """As NVIDIA's training saves it: the base's weights lie beside."""
    width, module = MODEL.width, QUERY.removesuffix(".weight")
    tensors = {f"{module}.base_layer.weight": drawn(width, width), "net.other.weight": drawn(2)}
    tensors |= {f"{module}.lora_A.default.weight": drawn(3, width), f"{module}.lora_B.default.weight": drawn(width, 3)}
    torch.save(tensors, path := tmp_path / "model.pt")
    assert list(read_adapters(path, ENTRIES, alpha=3).matrices) == [QUERY]


Change = Callable[[dict[str, Tensor]], object]
KEY_A, KEY_B = (f"transformer.transformer_blocks.0.attn1.to_q.lora_{part}.weight" for part in "AB")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.update({"transformer.other.lora_A.weight": t[KEY_A]}),
            r"1 are of no adapter .* transformer\.other",
        ),
        (lambda t: t.pop(KEY_B), r"one matrix of two for transformer_blocks\.0\.attn1\.to_q; copy"),
        (lambda t: t.update({KEY_B: t[KEY_B] * 0}), r"all B of .* are zero, so it changes nothing"),
        (lambda t: t.update({KEY_A: t[KEY_A] * math.nan}), r"not finite"),
        (lambda t: t.update({KEY_A: t[KEY_A][:, 1:].clone()}), r"of transformer_blocks\.0\.attn1\.to_q A is \[3, 47\]"),
        (lambda t: t.update({KEY_A.replace("lora_A", "lora_magnitude_vector"): t[KEY_A]}), r"another kind than LoRA"),
        (lambda t: t.update({"blocks.block0.blocks.0.block.attn.to_q.0.lora_A.weight": t[KEY_A]}), r"has two of"),
        (
            lambda t: (t.clear(), t.update({"a.weight": torch.ones(1)})),
            r"of 1 tensors 1 are of no adapter of this model",
        ),
    ],
)
def test_what_a_file_must_not_be(tmp_path: Path, change: Change, said: str):
    path = write_adapters(tmp_path, made(ENTRIES, TARGETS[:1]), "diffusers", in_diffusers=True)
    tensors = load_file(path)
    change(tensors)
    config = {"transformer.r": 3, "transformer.lora_alpha": 6}
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, {METADATA: json.dumps(config)})
    with pytest.raises((ConfigError, ValueError), match=said):
        read_adapters(path, ENTRIES)


def test_magnitudes_are_not_read(tmp_path: Path):
    write_adapters(tmp_path, made(ENTRIES, TARGETS), "peft", in_diffusers=True)
    config = json.loads((tmp_path / PEFT_CONFIG).read_text())
    (tmp_path / PEFT_CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ConfigError, match=r"use_dora=true, a strength for each row, which is not read"):
        read_adapters(tmp_path, ENTRIES)


def test_where_there_is_none(tmp_path: Path):
    names = ", ".join((PEFT_FILE, DIFFUSERS_FILE, OFFICIAL_FILE, KOHYA_FILE))
    with pytest.raises(ConfigError, match=f"holds no adapters, which are called {names}"):
        read_adapters(tmp_path, ENTRIES)
    with pytest.raises(ConfigError, match="does not exist"):
        read_adapters(tmp_path / "no.safetensors", ENTRIES)
