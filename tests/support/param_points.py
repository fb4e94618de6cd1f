"""One step of a small model whose parameters learn at different rates, and the same of torch's AdamW."""

from typing import Any

import torch
from torch import Tensor, nn

from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel import init, optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.param_groups import lr_factor

LR, WEIGHT_DECAY, NUM_STEPS = 0.1, 0.5, 3
ADAM: dict[str, Any] = {"betas": (0.9, 0.99), "eps": 1e-8}


def learned(factors: dict[str, float], dtype: torch.dtype) -> dict[str, Any]:
    """{"pairs": name -> (parameter after some steps, torch's), "kept": names the optimizer keeps a state of}."""
    engine, model = _engine(factors, dtype)
    rivals = {name: nn.Parameter(param.detach().float().clone()) for name, param in model.named_parameters()}
    rival = torch.optim.AdamW(
        [
            {
                "params": [param],
                "lr": LR * lr_factor(name, factors),
                "weight_decay": 0.0 if param.ndim == 1 else WEIGHT_DECAY,
            }
            for name, param in rivals.items()
        ],
        **ADAM,
    )
    x = torch.arange(4.0)
    for _ in range(NUM_STEPS):
        engine.train_step(_loss, iter([x.to(dtype)]), num_micro_batches=1, lr=LR, num_tokens=1)
        rival.zero_grad()
        _square(torch.func.functional_call(model.float(), rivals, (x,))).backward()
        model.to(dtype)
        rival.step()
    masters = optimizer_state.masters(engine.optimizer, [model])
    return {
        "pairs": {name: (param.detach().float(), rivals[name].detach()) for name, param in model.named_parameters()},
        "kept": sorted(masters),
    }


def refusal(factors: dict[str, float]) -> str:
    """What the engine says of such factors."""
    try:
        _engine(factors, torch.float32)
    except ConfigError as error:
        return str(error)
    return ""


def _engine(factors: dict[str, float], dtype: torch.dtype) -> tuple[Engine, nn.Module]:
    mesh = init.start(ParallelConfig(), seed=1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)).to(dtype)
    config = transformer_config(ParallelConfig(), dtype=dtype, num_layers=1, width=4, num_heads=1)
    adam = AdamSettings(weight_decay=WEIGHT_DECAY, clip_grad_norm=0.0, lr_factors=factors, **ADAM)
    return Engine([model], config, mesh, adam), model


def _loss(model: nn.Module, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    loss = _square(model(x))
    return loss, {"loss": loss.detach()}


def _square(output: Tensor) -> Tensor:
    return output.float().square().sum()
