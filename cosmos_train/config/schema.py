"""The run as a tree of typed sections. One YAML file fills it; nothing here imports torch.

A run is of one kind, named by its first key `recipe`, and has exactly the sections that this kind reads, so that a
section which would be ignored is an unknown key. The string under each field is what `cosmos-train explain` prints.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from cosmos_data.config import DataConfig
from cosmos_tok.config import TokenizerConfig, TokenizerError
from cosmos_train.conditions.config import (
    PLUCKER_CHANNELS,
    ActionConditionConfig,
    ConditionConfig,
    refuse_without_effect,
)
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.ranges import Count, CountOrZero, Positive, Share, ShareBelowOne, check_ranges
from cosmos_train.generate.config import CodeSampleConfig, SampleConfig
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.objectives.config import EdmConfig, NextTokenConfig, ReconstructionConfig
from cosmos_train.parallel.config import ParallelConfig, check_heads, check_recipe, check_vocabulary
from cosmos_train.text.config import TextConfig
from cosmos_train.train.config import (
    ADAPTERS,
    CheckpointConfig,
    LoraConfig,
    OptimConfig,
    TrackingConfig,
    TrainConfig,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentsConfig:
    """The latent cache that `cosmos-train tokenize` fills and a world model is trained on."""

    folder: str
    """Folder of the cache. Latents are stored raw and whitened at load, with the statistics that lie beside them."""
    tokenizer: str
    """Folder of the trained tokenizer: RUN/tokenizer of a tokenizer run."""
    hop_frames: Count = 8
    """Frames from the start of one cached window to the start of the next in the same clip, cut from the middle."""
    image_folder: str | None = None
    """Folder of a finished cache of single frames (`tokenize` with data.num_frames=1), which has its own statistics."""
    planned_per_clip: CountOrZero = 0
    """Cache so many planned windows (random start, crop and mirroring) of each training clip instead; 0 is none."""
    fill: bool = False
    """Train on planned windows without end: each is encoded when a run first wants it, and kept in the folder by what
    it is a function of. Any number of runs may share the folder."""
    statistics_windows: Count = 128
    """fill: the whitening statistics are those of the run's first so many windows, and as many images where there are
    any."""
    max_gib: Positive | None = None
    """The limit of windows that runs keep in the folder (fill): above so many GiB the least recently used go; null: no
    limit. States of texts in the folder do not count, and stay."""
    shard_mib: Positive = 256.0
    """Latents in a shard of a finished cache, in MiB: what a kill of `tokenize` loses at most, of each process."""

    def __post_init__(self) -> None:
        check_ranges(self, "latents")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """What every run has."""

    recipe: str
    """The kind of run: tokenizer, world_dit or world_ar. It decides which sections there are."""
    run_dir: str
    """Folder of the run: resolved YAML, metrics, checkpoints. The same command with the same folder resumes."""
    train: TrainConfig
    """The loop."""
    optim: OptimConfig
    """The optimizer."""
    seed: CountOrZero = 0
    """Seed of initial weights, sample order and noise."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How ranks divide the work."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Saving and resuming."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    """Weights & Biases."""

    @property
    def lr_factors(self) -> dict[str, float]:
        """Pattern of parameter names -> factor on the learning rate: optim.lr_factors, and what the run adds."""
        return self.optim.lr_factors


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenizerRun(RunConfig):
    """Train a causal video tokenizer on the pixels of a manifest."""

    data: DataConfig
    """Clips, windows and crops."""
    tokenizer: TokenizerConfig
    """Architecture."""
    loss: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    """Loss terms."""
    image_share: Share = 0.0
    """Share of the steps that are trained on single frames of the clips instead of windows, spread evenly."""
    tokenizer_from: str | None = None
    """Folder of a trained tokenizer whose weights this run starts from, e.g. to go on with other loss terms."""
    statistics_windows: CountOrZero = 128
    """Training windows, and as many single frames, whose latents give the whitening statistics at the end; 0: none."""

    def __post_init__(self) -> None:
        check_ranges(self, "")
        if self.parallel.ranks_per_replica > 1:
            raise ConfigError(
                f"parallel.tp={self.parallel.tp}, parallel.pp={self.parallel.pp}, parallel.cp={self.parallel.cp}: a "
                "tokenizer is trained data-parallel only; set all three to 1"
            )
        if self.parallel.precision.recipe != "none":
            raise ConfigError(
                f"parallel.precision.recipe={self.parallel.precision.recipe} is for the matrix products of a "
                "transformer, and a tokenizer has convolutions; set it to none"
            )
        try:
            self.tokenizer.latent_frames(self.data.num_frames)
            self.tokenizer.latent_size(self.data.height_px, self.data.width_px)
        except TokenizerError as error:  # the tokenizer does not know which section the number comes from
            raise ConfigError(f"data.{error}") from error
        self._check_loss_fits()
        if self.tokenizer_from and self.checkpoint.init_from:
            raise ConfigError(
                f"tokenizer_from={self.tokenizer_from!r} and checkpoint.init_from={self.checkpoint.init_from!r} "
                "exclude each other; keep the first to start from a tokenizer, the second from all of a checkpoint"
            )

    def _check_loss_fits(self) -> None:
        """The networks of the loss halve the picture; each needs something to halve."""
        needed_px = {"flow": 16, "perceptual": 16, "gram": 16, "adversarial": 2**self.loss.discriminator.num_halvings}
        side_px = min(self.data.height_px, self.data.width_px)
        for name, least_px in needed_px.items():
            if self.loss.terms[name].weight and side_px < least_px:
                raise ConfigError(
                    f"data.height_px={self.data.height_px} and data.width_px={self.data.width_px} are too small for "
                    f"loss.{name}, which needs {least_px} px; use larger windows, or loss.{name}.weight=0"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldRun(RunConfig):
    """Train a world model on what a tokenizer made of clips."""

    data: DataConfig
    """Clips and windows that the cache is made of."""
    latents: LatentsConfig
    """The latent cache."""
    image_share: ShareBelowOne = 0.0
    """Share of the steps that are trained on images instead of videos, spread evenly: those of latents.image_folder, or
    with latents.fill single frames of the clips."""
    images_per_video: Count = 1
    """Images that take a video's place in an image step: so many that both kinds of step fill a device alike."""
    text: TextConfig = field(default_factory=TextConfig)
    """Text encoder of captions and prompts."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """Adapters that are trained in the place of the model."""

    @property
    def lr_factors(self) -> dict[str, float]:
        """See RunConfig. With adapters they alone are trained, and what optim.lr_factors names."""
        return ({"*": 0.0, ADAPTERS: 1.0} if self.lora.rank else {}) | self.optim.lr_factors

    def window_files(self) -> Iterator[tuple[str, str]]:
        """(key, path) of all that the windows are read from, or made of."""
        if self.latents.fill:
            yield from self.cache_files()
            return
        yield "latents.folder", self.latents.folder
        if self.latents.image_folder is not None:
            yield "latents.image_folder", self.latents.image_folder

    def cache_files(self) -> Iterator[tuple[str, str]]:
        """(key, path) of all that a latent cache is made of."""
        yield from self.data.files()
        yield "latents.tokenizer", self.latents.tokenizer

    def _check_windows(self) -> None:
        check_ranges(self, "")
        if self.lora.rank and self.checkpoint.init_from is not None:
            raise ConfigError(
                f"checkpoint.init_from={self.checkpoint.init_from} would be trained, and lora.rank={self.lora.rank} "
                f"trains adapters of lora.base={self.lora.base} alone; leave init_from out, or set rank 0"
            )
        image_folder = self.latents.image_folder
        if self.latents.fill and image_folder is not None:
            raise ConfigError(
                f"latents.image_folder={image_folder} is a finished cache, and with latents.fill=true images are "
                "encoded into latents.folder; leave it out"
            )
        if not self.latents.fill and (self.image_share > 0) != (image_folder is not None):
            raise ConfigError(
                f"image_share={self.image_share} and latents.image_folder={image_folder} belong together; set both for "
                "joint training on images and videos, or neither"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldDiTRun(WorldRun):
    """Train a diffusion world model on latents."""

    model: DiTConfig
    """Architecture."""
    objective: EdmConfig = field(default_factory=EdmConfig)
    """Noise, weighting, conditioning."""
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    """How a camera's path (model.extra_channels=6) and actions (model.action_frames) are read."""
    sample: SampleConfig = field(default_factory=SampleConfig)
    """How `cosmos-train sample` samples this model."""

    def __post_init__(self) -> None:
        self._check_windows()
        check_heads(self.parallel, self.model.num_heads)
        self.parallel.blocks_per_piece(self.model.num_blocks)
        check_recipe(self.parallel.precision, self.train.precision, self.model.num_blocks)
        if self.objective.max_condition_frames and not self.model.condition_mask:
            raise ConfigError(
                f"objective.max_condition_frames={self.objective.max_condition_frames}, but model.condition_mask=false "
                "leaves the network without the channel that marks them; set model.condition_mask=true (Video2World) "
                "or objective.max_condition_frames=0 (Text2World)"
            )
        if self.model.extra_channels not in (0, PLUCKER_CHANNELS):
            raise ConfigError(
                f"model.extra_channels={self.model.extra_channels} has no data to be trained on; use "
                f"{PLUCKER_CHANNELS}, the Pluecker coordinates of a camera's path, or 0"
            )
        reads_camera, reads_action = self.model.extra_channels > 0, self.model.action_width > 0
        refuse_without_effect(self.condition, reads_camera=reads_camera, reads_action=reads_action)
        check_probe(self.condition, self.parallel)
        check_images(self.image_share, is_steered=reads_camera or reads_action)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldARRun(WorldRun):
    """Train an autoregressive world model on the codes of a discrete tokenizer."""

    model: WorldARConfig
    """Architecture. It reads text, or actions, where model.cross_attention is true."""
    objective: NextTokenConfig = field(default_factory=NextTokenConfig)
    """Which codes are learned, and how large logits may grow."""
    condition: ActionConditionConfig = field(default_factory=ActionConditionConfig)
    """How actions (model.action_width) are read."""
    sample: CodeSampleConfig = field(default_factory=CodeSampleConfig)
    """How `cosmos-train sample` samples this model."""

    def __post_init__(self) -> None:
        self._check_windows()
        check_heads(self.parallel, self.model.num_heads, self.model.num_kv_heads)
        check_vocabulary(self.parallel, self.model.vocab_size)
        self.parallel.blocks_per_piece(self.model.num_blocks)
        check_recipe(self.parallel.precision, self.train.precision, self.model.num_blocks)
        reads_action = self.model.action_width > 0
        refuse_without_effect(self.condition, reads_camera=False, reads_action=reads_action)
        check_images(self.image_share, is_steered=reads_action)


def check_images(image_share: float, *, is_steered: bool) -> None:
    """Raise ConfigError where a steered model would be trained on images, which come without what steers it."""
    if image_share > 0 and is_steered:
        raise ConfigError(
            f"image_share={image_share}, but images have neither a camera's path nor actions, which the model reads; "
            "set image_share=0"
        )


def check_probe(condition: ConditionConfig, parallel: ParallelConfig) -> None:
    """Raise ConfigError where a condition's worth can not be probed on the run's layout."""
    if condition.probe_every_steps and parallel.pp > 1:
        raise ConfigError(
            f"condition.probe_every_steps={condition.probe_every_steps} runs the whole model once more, and "
            f"parallel.pp={parallel.pp} divides it over a schedule that does not; use 0, or parallel.pp=1"
        )


RUNS: dict[str, type[RunConfig]] = {"tokenizer": TokenizerRun, "world_dit": WorldDiTRun, "world_ar": WorldARRun}
"""`recipe` -> the sections of such a run."""
