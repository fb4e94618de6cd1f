"""Python, torch and what a GPU's training may use besides."""

import platform
import shutil
import sys
from dataclasses import dataclass, replace
from importlib import metadata
from importlib.util import find_spec
from json import loads

from cosmos_launch.cli.doctor.child import in_child, last_words
from cosmos_launch.cli.doctor.finding import SUPPORTED, Finding, is_within, of_package, pip_install, version_of
from cosmos_train.parallel.apex import KERNEL, has_fused_weight_gradient

# One process looks for all that torch alone can tell: its import is the longest part of an examination.
TORCH_CHILD = """
import json, torch, torch.distributed as dist

devices, cuda_error = [], ""
try:
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.cuda.get_device_properties(index)
        devices.append(f"{device.name} ({device.total_memory / 2**30:.0f} GiB, sm_{device.major}{device.minor})")
except Exception as error:  # a broken driver is a finding of its own: runs on the CPU are none the worse
    cuda_error = f"{type(error).__name__}: {error}".splitlines()[0]
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "devices": devices, "cuda_error": cuda_error}
print(json.dumps(facts | {"gloo": dist.is_gloo_available(), "nccl": dist.is_nccl_available()}))
"""
TORCH_LIMIT_SEC = 600.0
"""Nothing runs without torch: on a busy machine it is waited for, and not called broken."""


@dataclass(frozen=True, kw_only=True)
class TorchFacts:
    """What torch says of itself and of this machine."""

    version: str
    """torch.__version__, with the build's name."""
    cuda: str | None
    """Version of CUDA that it is built for; None of a CPU build."""
    devices: list[str]
    """A description of each GPU that it sees."""
    cuda_error: str
    """What CUDA raised when the GPUs were looked at; empty where it raised nothing."""
    gloo: bool
    """Whether it is built with gloo, by which ranks talk on a CPU."""
    nccl: bool
    """Whether it is built with NCCL, by which ranks talk on GPUs."""


def probe_python() -> Finding:
    """Look at the Python that runs."""
    version = platform.python_version()
    if not is_within(version, SUPPORTED["python"]):
        return Finding("Python", "wrong", f"{version} is not {SUPPORTED['python']}", "use Python 3.11 or 3.12")
    return Finding("Python", "ok", f"{version} at {sys.executable}")


def probe_torch() -> list[Finding]:
    """Look at torch, CUDA and what ranks talk with: a line for each."""
    finding = of_package("torch", "torch", "nothing runs without it")
    if finding.status != "ok":
        return _of_all(finding)
    child = in_child(TORCH_CHILD, limit_sec=TORCH_LIMIT_SEC)
    if child.returncode:
        why = f"{finding.detail} does not import: {last_words(child)}"
        return _of_all(Finding("torch", "wrong", why, "repair or reinstall it"))
    facts = TorchFacts(**loads(child.stdout.splitlines()[-1]))
    build = f"CUDA {facts.cuda}" if facts.cuda else "CPU"
    return [Finding("torch", "ok", f"{facts.version}, {build} build"), _cuda(facts), _collectives(facts)]


def _of_all(finding: Finding) -> list[Finding]:
    """Say of CUDA and collectives, too, what stands in the way of torch."""
    return [finding, replace(finding, name="CUDA"), replace(finding, name="collectives")]


def _cuda(facts: TorchFacts) -> Finding:
    if facts.cuda_error:
        return Finding("CUDA", "wrong", facts.cuda_error, "see what nvidia-smi says")
    if facts.devices:
        return Finding("CUDA", "ok", f"{len(facts.devices)} x {', '.join(sorted(set(facts.devices)))}")
    if not shutil.which("nvidia-smi"):
        return Finding("CUDA", "missing", "no device: runs use the CPU and gloo", "use a machine with an NVIDIA GPU")
    if not facts.cuda:
        return Finding("CUDA", "wrong", "an NVIDIA driver, but a CPU build of torch", "install a CUDA build of torch")
    return Finding("CUDA", "wrong", "an NVIDIA driver, but torch sees no device", "compare with what nvidia-smi says")


def _collectives(facts: TorchFacts) -> Finding:
    has = {"gloo": facts.gloo, "NCCL": facts.nccl}
    detail = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items())
    needed = "NCCL" if facts.devices else "gloo"
    if not has[needed]:
        return Finding(
            "collectives", "wrong", f"{detail}: this machine needs {needed}", "install a torch build with it"
        )
    return Finding("collectives", "ok", detail)


def probe_transformer_engine() -> Finding:
    """Import TransformerEngine, where it is installed."""
    name, version = "TransformerEngine", version_of("transformer-engine")
    if version is None:
        cost = "no FP8 and no fused GPU layers: megatron-core's own are used"
        return Finding(name, "missing", cost, "on a GPU: " + pip_install("cosmos-train[te]"))
    # torch comes first: TransformerEngine finds NCCL and cuBLAS among the libraries that torch has loaded.
    child = in_child("import torch, transformer_engine.pytorch")
    if child.returncode:
        return Finding(name, "wrong", f"{version} does not import: {last_words(child)}", "match it to torch and CUDA")
    return Finding(name, "ok", version)


def probe_apex() -> Finding:
    """Tell NVIDIA's apex from others of that name, and from one without the kernel that training uses."""
    if version_of("apex") and "pyramid" in (metadata.metadata("apex")["Summary"] or "").lower():
        why = "this apex is an unrelated toolkit for Pyramid, not NVIDIA's"
        return Finding("apex", "wrong", why, "pip uninstall apex (NVIDIA's is built from its source, and optional)")
    if find_spec("apex") is None:
        cost = "nothing is lost: TransformerEngine and torch have fused optimizers too"
        return Finding("apex", "missing", cost, "optional: build NVIDIA's from its source")
    if not has_fused_weight_gradient():
        why = f"a package of this name that is not NVIDIA's, or was built without CUDA: {KERNEL} is missing"
        return Finding("apex", "wrong", why, "pip uninstall apex (NVIDIA's is built from its source, and optional)")
    return Finding("apex", "ok", f"NVIDIA's, {version_of('apex') or 'version unknown'}")
