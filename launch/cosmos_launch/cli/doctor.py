"""`cosmos-train doctor`: what this machine has, what it lacks and what to do about it, on one screen.

Contract:
- it never crashes on a machine that lacks something: every probe is a function of its own, and one that raises becomes
  a line with the exception's type and text;
- what may take a process down or hang (DALI, TransformerEngine) is tried in a child process under a time limit;
- video is not guessed from version numbers: a small clip of each codec is encoded and decoded, here and now;
- no secret is printed: of a key the doctor says only whether it is there;
- nothing heavy is imported before a probe runs; the exit code is 1 when something in REQUIRED is missing or wrong.
"""

import io
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from json import dumps, loads
from pathlib import Path
from typing import Literal

from cosmos_train.config.environment import own_ranks
from cosmos_train.config.errors import ConfigError
from cosmos_train.parallel.apex import KERNEL, has_fused_weight_gradient

REQUIRED = frozenset({"Python", "torch", "megatron-core", "psutil", "omegaconf", "PyAV"})

# Distribution -> supported versions, word for word as in pyproject.toml (a test compares them).
SUPPORTED = {
    "python": ">=3.11,<3.13",
    "torch": ">=2.11,<2.14",
    "megatron-core": "==0.16.1",
    "psutil": ">=5.9,<8",
    "omegaconf": ">=2.4,<2.5",
    "av": ">=15,<19",
    "wandb": ">=0.31,<1",
}

# Codec -> PyAV's encoder, container, pixel format, encoder options.
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "mjpeg": ("mjpeg", "avi", "yuvj420p", {}),
    "vp8": ("libvpx", "webm", "yuv420p", {}),
    "vp9": ("libvpx-vp9", "webm", "yuv420p", {}),
    "h264": ("libx264", "mp4", "yuv420p", {}),
    "hevc": ("libx265", "mp4", "yuv420p", {"x265-params": "log-level=none"}),
}
NUM_FRAMES, HEIGHT_PX, WIDTH_PX = 16, 96, 128
CHILD_LIMIT_SEC = 20.0
TIMED_OUT = 124
MIN_DISK_GIB, MIN_SHM_GIB = 5, 1

Status = Literal["ok", "missing", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the doctor."""

    name: str
    """What was looked at."""
    status: Status
    """ok, missing (the detail says what that costs) or wrong (the detail says why)."""
    detail: str
    """What was found."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


Probe = Callable[[], Finding | list[Finding]]


def doctor(*, as_json: bool) -> int:
    """Look, print and return the exit code: 0, or 1 if something in REQUIRED is missing or wrong."""
    findings = collect()
    if as_json:
        print(dumps([asdict(finding) for finding in findings], indent=2))
    elif sys.stdout.isatty() and find_spec("rich"):
        _print_table(findings)
    else:
        _print_plain(findings)
    return int(any(finding.name in REQUIRED and finding.status != "ok" for finding in findings))


def collect() -> list[Finding]:
    """Every finding, in the order of the page."""
    probes: dict[str, Probe] = {
        "Python": _python,
        "torch": _torch,
        "CUDA": _cuda,
        "collectives": _collectives,
        "megatron-core": partial(_package, "megatron-core", "megatron", "it is the engine: nothing trains"),
        "psutil": partial(_package, "psutil", "psutil", "checkpoint writers die and a save hangs for ever"),
        "omegaconf": partial(_package, "omegaconf", "omegaconf", "no configuration can be read"),
        "TransformerEngine": _transformer_engine,
        "apex": _apex,
        "PyAV": _pyav,
        "DALI": _dali,
        "video": _video,
        "W&B": _wandb,
        "ranks": _ranks,
        "Slurm": _slurm,
        "cores and memory": _machine,
        "disk": _disk,
        "/dev/shm": _shm,
    }
    return [finding for name, probe in probes.items() for finding in _isolated(name, probe)]


def _isolated(name: str, probe: Probe) -> list[Finding]:
    try:
        found = probe()
    except ModuleNotFoundError as error:
        found = Finding(name, "missing", str(error), f"install {error.name or 'it'}")
    except Exception as error:  # whatever a broken installation raises is itself the finding
        found = Finding(name, "wrong", f"{type(error).__name__}: {error}", "repair or reinstall it")
    return found if isinstance(found, list) else [found]


# Python and the engine


def _python() -> Finding:
    version = platform.python_version()
    if not _within(version, SUPPORTED["python"]):
        return Finding("Python", "wrong", f"{version} is not {SUPPORTED['python']}", "use Python 3.11 or 3.12")
    return Finding("Python", "ok", f"{version} at {sys.executable}")


def _package(distribution: str, module: str, cost: str, name: str = "") -> Finding:
    """A package by its metadata alone: megatron-core takes seconds to import."""
    name, version, wanted = name or distribution, _version(distribution), SUPPORTED[distribution]
    if version is None or find_spec(module) is None:
        return Finding(name, "missing", cost, _pip(distribution + wanted))
    if not _within(version, wanted):
        return Finding(name, "wrong", f"{version} is not {wanted}", _pip(distribution + wanted))
    return Finding(name, "ok", version)


def _torch() -> Finding:
    finding = _package("torch", "torch", "nothing runs without it")
    if finding.status != "ok":
        return finding
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return Finding("torch", "ok", f"{torch.__version__}, {build} build")


def _cuda() -> Finding:
    import torch

    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        kinds = sorted({f"{d.name} ({d.total_memory / 2**30:.0f} GiB, sm_{d.major}{d.minor})" for d in devices})
        return Finding("CUDA", "ok", f"{len(devices)} x {', '.join(kinds)}")
    if not shutil.which("nvidia-smi"):
        return Finding("CUDA", "missing", "no device: runs use the CPU and gloo", "use a machine with an NVIDIA GPU")
    if not torch.version.cuda:
        return Finding("CUDA", "wrong", "an NVIDIA driver, but a CPU build of torch", "install a CUDA build of torch")
    return Finding("CUDA", "wrong", "an NVIDIA driver, but torch sees no device", "compare with what nvidia-smi says")


def _collectives() -> Finding:
    import torch
    import torch.distributed as dist

    has = {"gloo": dist.is_gloo_available(), "NCCL": dist.is_nccl_available()}
    detail = ", ".join(f"{name} {'yes' if there else 'no'}" for name, there in has.items())
    needed = "NCCL" if torch.cuda.is_available() else "gloo"
    if not has[needed]:
        return Finding(
            "collectives", "wrong", f"{detail}: this machine needs {needed}", "install a torch build with it"
        )
    return Finding("collectives", "ok", detail)


def _transformer_engine() -> Finding:
    name, version = "TransformerEngine", _version("transformer-engine")
    if version is None:
        cost = "no FP8 and no fused GPU layers: megatron-core's own are used"
        return Finding(name, "missing", cost, "on a GPU: " + _pip("cosmos-train[te]"))
    # torch comes first: TransformerEngine finds NCCL and cuBLAS among the libraries that torch has loaded.
    child = _in_child("import torch, transformer_engine.pytorch")
    if child.returncode:
        return Finding(name, "wrong", f"{version} does not import: {_last_words(child)}", "match it to torch and CUDA")
    return Finding(name, "ok", version)


def _apex() -> Finding:
    if _version("apex") and "pyramid" in (metadata.metadata("apex")["Summary"] or "").lower():
        why = "this apex is an unrelated toolkit for Pyramid, not NVIDIA's"
        return Finding("apex", "wrong", why, "pip uninstall apex (NVIDIA's is built from its source, and optional)")
    if find_spec("apex") is None:
        cost = "nothing is lost: TransformerEngine and torch have fused optimizers too"
        return Finding("apex", "missing", cost, "optional: build NVIDIA's from its source")
    if not has_fused_weight_gradient():
        why = f"a package of this name that is not NVIDIA's, or was built without CUDA: {KERNEL} is missing"
        return Finding("apex", "wrong", why, "pip uninstall apex (NVIDIA's is built from its source, and optional)")
    return Finding("apex", "ok", f"NVIDIA's, {_version('apex') or 'version unknown'}")


# Video


def _pyav() -> Finding:
    finding = _package("av", "av", "no video can be read or written", "PyAV")
    if finding.status != "ok":
        return finding
    import av

    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return Finding("PyAV", "ok", f"{av.__version__}, libavcodec {libavcodec}")


def _dali() -> Finding:
    install = f"{_pip('cosmos-train[dali]')}; on CUDA 12 {_pip('nvidia-dali-cuda120')}"
    found = _dali_build()
    if found is None:
        if _version("nvidia-dali"):
            return Finding("DALI", "wrong", "nvidia-dali is an empty stub", f"pip uninstall nvidia-dali; {install}")
        return Finding("DALI", "missing", "video is decoded by PyAV on the CPU, never by NVDEC", install)
    child = _in_child("import nvidia.dali")
    if child.returncode:
        return Finding("DALI", "wrong", f"{found} does not import: {_last_words(child)}", install)
    return Finding("DALI", "ok", found)


def _dali_build() -> str | None:
    builds = {name: _version(name) for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120")}
    return next((f"{name} {version}" for name, version in builds.items() if version), None)


def _video() -> list[Finding]:
    """A line per codec: a clip is written with PyAV, then read with PyAV and with DALI."""
    clips: dict[str, bytes] = {}
    findings = {codec: _isolated(f"video {codec}", partial(_roundtrip, codec, clips))[0] for codec in CODECS}
    for codec, (broken, words) in (_try_dali(clips) if _dali_build() else {}).items():
        pyav = findings[codec]
        status: Status = "wrong" if broken else pyav.status
        remedy = pyav.remedy or ("reinstall DALI, or decode with PyAV" if broken else "")
        findings[codec] = Finding(pyav.name, status, f"{pyav.detail}; {words}", remedy)
    return list(findings.values())


def _roundtrip(codec: str, clips: dict[str, bytes]) -> Finding:
    """Encode and decode with PyAV; the clip is left in `clips` for DALI."""
    import av
    from av.codec.codec import UnknownCodecError

    name, encoder = f"video {codec}", CODECS[codec][0]
    try:
        av.Codec(encoder, "w")
    except UnknownCodecError:
        return Finding(name, "missing", f"PyAV has no {encoder} here: not tried", "install PyAV from a wheel")
    clips[codec] = _clip(codec)
    with av.open(io.BytesIO(clips[codec]), "r") as container:
        num_frames = sum(1 for _ in container.decode(video=0))
    if num_frames != NUM_FRAMES:
        return Finding(name, "wrong", f"PyAV decodes {num_frames} of {NUM_FRAMES} frames", "reinstall PyAV")
    return Finding(name, "ok", "PyAV encodes and decodes")


def _clip(codec: str) -> bytes:
    """A grey ramp that moves sideways for NUM_FRAMES frames."""
    import av

    encoder, container_format, pixel_format, options = CODECS[codec]
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container_format) as container:
        stream = container.add_stream(encoder, rate=8, options=options)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH_PX, HEIGHT_PX, pixel_format
        for index in range(NUM_FRAMES):
            frame = av.VideoFrame(WIDTH_PX, HEIGHT_PX, "gray8")
            row = bytes((column + 8 * index) % 256 for column in range(frame.planes[0].line_size))
            frame.planes[0].update(row * HEIGHT_PX)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


# The child decodes one file after the other and says so line by line: a crash leaves the lines before it. DALI raises
# for a codec that it does not have on the CPU, which counts as no frames.
_DALI_CHILD = textwrap.dedent("""
    import json, sys
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def decode(path):
        encoded = fn.external_source(lambda: [np.fromfile(path, np.uint8)], device="cpu")
        return fn.decoders.video(encoded, device="cpu")

    for path in sys.argv[1:]:
        try:
            pipeline = decode(path)
            pipeline.build()
            num_frames = len(pipeline.run()[0].at(0))
        except RuntimeError:
            num_frames = 0
        print(json.dumps([path, num_frames]), flush=True)
""")


def _try_dali(clips: dict[str, bytes]) -> dict[str, tuple[bool, str]]:
    """Decode the clips with DALI on the CPU, in child processes: codec -> is it broken, in words."""
    outcomes: dict[str, tuple[bool, str]] = {}
    with tempfile.TemporaryDirectory(prefix="cosmos-doctor-") as folder:
        waiting = {str(Path(folder, codec)): codec for codec in clips}
        for path, codec in waiting.items():
            Path(path).write_bytes(clips[codec])
        while waiting:
            child = _in_child(_DALI_CHILD, *waiting)
            for path, num_frames in (loads(line) for line in child.stdout.splitlines() if line.startswith('["')):
                outcomes[waiting.pop(path)] = _dali_outcome(num_frames)
            # A crash costs the clip it came at, and the rest get a new child. A hang costs the rest too: time is short.
            lost = list(waiting) if child.returncode == TIMED_OUT else list(waiting)[:1]
            outcomes |= {waiting.pop(path): (True, f"DALI fails: {_last_words(child)}") for path in lost}
    return outcomes


def _dali_outcome(num_frames: int) -> tuple[bool, str]:
    if num_frames == NUM_FRAMES:
        return False, "DALI decodes on the CPU"
    if num_frames == 0:
        return False, "DALI does not decode it on the CPU, PyAV stands in"
    return True, f"DALI decodes {num_frames} of {NUM_FRAMES} frames"


# Tracking, cluster, machine


def _wandb() -> Finding:
    finding = _package("wandb", "wandb", "no tracking: metrics.jsonl is written all the same", "W&B")
    if finding.status != "ok":
        return finding
    from cosmos_train.train.config import TrackingConfig
    from cosmos_train.train.telling.wandb_run import choose_mode

    try:
        chosen = choose_mode(TrackingConfig())
    except ConfigError as error:
        return Finding("W&B", "wrong", f"{finding.detail}; {error}", "set it to one of these")
    return Finding("W&B", "ok", f"{finding.detail}; runs are {chosen.mode}: {chosen.why}")


def _ranks() -> Finding:
    """What whoever starts ranks has told this process, or an earlier one of this shell has left behind."""
    try:
        ranks = own_ranks()
    except ConfigError as error:
        return Finding("ranks", "wrong", str(error), "runs here end with this error")
    if not ranks.is_given:
        return Finding("ranks", "ok", "none are given: a run starts as many as --nproc says")
    return Finding("ranks", "ok", f"this process is rank {ranks.rank} of {ranks.world_size}, by RANK and WORLD_SIZE")


def _slurm() -> Finding:
    lacking = [command for command in ("sbatch", "srun") if not shutil.which(command)]
    if lacking:
        cost = f"no {' and no '.join(lacking)}: nothing can be submitted from here"
        return Finding("Slurm", "missing", cost, "submit from the cluster's login node")
    asked = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=10, check=True)
    job = os.environ.get("SLURM_JOB_ID")
    return Finding("Slurm", "ok", f"{asked.stdout.strip()}, {f'inside job {job}' if job else 'not inside a job'}")


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("cores and memory", "ok", f"{cores} cores, {memory_gib:.0f} GiB, {platform.machine()}")


def _disk() -> Finding:
    free_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    detail = f"{free_gib:.1f} GiB free in {Path.cwd()}"
    if free_gib < MIN_DISK_GIB:
        return Finding("disk", "wrong", f"{detail}: a checkpoint may not fit", "free some, or run elsewhere")
    return Finding("disk", "ok", detail)


def _shm() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding("/dev/shm", "missing", "data workers cannot share memory", "set the number of data workers to 0")
    size_gib = shutil.disk_usage("/dev/shm").total / 2**30
    if size_gib < MIN_SHM_GIB:
        why = f"{size_gib:.2f} GiB: data workers die with a bus error when it is full"
        return Finding("/dev/shm", "wrong", why, "start the container with --shm-size=8g or --ipc=host")
    return Finding("/dev/shm", "ok", f"{size_gib:.1f} GiB")


# Words and children


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _within(version: str, wanted: str) -> bool:
    """Whether a version keeps every clause of a specifier; `+cpu` and `rc1` are not looked at."""

    def release(text: str) -> tuple[int, ...]:
        return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", text)[0])))

    have = release(version)
    compare = {">=": have.__ge__, "<": have.__lt__, "==": have.__eq__}
    return all(compare[sign](release(bound)) for sign, bound in re.findall(r"(>=|<|==)([\d.]+)", wanted))


def _pip(requirement: str) -> str:
    return f'pip install "{requirement}"'


def _in_child(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python source on this process's import path. A child past its time is killed and reads as TIMED_OUT."""
    command = [sys.executable, "-P", "-c", program, *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            code = subprocess.run(command, stdout=out, stderr=err, env=environment, timeout=CHILD_LIMIT_SEC).returncode
        except subprocess.TimeoutExpired:
            code = TIMED_OUT
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    if child.returncode == TIMED_OUT:
        return f"no answer within {CHILD_LIMIT_SEC:.0f} s"
    if child.returncode < 0:
        return f"killed by signal {-child.returncode}"
    lines = [line.strip() for line in child.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {child.returncode}"


# Printing


def _print_plain(findings: list[Finding]) -> None:
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        remedy = f" -> {finding.remedy}" if finding.remedy else ""
        print(f"{finding.name:<{width}}  {finding.status:<7}  {finding.detail}{remedy}")


def _print_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "missing": "yellow", "wrong": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        words = Text(finding.detail)
        if finding.remedy:
            words.append(f"  {finding.remedy}", style="dim")
        table.add_row(finding.name, Text(finding.status, style=colours[finding.status]), words)
    Console().print(table)
