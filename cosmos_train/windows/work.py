"""How much an optimizer step of a world model computes, over the kinds and shapes of its windows."""

from collections.abc import Callable, Mapping
from fractions import Fraction

from cosmos_train.config.schema import WorldRun
from cosmos_train.models.common.flops import Cost
from cosmos_train.windows.source import image_share
from cosmos_train.windows.stream import Kind, Shape


def mean_cost(
    run: WorldRun, shapes: Mapping[Kind, Mapping[Shape, Fraction]], cost: Callable[[Kind, Shape], Cost]
) -> Cost:
    """The mean over many steps. shapes: of each kind that there is [C, T, H, W] and its share; cost: of a step."""
    of_kind = {"image": image_share(run), "video": 1 - image_share(run)}
    total = Cost()
    for kind, shares in shapes.items():
        for shape_CTHW, share in shares.items():
            total += cost(kind, shape_CTHW) * (share * of_kind[kind])
    return total


def mean_tokens(shapes: Mapping[Shape, Fraction], tokens: Callable[[Shape], int]) -> int:
    """Tokens of a sample, the mean over many."""
    return round(sum(tokens(shape_CTHW) * share for shape_CTHW, share in shapes.items()))
