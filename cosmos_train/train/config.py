"""The loop, the optimizer, checkpoints and tracking. No torch in here."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, NotNegative, Positive, ShareBelowOne, check_ranges

BestIs = Literal["lowest", "highest"]
ADAPTERS = "*.lora.*"
"""Pattern of the names of adapters' parameters (cosmos_train.parallel.lora)."""
MAX_SIGMA_REL = 12**-0.5
"""Relative width of the plain mean over all steps; power-law averages are narrower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW as megatron-core runs it, with a linear warm-up."""

    lr: Positive
    """Learning rate after the warm-up. The paper: 2^-15 (7B), 2^-16 (14B)."""
    warmup_steps: CountOrZero = 0
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate from the end of the warm-up to train.num_steps."""
    min_lr: NotNegative = 0.0
    """Learning rate at the end of the decay."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.99)
    """Decay rates of Adam's two moments."""
    eps: NotNegative = 1e-10
    """Added to the root of the second moment."""
    weight_decay: NotNegative = 0.1
    """Decoupled weight decay; one-dimensional parameters are spared."""
    clip_grad_norm: NotNegative = 1.0
    """Gradients are scaled down to this global norm; 0 switches it off."""
    lr_factors: dict[str, NotNegative] = field(default_factory=dict)
    """Pattern of parameter names -> factor on the learning rate, 0 for what is not trained; the last that fits counts.
    {"*": 0, "*.cross_attention.*": 1} trains cross-attention alone, {"discriminator.*": 0.5} the discriminator slowly.
    """
    ema_decay: ShareBelowOne = 0.0
    """Decay of the exponential moving average of the weights, per step; 0 keeps none."""
    ema_sigma_rels: tuple[Annotated[float, Interval(gt=0, lt=MAX_SIGMA_REL)], ...] = ()
    """Relative widths of power-law averages that are kept too, e.g. [0.05,0.1]; `cosmos-train ema` makes others."""
    ema_snapshot_every_steps: Count = 1000
    """Steps between two snapshots of the power-law averages in RUN/ema; the last step always has one."""

    def __post_init__(self) -> None:
        check_ranges(self, "optim")
        if len(set(self.ema_sigma_rels)) < len(self.ema_sigma_rels):
            raise ConfigError(f"optim.ema_sigma_rels={list(self.ema_sigma_rels)} names a width twice; name it once")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters (LoRA), which are trained in the place of a world model's own weights."""

    rank: CountOrZero = 0
    """Rank of the matrices that are added; 0 trains the model itself. Released post-training: 16 (2B), 32 (14B)."""
    alpha: Positive | None = None
    """Strength: what is added is multiplied by alpha / rank. To be given with a rank; most take as much as the rank."""
    targets: tuple[str, ...] = ("*attention.qkv", "*attention.q", "*attention.kv", "*attention.out", "*.mlp.*")
    """Linear layers that get an adapter, by name or pattern, such as net.blocks.0.mlp.up."""
    base: str | None = None
    """The world model that the adapters are of, which stays as it is: a run, an official file, a diffusers folder.
    Checkpoints hold the adapters alone, and what optim.lr_factors has trained besides."""

    def __post_init__(self) -> None:
        check_ranges(self, "lora")
        if not self.rank:
            return
        for key, value in (("alpha", self.alpha), ("base", self.base), ("targets", self.targets)):
            if not value:
                raise ConfigError(f"lora.rank={self.rank} needs lora.{key}, which is not given; set it, or rank 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The loop."""

    num_steps: Count
    """Optimizer steps of the whole run, over all restarts."""
    global_batch_size: Count
    """Samples of one optimizer step, over all ranks and micro-batches."""
    micro_batch_size: Count
    """Samples that one rank passes through the model at once."""
    stop_at_step: Count | None = None
    """Save and leave with exit code 75 after this step, as if the scheduler had asked for it. Run again to go on."""
    log_every_steps: Count = 10
    """Steps between two lines of metrics."""
    block_stats_every_steps: CountOrZero = 0
    """Steps between two with root mean squares of each block's output and gradients in the metrics; 0: none."""
    max_skipped_steps: CountOrZero = 10
    """Steps in a row whose loss or gradient is not finite: each is skipped, one more than this stops the run.

    A run that ends with such steps has failed if the samples before them have no finite loss with the last weights."""
    hang_sec: NotNegative = 1800.0
    """Seconds without a finished step or save after which the run hangs: stacks are written and it ends; 0 is never.
    To read the checkpoint that the run goes on from, and the first step, it has so long, too."""
    rendezvous_sec: Positive = 300.0
    """Seconds that ranks wait for each other at the start; a rank that is missed then ends the run."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights and activations; bf16 keeps fp32 master weights in the optimizer."""
    threads_per_rank: CountOrZero = 0
    """CPU threads of each rank; 0 divides the machine's cores among its ranks."""
    peak_tflops: Positive | None = None
    """Dense TFLOP/s of one device, for `mfu` in the metrics; none takes the data sheet's, by the GPU's name."""

    def __post_init__(self) -> None:
        check_ranges(self, "train")
        if self.global_batch_size % self.micro_batch_size:
            raise ConfigError(
                f"train.global_batch_size={self.global_batch_size} is not a multiple of "
                f"train.micro_batch_size={self.micro_batch_size}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When the run saves, what it keeps, and what it starts from."""

    every_steps: Count = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep_last: Count = 2
    """Checkpoints kept; older ones are removed after a newer one is complete."""
    keep_every_steps: CountOrZero = 0
    """Checkpoints of a multiple of so many steps are kept for ever; 0 keeps none of them."""
    keep_best: CountOrZero = 0
    """Checkpoints kept, besides, at which best_metric was at its best; 0 keeps none of them."""
    best_metric: str = "loss"
    """What keep_best goes by: the name of a value in metrics.jsonl, as it was last logged before the checkpoint."""
    best_is: BestIs = "lowest"
    """Which values of best_metric are the best."""
    asynchronous: bool = False
    """Write while training goes on, which stands still only for a copy of the state; main memory holds it once more."""
    staging_dir: str | None = None
    """Folder on each node's own disk in which files are made, to be copied to run_dir then; none writes them there."""
    verify: bool = True
    """Compare a checkpoint with its digests before reading it; a damaged one of this run is passed over."""
    resume_from: str | None = None
    """A checkpoint of another run to go on from, with its optimizer and step, if this run has none of its own."""
    init_from: str | None = None
    """A checkpoint whose weights alone are the start of this run (warm start), if there is nothing to resume: of
    another run, or of a world model also an official or diffusers one, or an exported folder."""
    init_new: tuple[str, ...] = ()
    """Tensors that init_from may lack, by name or pattern such as net.blocks.*: they keep their first weights."""
    init_unused: tuple[str, ...] = ()
    """Tensors of init_from that this run may lack, by name or pattern."""

    def __post_init__(self) -> None:
        check_ranges(self, "checkpoint")
        if self.resume_from and self.init_from:
            raise ConfigError(
                f"checkpoint.resume_from={self.resume_from!r} and checkpoint.init_from={self.init_from!r} exclude "
                "each other; keep the first to continue a run, the second to start a new one from its weights"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Weights & Biases and alerts. Everything also stands in the run folder's metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto does what WANDB_MODE or `wandb offline` says; without these it logs online where WANDB_API_KEY is set or
    `wandb login` was done, and offline elsewhere (`wandb sync` uploads later). Another value stands over WANDB_MODE."""
    project: str | None = None
    """W&B project; none is what WANDB_PROJECT says, or cosmos-train."""
    alert_throughput_drop: ShareBelowOne = 0.5
    """Alert where samples per second fell by more than this part of what they were lately; 0 is never."""
    alert_data_wait_share: ShareBelowOne = 0.5
    """Alert where a step waits for data for more than this part of its time; 0 is never."""

    def __post_init__(self) -> None:
        check_ranges(self, "tracking")
