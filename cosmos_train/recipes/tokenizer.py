"""Training a causal video tokenizer: windows of real video, reconstructed. Data-parallel only."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_data.decode import choose_decoder
from cosmos_data.loader import BadClip, VideoBatches
from cosmos_data.manifest import Manifest
from cosmos_data.plan import SamplePlan
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.store import save_tokenizer
from cosmos_train.config.schema import TokenizerRun
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype

log = logging.getLogger(__name__)
EXPORT = "tokenizer"
"""Folder of the finished tokenizer inside the run's folder."""


class TokenizerTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    num_tokens = 0
    step_flops = None

    def __init__(self, run: TokenizerRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        self.plan = SamplePlan(Manifest.read(run.data.manifest).select("train"), run.seed, run.data)
        self.decoder = choose_decoder(run.data, self.plan.clips, mesh.device)
        self.data_digest = self.plan.manifest_digest
        self.bad_clips: dict[str, BadClip] = {}
        dtype = torch_dtype(run.train.precision)
        self.engine_config = transformer_config(run.parallel, dtype=dtype, num_layers=1, width=1, num_heads=1)
        torch.manual_seed(run.seed)  # every rank makes the same weights, on the CPU
        self.model = CausalVideoTokenizer(run.tokenizer)
        self.model.init_weights()
        self.model.to(mesh.device, dtype)
        self.pieces = [self.model]

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Iterator[Tensor]:
        """Pixels uint8 [B, 3, T, H, W], decoded ahead. Clips that can not be decoded are replaced and remembered."""
        loader = VideoBatches(
            self.plan,
            self.decoder,
            micro_batches,
            prefetch_batches=self.run.data.prefetch_batches,
            max_bad_share=self.run.data.max_bad_share,
        )
        self.bad_clips = loader.bad_clips
        for batch in loader:
            yield batch.pixels_B3THW.to(self.mesh.device)

    def forward_loss(self, model: nn.Module, batch: Tensor, hidden: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean absolute difference of pixels in [-1, 1]; PSNR of the batch beside it."""
        video = to_unit_range(batch).to(self.engine_config.params_dtype)
        difference = (model(video) - video).float()
        loss = self.run.loss.l1 * difference.abs().mean()
        psnr_db = -10 * torch.log10(difference.detach().square().mean() / 4)  # the range of pixels is 2
        return loss, {"loss": loss.detach(), "psnr_db": psnr_db}

    def finish(self, run_dir: Path) -> None:
        """Write RUN/tokenizer: config.json and model.safetensors, and name the clips that could not be decoded."""
        for bad in self.bad_clips.values():
            log.warning("clip %s could not be decoded and was replaced: %s", bad.clip_id, bad.reason)
        if self.mesh.is_main:
            metadata = {"manifest_digest": self.data_digest, "steps": str(self.run.train.num_steps)}
            shutil.rmtree(run_dir / EXPORT, ignore_errors=True)  # of fewer steps, where the run was prolonged
            save_tokenizer(run_dir / EXPORT, self.model.float(), self.run.tokenizer, metadata)
