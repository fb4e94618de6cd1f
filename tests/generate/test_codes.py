"""Videos of codes: the cache changes nothing, one seed is one video in every layout and batch, wrong input is named."""

from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from support.generation import BASE, GRID_THW, MODELS, SEEDS, generated, make_decoder, scene
from support.ranks import RankPool

from cosmos_train.generate.codes import CodeScene, generate_codes
from cosmos_train.generate.config import CodeSampleConfig
from cosmos_train.generate.decoder import Decoder
from cosmos_train.parallel import init
from cosmos_train.parallel.config import ParallelConfig

GREEDY: dict[str, Any] = {"temperature": 0.0}
DRAWN: dict[str, Any] = {"temperature": 1.3, "top_p": 0.9, "num_condition_frames": 2}
LAYOUTS: dict[str, tuple[int, dict[str, Any]]] = {
    "tp": (2, {"tp": 2}),
    "pp": (2, {"pp": 2}),
    "pp, uneven": (2, {"pp": 2, "pp_first_blocks": 1}),
    "videos divided": (2, {}),
    "tp and pp": (4, {"tp": 2, "pp": 2}),
}


@pytest.fixture(scope="module")
def alone() -> dict[tuple[str, str], dict[str, Any]]:
    """What one process makes of all seeds."""
    found = {}
    for kind in MODELS:
        found[kind, "greedy"] = generated(kind, ParallelConfig(), GREEDY)
        found[kind, "drawn"] = generated(kind, ParallelConfig(), DRAWN)
    init.stop()
    return found


@pytest.fixture
def decoder(request: pytest.FixtureRequest):
    yield make_decoder(MODELS[getattr(request, "param", "video2world")], ParallelConfig())
    init.stop()


@pytest.mark.parametrize("kind", MODELS)
def test_the_cache_changes_no_code(kind: str, alone: dict[tuple[str, str], dict[str, Any]]):
    greedy = alone[kind, "greedy"]
    assert torch.equal(greedy["codes"], greedy["without_cache"].expand(len(SEEDS), -1, -1, -1))
    drawn, given = alone[kind, "drawn"]["codes"], scene(MODELS[kind], SEEDS).given_BTHW
    assert given is not None and torch.equal(drawn[:, :2], given.expand(len(SEEDS), -1, -1, -1))
    assert len(drawn[:, 2].flatten(1).unique(dim=0)) == len(SEEDS), "futures differ"


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_the_videos_of_one_process(
    layout: str, kind: str, alone: dict[tuple[str, str], dict[str, Any]], ranks: Callable[[int], RankPool]
):
    num_ranks, parallel = LAYOUTS[layout]
    for way, settings in (("greedy", GREEDY), ("drawn", DRAWN)):
        answers = ranks(num_ranks).run(generated, kind, ParallelConfig(**parallel), settings)
        assert set(chain.from_iterable(answer["seeds"] for answer in answers)) == set(SEEDS)
        for answer in answers:
            rows = [SEEDS.index(seed) for seed in answer["seeds"]]
            assert torch.equal(answer["codes"], alone[kind, way]["codes"][rows])
            if way == "greedy":
                assert torch.equal(answer["codes"][:1], answer["without_cache"])


def test_one_seed_is_one_video(decoder: Decoder):
    config = CodeSampleConfig(**DRAWN)
    together = generate_codes(decoder, scene(decoder.config, SEEDS), config, device=torch.device("cpu"))
    for position, seed in enumerate(SEEDS):
        one = generate_codes(decoder, scene(decoder.config, [seed]), config, device=torch.device("cpu"))
        assert torch.equal(together[position], one[0])


def test_what_futures_share_is_read_once(decoder: Decoder):
    """And its keys and values serve them as their own would."""
    shapes: list[tuple[int, ...]] = []
    decoder.piece.register_forward_pre_hook(lambda _model, inputs: shapes.append(inputs[0].shape))
    shared = scene(decoder.config, SEEDS)
    assert shared.given_BTHW is not None and shared.text_BSE is not None
    apart = CodeScene(
        grid_THW=GRID_THW,
        seed_B=SEEDS,
        given_BTHW=shared.given_BTHW.expand(len(SEEDS), -1, -1, -1),
        text_BSE=shared.text_BSE.expand(len(SEEDS), -1, -1),
    )
    config = CodeSampleConfig(**DRAWN)
    found = [generate_codes(decoder, what, config, device=torch.device("cpu")) for what in (shared, apart)]
    assert torch.equal(*found)
    per_video = GRID_THW[1] * GRID_THW[2]
    assert shapes[0] == (1, 1 + 2 * per_video) and shapes[per_video] == (len(SEEDS), 1 + 2 * per_video)
    assert set(shapes[1:per_video]) == {(len(SEEDS), 1)}


def test_each_video_has_its_own_text_and_frames(decoder: Decoder):
    """Two scenes at once are the two by themselves."""
    config = CodeSampleConfig(temperature=0.0)
    generator = torch.Generator().manual_seed(2)
    text = torch.randn(2, 5, decoder.config.text_width, generator=generator)
    given = torch.randint(decoder.config.vocab_size, (2, 1, *GRID_THW[1:]), generator=generator)

    def video(seeds: list[int], rows: slice, frames: slice = slice(None)) -> torch.Tensor:
        what = scene(decoder.config, seeds, text_BSE=text[rows], given_BTHW=given[frames])
        return generate_codes(decoder, what, config, device=torch.device("cpu"))

    both = video([0, 1], slice(None))
    assert torch.equal(both, torch.cat((video([0], slice(1), slice(1)), video([1], slice(1, 2), slice(1, 2)))))
    of_one_frame = video([0, 1], slice(None), slice(1))
    assert torch.equal(of_one_frame[0], both[0]) and not torch.equal(of_one_frame[1, 1:], of_one_frame[0, 1:])


def test_from_text_alone(decoder: Decoder):
    what = scene(decoder.config, SEEDS, given_BTHW=None)
    seen: list[int] = []
    config = CodeSampleConfig(top_p=1.0)
    codes = generate_codes(decoder, what, config, device=torch.device("cpu"), on_code=seen.append)
    assert codes.shape == (len(SEEDS), *GRID_THW) and codes.max() < decoder.config.vocab_size
    assert seen == list(range(1, 19))


@pytest.mark.parametrize(
    ("fields", "frames", "said"),
    [
        ({"given_BTHW": None}, 1, "nothing is given to begin with, and a model with model.begin_token=false"),
        ({}, 3, r"sample.num_condition_frames=3, but the video has 3 latent frames, given ones included; use 1 to 2"),
        ({"given_BTHW": torch.zeros(1, 1, 2, 4)}, 1, r"do not fit a video of 2 x 3 codes .* at least 1, 2, 3\]"),
        ({"given_BTHW": torch.zeros(1, 1, 2, 3)}, 2, r"do not fit a video of 2 x 3 codes .* at least 2, 2, 3\]"),
        ({"given_BTHW": torch.full((1, 1, 2, 3), 32)}, 1, r"given codes run from 32 to 32, .* is 0 to 31; encode"),
        ({"given_BTHW": torch.full((1, 1, 2, 3), -1)}, 1, r"given codes run from -1 to -1, .* is 0 to 31; encode"),
    ],
)
@pytest.mark.parametrize("decoder", ["base"], indirect=True)
def test_refuses(fields: dict[str, Any], frames: int, said: str, decoder: Decoder):
    config = CodeSampleConfig(num_condition_frames=frames)
    with pytest.raises(ValueError, match=said):
        generate_codes(decoder, scene(BASE, [0], **fields), config, device=torch.device("cpu"))


def test_refuses_a_batch():
    with pytest.raises(ValueError, match="given_BTHW has a batch of 2 and there are 3 seeds; use 1 or 3"):
        replace(scene(BASE, [0, 1, 2]), given_BTHW=torch.zeros(2, 1, 2, 3))
