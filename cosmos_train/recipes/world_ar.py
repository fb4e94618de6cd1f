"""Training an autoregressive world model on the codes of a discrete tokenizer."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor, nn

from cosmos_tok.config import TokenizerConfig
from cosmos_tok.metrics import code_use
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import WorldARRun
from cosmos_train.interop.load import warm_start
from cosmos_train.interop.load_base import load_base
from cosmos_train.models.common.flops import Cost
from cosmos_train.models.world_ar.build import build_world_ar
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.flops import world_ar_cost
from cosmos_train.objectives.next_token import by_frame, counts, next_token_loss, sequence
from cosmos_train.parallel.device_copy import DeviceCopier, Sent
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.shard import torch_dtype
from cosmos_train.parallel.step_metrics import Metrics, Perplexity
from cosmos_train.parallel.vocabulary import is_most_likely, mean_square, token_nll
from cosmos_train.train.telling.text_file import write_whole
from cosmos_train.windows.ahead import Ahead
from cosmos_train.windows.source import open_source
from cosmos_train.windows.steering import WindowSteering, conditioner_of, find_embodiments, texts_of
from cosmos_train.windows.stream import Kind, Shape, WindowBatch, WindowFacts, stack_latents, stack_text
from cosmos_train.windows.work import mean_cost, mean_tokens


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """A micro-batch on this rank's device, all of one kind."""

    ids_BL: Tensor
    targets_BL: Tensor
    grid_HW: tuple[int, int]
    text_BSE: Tensor | None
    condition_frames: int
    """Latent frames that are given and need not be predicted; of an image none is."""

    @classmethod
    def of(cls, codes_BTHW: Tensor, text_BSE: Tensor | None, run: WorldARRun) -> "TokenBatch":
        """Of videos' codes, or images' (T = 1), and of text where the model reads any."""
        begin_id = run.model.vocab_size if run.model.begin_token else None
        ids_BL, targets_BL = sequence(codes_BTHW.long(), begin_id)
        _, frames, height, width = codes_BTHW.shape
        given = run.objective.condition_frames if frames > 1 else 0
        return cls(ids_BL, targets_BL, (height, width), text_BSE, given)

    def counts(self) -> Tensor:
        """Which labels the likelihood counts: [L] bool."""
        return counts(self.targets_BL.shape[1], math.prod(self.grid_HW), self.condition_frames, self.targets_BL.device)


class WorldARTask:
    """A task of the loop (cosmos_train.train.task.Task)."""

    def __init__(self, run: WorldARRun, mesh: Mesh) -> None:
        self.run, self.mesh = run, mesh
        embodiments = find_embodiments(run, mesh)
        self.source = open_source(run, mesh, lambda facts: check_fits(run.model, facts))
        videos = self.source.facts["video"]
        self._steering = None
        if run.model.action_width:
            self._steering = WindowSteering(conditioner_of(run, embodiments, videos))
        self.data_digest = self.source.digest
        shapes = self.source.shapes
        self.num_tokens = mean_tokens(shapes["video"], lambda shape_CTHW: num_tokens(run.model, shape_CTHW[1:]))
        self.step_flops = step_cost(run, shapes).training
        self.pieces, self.engine_config = build_world_ar(
            run.model, run.parallel, mesh, dtype=torch_dtype(run.train.precision), seed=run.seed, lora=run.lora
        )
        self.checkpoint_texts = texts_of(embodiments) | load_base(run, self.pieces, mesh)

    def begin(self, run_dir: Path) -> None:
        """Keep where the windows come from, and what their actions are normalised with."""
        self.source.keep(run_dir)
        for name, text in self.checkpoint_texts.items():
            write_whole(run_dir / name, text)

    def batches(self, micro_batches: Iterable[Sequence[int]]) -> Ahead[Sent, TokenBatch]:
        """Codes of the planned windows and images."""
        copier = DeviceCopier(self.mesh.device)

        def sent(batch: WindowBatch) -> Sent:
            return copier.send([stack_latents(batch.windows)[:, 0], *self._read_by_cross_attention(batch)])

        # The first stage of a pipeline is so many micro-batches ahead of the last.
        ahead = map(sent, self.source.batches(micro_batches))
        return Ahead(ahead, lambda batch: self._tokens(*batch.wait()), 2 * self.mesh.pp.size())

    def _read_by_cross_attention(self, batch: WindowBatch) -> list[Tensor]:
        """Return text states [B, S, E], or actions [B, 1, A]; nothing of a model that reads neither."""
        if self._steering is None:
            return [stack_text(batch.windows, self.run.text.max_tokens)] if self.run.model.reads_text else []
        found = self._steering.tensors(batch, self.source.facts[batch.kind])
        assert found.action_BTRA is not None
        return [found.action_BTRA[:, 0]]

    def _tokens(self, codes_BTHW: Tensor, text_BSE: Tensor | None = None) -> TokenBatch:
        return TokenBatch.of(codes_BTHW, text_BSE, self.run)

    def forward_loss(
        self, model: nn.Module, batch: TokenBatch, hidden: Tensor | None
    ) -> tuple[Tensor, Metrics] | Tensor:
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
        counts_L = batch.counts()
        loss = next_token_loss(nll_LB, squares_LB, counts_L, config)
        metrics = {"loss": loss, "nll": nll_LB[counts_L].mean(), "accuracy": hits_LB[counts_L].mean()}
        _, times_N = batch.targets_BL.unique(return_counts=True)
        metrics |= code_use(times_N, self.run.model.vocab_size)
        return loss, {name: value.detach() for name, value in metrics.items()} | self._by_frame(nll_LB, batch)

    def warm_start(self, source: Path) -> None:
        """Start from the weights of a world model in any layout."""
        warm_start(source, self.pieces, self.mesh, self.run.checkpoint, self.run.lr_factors)

    def finish(self, run_dir: Path) -> None:
        """Nothing: `cosmos-train sample` reads the checkpoint itself."""

    def _by_frame(self, nll_LB: Tensor, batch: TokenBatch) -> dict[str, Perplexity[Tensor]]:
        """Perplexity at each latent frame of a video, given ones too; an image is its own."""
        found: dict[str, Perplexity[Tensor]] = {}
        num_frames, has_images = self.source.facts["video"].num_frames, "image" in self.source.facts
        frames = by_frame(nll_LB.detach(), math.prod(batch.grid_HW))
        is_image = has_images and len(frames) == 1
        for frame in range(num_frames):
            of_video = nll_LB.new_zeros(0, 1) if is_image else frames[frame]
            found[f"perplexity_by_frame/{frame}"] = Perplexity(of_video.sum(), _number(of_video))
        if has_images:
            of_image = frames[0] if is_image else nll_LB.new_zeros(0, 1)
            found["perplexity_of/image"] = Perplexity(of_image.sum(), _number(of_image))
        return found


def _number(values: Tensor) -> Tensor:
    return values.new_tensor(values.numel())


def step_cost(
    run: WorldARRun,
    shapes: Mapping[Kind, Mapping[Shape, Fraction]],
    *,
    part: Callable[..., Cost] = world_ar_cost,
) -> Cost:
    """The work of the model, or of a part of it, in an optimizer step: the mean over kinds and shapes of windows.

    shapes: of each kind that there is [C, T, H, W] and its share.
    """
    batch_of = {"video": run.train.global_batch_size, "image": run.train.global_batch_size * run.images_per_video}

    def cost(kind: Kind, shape_CTHW: Shape) -> Cost:
        tokens = num_tokens(run.model, shape_CTHW[1:])
        return part(run.model, batch=batch_of[kind], num_tokens=tokens, text_tokens=num_text_tokens(run))

    return mean_cost(run, shapes, cost)


def num_tokens(model: WorldARConfig, latent_THW: Sequence[int]) -> int:
    """L of a sample: what the model reads. Its last code is only predicted, and a begin token takes its place."""
    frames, height, width = latent_THW
    return frames * height * width - 1 + int(model.begin_token)


def num_text_tokens(run: WorldARRun) -> int:
    """S of a sample: tokens that cross-attention reads, one where that is an action."""
    if not run.model.cross_attention:
        return 0
    return 1 if run.model.action_width else run.text.max_tokens


def check_codec(run: WorldARRun, codec: TokenizerConfig) -> None:
    """The tokenizer must make codes of the model's vocabulary. Raises ConfigError."""
    if codec.kind != "discrete":
        raise ConfigError(
            f"latents.tokenizer={run.latents.tokenizer} is {codec.kind}, and an autoregressive model reads codes; name "
            "a discrete tokenizer, such as one of configs/tokenizer/dv8x16x16_720p"
        )
    if codec.codebook_size != run.model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={run.model.vocab_size}, but latents.tokenizer={run.latents.tokenizer} has "
            f"{codec.codebook_size} codes; set that"
        )


def check_fits(model: WorldARConfig, facts: WindowFacts) -> None:
    """The windows must be codes of the model's vocabulary. Raises ConfigError."""
    if facts.num_codes is None:
        [channels, *_], *_ = facts.shapes
        raise ConfigError(
            f"{facts.where} gives latents of {channels} channels, and an autoregressive model reads the codes of a "
            "discrete tokenizer; use one, such as those of configs/tokenizer/dv8x16x16_720p"
        )
    if facts.num_codes > model.vocab_size:
        raise ConfigError(
            f"model.vocab_size={model.vocab_size}, but {facts.where} has code {facts.num_codes - 1}; set the product "
            "of the tokenizer's fsq_levels"
        )
    if model.reads_text and facts.text_width not in (None, model.text_width):
        raise ConfigError(
            f"model.text_width={model.text_width}, but {facts.where} has {facts.text_width}; set {facts.text_width}"
        )
