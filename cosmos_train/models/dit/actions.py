"""How actions enter the diffusion transformer: beside the noise level, into what modulates every sub-layer.

Two networks, A -> 4D -> D and A -> 4D -> 3D, add to the timestep embedding E, before its norm, and to the modulation A
that all sub-layers share. So the released network has it (arXiv 2501.03575, section 6.2), of one action that leads to
the next frame; cosmos-predict1's code drops what goes into E. With actions of each latent frame both differ by frame.

F is 1, or T: latent frames with actions of their own. R steps of a latent frame, A dimensions, D width, B batch.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.models.dit.config import DiTConfig


class ActionMLP(nn.Module):
    """Actions of a latent frame -> what they add: Linear, tanh-GELU, Linear, with biases, as released; in the hidden
    layer also a row of a table, where the model knows several embodiments."""

    def __init__(self, config: DiTConfig, out_width: int) -> None:
        super().__init__()
        hidden = 4 * config.width
        self.hidden = nn.Linear(config.action_width, hidden)
        self.out = nn.Linear(hidden, out_width)
        self.embodiment = nn.Embedding(config.num_embodiments, hidden) if config.num_embodiments else None

    def forward(self, action_FBA: Tensor, embodiment_B: Tensor | None) -> Tensor:
        """[F, B, A] -> [F, B, out_width]."""
        hidden = self.hidden(action_FBA)
        if self.embodiment is not None:
            hidden = hidden + self.embodiment(embodiment_B)
        return self.out(F.gelu(hidden, approximate="tanh"))


class ActionEmbedding(nn.Module):
    """What actions add to E and to A. Where action_into=modulation the network of E is kept for files, and frozen."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.into_embedding = config.action_into == "both"
        self.embedding = ActionMLP(config, config.width).requires_grad_(self.into_embedding)
        self.modulation = ActionMLP(config, 3 * config.width) if config.adaln_rank else None

    def forward(self, action_BTRA: Tensor, embodiment_B: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """[B, F, R, A] -> (of E [F, B, D] or none, of A [F, B, 3D] or none)."""
        action_FBA = action_BTRA.flatten(2).transpose(0, 1).to(self.embedding.hidden.weight.dtype)
        return (
            self.embedding(action_FBA, embodiment_B) if self.into_embedding else None,
            None if self.modulation is None else self.modulation(action_FBA, embodiment_B),
        )


def check_actions(config: DiTConfig, num_frames: int, action_BTRA: Tensor | None, embodiment_B: Tensor | None) -> None:
    """Raise ConfigError where actions, or whose they are, are not what the network reads for so many latent frames."""
    if (embodiment_B is not None) != (config.num_embodiments > 0):
        raise ConfigError(
            f"model.num_embodiments={config.num_embodiments}, but whose actions they are was "
            f"{'not given' if embodiment_B is None else 'given'}"
        )
    if not config.action_width:
        if action_BTRA is not None:
            raise ConfigError("model.action_width=0, but actions were given; leave them out, or use another model")
        return
    frames = num_frames if config.action_frames == "each" else 1
    shape = [] if action_BTRA is None else list(action_BTRA.shape)
    if len(shape) != 4 or shape[1] != frames or math.prod(shape[2:]) != config.action_width:
        raise ConfigError(
            f"model.action_frames={config.action_frames} and model.action_width={config.action_width}, but actions of "
            f"shape {shape or 'none'} were given for {num_frames} latent frames; give [B, {frames}, R, A] with R A = "
            f"{config.action_width}"
        )
