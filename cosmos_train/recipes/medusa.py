"""Training Medusa heads on a trained autoregressive world model, most of which stays as it is.

The model comes by checkpoint.init_from with init_new=[medusa.*]. arXiv 2501.03575 (section 5.2) trains the heads, the
output matrix and the last two blocks: of the 4B optim.lr_factors={"*": 0, "medusa.*": 1, "output.*": 1,
"blocks.1[45].*": 1}.
"""

from torch import Tensor, nn

from cosmos_train.config.schema import WorldARRun
from cosmos_train.models.common.flops import Flops
from cosmos_train.objectives.medusa import further_targets, medusa_loss
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.step_metrics import Metrics
from cosmos_train.parallel.vocabulary import token_nll
from cosmos_train.recipes.world_ar import TokenBatch, WorldARTask


class MedusaTask(WorldARTask):
    """A task of the loop (cosmos_train.train.task.Task)."""

    def __init__(self, run: WorldARRun, mesh: Mesh) -> None:
        super().__init__(run, mesh)
        # Not counted: what is frozen has no backward pass of its own, but lets others' through.
        self.step_flops: Flops | None = None

    def forward_loss(
        self, model: nn.Module, batch: TokenBatch, hidden: Tensor | None
    ) -> tuple[Tensor, Metrics] | Tensor:
        """Likelihood of the next code and of those that the heads guess; `nll_<i>` is head i's, `nll` the model's."""
        result = model(batch.ids_BL, batch.grid_HW, text_BSE=batch.text_BSE, hidden_LBD=hidden)
        if isinstance(result, Tensor):
            return result
        logits_lBHV, split = result
        targets_BLH = further_targets(batch.targets_BL, self.run.model.medusa_heads)
        targets_lBH = split.context_rows(targets_BLH.transpose(0, 1))
        nll_LBH = split.leave_context(token_nll(logits_lBHV, targets_lBH, self.mesh.tp)[0])
        loss, means_H = medusa_loss(nll_LBH, batch.counts(), self.run.objective.medusa_decay)
        metrics = {"loss": loss, "nll": means_H[0]} | {f"nll_{i}": nll for i, nll in enumerate(means_H[1:], start=1)}
        return loss, {name: value.detach() for name, value in metrics.items()}
