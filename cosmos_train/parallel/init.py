"""Start and end of a process of the run: device, process group, megatron-core's groups.

Which rank a process is, the environment says (cosmos_train.config.environment). Without that a run is one process.
"""

import logging
import warnings
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from cosmos_train.config.environment import UNSET, Ranks, own_ranks
from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.config import ParallelConfig, check_layout
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.torch_private import share_gloo_devices

log = logging.getLogger(__name__)
RENDEZVOUS_SEC = 300.0
"""Ranks wait so long for each other at the start, unless train.rendezvous_sec says otherwise."""


class RendezvousError(RuntimeError):
    """The ranks of a run did not meet."""

    input_is_wrong = False


with warnings.catch_warnings():
    # It falls back to torch where TransformerEngine and apex are missing, and says so once per module.
    warnings.simplefilter("ignore")
    from megatron.core import parallel_state, tensor_parallel

    from cosmos_train.parallel import adam, cpu, mcore_private, replica


def start(
    parallel: ParallelConfig, *, seed: int, timeout_min: float = 30.0, rendezvous_sec: float = RENDEZVOUS_SEC
) -> Mesh:
    """Join the process group and build megatron-core's groups for this layout.

    Raises:
        ConfigError: tp * pp * cp does not divide the world size, or the environment contradicts itself.
        RendezvousError: the other ranks did not come.
    """
    # megatron-core 0.16.1 calls collectives by names that torch 2.13 has replaced.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(torch\.distributed|megatron\.core)")
    ranks = own_ranks()
    device = _choose_device(ranks.local_rank)
    if not dist.is_initialized():
        store, timeout = _meet(ranks, rendezvous_sec), timedelta(minutes=timeout_min)
        store.set_timeout(timeout)
        share_gloo_devices()
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world_size, timeout=timeout)
    return build_groups(parallel, device=device, seed=seed)


def _meet(ranks: Ranks, limit_sec: float) -> dist.Store:  # pyright: ignore[reportPrivateImportUsage]
    """The store over which the ranks of the run find each other."""
    if ranks.world_size == 1:
        return dist.HashStore()  # pyright: ignore[reportPrivateImportUsage]
    log.info("rank %d waits up to %.0f s for %d ranks at %s", ranks.rank, limit_sec, ranks.world_size, ranks.address)
    try:
        met = rendezvous("env://", ranks.rank, ranks.world_size, timeout=timedelta(seconds=limit_sec))
        return next(iter(met))[0]
    except dist.DistError as error:
        raise RendezvousError(
            f"rank {ranks.rank} of {ranks.world_size} (RANK, WORLD_SIZE) did not meet the others at {ranks.address} "
            f"(MASTER_ADDR, MASTER_PORT), where it waits {limit_sec:.0f} s for them: {str(error).splitlines()[0]}; "
            f"start all {ranks.world_size}, as torchrun does, raise train.rendezvous_sec, or {UNSET}"
        ) from error


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
    """megatron-core only forgets its groups, some fifty a layout, and with gloo each keeps two threads."""
    groups = [*mcore_private.made_groups(), *replica.groups]
    replica.groups.clear()
    parallel_state.destroy_model_parallel()
    for group in groups:
        dist.destroy_process_group(group)


def _choose_device(local_rank: int) -> torch.device:
    if torch.cuda.is_available():
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f"LOCAL_RANK={local_rank}, but there are {torch.cuda.device_count()} GPUs here, and each rank "
                "needs one; start as many ranks as there are GPUs"
            )
        torch.cuda.set_device(local_rank)
        adam.replace_torch_adam()
        return torch.device("cuda", local_rank)
    cpu.activate()
    return torch.device("cpu")
