"""The loop, the optimizer, checkpoints and tracking. No torch in here."""

from dataclasses import dataclass, field
from typing import Literal

BestIs = Literal["lowest", "highest"]
MAX_SIGMA_REL = 12**-0.5
"""Relative width of the plain mean over all steps; power-law averages are narrower."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """AdamW as megatron-core runs it, with a linear warm-up."""

    lr: float
    """Learning rate after the warm-up. The paper: 2^-15 (7B), 2^-16 (14B)."""
    warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate from the end of the warm-up to train.num_steps."""
    min_lr: float = 0.0
    """Learning rate at the end of the decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of Adam's two moments."""
    eps: float = 1e-10
    """Added to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay; one-dimensional parameters are spared."""
    clip_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 switches it off."""
    lr_factors: dict[str, float] = field(default_factory=dict)
    """Pattern of parameter names -> factor on the learning rate, 0 for what is not trained; the last that fits counts.
    {"*": 0, "*.cross_attention.*": 1} trains cross-attention alone, {"discriminator.*": 0.5} the discriminator slowly.
    """
    ema_decay: float = 0.0
    """Decay of the exponential moving average of the weights, per step; 0 keeps none."""
    ema_sigma_rels: tuple[float, ...] = ()
    """Relative widths of power-law averages that are kept too, e.g. [0.05,0.1]; `cosmos-train ema` makes others."""
    ema_snapshot_every_steps: int = 1000
    """Steps between two snapshots of the power-law averages in RUN/ema; the last step always has one."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"optim.lr={self.lr} must be greater than 0")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"optim.ema_decay={self.ema_decay} must lie in [0, 1); 0 keeps no average")
        for sigma_rel in self.ema_sigma_rels:
            if not 0 < sigma_rel < MAX_SIGMA_REL:
                raise ValueError(
                    f"optim.ema_sigma_rels={list(self.ema_sigma_rels)}: {sigma_rel} must lie between 0 and "
                    f"{MAX_SIGMA_REL:.3f}, the width of the plain mean over all steps"
                )
        if len(set(self.ema_sigma_rels)) < len(self.ema_sigma_rels):
            raise ValueError(f"optim.ema_sigma_rels={list(self.ema_sigma_rels)} names a width twice; name it once")
        if negative := {pattern: factor for pattern, factor in self.lr_factors.items() if factor < 0}:
            raise ValueError(f"optim.lr_factors={negative} must be 0 (not trained) or more")
        if self.ema_snapshot_every_steps < 1:
            raise ValueError(f"optim.ema_snapshot_every_steps={self.ema_snapshot_every_steps} must be at least 1")
        if self.warmup_steps < 0:
            raise ValueError(f"optim.warmup_steps={self.warmup_steps} must be 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The loop."""

    num_steps: int
    """Optimizer steps of the whole run, over all restarts."""
    global_batch_size: int
    """Samples of one optimizer step, over all ranks and micro-batches."""
    micro_batch_size: int
    """Samples that one rank passes through the model at once."""
    stop_at_step: int | None = None
    """Save and leave with exit code 75 after this step, as if the scheduler had asked for it. Run again to go on."""
    log_every_steps: int = 10
    """Steps between two lines of metrics."""
    block_stats_every_steps: int = 0
    """Steps between two with root mean squares of each block's output and gradients in the metrics; 0: none."""
    max_skipped_steps: int = 10
    """Steps in a row whose loss or gradient is not finite: each is skipped, one more than this stops the run."""
    hang_sec: float = 1800.0
    """Seconds without a finished step or save after which the run hangs: stacks are written and it ends; 0 is never.
    To read the checkpoint that the run goes on from, and the first step, it has so long, too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Number format of weights and activations; bf16 keeps fp32 master weights in the optimizer."""
    threads_per_rank: int = 0
    """CPU threads of each rank; 0 divides the machine's cores among its ranks."""
    peak_tflops: float | None = None
    """Dense TFLOP/s of one device, for `mfu` in the metrics; none takes the data sheet's, by the GPU's name."""

    def __post_init__(self) -> None:
        for key, value in (
            ("num_steps", self.num_steps),
            ("global_batch_size", self.global_batch_size),
            ("micro_batch_size", self.micro_batch_size),
            ("log_every_steps", self.log_every_steps),
        ):
            if value < 1:
                raise ValueError(f"train.{key}={value} must be at least 1")
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.global_batch_size={self.global_batch_size} is not a multiple of "
                f"train.micro_batch_size={self.micro_batch_size}"
            )
        if self.block_stats_every_steps < 0:
            raise ValueError(f"train.block_stats_every_steps={self.block_stats_every_steps} must be 0 (off) or more")
        if self.max_skipped_steps < 0:
            raise ValueError(f"train.max_skipped_steps={self.max_skipped_steps} must be 0 (stop at once) or more")
        if self.hang_sec < 0:
            raise ValueError(f"train.hang_sec={self.hang_sec} must be 0 (never) or more")
        if self.peak_tflops is not None and self.peak_tflops <= 0:
            raise ValueError(
                f"train.peak_tflops={self.peak_tflops} must be greater than 0; leave it out to use the data sheet's"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointConfig:
    """When the run saves, what it keeps, and what it starts from."""

    every_steps: int = 1000
    """Steps between two checkpoints; the last step is always saved."""
    keep_last: int = 2
    """Checkpoints kept; older ones are removed after a newer one is complete."""
    keep_every_steps: int = 0
    """Checkpoints of a multiple of so many steps are kept for ever; 0 keeps none of them."""
    keep_best: int = 0
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
        if self.every_steps < 1 or self.keep_last < 1:
            raise ValueError(
                f"checkpoint.every_steps={self.every_steps} and checkpoint.keep_last={self.keep_last} "
                "must be at least 1"
            )
        if self.keep_every_steps < 0:
            raise ValueError(f"checkpoint.keep_every_steps={self.keep_every_steps} must be 0 (none) or more")
        if self.keep_best < 0:
            raise ValueError(f"checkpoint.keep_best={self.keep_best} must be 0 (none) or more")
        if self.resume_from and self.init_from:
            raise ValueError(
                f"checkpoint.resume_from={self.resume_from!r} and checkpoint.init_from={self.init_from!r} exclude "
                "each other; keep the first to continue a run, the second to start a new one from its weights"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrackingConfig:
    """Weights & Biases and alerts. Everything also stands in the run folder's metrics.jsonl."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto logs online where WANDB_API_KEY is set and offline elsewhere (`wandb sync` uploads later)."""
    project: str = "cosmos-train"
    """W&B project."""
    alert_throughput_drop: float = 0.5
    """Alert where samples per second fell by more than this part of what they were lately; 0 is never."""
    alert_data_wait_share: float = 0.5
    """Alert where a step waits for data for more than this part of its time; 0 is never."""

    def is_online(self, *, has_key: bool) -> bool:
        """Whether what is logged is uploaded at once."""
        return self.wandb == "online" or (self.wandb == "auto" and has_key)

    def __post_init__(self) -> None:
        for key, value in (
            ("alert_throughput_drop", self.alert_throughput_drop),
            ("alert_data_wait_share", self.alert_data_wait_share),
        ):
            if not 0 <= value < 1:
                raise ValueError(f"tracking.{key}={value} must lie in [0, 1); 0 gives no such alert")
