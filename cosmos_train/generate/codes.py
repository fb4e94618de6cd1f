"""Sampling an autoregressive world model: given latent frames, or none -> codes of a video, one after the other.

One seed is one video: what is drawn depends on the seed and the code's place alone. A batch is K videos of one scene;
where they share what is given, as K futures of one state do, it goes through the network once for all of them. A video
ends where its grid of codes is full; there is no token that ends it.

Letters: B videos, T, H, W latent frames, rows and columns, L tokens, V codes of the tokenizer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.choice import choose, uniforms
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Choose, Decoder, Step
from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.parallel.kv_cache import KVCache

OnCode = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeScene:
    """What is asked for: one seed is one video. Text and given codes with a batch of 1 are those of all videos."""

    grid_THW: tuple[int, int, int]
    """Latent frames, rows and columns of each video; rows and columns are those that the model was trained on."""
    seed_B: Sequence[int]
    given_BTHW: Tensor | None = None
    """Codes whose first num_condition_frames are the conditions; what lies behind them is not looked at."""
    text_BSE: Tensor | None = None
    """Encoder states, where the model attends to text."""

    def __post_init__(self) -> None:
        for name, tensor in (("text_BSE", self.text_BSE), ("given_BTHW", self.given_BTHW)):
            if tensor is not None and len(tensor) not in (1, len(self.seed_B)):
                raise ConfigError(
                    f"scene.{name} has a batch of {len(tensor)} and there are {len(self.seed_B)} seeds; use 1 or "
                    f"{len(self.seed_B)}"
                )

    @property
    def num_codes(self) -> int:
        """Codes of a video."""
        frames, height, width = self.grid_THW
        return frames * height * width


@torch.no_grad()
def generate_codes(
    decoder: Decoder,
    scene: CodeScene,
    config: CodeSampleConfig,
    *,
    device: torch.device,
    on_code: OnCode = lambda _code: None,
) -> Tensor:
    """Codes [B, T, H, W], int64; given frames come back as they were given. Every rank of a replica calls it alike.

    Args:
        on_code: called with the number of codes that a video has so far.

    Raises:
        ValueError: given frames of another grid, more of them than the video has, codes outside the vocabulary, or
            nothing to begin with.
    """
    model, batch = decoder.config, len(scene.seed_B)
    prompt_BL = prompt(scene, model, config).to(device)
    text_BSE = None if scene.text_BSE is None else scene.text_BSE.to(device)
    if text_BSE is not None and len(text_BSE) > 1:  # the text differs from video to video, so what is made of it does
        prompt_BL = prompt_BL.expand(len(text_BSE), -1)
    begin = int(model.begin_token)
    cache = KVCache(batch=batch, num_tokens=scene.num_codes + begin)
    uniform_BL = uniforms(scene.seed_B, scene.num_codes).to(device)
    codes_BL = prompt_BL.new_empty(batch, scene.num_codes)
    num_given = prompt_BL.shape[1] - begin
    codes_BL[:, :num_given] = prompt_BL[:, begin:]
    read_BL = prompt_BL
    for place in range(num_given, scene.num_codes):
        step = Step(read_BL, scene.grid_THW[1:], text_BSE, cache)
        codes_BL[:, place] = decoder.next_ids(step, _chooser(uniform_BL[:, place], config), batch=batch)
        read_BL = codes_BL[:, place : place + 1]
        on_code(place + 1)
    return codes_BL.unflatten(1, scene.grid_THW)


def _chooser(uniform_B: Tensor, config: CodeSampleConfig) -> Choose:
    """The choice of the codes of one place. Logits with a batch of 1 are those of all videos."""
    return lambda logits_BV: choose(logits_BV.expand(len(uniform_B), -1), uniform_B, config)


def prompt(scene: CodeScene, model: WorldARConfig, config: CodeSampleConfig) -> Tensor:
    """What is read before the first choice, [1 or B, L]: the begin token where the model has it, and the given codes.

    Raises: as generate_codes.
    """
    frames, height, width = scene.grid_THW
    given = scene.given_BTHW
    if given is None:
        if not model.begin_token:
            raise ConfigError(
                "nothing is given to begin with, and a model with model.begin_token=false reads a code before it says "
                "one; give the first frame"
            )
        return torch.tensor([[model.vocab_size]])
    count = config.num_condition_frames
    if not 0 < count < frames:
        raise ConfigError(
            f"sample.num_condition_frames={count}, but the video has {frames} latent frames, given ones included; use "
            f"1 to {frames - 1}, or a longer video"
        )
    if given.ndim != 4 or list(given.shape[2:]) != [height, width] or given.shape[1] < count:
        raise ConfigError(
            f"given codes of shape {list(given.shape)} do not fit a video of {height} x {width} codes a latent frame "
            f"with sample.num_condition_frames={count}; give codes [1 or B, at least {count}, {height}, {width}]"
        )
    codes_BL = given[:, :count].flatten(1).long()
    lowest, highest = (int(value) for value in codes_BL.aminmax())
    if lowest < 0 or highest >= model.vocab_size:
        raise ConfigError(
            f"given codes run from {lowest} to {highest}, but the model's vocabulary, model.vocab_size, is 0 to "
            f"{model.vocab_size - 1}; encode the frames with the tokenizer that the model was trained on"
        )
    if not model.begin_token:
        return codes_BL
    return torch.cat((codes_BL.new_full((len(codes_BL), 1), model.vocab_size), codes_BL), dim=1)
