"""Start and end of a process of the run: device, process group, megatron-core's groups.

The one place in the framework that reads the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: what
torchrun and cosmos_launch set). Without them a run is one process.
"""

import logging
import os
import warnings
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist

from cosmos_train.parallel.config import ParallelConfig, check_layout
from cosmos_train.parallel.mesh import Mesh

log = logging.getLogger(__name__)

with warnings.catch_warnings():
    # It falls back to torch where TransformerEngine and apex are missing, and says so once per module.
    warnings.simplefilter("ignore")
    from megatron.core import parallel_state, tensor_parallel

    from cosmos_train.parallel import adam, cpu


def start(parallel: ParallelConfig, *, seed: int, timeout_min: float = 30.0) -> Mesh:
    """Join the process group and build megatron-core's groups for this layout.

    Raises:
        ConfigError: tp * pp * cp does not divide the world size.
    """
    # megatron-core 0.16.1 calls collectives by names that torch 2.13 has replaced.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch\.distributed|megatron\.core)")
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = _choose_device(int(os.environ.get("LOCAL_RANK", 0)))
    if not dist.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        timeout = timedelta(minutes=timeout_min)
        if world_size == 1:
            store = dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
            dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=timeout)
        else:
            dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout)
    return build_groups(parallel, device=device, seed=seed)


def build_groups(parallel: ParallelConfig, *, device: torch.device, seed: int) -> Mesh:
    """megatron-core's groups over the processes there are. A second call replaces the groups of the first."""
    check_layout(parallel, dist.get_world_size())
    _leave_groups()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tp,
        pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.interleaved_chunks,
        context_parallel_size=parallel.cp,
        create_gloo_process_groups=False,
        # No embedding is tied to an output layer at the other end of the pipeline, so there is none to keep equal.
        get_embedding_ranks=lambda pipeline_ranks, *_: pipeline_ranks[:1],
        get_position_embedding_ranks=lambda pipeline_ranks, *_: pipeline_ranks[:1],
    )
    tensor_parallel.model_parallel_cuda_manual_seed(seed, force_reset_rng=True)
    groups = {
        "world": dist.group.WORLD,
        "tp": parallel_state.get_tensor_model_parallel_group(),
        "pp": parallel_state.get_pipeline_model_parallel_group(),
        "cp": parallel_state.get_context_parallel_group(),
        "dp": parallel_state.get_data_parallel_group(),
        "replicas": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "tp_cp": parallel_state.get_tensor_and_context_parallel_group(),
    }
    mesh = Mesh(device=device, **cast(dict[str, dist.ProcessGroup], groups))
    log.info("%s of %d on %s: %s", mesh.position, dist.get_world_size(), device, mesh.layout)
    return mesh


def stop() -> None:
    """Leave the groups, so that the process ends without a warning."""
    if dist.is_initialized():
        _leave_groups()
        dist.destroy_process_group()


def _leave_groups() -> None:
    """megatron-core only forgets its groups. With gloo each keeps its threads, some fifty a layout."""
    groups = parallel_state._global_process_group_list or []
    parallel_state.destroy_model_parallel()
    for group in groups:
        if group is not None:  # the default group
            dist.destroy_process_group(group)


def _choose_device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        adam.replace_torch_adam()
        return torch.device("cuda", local_rank)
    cpu.activate()
    return torch.device("cpu")
