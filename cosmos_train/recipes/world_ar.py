"""Training an autoregressive world model on the cached codes of a discrete tokenizer."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_data.latents import LatentStore
from cosmos_data.plan import IndexPlan
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun
from cosmos_train.interop.load import load_world
from cosmos_train.interop.source import open_world
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.flops import world_ar_cost
from cosmos_train.objectives.next_token import counts, next_token_loss, sequence
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.parallel.vocabulary import is_most_likely, mean_square, token_nll
from cosmos_train.recipes.world_batches import pad_text


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A micro-batch on this rank's device."""

    ids_BL: Tensor
    targets_BL: Tensor
    grid_HW: tuple[int, int]
    text_BSE: Tensor | None


class WorldARTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    def __init__(self, run: WorldARRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        self.store = LatentStore(run.latents.folder)
        check_fits(run.model, self.store)
        self.windows = self.store.indices("train")
        self.plan = IndexPlan(len(self.windows), self.store.digest, run.seed)
        self.data_digest = self.store.digest
        _, *latent_THW = self.store.latent_shape
        self.num_tokens = num_tokens(run.model, latent_THW)
        self.step_flops = world_ar_cost(
            run.model,
            batch=run.train.global_batch_size,
            num_tokens=self.num_tokens,
            text_tokens=run.text.max_tokens,
        ).training
        self.pieces, self.engine_config = build_world_ar(
            run.model, run.parallel, mesh, dtype=torch_dtype(run.train.precision), seed=run.seed
        )

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[TokenBatch]:
        """Codes of the planned windows."""
        for indices in micro_batches:
            yield self._load(indices)

    def forward_loss(
        self, model: nn.Module, batch: TokenBatch, hidden: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]] | Tensor:
        """Next-token likelihood and z-loss; `nll` and `accuracy` are of the codes that are to be predicted."""
        result = model(batch.ids_BL, batch.grid_HW, text_BSE=batch.text_BSE, hidden_LBD=hidden)
        if isinstance(result, Tensor):
            return result
        logits_lBV, split = result
        config, tp = self.run.objective, self.mesh.tp
        targets_lB = split.context_rows(batch.targets_BL.T)
        nll_lB, logsumexp_lB = token_nll(logits_lBV, targets_lB, tp)
        squares_lB = logsumexp_lB.square() if config.z_loss_of == "logsumexp" else mean_square(logits_lBV, tp)
        nll_LB, squares_LB = split.leave_context(nll_lB), split.leave_context(squares_lB)
        hits_LB = split.leave_context(is_most_likely(logits_lBV, targets_lB, tp).float())
        counts_L = counts(len(nll_LB), math.prod(batch.grid_HW), config, nll_LB.device)
        loss = next_token_loss(nll_LB, squares_LB, counts_L, config)
        metrics = {"loss": loss, "nll": nll_LB[counts_L].mean(), "accuracy": hits_LB[counts_L].mean()}
        return loss, {name: value.detach() for name, value in metrics.items()}

    def warm_start(self, source: Path) -> None:
        """The weights of a world model in any layout; what may differ, checkpoint.init_new and init_unused say."""
        config = self.run.checkpoint
        load_world(open_world(source), self.pieces, self.mesh, new=config.init_new, unused=config.init_unused)

    def finish(self, run_dir: Path) -> None:
        """Nothing: `cosmos-train sample` reads the checkpoint itself."""

    def _load(self, indices: Sequence[int]) -> TokenBatch:
        model, device = self.run.model, self.mesh.device
        windows = [self.store.window(self.windows[self.plan.item(index)]) for index in indices]
        codes_BTHW = torch.stack([window["z_CTHW"][0] for window in windows]).to(device, torch.int64)
        ids_BL, targets_BL = sequence(codes_BTHW, model.vocab_size if model.begin_token else None)
        text_BSE = None
        if model.cross_attention:
            text = [pad_text(window["text_SE"], self.run.text.max_tokens) for window in windows]
            text_BSE = torch.stack(text).to(device)
        _, _, height, width = self.store.latent_shape
        return TokenBatch(ids_BL, targets_BL, (height, width), text_BSE)


def num_tokens(model: WorldARConfig, latent_THW: Sequence[int]) -> int:
    """L of a sample: what the model reads. Its last code is only predicted, and a begin token takes its place."""
    frames, height, width = latent_THW
    return frames * height * width - 1 + int(model.begin_token)


def check_fits(model: WorldARConfig, store: LatentStore) -> None:
    """The cache must hold codes of the model's vocabulary. Raises ConfigError."""
    channels, *_ = store.latent_shape
    first = store.window(0)
    if first["z_CTHW"].is_floating_point() or channels != 1:
        raise ConfigError(
            f"latents.folder={store.folder} holds latents of {channels} channels in {first['z_CTHW'].dtype}, but an "
            "autoregressive model reads the codes of a discrete tokenizer; tokenize with a DV tokenizer"
        )
    largest = int(first["z_CTHW"].max())
    if largest >= model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size}, but the latent cache {store.folder} has code {largest}; set the "
            "product of the tokenizer's fsq_levels"
        )
    text_width = first["text_SE"].shape[1]
    if model.cross_attention and model.text_width != text_width:
        raise ConfigError(
            f"model.text_width={model.text_width}, but the latent cache {store.folder} has {text_width}; set "
            f"{text_width}"
        )
