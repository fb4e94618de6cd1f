"""How the ranks of a run divide the work. No torch in here: a layout is checked on the login node."""

import math
from dataclasses import dataclass, field
from typing import Literal

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, check_ranges

CAPABILITIES: dict[str, tuple[tuple[int, int], tuple[int, int] | None]] = {
    "fp8_delayed": ((8, 9), None),
    "fp8_current": ((8, 9), None),
    "fp8_blockwise": ((9, 0), None),
    "mxfp8": ((10, 0), (12, 0)),
    "nvfp4": ((10, 0), None),
}
"""Recipe -> the CUDA compute capability from which and, if any, below which TransformerEngine 2.11 runs it."""
GATHERED_IN_8_BITS = ("fp8_delayed", "fp8_current", "fp8_blockwise")
"""Recipes whose weights megatron-core 0.16 updates and gathers in 8 bits; MXFP8 weights need other gradient buffers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionConfig:
    """What TransformerEngine computes the blocks' matrix products in. train.precision is that of all the rest.

    Embeddings, AdaLN modulation, norms, attention and the final layer stay in bf16 whatever stands here.
    """

    recipe: Literal["none", "fp8_delayed", "fp8_current", "fp8_blockwise", "mxfp8", "nvfp4"] = "none"
    """How numbers are scaled to fit 8 or 4 bits: by an earlier step's largest value (fp8_delayed), the tensor's own
    (fp8_current), or one per block of it. none computes in train.precision."""
    format: Literal["auto", "e4m3", "hybrid"] = "auto"
    """8-bit format; hybrid has e5m2 gradients. auto: hybrid with one scale per tensor, e4m3 with one per block."""
    amax_history_len: Count = 1024
    """fp8_delayed: steps whose largest values the scale is taken from."""
    amax_compute: Literal["max", "most_recent"] = "max"
    """fp8_delayed: which of these values."""
    bf16_first_blocks: CountOrZero = 1
    """Blocks at the start of the model that stay in bf16."""
    bf16_last_blocks: CountOrZero = 1
    """Blocks at the end of the model that stay in bf16."""
    bf16_modules: tuple[str, ...] = ()
    """Patterns of names that stay in bf16 too, such as blocks.*.mlp.down or *.cross_attention.*; * is any text."""
    fp8_param_gather: bool = False
    """Keep these layers' weights in 8 bits alone, and gather those from the ranks that updated them: half of what bf16
    takes. For fp8_delayed, fp8_current and fp8_blockwise."""

    def __post_init__(self) -> None:
        check_ranges(self, "parallel.precision")
        if self.recipe == "nvfp4" and self.format != "auto":
            raise ConfigError(
                f"parallel.precision.format={self.format} is an 8-bit format, but recipe=nvfp4 has one of its own, "
                "e2m1; leave format at auto"
            )
        if self.fp8_param_gather and self.recipe not in GATHERED_IN_8_BITS:
            raise ConfigError(
                f"parallel.precision.fp8_param_gather=true is for recipe {', '.join(GATHERED_IN_8_BITS)}, but "
                f"recipe={self.recipe}; use one of these, or switch it off"
            )
        if self.recipe not in ("none", "fp8_delayed") and (self.amax_history_len, self.amax_compute) != (1024, "max"):
            raise ConfigError(
                f"parallel.precision.amax_history_len={self.amax_history_len} and amax_compute={self.amax_compute} are "
                f"read by recipe=fp8_delayed only, but recipe={self.recipe}; leave them out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ParallelConfig:
    """How the ranks divide the work. Data parallelism is what remains: world size / (tp * pp * cp)."""

    tp: Count = 1
    """Tensor-parallel ranks: heads and MLP columns are divided by it."""
    pp: Count = 1
    """Pipeline-parallel ranks: consecutive blocks are divided by it."""
    pp_chunks: Count = 1
    """Pieces of the model on each pipeline rank; more than 1 interleaves them, which shortens a step's two ends."""
    pp_first_blocks: CountOrZero | None = None
    """Blocks of the very first piece, where the patch embedding is; none divides evenly."""
    pp_last_blocks: CountOrZero | None = None
    """Blocks of the very last piece, where the final layer and the loss are; none divides evenly."""
    cp: Count = 1
    """Context-parallel ranks: tokens are divided by it, in attention too. Any number of tokens: they are padded."""
    cp_comm: Literal["all_gather", "a2a", "p2p"] = "all_gather"
    """How attention sees all tokens: keys and values gathered, tokens exchanged for heads, or a ring (TE only)."""
    cp_min_tokens: CountOrZero = 0
    """Batches with fewer tokens, such as images, are not divided: every rank computes them, nothing is sent."""
    sequence_parallel: bool = False
    """Divide tokens over the tensor-parallel ranks outside attention and MLP. Needs tp > 1."""
    tp_overlap: bool = False
    """Send between tensor-parallel ranks while products are computed: TransformerEngine's userbuffers, for batches of
    one size. Needs sequence_parallel, GPUs joined by NVLink, and a recipe other than fp8_blockwise and nvfp4."""
    overlap_grad_reduce: Literal["auto", "on", "off"] = "auto"
    """Sum gradients over replicas while the backward pass goes on: auto does on CUDA without a pipeline, which can not.
    Every trained parameter then needs a gradient in every step."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it: norms and GELU, or whole blocks."""
    compile: Literal["none", "blocks", "cuda_graphs"] = "none"
    """Compile every block with torch.compile, and replay what is compiled as CUDA graphs, for small batches of one
    size. TransformerEngine's layers are not compiled; what lies between them is."""
    layers: Literal["auto", "native", "te"] = "auto"
    """Who makes the layers: TransformerEngine where CUDA and it are there (auto), or always one of the two."""
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    """8-bit and 4-bit matrix products."""

    def __post_init__(self) -> None:
        check_ranges(self, "parallel")
        for key, value in (("pp_first_blocks", self.pp_first_blocks), ("pp_last_blocks", self.pp_last_blocks)):
            if value is not None and self.pp == 1:
                raise ConfigError(
                    f"parallel.{key}={value} needs a pipeline, but parallel.pp=1; leave it out, or set parallel.pp to "
                    "2 or more"
                )
        if self.sequence_parallel and self.tp == 1:
            raise ConfigError(
                "parallel.sequence_parallel=true divides tokens over tensor-parallel ranks, but parallel.tp=1; "
                "set parallel.tp to 2 or more, or switch sequence_parallel off"
            )
        if self.tp_overlap and not self.sequence_parallel:
            raise ConfigError(
                "parallel.tp_overlap=true hides what sequence parallelism sends, but parallel.sequence_parallel=false; "
                "switch that on, or tp_overlap off"
            )
        if self.tp_overlap and self.layers == "native":
            raise ConfigError(
                "parallel.tp_overlap=true is TransformerEngine's, but parallel.layers=native; use layers auto or te on "
                "GPUs, or switch tp_overlap off"
            )
        if self.tp_overlap and self.precision.recipe in ("fp8_blockwise", "nvfp4"):
            raise ConfigError(
                f"parallel.tp_overlap=true sends 16-bit or 8-bit tensors with one scale or MXFP8's, but "
                f"parallel.precision.recipe={self.precision.recipe}; use another recipe, or switch tp_overlap off"
            )
        if self.compile == "cuda_graphs" and self.pp > 1:
            raise ConfigError(
                f"parallel.compile=cuda_graphs keeps one micro-batch's activations, but parallel.pp={self.pp} has "
                "several on their way; use compile=blocks, or parallel.pp=1"
            )
        if self.pp_chunks > 1 and self.pp == 1:
            raise ConfigError(
                f"parallel.pp_chunks={self.pp_chunks} interleaves pieces of a pipeline, but parallel.pp=1; "
                "set parallel.pp to 2 or more, or pp_chunks to 1"
            )
        if self.overlap_grad_reduce == "on" and self.pp > 1:
            raise ConfigError(
                f"parallel.overlap_grad_reduce=on sums gradients before pipeline stages have added up what they share, "
                f"but parallel.pp={self.pp}; leave it at auto, or set parallel.pp=1"
            )
        if self.precision.recipe != "none" and self.layers == "native":
            raise ConfigError(
                f"parallel.precision.recipe={self.precision.recipe} is TransformerEngine's, but "
                "parallel.layers=native; use recipe none, or layers auto or te on a GPU"
            )
        if self.cp > 1 and self.cp_comm == "p2p" and self.layers == "native":
            raise ConfigError(
                "parallel.cp_comm=p2p is TransformerEngine's ring, but parallel.layers=native; "
                "use cp_comm all_gather or a2a, or layers auto or te on a GPU"
            )

    @property
    def ranks_per_replica(self) -> int:
        """Ranks that work on the same samples."""
        return self.tp * self.pp * self.cp

    @property
    def interleaved_chunks(self) -> int | None:
        """pp_chunks as megatron-core wants it: None where nothing is interleaved."""
        return self.pp_chunks if self.pp_chunks > 1 else None

    def blocks_per_piece(self, num_blocks: int) -> list[int]:
        """Blocks of each piece of the pipeline, from first to last; piece i is on pipeline rank i % pp.

        Raises:
            ConfigError: a piece would be left without blocks.
        """
        num_pieces = self.pp * self.pp_chunks
        fixed = {0: self.pp_first_blocks, num_pieces - 1: self.pp_last_blocks}
        given = {piece: count for piece, count in fixed.items() if count is not None}
        free = [piece for piece in range(num_pieces) if piece not in given]
        remaining = num_blocks - sum(given.values())
        if remaining < len(free) or (not free and remaining):
            raise ConfigError(
                f"model.num_blocks={num_blocks} can not be cut into parallel.pp={self.pp} * parallel.pp_chunks="
                f"{self.pp_chunks} = {num_pieces} pieces with pp_first_blocks={self.pp_first_blocks} and "
                f"pp_last_blocks={self.pp_last_blocks}: {remaining} blocks are left for {len(free)} pieces, which need "
                f"at least one each; use at most {num_blocks} pieces, or other counts for the first and last"
            )
        each, extra = divmod(remaining, len(free)) if free else (0, 0)
        return [given[p] if p in given else each + (free.index(p) < extra) for p in range(num_pieces)]


def check_layout(parallel: ParallelConfig, world_size: int) -> None:
    """tp * pp * cp must divide the number of processes. Raises ConfigError with the products that do."""
    if world_size % parallel.ranks_per_replica:
        legal = [n for n in range(1, world_size + 1) if world_size % n == 0]
        raise ConfigError(
            f"parallel.tp={parallel.tp} * parallel.pp={parallel.pp} * parallel.cp={parallel.cp} = "
            f"{parallel.ranks_per_replica} does not divide the {world_size} processes of this run; "
            f"their product may be {', '.join(map(str, legal))}"
        )


def check_heads(parallel: ParallelConfig, num_heads: int, num_kv_heads: int | None = None) -> None:
    """Attention heads must divide over tp, and with cp_comm=a2a over tp * cp. Raises ConfigError with legal degrees.

    num_kv_heads: where there are fewer of them than query heads.
    """
    counts = {"num_heads": num_heads} | ({} if num_kv_heads is None else {"num_kv_heads": num_kv_heads})
    for key, count in counts.items():
        if count % parallel.tp:
            raise ConfigError(
                f"model.{key}={count} is not divisible by parallel.tp={parallel.tp}; use a tp of "
                f"{_divisors(math.gcd(*counts.values()))}"
            )
        own_heads = count // parallel.tp
        if parallel.cp_comm == "a2a" and own_heads % parallel.cp:
            raise ConfigError(
                f"parallel.cp_comm=a2a divides the {own_heads} heads of a rank (model.{key}={count} / "
                f"parallel.tp={parallel.tp}) by parallel.cp={parallel.cp}, which leaves a rest; "
                f"use a cp of {_divisors(own_heads)}, or cp_comm=all_gather"
            )


def check_vocabulary(parallel: ParallelConfig, vocab_size: int) -> None:
    """Codes must divide over tp. Raises ConfigError with legal degrees."""
    if vocab_size % parallel.tp:
        legal = [str(n) for n in range(1, parallel.tp + 1) if vocab_size % n == 0]
        raise ConfigError(
            f"model.vocab_size={vocab_size} is not divisible by parallel.tp={parallel.tp}; use a tp of "
            f"{', '.join(legal)}"
        )


def check_precision(config: PrecisionConfig, capability: tuple[int, int], device: str) -> None:
    """Whether a GPU can compute in the recipe.

    Args:
        capability: CUDA compute capability of the GPU that the run is for, which need not be here.
        device: its name, for the message.

    Raises:
        ConfigError: it can not; the message names the recipes that it can.
    """
    legal = [
        recipe
        for recipe, (first, end) in CAPABILITIES.items()
        if capability >= first and (end is None or capability < end)
    ]
    if config.recipe == "none" or config.recipe in legal:
        return
    first, end = CAPABILITIES[config.recipe]
    needed = f"{first[0]}.{first[1]} or more" + (f" and less than {end[0]}.{end[1]}" if end else "")
    raise ConfigError(
        f"parallel.precision.recipe={config.recipe} needs a compute capability of {needed}, but {device} has "
        f"{capability[0]}.{capability[1]}; use {', '.join(['none', *legal])}"
    )


def check_recipe(config: PrecisionConfig, weights: str, num_blocks: int) -> None:
    """A recipe computes on bf16 weights, and some block must be left to it. Raises ConfigError."""
    if config.recipe == "none":
        return
    if weights != "bf16":
        raise ConfigError(
            f"parallel.precision.recipe={config.recipe} computes on bf16 weights and activations, but "
            f"train.precision={weights}; set train.precision=bf16"
        )
    if config.bf16_first_blocks + config.bf16_last_blocks >= num_blocks:
        raise ConfigError(
            f"parallel.precision.bf16_first_blocks={config.bf16_first_blocks} and "
            f"bf16_last_blocks={config.bf16_last_blocks} leave none of model.num_blocks={num_blocks} to "
            f"recipe={config.recipe}; use smaller counts, or recipe none"
        )


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
