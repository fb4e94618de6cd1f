"""Medusa heads change how many passes a video takes, and nothing else: greedy codes are equal, chances are kept."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from support.generation import GRID_THW, MODELS, SEEDS, guessed, make_decoder, scene
from support.ranks import RankPool
from torch import Tensor

from cosmos_train.generate.choice import probabilities, uniforms
from cosmos_train.generate.codes import generate_codes
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.generate.medusa import generate_guessed_codes, verify
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig

CPU = torch.device("cpu")


@pytest.fixture
def start():
    """start(kind, **fields): the tiny model with heads."""

    def build(kind: str, **fields: Any) -> Decoder:
        return make_decoder(replace(MODELS[kind], medusa_heads=3, **fields), ParallelConfig())

    yield build
    init.stop()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("num_heads", [1, 3])
def test_greedy_codes_are_the_same(kind: str, num_heads: int, start: Callable[..., Decoder]):
    decoder, config = start(kind), CodeSampleConfig(temperature=0.0)
    what = scene(decoder.config, SEEDS[:2])
    plain = generate_codes(decoder, what, config, device=CPU)
    codes_so_far: list[int] = []
    found = generate_guessed_codes(decoder, what, config, num_heads=num_heads, device=CPU, on_code=codes_so_far.append)
    assert torch.equal(found, plain)
    assert codes_so_far[-1] == math.prod(GRID_THW)


def test_good_guesses_save_passes(start: Callable[..., Decoder]):
    """A model that says one code for ever, and heads that repeat it: three guesses and one on top a pass."""
    decoder = start("base")
    for name in ("medusa.weight", "output.weight"):
        torch.nn.init.zeros_(decoder.piece.get_parameter(name))
    what = scene(decoder.config, [0, 1])
    passes = decoder.num_passes
    generate_guessed_codes(decoder, what, CodeSampleConfig(temperature=0.0), num_heads=3, device=CPU)
    to_make = math.prod(GRID_THW) - GRID_THW[1] * GRID_THW[2]
    # One to begin with (nothing is guessed yet), then four codes each; the first frame once for both videos.
    assert decoder.num_passes - passes == 1 + 2 * (1 + math.ceil((to_make - 1) / 4))


@pytest.mark.parametrize("layout", [(2, {"tp": 2}), (2, {"pp": 2}), (4, {"tp": 2, "pp": 2})], ids=["tp", "pp", "both"])
def test_a_layout_gives_the_videos_of_one_process(layout: tuple[int, dict[str, Any]], ranks: Callable[[int], RankPool]):
    num_ranks, parallel = layout
    settings = {"temperature": 1.2, "top_p": 0.95}
    alone = guessed("video2world", ParallelConfig(), settings, SEEDS[:2])
    init.stop()
    for answer in ranks(num_ranks).run(guessed, "video2world", ParallelConfig(**parallel), settings, SEEDS[:2]):
        assert torch.equal(answer, alone)


def test_one_seed_is_one_video(start: Callable[..., Decoder]):
    decoder, config = start("video2world"), CodeSampleConfig()
    together = generate_guessed_codes(decoder, scene(decoder.config, SEEDS), config, num_heads=3, device=CPU)
    for position, seed in enumerate(SEEDS):
        one = generate_guessed_codes(decoder, scene(decoder.config, [seed]), config, num_heads=3, device=CPU)
        assert torch.equal(together[position], one[0])


@pytest.mark.parametrize("far", [0.1, 3.0], ids=["good heads", "bad heads"])
def test_the_rule_keeps_the_models_chances(far: float):
    """Two guesses of three codes, against the chain of what the model says: 9 pairs and what comes behind them."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 3, 3, 3, generator=generator)  # of a place, after two codes (0 where there are none)
    model = logits.softmax(-1)
    heads = (logits[:2, 0, 0] + far * torch.randn(2, 3, generator=generator)).softmax(-1)
    num_videos, times = 6_000, torch.zeros(3, 3)
    numbers = {name: uniforms(range(num_videos), 3, stream=name) for name in ("guess", "stay", "code")}
    guesses_NM = torch.stack([(heads[i].double().cumsum(0) < numbers["guess"][:, i, None]).sum(1) for i in (0, 1)], 1)
    for guesses, stay, code in zip(guesses_NM.tolist(), numbers["stay"], numbers["code"], strict=True):
        first, second = guesses
        says = torch.stack((model[0, 0, 0], model[1, first, 0], model[2, first, second]))
        kept, last = verify(says, guesses, heads, stay, code)
        codes = [*guesses[:kept], last]
        if len(codes) == 1:  # the next pass would draw the second code from the model
            codes.append(int(torch.multinomial(model[1, codes[0], 0], 1, generator=generator)))
        times[codes[0], codes[1]] += 1
    wanted = model[0, 0, 0][:, None] * model[1, :, 0]
    torch.testing.assert_close(times / num_videos, wanted, atol=4 * 0.5 / math.sqrt(num_videos), rtol=0)


def test_videos_have_the_models_chances(start: Callable[..., Decoder]):
    """All 27 futures of three codes, counted over many seeds, against their chances under the model without heads."""
    decoder = start("base", vocab_size=3)
    config = CodeSampleConfig(temperature=2.0, top_p=1.0)
    given = torch.tensor([[[[0, 2, 1]]]])
    seeds = list(range(700))
    what = scene(decoder.config, seeds, grid_THW=(2, 1, 3), given_BTHW=given)
    found = generate_guessed_codes(decoder, what, config, num_heads=3, device=CPU)[:, 1, 0]
    times = torch.bincount(found @ torch.tensor([9, 3, 1]), minlength=27)
    wanted = torch.tensor([chance(decoder, given, future, config) for future in itertools.product(range(3), repeat=3)])
    assert wanted.sum().item() == pytest.approx(1, abs=1e-5)
    chi_square = ((times - wanted * len(seeds)) ** 2 / (wanted * len(seeds))).sum().item()
    assert chi_square < 54.1, "0.1 % of samples are further from 26 degrees of freedom"


def chance(decoder: Decoder, given: Tensor, future: tuple[int, ...], config: CodeSampleConfig) -> float:
    ids = torch.cat((given.flatten(), torch.tensor(future)))[None]
    with torch.no_grad():
        result = decoder.piece(ids[:, :-1], (1, 3))
    logits = result[0][2:, 0, 0]  # the model's own, not its heads'
    return probabilities(logits, config)[range(3), future].prod().item()


def test_more_heads_than_there_are(start: Callable[..., Decoder]):
    decoder = start("base")
    with pytest.raises(ValueError, match=r"sample\.medusa_heads=4, but .* model\.medusa_heads=3; use at most 3"):
        generate_guessed_codes(decoder, scene(decoder.config, [0]), CodeSampleConfig(), num_heads=4, device=CPU)
