"""The work of a step, over the kinds and shapes that windows have."""

import dataclasses
from fractions import Fraction
from pathlib import Path

from support import tiny_world

from cosmos_train.config.schema import LatentsConfig
from cosmos_train.models.common.flops import Cost, Flops
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.windows.stream import Kind, Shape
from cosmos_train.windows.work import mean_cost, mean_tokens

VIDEOS = {(4, 3, 2, 2): Fraction(1, 3), (4, 3, 2, 4): Fraction(2, 3)}


def test_the_mean_over_kinds_and_shapes():
    """A quarter of the steps are of images: 1/4 * 100 + 3/4 * (1/3 * 12 + 2/3 * 24)."""
    run = dataclasses.replace(
        tiny_world.make_run(Path("cache"), Path("run"), ParallelConfig()),
        image_share=0.25,
        latents=LatentsConfig(folder="a", tokenizer="b", image_folder="c"),
    )

    def cost(kind: Kind, shape_CTHW: Shape) -> Cost:
        _, frames, height, width = shape_CTHW
        return Cost(Flops(gemm=100 if kind == "image" else frames * height * width))

    shapes: dict[Kind, dict[Shape, Fraction]] = {"video": VIDEOS, "image": {(4, 1, 2, 2): Fraction(1)}}
    assert mean_cost(run, shapes, cost).forward.total == 25 + 3 + 12
    assert mean_tokens(VIDEOS, lambda shape_CTHW: shape_CTHW[3]) == 3, "10/3"
