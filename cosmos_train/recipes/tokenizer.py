"""Training a causal video tokenizer: windows of real video, and single frames, reconstructed. Data-parallel only."""

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from cosmos_data.decoders.decode import choose_decoder
from cosmos_data.sample_plan.loader import QUARANTINE, BadClip, VideoBatches
from cosmos_data.sample_plan.plan import SamplePlan, read_parts
from cosmos_tok.metrics import WINDOW_PX, code_use, ssim
from cosmos_tok.model import CausalVideoTokenizer, to_uint8, to_unit_range
from cosmos_tok.store import load_tokenizer, save_tokenizer
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import TokenizerRun
from cosmos_train.objectives.adversarial import (
    PatchDiscriminator,
    adaptive_weight,
    discriminator_hinge,
    frozen,
    generator_hinge,
)
from cosmos_train.objectives.config import DiscriminatorConfig
from cosmos_train.objectives.reconstruction import ReconstructionTerms, weighted_sum
from cosmos_train.parallel.device_copy import DeviceCopier, Sent
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.parallel.step_metrics import Metrics
from cosmos_train.train.checkpoint.folder import newest_checkpoint, resolve
from cosmos_train.train.checkpoint.load import load_weights
from cosmos_train.windows.ahead import Ahead
from cosmos_train.windows.latent_statistics import measure_latents

log = logging.getLogger(__name__)
EXPORT = "tokenizer"
"""Folder of the finished tokenizer inside the run's folder."""


class TrainedTokenizer(nn.Module):
    """All that a run trains: the tokenizer and, where there is an adversarial term, the discriminator beside it.

    One module, so that both are under one DDP, one optimizer, one moving average, and in every checkpoint.
    """

    def __init__(self, run: TokenizerRun) -> None:
        super().__init__()
        self.tokenizer = CausalVideoTokenizer(run.tokenizer)
        self.tokenizer.init_weights()  # before the discriminator draws: the same weights with it and without
        self.discriminator = PatchDiscriminator(run.loss.discriminator) if run.loss.adversarial.weight else None

    def forward(self, video_B3THW: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction of the video's shape, latents or codes [B, C, T', H', W'])."""
        z_BCTHW = self.tokenizer.encode(video_B3THW)
        return self.tokenizer.decode(z_BCTHW), z_BCTHW

    @property
    def last_weight(self) -> Tensor:
        """The last matrix on the way to pixels, at which the adaptive weight compares gradients."""
        return [param for param in self.tokenizer.decoder.parameters() if param.ndim > 1][-1]


@dataclass(frozen=True, slots=True)
class PixelBatch:
    """A micro-batch and when it is used."""

    pixels_B3THW: Tensor
    """uint8; T = 1 in a step of images."""
    step: int
    """Finished steps of the run."""


class TokenizerTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    num_tokens = 0
    step_flops = None

    def __init__(self, run: TokenizerRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        self.parts = read_parts(run.data, "train", verify=mesh.is_main)
        self.plan = SamplePlan(
            self.parts, run.seed, run.data, image_share=run.image_share, group_size=run.train.global_batch_size
        )
        self.decoder = choose_decoder(run.data, self.plan.parts, mesh.device)
        self.data_digest = self.plan.digest
        self.checkpoint_texts = dict[str, str]()
        self.bad_clips: dict[str, BadClip] = {}
        dtype = torch_dtype(run.train.precision)
        self.engine_config = transformer_config(run.parallel, dtype=dtype, num_layers=1, width=1, num_heads=1)
        torch.manual_seed(run.seed)  # every rank makes the same weights, on the CPU
        self.model = TrainedTokenizer(run)
        if run.tokenizer_from is not None:
            _copy_weights(Path(run.tokenizer_from), self.model.tokenizer)
        self.model.to(mesh.device, dtype)
        self.pieces = [self.model]
        self.terms = ReconstructionTerms(run.loss, mesh.device, dtype)

    def begin(self, run_dir: Path) -> None:
        """Nothing: all of it is in run.yaml."""

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Ahead[tuple[int, Sent], PixelBatch]:
        """Decoded and copied ahead. Clips that can not be decoded are replaced and remembered."""
        quarantine, copier = Path(self.run.run_dir) / QUARANTINE, DeviceCopier(self.mesh.device)
        loader = VideoBatches(self.plan, self.decoder, micro_batches, quarantine=quarantine)
        self.bad_clips = loader.bad_clips
        sent = ((batch.samples[0].index, copier.send([batch.pixels_B3THW])) for batch in loader)
        return Ahead(sent, self._arrived, 1)

    def _arrived(self, of: tuple[int, Sent]) -> PixelBatch:
        first_index, pixels = of
        (pixels_B3THW,) = pixels.wait()
        return PixelBatch(pixels_B3THW, first_index // self.run.train.global_batch_size)

    def forward_loss(self, model: nn.Module, batch: PixelBatch, hidden: Tensor | None) -> tuple[Tensor, Metrics]:
        """The weighted terms of this step, and how well the batch was reconstructed.

        A term that does not count yet is logged as 0. With a discriminator its own loss is added, which has no gradient
        to the tokenizer, so that one backward pass trains both.
        """
        config, video = self.run.loss, to_unit_range(batch.pixels_B3THW)
        reconstruction, z_BCTHW = model(video)
        terms = self.terms(video, reconstruction, batch.step)
        loss = weighted_sum(terms, config, batch.step)
        of_discriminator = torch.zeros_like(loss)
        metrics = _quality(batch.pixels_B3THW, reconstruction.detach())
        if self.run.tokenizer.kind == "discrete":
            _, counts = self.model.tokenizer.indices(z_BCTHW.detach()).unique(return_counts=True)
            metrics |= code_use(counts, self.run.tokenizer.codebook_size)
        if self.model.discriminator is not None:
            # Its own loss first: DDP gathers updated parameters when it meets them, and `frozen` goes past DDP.
            of_discriminator = _discriminator_loss(self.model.discriminator, video, reconstruction)
            weight = torch.zeros_like(loss)
            if config.adversarial.at(batch.step):
                terms["adversarial"] = generator_hinge(frozen(self.model.discriminator, reconstruction).float())
                balance = self._balance(config.discriminator, loss, terms["adversarial"])
                weight = config.adversarial.at(batch.step) * balance
                loss = loss + weight * terms["adversarial"]
            metrics |= {"adversarial_weight": weight, "discriminator": of_discriminator}
        off = torch.zeros_like(loss)
        metrics |= {name: terms.get(name, off) for name, term in config.terms.items() if term.weight}
        return loss + of_discriminator, {"loss": loss} | metrics

    def _balance(self, config: DiscriminatorConfig, others: Tensor, adversarial: Tensor) -> Tensor:
        """What the adversarial term's weight is multiplied by; 1 also where nothing has a gradient."""
        if config.adaptive and others.requires_grad:
            return adaptive_weight(others, adversarial, self.model.last_weight)
        return torch.ones_like(others)

    def warm_start(self, source: Path) -> None:
        """The weights of another run."""
        load_weights(resolve(source), self.pieces, self.mesh)

    def finish(self, run_dir: Path) -> None:
        """Write RUN/tokenizer: architecture, weights, whitening statistics; name the clips that could not be decoded.

        The tokenizer alone: the moving average of its weights where the run keeps one, else the fp32 weights that the
        optimizer updates, of which a bf16 run's own are copies.
        """
        for bad in self.bad_clips.values():
            log.warning("clip %s could not be decoded and was replaced: %s", bad.clip_id, bad.reason)
        averaged, has_masters = bool(self.run.optim.ema_decay), self.run.train.precision != "fp32"
        self.model.float()
        if averaged or has_masters:
            newest = newest_checkpoint(run_dir)
            assert newest is not None  # the last step is always saved
            load_weights(newest, self.pieces, self.mesh, averaged=averaged, masters=not averaged)
        statistics = image_statistics = None
        if self.run.tokenizer.kind == "continuous" and self.run.statistics_windows:
            statistics, image_statistics = measure_latents(
                self.model.tokenizer.eval(),
                self.parts,
                self.run.data,
                self.decoder,
                self.mesh,
                num_windows=self.run.statistics_windows,
            )
        if self.mesh.is_main:
            metadata = {"manifest_digest": self.data_digest, "steps": str(self.run.train.num_steps)}
            shutil.rmtree(run_dir / EXPORT, ignore_errors=True)  # of fewer steps, where the run was prolonged
            save_tokenizer(
                run_dir / EXPORT,
                self.model.tokenizer,
                self.run.tokenizer,
                metadata,
                statistics=statistics,
                image_statistics=image_statistics,
            )


def _discriminator_loss(discriminator: PatchDiscriminator, video: Tensor, reconstruction: Tensor) -> Tensor:
    both = torch.cat([video.to(reconstruction.dtype), reconstruction.detach()])
    real_logits, fake_logits = discriminator(both).float().chunk(2)
    return discriminator_hinge(real_logits, fake_logits)


def _quality(pixels_B3THW: Tensor, reconstruction_B3THW: Tensor) -> dict[str, Tensor]:
    """PSNR of the batch before rounding; SSIM, which is slow, of the first window's last frame."""
    difference = reconstruction_B3THW.float() - to_unit_range(pixels_B3THW)
    found = {"psnr_db": -10 * torch.log10(difference.square().mean() / 4)}  # the range of pixels is 2
    if min(pixels_B3THW.shape[-2:]) >= WINDOW_PX:
        last = ssim(pixels_B3THW[:1, :, -1:], to_uint8(reconstruction_B3THW[:1, :, -1:]))
        found["ssim"] = last.per_frame_BT.mean().float()
    return found


def _copy_weights(folder: Path, tokenizer: CausalVideoTokenizer) -> None:
    """Start from a tokenizer on disk. Raises ConfigError where it is of another architecture."""
    trained, config = load_tokenizer(folder)
    found, wanted = asdict(config), asdict(tokenizer.config)
    differing = [f"tokenizer.{key}={wanted[key]} (there {found[key]})" for key in wanted if wanted[key] != found[key]]
    if differing:
        raise ConfigError(
            f"tokenizer_from={folder} is another tokenizer than the configured one: {', '.join(differing)}; "
            "use its sizes, or train from scratch without tokenizer_from"
        )
    tokenizer.load_state_dict(trained.state_dict())
