"""Autoregressive runs that start from another project's weights, and trained models that learn to read text."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import converted_ar, official_ar, tiny_ar, training
from support.official_dit import small_config, write_official
from support.ranks import RankPool

from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.convert import convert
from cosmos_train.interop.load import load_pieces
from cosmos_train.interop.source import open_source
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.loop import DONE

BASE = official_ar.KINDS["4B"]
TEXT = ["blocks.*.cross_attention.*", "blocks.*.cross_norm.weight"]
GRID_HW = (4, 5)
TINY: dict[str, Any] = {
    "dim": tiny_ar.MODEL.width,
    "n_layers": tiny_ar.MODEL.num_blocks,
    "n_heads": tiny_ar.MODEL.num_heads,
    "n_kv_heads": tiny_ar.MODEL.num_kv_heads,
    "head_dim": tiny_ar.MODEL.head_dim,
    "ffn_hidden_size": tiny_ar.MODEL.ffn_width,
    "vocab_size": tiny_ar.MODEL.vocab_size,
    "context_dim": tiny_ar.MODEL.text_width,
    "insert_cross_attn": True,
    "apply_abs_pos_emb": True,
}
"""tests/support/tiny_ar.py's model, but for YaRN, which a run may have where its start had none."""


def model_of(config: WorldARConfig) -> tuple[WorldAR, Any]:
    parallel = ParallelConfig()
    mesh = init.start(parallel, seed=0)
    [model], _ = build_world_ar(config, parallel, mesh, dtype=torch.float32, seed=9)
    return model, mesh


def base(folder: Path) -> Any:
    return open_source(official_ar.write(folder / "model.pt", BASE), BASE)


def test_text_is_inserted_into_a_trained_model(tmp_path: Path) -> None:
    """The new layers at first change nothing, whatever the text; they learn, and then they do."""
    source = base(tmp_path)
    config = replace(source.require_ar(), cross_attention=True, text_width=8)
    model, mesh = model_of(config)
    said = r"missing: blocks\.0\.cross_attention\.k_layernorm\.weight, .* list in checkpoint\.init_new what"
    with pytest.raises(ConfigError, match=rf"{said}.*blocks\.\*\.cross_attention\.\*, blocks\.\*\.cross_norm\.weight"):
        load_pieces(source, [model], mesh)
    load_pieces(source, [model], mesh, new=TEXT)
    plain, _ = model_of(source.require_ar())
    load_pieces(source, [plain], mesh)
    ids, text = torch.arange(30)[None], torch.randn(1, 5, 8)
    wanted, found = plain(ids, GRID_HW), model(ids, GRID_HW, text_BSE=text)
    assert isinstance(wanted, tuple) and isinstance(found, tuple)
    assert torch.equal(found[0], wanted[0])

    found[0].square().mean().backward()
    added = {name: param for name, param in model.named_parameters() if "cross_" in name}
    learning = {name for name, param in added.items() if param.grad is not None and param.grad.any()}
    assert learning == {f"blocks.{block}.cross_attention.out.weight" for block in range(2)}
    assert model.get_parameter("blocks.1.cross_attention.kv.weight").std() > 0.01, "the others are ready"
    with torch.no_grad():
        for name in learning:
            param = model.get_parameter(name)
            assert param.grad is not None
            param.sub_(param.grad)
    after = model(ids, GRID_HW, text_BSE=text)
    assert isinstance(after, tuple) and (after[0] - wanted[0]).abs().max() > 1e-3


def test_a_begin_token_is_added(tmp_path: Path) -> None:
    """4B -> 5B: the codes' rows are the trained ones, the others keep their first weights."""
    source = base(tmp_path)
    config = replace(source.require_ar(), begin_token=True, cross_attention=True, text_width=8, absolute_positions=True)
    model, mesh = model_of(config)
    before = model.get_parameter("embed.weight").clone()
    with pytest.raises(ConfigError, match=r"embed\.weight 48x40 instead of 64x40; .* a begin token of its own: embed"):
        load_pieces(source, [model], mesh, new=TEXT)
    load_pieces(source, [model], mesh, new=[*TEXT, "embed.weight"])
    after = model.get_parameter("embed.weight")
    assert torch.equal(after[:48], official_ar.state(BASE)["model.tok_embeddings.weight"])
    assert torch.equal(after[48:], before[48:]) and not torch.equal(after[:48], before[:48])


def test_what_no_start_can_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = base(tmp_path)
    config = source.require_ar()
    model, mesh = model_of(replace(config, num_blocks=3))
    with pytest.raises(ConfigError, match=r"missing: blocks\.2\.mlp\.down\.weight, .*list what may be new"):
        load_pieces(source, [model], mesh)
    model, _ = model_of(replace(config, vocab_size=96))
    with pytest.raises(ConfigError, match=r"of another size: embed\.weight 48x40 instead of 96x40"):
        load_pieces(source, [model], mesh, new=["embed.weight"])
    model, _ = model_of(replace(config, rope_theta=10_000.0))
    with pytest.raises(ConfigError, match=r"has model\.rope_theta=500000\.0, this run 10000\.0; set the former"):
        load_pieces(source, [model], mesh)
    with pytest.raises(ConfigError, match="is a diffusion world model, not an autoregressive one"):
        load_pieces(open_source(write_official(tmp_path / "dit/model.pt", small_config())), [model], mesh)
    model, _ = model_of(replace(config, yarn_scale=2.0))
    load_pieces(source, [model], mesh)
    assert "has model.yarn_scale = 1.0, this run 2.0" in caplog.text, "a longer position range is a choice"


@pytest.mark.parametrize("layout", ["official", "ours", "checkpoint"])
def test_a_run_starts_from_it(ranks: Callable[[int], RankPool], tmp_path: Path, layout: str) -> None:
    """checkpoint.init_from: the first loss is that of one process, in any layout, and not that of first weights."""
    cache = tiny_ar.write_cache(tmp_path / "cache", shape_THW=(3, 2, 3))
    arguments = official_ar.BASE | TINY
    source = official_ar.write(tmp_path / "official/model.pt", arguments)
    if layout == "ours":
        convert(source, tmp_path / "ours", arguments=arguments)
    elif layout == "checkpoint":
        ranks(4).run(
            converted_ar.save_distributed, source, tmp_path / "checkpoint", ParallelConfig(tp=2, pp=2), "float32"
        )
    losses = {}
    for name, start, parallel in (
        ("one", source.parent, ParallelConfig()),
        ("two", tmp_path / layout, ParallelConfig(tp=2)),
        ("cold", None, ParallelConfig()),
    ):
        settings = {"checkpoint": {"init_from": str(start)} if start else {}}
        num_ranks = parallel.tp
        found = ranks(num_ranks).run(converted_ar.train_one_step, cache, tmp_path / name, parallel, settings)
        assert found == [DONE] * num_ranks
        losses[name] = training.losses(tmp_path / name)[1]
    assert losses["two"] == pytest.approx(losses["one"], rel=1e-5)
    assert losses["cold"] != pytest.approx(losses["one"], rel=1e-3)


def test_text_on_tensor_parallel_ranks(ranks: Callable[[int], RankPool], tmp_path: Path) -> None:
    """A run inserts text and a begin token on TP2 and on TP1 alike: rows of the table lie on the second rank."""
    cache = tiny_ar.write_cache(tmp_path / "cache", shape_THW=(3, 2, 3))
    arguments = official_ar.BASE | TINY | {"insert_cross_attn": False, "apply_abs_pos_emb": False}
    official_ar.write(tmp_path / "base/model.pt", arguments)
    start = {"init_from": str(tmp_path / "base"), "init_new": ("embed.weight", *TEXT)}
    losses = []
    for parallel in (ParallelConfig(), ParallelConfig(tp=2)):
        run_dir = tmp_path / f"tp{parallel.tp}"
        ranks(parallel.tp).run(converted_ar.train_one_step, cache, run_dir, parallel, {"checkpoint": start})
        losses.append(training.losses(run_dir)[1])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
