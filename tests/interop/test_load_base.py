"""A run that trains adapters on a model that lies elsewhere: what it begins as, what it saves, what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import tiny_lora, tiny_world, training
from support.ranks import RankPool

from cosmos_launch.cli.main import main
from cosmos_train.interop.adapter_files import LAYOUTS
from cosmos_train.interop.adapters import FILE, AdapterFacts
from cosmos_train.interop.source import open_source, write_ours
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.train.checkpoint.folder import newest_checkpoint
from cosmos_train.train.checkpoint.load import tensor_names
from cosmos_train.train.config import LoraConfig
from cosmos_train.train.loop import DONE, STOPPED

NUM_STEPS = 4
TP2_PP2 = ParallelConfig(tp=2, pp=2, sequence_parallel=True)


@pytest.fixture(scope="module")
def cache(ranks: Callable[[int], RankPool], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_world.write_cache(tmp_path_factory.mktemp("lora") / "cache")
    ranks(1).run(tiny_lora.write_base_of, folder, False)
    return folder


def settings(cache: Path, *, stop_at_step: int | None = None, **lora: Any) -> dict[str, Any]:
    values = {"rank": 3, "alpha": 6.0, "base": str(tiny_lora.base_of(cache))} | lora
    loop = {"num_steps": NUM_STEPS, "stop_at_step": stop_at_step, "optim": {"ema_decay": 0.0, "lr": 1e-2}}
    return loop | {"run": {"lora": LoraConfig(**values)}}


@pytest.fixture(scope="module")
def trained(ranks: Callable[[int], RankPool], cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters trained by four ranks, tensor and pipeline parallel."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    assert set(ranks(4).run(training.run_loop, cache, run_dir, TP2_PP2, settings(cache))) == {DONE}
    return run_dir


def test_at_first_it_is_the_base_bit_for_bit(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    """Complaint 6: an adapter that equals the base for ever, or a base that was not loaded, would be seen here."""
    [(plain, with_adapters)] = ranks(1).run(tiny_lora.outputs_at_first, cache, tmp_path / "run")
    assert torch.equal(plain, with_adapters) and plain.abs().max() > 0.1


def test_checkpoints_hold_the_adapters_alone(trained: Path):
    folder = newest_checkpoint(trained)
    assert folder is not None
    names = tensor_names(folder)
    assert names and all(".lora." in name for name in names)
    facts = AdapterFacts.read(folder)
    assert (facts.rank, facts.alpha) == (3, 6.0) and (trained / FILE).read_text() == (folder / FILE).read_text()
    assert set(facts.base_tensors) == {entry.ours for entry in open_source(facts.base).entries}


def test_opened_it_is_the_base_with_its_adapters(ranks: Callable[[int], RankPool], cache: Path, trained: Path):
    """Complaint 7, merged = unmerged: trained by TP 2 x PP 2, and opened in one process as plain matrices."""
    [(unmerged, merged, base)] = ranks(1).run(tiny_lora.outputs_of_trained, cache, trained)
    scale = unmerged.abs().max()
    assert (unmerged - merged).abs().max() <= 1e-5 * scale and (unmerged - base).abs().max() > 1e-2 * scale


def test_killed_and_resumed_it_goes_on_alike(
    ranks: Callable[[int], RankPool], cache: Path, trained: Path, tmp_path: Path
):
    """In the same layout bit for bit, in another to rounding."""
    assert set(ranks(4).run(training.run_loop, cache, tmp_path, TP2_PP2, settings(cache, stop_at_step=2))) == {STOPPED}
    assert set(ranks(4).run(training.run_loop, cache, tmp_path, TP2_PP2, settings(cache))) == {DONE}
    assert training.losses(tmp_path) == training.losses(trained)


def test_another_layout_goes_on_with_it(ranks: Callable[[int], RankPool], cache: Path, trained: Path, tmp_path: Path):
    assert set(ranks(4).run(training.run_loop, cache, tmp_path, TP2_PP2, settings(cache, stop_at_step=2))) == {STOPPED}
    assert set(ranks(2).run(training.run_loop, cache, tmp_path, ParallelConfig(cp=2), settings(cache))) == {DONE}
    assert training.losses(tmp_path) == pytest.approx(training.losses(trained), rel=1e-5)


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"alpha": 3.0}, r"lora\.alpha=3\.0, but .* began with 6\.0; set that"),
        ({"rank": 2}, r"lora\.rank=2, but .* began with 3; set that"),
        ({"targets": ("*.mlp.*",)}, r"lora\.targets=\('\*\.mlp\.\*',\), but .* began with"),
    ],
)
def test_a_run_keeps_its_adapters(
    ranks: Callable[[int], RankPool], cache: Path, trained: Path, lora: dict[str, Any], said: str
):
    run = (training.failure_of, training.run_loop, cache, trained, ParallelConfig(), settings(cache, **lora))
    [(name, message)] = ranks(1).run(*run)
    assert name == "ConfigError"
    with pytest.raises(RuntimeError, match=said):
        raise RuntimeError(message)


def test_another_base_is_not_taken_for_its_own(
    ranks: Callable[[int], RankPool], cache: Path, trained: Path, tmp_path: Path
):
    """Neither by the run that goes on, nor by whoever opens its checkpoint."""
    other = changed_base(cache, tmp_path / "other")
    run = (training.failure_of, training.run_loop, cache, trained, ParallelConfig(), settings(cache, base=str(other)))
    [(name, message)] = ranks(1).run(*run)
    assert name == "ConfigError" and f"lora.base={other} is not the model that" in message
    assert "net.blocks.2.mlp.up.weight differ" in message


def changed_base(cache: Path, folder: Path) -> Path:
    """The base with one tensor changed."""
    source = open_source(tiny_lora.base_of(cache))
    tensors = {entry.ours: source.ours.read(entry.ours) for entry in source.entries}
    tensors["net.blocks.2.mlp.up.weight"] *= 1.001
    folder.mkdir()
    write_ours(folder, replace(source, ours=tiny_lora.HeldTensors(tensors)))
    return folder


def test_what_the_base_lacks_must_be_trained(ranks: Callable[[int], RankPool], cache: Path, tmp_path: Path):
    """Complaint 18: frozen and new, it would never learn; with an adapter, or a factor, it does."""
    told = {"checkpoint": {"init_new": ("net.embed.weight",)}} | settings(cache)
    model = {"extra_channels": 6}
    steered = tiny_world.write_cache(tmp_path / "cache", is_steered=True)
    run = (training.run_loop, steered, tmp_path / "run", ParallelConfig())
    [(name, message)] = ranks(1).run(training.failure_of, *run, told, model)
    assert name == "ConfigError" and message.startswith("net.embed.weight: lora.base=") and "for ever" in message
    factors = {"optim": {"lr_factors": {"net.embed.weight": 1.0}}}
    assert ranks(1).run(*run, told | {"num_steps": 1} | factors, model) == [DONE]
    folder = newest_checkpoint(tmp_path / "run")
    assert folder is not None and "model.net.embed.weight" in tensor_names(folder)


@pytest.mark.parametrize("to", LAYOUTS)
def test_written_by_themselves_they_are_added_to_the_base_again(trained: Path, cache: Path, tmp_path: Path, to: str):
    """Adapters trained by TP 2 x PP 2, in a file of each layout and the base beside, are the run's own model."""
    assert main(["convert", str(trained), "--out", str(tmp_path / to), "--to", to, "--only-adapters"]) == 0
    alpha = ["--alpha", "6"] if to == "official" else []
    line = ["convert", str(tiny_lora.base_of(cache)), "--out", str(tmp_path / "whole"), "--adapter", str(tmp_path / to)]
    assert main([*line, *alpha]) == 0
    wanted, found = open_source(trained), open_source(tmp_path / "whole")
    for entry in wanted.entries:
        torch.testing.assert_close(found.ours.read(entry.ours), wanted.ours.read(entry.ours), rtol=1e-6, atol=1e-7)


def test_a_model_has_no_adapters_of_its_own(cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    line = ["convert", str(tiny_lora.base_of(cache)), "--out", str(tmp_path / "out"), "--to", "peft", "--only-adapters"]
    assert main(line) == 2
    assert "has no adapters of its own; name their file with --adapter" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
