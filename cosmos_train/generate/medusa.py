"""Several codes in one pass: Medusa heads guess them, the model verifies (the rule of arXiv 2211.17192, no tree).

The heads' guesses of the codes ahead are read together with the last sure code. A guess x, drawn with chance q(x),
stays with probability min(1, p(x) / q(x)), p being what the model says there; the first that does not is drawn anew
from what p has more than q, and those behind it are forgotten. So each code is distributed as without heads, and greedy
codes are the same. Where all stay, the model's own next code comes on top.

Every number drawn is of the seed, the place and what it is for: a place is judged once, so none is used twice.

Letters: L tokens read, M guesses, V codes of the tokenizer, D width.
"""

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cosmos_train.config.errors import ConfigError
from cosmos_train.generate.choice import draw, probabilities, uniforms
from cosmos_train.generate.codes import CodeScene, OnCode, generate_codes, prompt
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder, Step
from cosmos_train.models.world_ar.medusa import MedusaWorldAR
from cosmos_train.parallel.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Numbers:
    """The uniform numbers of one video, one for each place: [places] in fp64."""

    guess: Tensor
    stay: Tensor
    code: Tensor

    @classmethod
    def of(cls, seed: int, num_places: int, device: torch.device) -> "Numbers":
        """Drawn from the seed."""
        streams = ("guess", "stay", "code")
        return cls(*(uniforms([seed], num_places, stream=stream)[0].to(device) for stream in streams))


def verify(
    chances_LV: Tensor, guesses: list[int], guessed_MV: Tensor, stay_M: Tensor, code_L: Tensor
) -> tuple[int, int]:
    """(how many guesses stay, the code behind them).

    Args:
        chances_LV: what the model says at the places of the guesses and at the one behind: L = M + 1.
        guessed_MV: what the guesses were drawn from.
        stay_M, code_L: uniform numbers of these places.
    """
    for place, guess in enumerate(guesses):
        model_V, head_V = chances_LV[place], guessed_MV[place]
        if stay_M[place] * head_V[guess] >= model_V[guess]:
            rest_V = (model_V - head_V).clamp(min=0)
            rest_V = rest_V if rest_V.sum() > 0 else model_V  # nothing is left where they differ by rounding alone
            return place, int(draw(rest_V[None], code_L[place : place + 1]))
    return len(guesses), int(draw(chances_LV[-1:], code_L[len(guesses) : len(guesses) + 1]))


def generate(
    decoder: Decoder,
    scene: CodeScene,
    config: CodeSampleConfig,
    *,
    device: torch.device,
    on_code: OnCode = lambda _code: None,
) -> Tensor:
    """As generate_codes, with config.medusa_heads of the model's heads: all of them where it says none."""
    num_heads = decoder.config.medusa_heads if config.medusa_heads is None else config.medusa_heads
    if num_heads == 0:
        return generate_codes(decoder, scene, config, device=device, on_code=on_code)
    return generate_guessed_codes(decoder, scene, config, num_heads=num_heads, device=device, on_code=on_code)


@torch.no_grad()
def generate_guessed_codes(
    decoder: Decoder,
    scene: CodeScene,
    config: CodeSampleConfig,
    *,
    num_heads: int,
    device: torch.device,
    on_code: OnCode = lambda _code: None,
) -> Tensor:
    """As generate_codes, with the guesses of the first heads: one video after the other, for each goes its own pace.

    Raises: as generate_codes.
    """
    if num_heads > decoder.config.medusa_heads:
        raise ConfigError(
            f"sample.medusa_heads={num_heads}, but the model has model.medusa_heads={decoder.config.medusa_heads}; use "
            f"at most {decoder.config.medusa_heads}"
        )
    prompt_BL = prompt(scene, decoder.config, config).to(device)
    text_BSE = None if scene.text_BSE is None else scene.text_BSE.to(device)
    begin, shared = int(decoder.config.begin_token), len(prompt_BL) == 1 and (text_BSE is None or len(text_BSE) == 1)
    videos, cache = [], KVCache(batch=1, num_tokens=scene.num_codes + begin)
    for row, seed in enumerate(scene.seed_B):
        prompt_1L = prompt_BL[row % len(prompt_BL)][None]
        text_1SE = None if text_BSE is None else text_BSE[row % len(text_BSE)][None]
        if row == 0 or not shared:
            cache = KVCache(batch=1, num_tokens=scene.num_codes + begin)
            if prompt_1L.shape[1] > 1:  # all but its last token, with which every video begins to decide
                first = Step(prompt_1L[:, :-1], scene.grid_THW[1:], text_1SE, cache)
                decoder.decide(first, lambda hidden_L1D: hidden_L1D.new_zeros(0, dtype=torch.int64), (0,))
        cache.length = prompt_1L.shape[1] - 1
        numbers = Numbers.of(seed, scene.num_codes + num_heads, device)
        video = _Video(decoder, scene, config, num_heads, numbers, text_1SE, cache)
        videos.append(video.run(prompt_1L[0].tolist(), on_code)[begin:])
    return torch.tensor(videos, device=device).unflatten(1, scene.grid_THW)


@dataclass(slots=True)
class _Video:
    """One video while it is made."""

    decoder: Decoder
    scene: CodeScene
    config: CodeSampleConfig
    num_heads: int
    numbers: Numbers
    text_1SE: Tensor | None
    cache: KVCache
    guesses: list[int] = field(default_factory=list)
    guessed_MV: Tensor | None = None
    """What the guesses were drawn from; on the last stage alone."""

    def run(self, tokens: list[int], on_code: OnCode) -> list[int]:
        """All tokens, of which these are given. Every one but the last is in the cache, now and after each pass."""
        begin, device = int(self.decoder.config.begin_token), self.numbers.code.device
        num_tokens = self.scene.num_codes + begin
        while len(tokens) < num_tokens:
            place = len(tokens) - begin
            read_1L = torch.tensor([[tokens[-1], *self.guesses]], device=device)
            step = Step(read_1L, self.scene.grid_THW[1:], self.text_1SE, self.cache)
            decision = functools.partial(self._decide, place=place)
            decided = self.decoder.decide(step, decision, (2 + self.num_heads,))
            num_kept, code, *guesses = decided.tolist()
            tokens = [*tokens, *self.guesses[:num_kept], code]
            self.cache.length = len(tokens) - 1
            self.guesses = guesses[: max(num_tokens - len(tokens) - 1, 0)]  # the model's own code comes behind them
            on_code(len(tokens) - begin)
        return tokens

    def _decide(self, hidden_L1D: Tensor, place: int) -> Tensor:
        """[how many guesses stay, the code behind them, the next guesses]. place: of the first guess in the video."""
        piece, numbers, end = self.decoder.piece, self.numbers, place + len(self.guesses)
        assert isinstance(piece, MedusaWorldAR)
        chances_LV = probabilities(self.decoder.logits(hidden_L1D[:, 0]), self.config)
        guessed_MV = chances_LV[:0] if self.guessed_MV is None else self.guessed_MV
        kept, code = verify(
            chances_LV, self.guesses, guessed_MV, numbers.stay[place:end], numbers.code[place : end + 1]
        )
        heads_MD = piece.medusa(hidden_L1D[kept, 0])[: self.num_heads]
        self.guessed_MV = probabilities(self.decoder.logits(heads_MD), self.config)
        ahead = slice(place + kept + 1, place + kept + 1 + self.num_heads)
        guesses_M = draw(self.guessed_MV, numbers.guess[ahead])
        return torch.cat((guesses_M.new_tensor([kept, code]), guesses_M))
