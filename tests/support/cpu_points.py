"""What tests/parallel/test_cpu.py asks of a process in which the CPU adapter is active; each returns what it saw."""

import contextlib
import logging
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from megatron.core import optimizer as mcore_optimizer
from megatron.core import tensor_parallel
from megatron.core.optimizer import clip_grads, distrib_optimizer
from torch import Tensor, nn

from cosmos_train.parallel import adam, cpu, init, optimizer_state
from cosmos_train.parallel.config import ParallelConfig
from cosmos_train.parallel.engine import AdamSettings, Engine
from cosmos_train.parallel.mcore import transformer_config
from cosmos_train.parallel.mesh import Mesh


def start(seed: int = 5) -> Mesh:
    """One process with fresh random states."""
    return init.start(ParallelConfig(), seed=seed)


# 1 and 2: devices


def devices() -> dict[str, str]:
    """Where tensors and modules end up that were asked to be on a CUDA device."""
    start()
    x = torch.ones(2)
    module = nn.Linear(2, 2)
    torch.cuda.synchronize()
    torch.cuda.set_device(0)
    made = {
        "zeros of a string": torch.zeros(1, device="cuda"),
        "empty of an index": torch.empty(1, device="cuda:0"),
        "tensor of a device": torch.tensor([1], device=torch.device("cuda", 0)),
        "like another": torch.empty_like(x, device="cuda"),
        "current_device": torch.ones(1, device=torch.cuda.current_device()),
        "Tensor.to": x.to(device="cuda"),
        "Tensor.cuda": x.cuda(),
        "Tensor.cuda of an index": x.cuda(0),
        "Module.cuda": module.cuda().weight,
        "Module.cuda of an index": module.cuda(torch.cuda.current_device()).weight,
        "on the CPU as asked": torch.ones(1, device="cpu"),
        "shapes only": torch.ones(1, device="meta"),
    }
    return {name: str(tensor.device) for name, tensor in made.items()}


# 3: types


def type_names() -> dict[str, str]:
    """How tensors spell their type, and that a cast is still one."""
    start()
    spelled = {str(dtype): torch.ones(1, dtype=dtype).type() for dtype in (torch.float32, torch.bfloat16)}
    return {**spelled, "cast": str(torch.ones(1).type(torch.float64).dtype)}


def clip() -> dict[str, Any]:
    """megatron-core's own gradient norm and clipping, beside torch's."""
    start()
    params = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))]
    for param in params:
        param.grad = torch.arange(1.0, 1 + param.numel()).view(param.shape)
    expected_params = [nn.Parameter(torch.zeros_like(param)) for param in params]
    for expected, param in zip(expected_params, params, strict=True):
        assert param.grad is not None
        expected.grad = param.grad.clone()
    norm = clip_grads.get_grad_norm_fp32([p.grad for p in params if p.grad is not None])
    clip_grads.clip_grad_by_total_norm_fp32(params, 1.0, norm)
    expected_norm = nn.utils.clip_grad_norm_(expected_params, 1.0)
    return {
        "norms": (norm, expected_norm.item()),
        "largest": clip_grads.get_grad_norm_fp32([p.grad for p in expected_params if p.grad is not None], torch.inf),
        "gradients": [(p.grad, q.grad) for p, q in zip(params, expected_params, strict=True)],
    }


def optimizer_step(dtype: torch.dtype) -> dict[str, Any]:
    """One step of megatron-core's distributed optimizer on a weight of this dtype, and torch's AdamW on a copy."""
    mesh = start()
    model = nn.Linear(4, 3, bias=False, dtype=dtype)
    before = model.weight.detach().float()
    config = transformer_config(ParallelConfig(), dtype=dtype, num_layers=1, width=4, num_heads=1)
    engine = Engine(
        [model], config, mesh, AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip_grad_norm=1.0)
    )
    x = torch.arange(4.0, dtype=dtype)

    engine.train_step(_square_loss, iter([x]), num_micro_batches=1, lr=0.1, num_tokens=1)

    rival = nn.Parameter(before.clone())
    (x.float() @ rival.T).square().sum().backward()
    nn.utils.clip_grad_norm_([rival], 1.0)
    torch.optim.AdamW([rival], lr=0.1, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1).step()
    distributed = engine.optimizer.chained_optimizers[0]
    saved = distributed.state_dict()
    distributed.load_state_dict(saved)
    inner = distributed.optimizer
    return {
        "after": model.weight.detach().float(),
        "expected": rival.detach(),
        "optimizer": type(inner).__name__,
        "steps": [group["step"] for group in inner.param_groups],
        "saved_steps": [group["step"] for group in saved["optimizer"]["param_groups"]],
        "states": sorted(set().union(*inner.state.values())),
        "dtype": model.weight.dtype,
    }


def as_if_nothing_was_installed() -> dict[str, Any]:
    """What the engine does with the optimizer that megatron-core picks where TransformerEngine and apex are missing,
    and what it has after the CUDA path's answer to that."""
    mesh = start()
    missing = (
        mock.patch.object(mcore_optimizer, "Adam", torch.optim.AdamW),
        mock.patch.object(mcore_optimizer, "USING_PYTORCH_OPTIMIZER", True),
        mock.patch.object(distrib_optimizer, "Adam", torch.optim.Adam),
        mock.patch.object(distrib_optimizer, "HAVE_APEX_OR_TE", False),
    )
    with contextlib.ExitStack() as upstream:
        for patch in missing:
            upstream.enter_context(patch)
        try:
            _train_linear(mesh, num_steps=1)
            refusal = ""
        except RuntimeError as error:
            refusal = str(error)
        adam.replace_torch_adam()
        engine = _train_linear(mesh, num_steps=2)
    inner = engine.optimizer.chained_optimizers[0].optimizer
    return {
        "refusal": refusal,
        "optimizer": type(inner).__name__,
        "adam_step": optimizer_state.adam_step(engine.optimizer, mesh),
    }


def _train_linear(mesh: Mesh, *, num_steps: int) -> Engine:
    model = nn.Linear(4, 3, bias=False)
    config = transformer_config(ParallelConfig(), dtype=torch.float32, num_layers=1, width=4, num_heads=1)
    settings = AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip_grad_norm=1.0)
    engine = Engine([model], config, mesh, settings)
    for _ in range(num_steps):
        engine.train_step(_square_loss, iter([torch.arange(4.0)]), num_micro_batches=1, lr=0.1, num_tokens=1)
    return engine


def _square_loss(ddp: nn.Module, batch: Tensor, hidden: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
    loss = ddp(batch).float().square().sum()
    return loss, {"loss": loss.detach()}


def parameter_without_gradient() -> str:
    """What the engine says of a parameter that nothing uses, where gradients are summed on the way."""
    mesh = start()
    model = nn.Linear(4, 3, bias=False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    config = transformer_config(ParallelConfig(), dtype=torch.float32, num_layers=1, width=4, num_heads=1)
    settings = AdamSettings(betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, clip_grad_norm=1.0)
    engine = Engine([model], config, mesh, settings, overlap_grad_reduce="on")
    try:
        engine.train_step(_square_loss, iter([torch.arange(4.0)]), num_micro_batches=1, lr=0.1, num_tokens=1)
    except RuntimeError as error:
        return str(error)
    return ""


# 4: random states


def random_states() -> dict[str, Any]:
    """Masks drawn inside and outside of named states, in an order that shows who continues where."""
    start()
    tracker = tensor_parallel.get_cuda_rng_tracker()
    assert tracker.is_initialized()
    tracker.add("a", 1)
    tracker.add("b", 2)
    seen: dict[str, Any] = {"names": sorted(tracker.get_states()), "class": type(tracker).__name__}
    torch.manual_seed(9)
    seen["outside alone"] = [torch.rand(4), torch.rand(4)]
    torch.manual_seed(9)
    first = torch.rand(4)
    with tracker.fork("a"):
        seen["a"] = F.dropout(torch.ones(64))
        with tracker.fork("b"):
            seen["b"] = F.dropout(torch.ones(64))
        seen["a after b"] = F.dropout(torch.ones(64))
    seen["outside around"] = [first, torch.rand(4)]
    with tracker.fork("a"):
        seen["a again"] = F.dropout(torch.ones(64))
    kept = tracker.get_states()
    with tracker.fork("a"):
        seen["a third"] = torch.rand(4)
    tracker.set_states(kept)
    with tracker.fork("a"):
        seen["a third, set back"] = torch.rand(4)
    torch.manual_seed(1)
    seen["a from its seed"] = F.dropout(torch.ones(64))
    torch.manual_seed(9)
    try:
        with tracker.fork("a"):
            raise ValueError
    except ValueError:
        seen["outside after an error"] = torch.rand(4)
    try:
        with tracker.fork("c"):
            pass
    except KeyError as error:
        seen["unknown"] = error.args[0]
    return seen


def adding_draws_nothing() -> tuple[Tensor, Tensor]:
    """The process's own draws, with a state added between and without."""
    start()
    torch.manual_seed(9)
    expected = torch.rand(4)
    torch.manual_seed(9)
    tensor_parallel.get_cuda_rng_tracker().add("a", 1)
    return torch.rand(4), expected


def seeds_by_rank() -> dict[int, Tensor]:
    """The tensor-parallel state's first draw for two ranks: what keeps their dropout apart."""
    start()
    drawn = {}
    for rank in (0, 1):
        tensor_parallel.model_parallel_cuda_manual_seed(3, tp_rank=rank, ep_rank=0, etp_rank=0, force_reset_rng=True)
        with tensor_parallel.get_cuda_rng_tracker().fork():
            drawn[rank] = torch.rand(8)
    return drawn


def recompute() -> dict[str, tuple[Tensor, Tensor]]:
    """Output and gradient with dropout in a named state and in the process's own: kept, and recomputed."""

    def block(x: Tensor) -> Tensor:
        with tensor_parallel.get_cuda_rng_tracker().fork():
            y = F.dropout(x * 2, 0.5)
        return F.dropout(y, 0.3) ** 2

    seen = []
    for recomputes in (False, True):
        start(seed=11)
        torch.manual_seed(4)
        x = torch.arange(1.0, 65.0, requires_grad=True)
        y = tensor_parallel.checkpoint(block, False, x) if recomputes else block(x)
        torch.rand(3)  # what a later layer draws; the backward pass must not go on from here
        with tensor_parallel.get_cuda_rng_tracker().fork():
            torch.rand(5)
        y.sum().backward()
        with tensor_parallel.get_cuda_rng_tracker().fork():
            seen.append((y.detach(), x.grad, torch.rand(3), torch.rand(3)))
    kept, recomputed = seen
    names = ("output", "gradient", "next draw of the state", "one more")
    return dict(zip(names, zip(kept, recomputed, strict=True), strict=True))


# 5: the optimizer


def adam_steps(adam_w_mode: bool) -> dict[str, Any]:
    """Ten steps of megatron-core's Adam, as it stands now, and of torch's."""
    start()
    generator = torch.Generator().manual_seed(2)
    shapes = [(3, 4), (5,)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    mine, rivals = ([nn.Parameter(tensor.clone()) for tensor in starts] for _ in range(2))
    hyper: dict[str, Any] = {"lr": 0.05, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    unused = nn.Parameter(torch.ones(2))
    optimizer = mcore_optimizer.Adam([*mine, unused], adam_w_mode=adam_w_mode, **hyper)
    rival = (torch.optim.AdamW if adam_w_mode else torch.optim.Adam)(rivals, **hyper)
    for _ in range(10):
        for p, q in zip(mine, rivals, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = p.grad.clone()
        optimizer.step()
        rival.step()
    return {
        "pairs": [(p.detach(), q.detach()) for p, q in zip(mine, rivals, strict=True)],
        "step": optimizer.param_groups[0]["step"],
        "states": [sorted(optimizer.state[p]) for p in mine],
        "unused": (unused.detach(), unused in optimizer.state),
    }


# Activation itself


def refusal() -> tuple[str, bool]:
    """What is said where CUDA is in use, and whether anything was changed before."""
    start()
    before = torch.cuda.synchronize
    with mock.patch.object(cpu, "_active", None), mock.patch("torch.cuda.is_initialized", lambda: True):
        try:
            cpu.activate()
        except RuntimeError as error:
            return str(error), torch.cuda.synchronize is before and not cpu.is_active()
    return "", False


def second_activation() -> tuple[bool, bool]:
    """(active, nothing was replaced again)."""
    start()
    before = torch.cuda.synchronize
    cpu.activate()
    return cpu.is_active(), torch.cuda.synchronize is before


def first_words() -> list[str]:
    """What the log says at activation. The mode itself is not entered a second time."""
    start()
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    cpu.log.addHandler(handler)
    level = cpu.log.level
    cpu.log.setLevel(logging.INFO)
    try:
        with mock.patch.object(cpu, "_active", None), mock.patch.object(cpu.CudaMeansCpu, "__enter__"):
            cpu.activate()
    finally:
        cpu.log.removeHandler(handler)
        cpu.log.setLevel(level)
    return said
