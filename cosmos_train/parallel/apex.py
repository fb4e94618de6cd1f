"""Whether NVIDIA's apex is here, as far as it is used: by one of its kernels. No torch in here."""

import importlib.util

KERNEL = "fused_weight_gradient_mlp_cuda"
"""The extension module that apex brings where it was built with CUDA."""


def has_fused_weight_gradient() -> bool:
    """Whether apex' kernel is there that adds a linear's weight gradient to the sum of gradients as it computes it.

    PyPI's package called apex is another one, and has no such module.
    """
    return importlib.util.find_spec(KERNEL) is not None
