"""TorchScript archives: networks that bring their own code, which can compute and nothing else."""

from pathlib import Path
from typing import Any

import torch

from cosmos_tok.config import TokenizerError
from cosmos_tok.number_formats import require_finite
from cosmos_tok.pickles import first_line
from cosmos_tok.weight_file import AGAIN, kind_of


def load_archive(path: Path, device: torch.device | str = "cpu") -> Any:
    """The torch.jit.ScriptModule in a file, in eval mode.

    TokenizerError where it is none or damaged; NotFiniteError where a parameter holds NaN or infinity.
    """
    kind = kind_of(path)
    if kind != "torchscript":
        held = "safetensors" if kind == "safetensors" else "what torch.save wrote"
        raise TokenizerError(f"{path} is no TorchScript network: it holds {held}; name one that torch.jit.save wrote")
    try:
        network = torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError) as error:
        raise TokenizerError(f"{path} cannot be read: {first_line(error)}; {AGAIN}") from error
    for name, param in network.named_parameters():
        require_finite(name, param.detach(), str(path))
    return network
