"""Floating-point operations of a model, counted from its matrix products. No torch in here: plans are made without it.

The rule: a product [m, k] x [k, n] is 2 m n k, and nothing else counts. Its backward pass is a product of the same size
for each operand that has a gradient: two, or one where the input has none (latents, text states, sinusoids). So counts
torch.utils.flop_counter, with which tests compare every model exactly.

These are model FLOPs (arXiv 2204.02311, appendix B), those of the mathematics: what is computed again to save memory,
inside a fused attention kernel too, or alike on several ranks, is no part of them.
"""

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Flops:
    """How many, by what computes them."""

    gemm: int = 0
    """Products with weights."""
    attention: int = 0
    """Products of queries with keys, and of their softmax with values."""

    @property
    def total(self) -> int:
        """Both."""
        return self.gemm + self.attention

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.gemm + other.gemm, self.attention + other.attention)

    def __mul__(self, times: int | Fraction) -> "Flops":
        return Flops(round(self.gemm * times), round(self.attention * times))


@dataclass(frozen=True, slots=True)
class Cost:
    """A part of a model, there and back. A model's cost is the sum of its parts'."""

    forward: Flops = Flops()
    backward: Flops = Flops()

    @property
    def training(self) -> Flops:
        """Of a training step."""
        return self.forward + self.backward

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: int | Fraction) -> "Cost":
        return Cost(self.forward * times, self.backward * times)


def linear(rows: int, d_in: int, d_out: int, *, input_has_gradient: bool = True) -> Cost:
    """[rows, d_in] times a trained [d_in, d_out]."""
    product = Flops(gemm=2 * rows * d_in * d_out)
    return Cost(product, product * (1 + input_has_gradient))


def attention(batch: int, queries: int, keys: int, width: int) -> Cost:
    """Unmasked attention of `queries` to `keys` tokens. width: of all query heads together."""
    products = Flops(attention=2 * 2 * batch * queries * keys * width)
    return Cost(products, products * 2)
