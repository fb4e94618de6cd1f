"""`cosmos-train doctor`: what this machine has, what it lacks and what to do about it, on one screen.

Contract:
- it never crashes on a machine that lacks something: every probe is a function of its own, and one that raises becomes
  a line with the exception's type and text;
- what may take a process down, hang or take long (torch, DALI, TransformerEngine) is tried in a child process under a
  time limit, and all probes run at the same time;
- video is not guessed from version numbers: a small clip of each codec is encoded and decoded, here and now;
- no secret is printed: of a key the doctor says only whether it is there;
- nothing heavy is imported before a probe runs; the exit code is 1 when something in REQUIRED is missing or wrong.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from json import dumps

from cosmos_launch.cli.doctor import decoders, engine, machine, renderer
from cosmos_launch.cli.doctor.finding import Finding, Probe, isolated, of_package

REQUIRED = frozenset({"Python", "torch", "megatron-core", "psutil", "omegaconf", "PyAV"})


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
    """Run all probes at once and return every finding, in the order of the page."""
    probes: dict[str, Probe] = {
        "Python": engine.probe_python,
        "torch": engine.probe_torch,
        "megatron-core": partial(of_package, "megatron-core", "megatron", "it is the engine: nothing trains"),
        "psutil": partial(of_package, "psutil", "psutil", "checkpoint writers die and a save hangs for ever"),
        "omegaconf": partial(of_package, "omegaconf", "omegaconf", "no configuration can be read"),
        "TransformerEngine": engine.probe_transformer_engine,
        "apex": engine.probe_apex,
        "video": decoders.probe_decoders,
        "MuJoCo": renderer.probe_renderer,
        "W&B": machine.probe_wandb,
        "ranks": machine.probe_ranks,
        "Slurm": machine.probe_slurm,
        "cores and memory": machine.probe_machine,
        "disk": machine.probe_disk,
        "/dev/shm": machine.probe_shm,
    }
    with ThreadPoolExecutor(len(probes)) as threads:
        found = list(threads.map(isolated, probes.keys(), probes.values()))
    findings: list[Finding] = []
    for of_probe in found:
        findings += of_probe
    return findings


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
