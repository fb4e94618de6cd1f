"""Medusa heads (arXiv 2401.10774; arXiv 2501.03575, section 5.2.3): guesses of the codes after the next one.

Head i reads the hidden state that the next code is told from, and guesses the code i places after that one:
x + silu(W_i x), then the model's own output matrix. All W_i are one matrix.

Letters as in model.py, and M heads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cosmos_train.models.world_ar.config import WorldARConfig
from cosmos_train.models.world_ar.model import WorldAR
from cosmos_train.parallel.layers import Layers
from cosmos_train.parallel.pipeline import StagePlan


class MedusaHeads(nn.Module):
    """The heads' hidden states. Whole on every tensor-parallel rank."""

    def __init__(self, num_heads: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_heads * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., M, D]."""
        return x[..., None, :] + F.silu(F.linear(x, self.weight)).unflatten(-1, (-1, x.shape[-1]))


class MedusaWorldAR(WorldAR):
    """The model with heads on its last stage."""

    def __init__(self, config: WorldARConfig, layers: Layers, stage: StagePlan) -> None:
        super().__init__(config, layers, stage)
        if stage.is_last:
            self.medusa = MedusaHeads(config.medusa_heads, config.width)

    def logits(self, x_LBD: Tensor) -> Tensor:
        """Of the next code and of the heads' codes, [L, B, 1 + M, V / tp]."""
        hidden_LBHD = torch.cat((x_LBD[:, :, None], self.medusa(x_LBD)), dim=2)
        return self.output(hidden_LBHD.flatten(1, 2)).unflatten(1, hidden_LBHD.shape[1:3])
