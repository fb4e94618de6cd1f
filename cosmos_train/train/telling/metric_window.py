"""What a run's steps were like since they were logged last: means, throughput, utilisation, memory."""

import logging
import resource
from collections import defaultdict
from collections.abc import Mapping

import torch
import torch.distributed as dist

from cosmos_train.config.gpus import peak_tflops, product_format
from cosmos_train.config.schema import RunConfig
from cosmos_train.parallel.mesh import Mesh
from cosmos_train.parallel.step_metrics import Ratio, values_of
from cosmos_train.train.task import Task
from cosmos_train.train.telling.mfu import Utilization

log = logging.getLogger(__name__)
GIB = 2**30


class MetricWindow:
    """Means since the last logged step."""

    def __init__(self) -> None:
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.ratios: dict[str, Ratio[float]] = {}
        self.num_steps, self.step_sec, self.waited_sec = 0, 0.0, 0.0

    def add(
        self, means: Mapping[str, float], ratios: Mapping[str, Ratio[float]], *, step_sec: float, waited_sec: float
    ) -> None:
        """Take in one step: what it says of itself, how long it took, and how much of that it waited for data."""
        self.num_steps += 1
        self.step_sec += step_sec
        self.waited_sec += waited_sec
        for name, mean in means.items():
            self.sums[name] += mean
        for name, ratio in ratios.items():
            known = self.ratios.get(name)
            self.ratios[name] = ratio if known is None else known + ratio

    def means(self, run: RunConfig, task: Task, utilization: Utilization | None) -> dict[str, float]:
        """The window's means, with throughput; of tokens where the model has some."""
        step_sec = self.step_sec / self.num_steps
        samples_per_sec = run.train.global_batch_size / step_sec
        return {
            **{name: total / self.num_steps for name, total in self.sums.items()},
            **values_of(self.ratios),
            "step_sec": step_sec,
            "data_wait_share": self.waited_sec / self.step_sec,
            "samples_per_sec": samples_per_sec,
            **({"tokens_per_sec": samples_per_sec * task.num_tokens} if task.num_tokens else {}),
            **({} if utilization is None else utilization.metrics(step_sec)),
        }


def measure_utilization(run: RunConfig, task: Task, mesh: Mesh) -> Utilization | None:
    """None where the task counts no FLOPs. On a CPU, and of fp32, there is a peak only where it is configured."""
    if task.step_flops is None:
        return None
    peak = run.train.peak_tflops
    if peak is None and mesh.device.type == "cuda" and run.train.precision != "fp32":
        name = torch.cuda.get_device_name(mesh.device)
        peak = peak_tflops(name, product_format(run.parallel.precision.recipe))
        if peak is None and mesh.is_main:
            log.warning("no peak is known of %s, so no mfu is logged; set train.peak_tflops", name)
    return Utilization(step_tflop=task.step_flops.total / 1e12, num_ranks=mesh.world.size(), peak_tflops=peak)


def peak_memory(mesh: Mesh) -> dict[str, float]:
    """GiB that the process with the most has held at once, of main memory and of its GPU. Called on every rank."""
    host_bytes = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gpu_bytes = torch.cuda.max_memory_allocated(mesh.device) if mesh.device.type == "cuda" else 0
    most = torch.tensor([host_bytes, gpu_bytes], dtype=torch.float64, device=mesh.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX, group=mesh.world)
    host_gib, gpu_gib = (most / GIB).tolist()
    return {"peak_host_memory_gib": host_gib} | ({"peak_gpu_memory_gib": gpu_gib} if gpu_bytes else {})
