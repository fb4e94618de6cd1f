"""The FLOPs that are planned with are those that torch counts while the real model runs, to the last one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cosmos_train.config.load import load_run
from cosmos_train.config.schema import WorldDiTRun
from cosmos_train.models.common.flops import Flops
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.dit.flops import block_cost, dit_cost, num_tokens
from cosmos_train.models.dit.world import build_world_model
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.flops import recomputed_cost, world_ar_cost
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.mesh import Mesh

SMALL = DiTConfig(num_blocks=2, num_heads=3, head_dim=12, adaln_rank=5, text_width=7, latent_channels=4)
SEVEN = DiTConfig(num_blocks=28, num_heads=32)
FOURTEEN = DiTConfig(num_blocks=36, num_heads=40)
VIDEO_720P, VIDEO_512P = (16, 88, 160), (8, 64, 80)
BATCH = 2


def counted(
    config: DiTConfig, mesh: Mesh, latent_THW: tuple[int, int, int], text_tokens: int, recompute: Any
) -> tuple[Flops, Flops]:
    """(forward without gradients, training step), as torch counts them.

    Attention runs as two products: a fused kernel recomputes one in its backward pass, and torch has no count of the
    CPU's.
    """
    parallel = ParallelConfig(recompute=recompute)
    [model], _ = build_world_model(config, parallel, mesh, dtype=torch.float32, seed=0, learned_uncertainty=False)
    frames, height, width = latent_THW
    x_BCTHW = torch.randn(BATCH, config.latent_channels, frames, height, width)
    mask = torch.ones(BATCH, 1, frames, height, width) if config.condition_mask else None
    text_BSE = torch.randn(BATCH, text_tokens, config.text_width)
    action_frames = frames if config.action_frames == "each" else 1
    action = torch.randn(BATCH, action_frames, 1, config.action_width) if config.action_width else None
    given: dict[str, Any] = {"fps_B": [24.0], "condition_mask_B1THW": mask, "action_BTRA": action}
    if config.num_embodiments:
        given["embodiment_B"] = torch.zeros(BATCH, dtype=torch.int64)

    def run() -> Tensor:
        return model(x_BCTHW, torch.randn(BATCH), text_BSE, **given)[0]

    with sdpa_kernel(SDPBackend.MATH):
        forward = count(run, has_gradients=False)
        training = count(lambda: run().sum().backward(), has_gradients=True)
    return forward, training


def count(run: Callable[[], object], *, has_gradients: bool) -> Flops:
    """A linear layer is counted as `mm`, or with a bias `addmm`; products of activations with each other as `bmm`."""
    counter = FlopCounterMode(display=False)
    with counter, torch.set_grad_enabled(has_gradients):
        run()
    found = {str(operator): flops for operator, flops in counter.get_flop_counts()["Global"].items()}
    assert found.keys() - {"aten.addmm"} == {"aten.mm", "aten.bmm"}
    return Flops(gemm=found["aten.mm"] + found.get("aten.addmm", 0), attention=found["aten.bmm"])


@pytest.mark.parametrize(
    ("config", "latent_THW", "text_tokens"),
    [
        (SMALL, (3, 4, 6), 5),
        (SMALL, (1, 6, 4), 5),
        (replace(SMALL, condition_mask=True), (2, 4, 8), 3),
        (replace(SMALL, num_blocks=1, num_heads=2, head_dim=18, mlp_ratio=3, latent_channels=6), (3, 2, 2), 1),
        (replace(SMALL, patch_spatial=1, adaln_rank=8), (2, 3, 5), 9),
        (replace(SMALL, adaln_rank=0, padding_mask=False, position_tables=False), (2, 4, 4), 5),
        (replace(SMALL, action_frames="each", action_width=6, num_embodiments=2), (3, 4, 6), 5),
        (replace(SMALL, action_frames="next", action_width=7, action_into="modulation"), (3, 4, 6), 5),
        (replace(SMALL, action_frames="each", action_width=6, adaln_rank=0), (2, 4, 4), 5),
    ],
    ids=[
        *("video", "image", "mask", "other sizes", "other patch", "no low rank"),
        *("actions of each frame", "next action, into the modulation", "actions without low rank"),
    ],
)
def test_as_torch_counts(config: DiTConfig, mesh: Mesh, latent_THW: tuple[int, int, int], text_tokens: int):
    cost = dit_cost(config, batch=BATCH, latent_THW=latent_THW, text_tokens=text_tokens)
    assert (cost.forward, cost.training) == counted(config, mesh, latent_THW, text_tokens, "none")


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recompute_adds_nothing_or_a_forward_pass_of_the_blocks(mesh: Mesh, recompute: str):
    sizes: dict[str, Any] = {"batch": BATCH, "latent_THW": (3, 4, 6), "text_tokens": 5}
    cost = dit_cost(SMALL, **sizes)
    again = block_cost(SMALL, **sizes).forward * SMALL.num_blocks if recompute == "full" else Flops()
    assert counted(SMALL, mesh, (3, 4, 6), 5, recompute) == (cost.forward, cost.training + again)


@pytest.mark.parametrize(
    ("config", "latent_THW", "forward", "training", "attention_share"),
    [
        (SEVEN, VIDEO_720P, 2.21e15, 6.63e15, 0.66),
        (SEVEN, VIDEO_512P, 1.85e14, 5.6e14, 0.26),
        (FOURTEEN, VIDEO_720P, 3.85e15, 1.16e16, None),
    ],
    ids=["7B 720p", "7B 512p", "14B 720p"],
)
def test_released_models(
    config: DiTConfig,
    latent_THW: tuple[int, int, int],
    forward: float,
    training: float,
    attention_share: float | None,
):
    """Figures worked out by hand (from the paper's sizes), for one sample."""
    cost = dit_cost(config, batch=1, latent_THW=latent_THW, text_tokens=512)
    assert cost.forward.total == pytest.approx(forward, rel=0.01)
    assert cost.training.total == pytest.approx(training, rel=0.01)
    if attention_share is not None:
        assert cost.forward.attention / cost.forward.total == pytest.approx(attention_share, abs=0.015)


def test_a_batch_costs_as_many_samples():
    sizes: dict[str, Any] = {"latent_THW": (3, 4, 6), "text_tokens": 5}
    one, seven = (dit_cost(SMALL, batch=batch, **sizes) for batch in (1, 7))
    assert seven == one * 7


@pytest.mark.parametrize(("latent_THW", "tokens"), [(VIDEO_720P, 56_320), (VIDEO_512P, 10_240), ((1, 2, 4), 2)])
def test_tokens(latent_THW: tuple[int, int, int], tokens: int):
    assert num_tokens(SEVEN, latent_THW) == tokens


def test_latents_that_leave_half_a_patch_are_refused():
    with pytest.raises(ValueError, match=r"latents of 5 x 4 cells can not be cut .* model\.patch_spatial=2; use"):
        num_tokens(SEVEN, (1, 5, 4))


@pytest.mark.parametrize(("name", "config"), [("model/dit_7b", SEVEN), ("model/dit_14b", FOURTEEN)])
def test_shipped_sizes_are_the_released_ones(name: str, config: DiTConfig, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(f"include: {{model: {name}}}\n")
    rest = ["recipe=world_dit", "run_dir=r", "data={manifest: m, num_frames: 9, height_px: 16, width_px: 16}"]
    rest += ["latents={folder: f, tokenizer: t}", "optim.lr=1"]
    rest += ["train={num_steps: 1, global_batch_size: 1, micro_batch_size: 1}"]
    run = load_run(str(path), rest)
    assert isinstance(run, WorldDiTRun)
    scales = 2.0 if name == "model/dit_14b" else 1.0
    assert run.model == replace(config, rope_scale_h=scales, rope_scale_w=scales)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("reads", ["nothing", "text", "actions"])
def test_the_autoregressive_model_as_torch_counts(mesh: Mesh, reads: str, recompute: Any):
    config = WorldARConfig(
        num_blocks=2,
        width=40,
        num_heads=4,
        num_kv_heads=2,
        head_dim=12,
        ffn_width=48,
        vocab_size=30,
        cross_attention=reads != "nothing",
        text_width=8,
        action_width=3 if reads == "actions" else 0,
    )
    [model], _ = build_world_ar(config, ParallelConfig(recompute=recompute), mesh, dtype=torch.float32, seed=0)
    ids_BL, num_read = torch.zeros(BATCH, 11, dtype=torch.int64), 1 if reads == "actions" else 5
    text_BSE = None if reads == "nothing" else torch.randn(BATCH, num_read, 3 if reads == "actions" else 8)

    def run() -> Tensor:
        return model(ids_BL, (2, 3), text_BSE=text_BSE)[0]

    with sdpa_kernel(SDPBackend.MATH):
        forward = count(run, has_gradients=False)
        training = count(lambda: run().sum().backward(), has_gradients=True)
    sizes = {"batch": BATCH, "num_tokens": 11, "text_tokens": num_read}
    cost = world_ar_cost(config, **sizes)
    again = recomputed_cost(config, **sizes).forward * 2 if recompute == "full" else Flops()
    assert (forward, training) == (cost.forward, cost.training + again)
