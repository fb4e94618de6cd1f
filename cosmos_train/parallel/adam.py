"""Which Adam megatron-core updates with: TransformerEngine's, apex', or the one in here where neither is installed.

Upstream then falls back to torch.optim.AdamW, which counts its steps for each parameter, where the distributed
optimizer and our checkpoints keep one count for each group: what is resumed from such a run is wrong or stops.
"""

import logging
from typing import Any

import torch
from megatron.core import optimizer as mcore_optimizer
from megatron.core.optimizer import MegatronOptimizer, distrib_optimizer
from torch import Tensor

from cosmos_train.parallel.torch_private import fused_adam, fused_adamw

log = logging.getLogger(__name__)


def replace_torch_adam() -> None:
    """Have megatron-core use FusedAdam where it found neither TransformerEngine nor NVIDIA's apex."""
    if mcore_optimizer.USING_PYTORCH_OPTIMIZER:
        use_own_adam()
        log.info("neither TransformerEngine nor NVIDIA's apex is installed: torch's fused AdamW kernel updates")


def use_own_adam() -> None:
    """Have megatron-core use FusedAdam, whatever is installed."""
    mcore_optimizer.Adam = FusedAdam
    mcore_optimizer.USING_PYTORCH_OPTIMIZER = False
    distrib_optimizer.Adam = FusedAdam
    distrib_optimizer.HAVE_APEX_OR_TE = True


def require_group_steps(optimizer: MegatronOptimizer) -> None:
    """Make sure after an update that each group of parameters has Adam's step count, which checkpoints store.

    Raises:
        RuntimeError: an optimizer that counts elsewhere is in use, so a checkpoint would say 0 updates.
    """
    for group in optimizer.param_groups:
        if group["params"] and "step" not in group:
            raise RuntimeError(
                "the optimizer keeps no step in its parameter groups, so a checkpoint would resume with the wrong bias "
                "correction; megatron-core uses another Adam than cosmos_train.parallel.adam has chosen"
            )


class FusedAdam(torch.optim.Optimizer):
    """AdamW with the interface of apex' and TransformerEngine's FusedAdam: the step count lives in the group.

    megatron-core saves, reshards and loads that layout; torch.optim keeps a step per parameter, which it can not.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        adam_w_mode: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.update = fused_adamw if adam_w_mode else fused_adam

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient, once."""
        assert closure is None, "megatron-core never passes a closure"
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            for param in params:
                if not self.state[param]:
                    self.state[param] = {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}
            self.update(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                [],
                _step_counts(group["step"], params),
                amsgrad=False,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
                grad_scale=None,
                found_inf=None,
            )


def _step_counts(step: int, params: list[Tensor]) -> list[Tensor]:
    """The count once for each parameter, on its device: the kernel reads it there, and does not change it."""
    devices = {param.device for param in params}
    of_device = {device: torch.tensor(float(step), device=device) for device in devices}
    return [of_device[param.device] for param in params]
