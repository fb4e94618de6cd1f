"""`cosmos-train report RUN [RUN2 ...]`: how a run went, as a page, read from its folder alone; others add their curves.

Curves show the branch that counts: of steps that were rolled back and trained again, the last time.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av.error

from cosmos_data.errors import ClipError
from cosmos_data.readers.given_clips import whole_video
from cosmos_data.videos.video import BadVideoError, RgbConverter, read_frames
from cosmos_launch.cli.status import read_status
from cosmos_launch.pages.contents import (
    Bars,
    Charts,
    Curves,
    Fact,
    FrameRow,
    FrameRows,
    Mark,
    Points,
    Report,
    Section,
    Table,
    Text,
)
from cosmos_launch.pages.evaluations import Evaluation, read_evaluations
from cosmos_launch.pages.page import write_report
from cosmos_launch.pages.run_records import Record, RunRecords, read_records, said
from cosmos_train.train.telling.rank_times import PHASES, RankTimes, read_rank_times

MAX_SAMPLES, MAX_FRAMES, MAX_RANKS = 6, 9, 16
"""Shown of the newest videos, of each of them, and of the ranks that are slow."""
FIRST = ("loss", "grad_norm", "lr")
"""Drawn before what else a model logs."""
SPEED = {
    "samples_per_sec": "samples per second",
    "tokens_per_sec": "tokens per second",
    "tflops_per_gpu": "TFLOP/s of a GPU",
    "mfu": "model FLOPs utilisation",
    "step_sec": "seconds of a step",
    "data_wait_share": "share of a step that waits for data",
}
PHASE_NAMES = [f"{phase}_sec" for phase in PHASES]
YEAR_3000 = 32_503_680_000
"""In seconds since 1970."""
MEMORY = {"peak_host_memory_gib": "process", "peak_gpu_memory_gib": "GPU"}


@dataclass(frozen=True)
class Run:
    """A run's folder and what is drawn of it."""

    name: str
    """What the legend calls it."""
    folder: Path
    steps: Sequence[Record]


def write_run_page(run_dirs: Sequence[Path], *, out: Path | None) -> int:
    """Write the page of the first run, with the curves of the others in its charts. Returns the exit code.

    Raises ConfigError where a folder is no run's.
    """
    run_dir = run_dirs[0]
    all_records = [read_records(each) for each in run_dirs]
    statuses = [read_status(each, records) for each, records in zip(run_dirs, all_records, strict=True)]
    status, records = statuses[0], all_records[0]
    runs = _name_runs(run_dirs, all_records)
    steps, events, marks = records.steps, records.events, _marks(records.events)
    others = ", ".join(run.name for run in runs[1:])
    report = Report(
        title=f"Run {runs[0].name} beside {others}" if others else f"Run {runs[0].name}",
        summary=_facts(status, steps),
        sections=[
            _training(runs, marks, num_rolled_back=records.num_rolled_back),
            _speed(runs, marks),
            _memory(runs, marks),
            *_evaluations(runs),
            *_ranks(read_rank_times(run_dir), events),
            *_samples(run_dir),
            _history(status, events),
            _configuration(run_dir),
        ],
    )
    print(write_report(out or run_dir / "report.html", report))
    return 0


def _name_runs(run_dirs: Sequence[Path], all_records: Sequence[RunRecords]) -> list[Run]:
    """Name runs after their folders; where two have one name, as they were given."""
    names = [run_dir.resolve().name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = [str(run_dir) for run_dir in run_dirs]
    each = zip(names, run_dirs, all_records, strict=True)
    return [Run(name, run_dir, records.steps) for name, run_dir, records in each]


def _facts(status: Record, steps: Sequence[Record]) -> list[Fact]:
    facts = [
        Fact("step", f"{status['step']:,} of {status['num_steps']:,}", status["state"]),
        Fact("starts", status["starts"], f"{len(status['crashes'])} crashes, {status['skipped_steps']} skipped steps"),
    ]
    if steps:
        last = steps[-1]
        speed = f"{last['step_sec']:.4g} s a step" if "step_sec" in last else ""
        if "loss" in last:
            facts.append(Fact("loss", last["loss"], f"at step {last['step']:,}"))
        if "samples_per_sec" in last:
            facts.append(Fact("samples/s", last["samples_per_sec"], speed))
        facts += _memory_facts(steps)
    if (slowest := status["slowest"]) is not None:
        told = (
            f"rank {slowest['rank']}: {slowest['lost_share']:.1%} of a step more than the median, in {slowest['phase']}"
        )
        facts.append(Fact("slowest host", slowest["host"], told))
    return facts


def _memory_facts(steps: Sequence[Record]) -> Iterator[Fact]:
    for name, what in MEMORY.items():
        found = [record[name] for record in steps if name in record]
        if found:
            yield Fact(f"peak memory of a {what}", f"{max(found):.2f} GiB", "of the rank with the most")


def _marks(events: Iterable[Record]) -> list[Mark]:
    """Restarts and failures, where they were."""
    marks = []
    for event in events:
        if event["event"] == "start" and event["step"] > 0:
            marks.append(Mark(event["step"], f"started again from {said(event, 'source')}, {said(event, 'layout')}"))
        elif event["event"] == "failed":
            marks.append(Mark(event["step"], f"failed: {said(event, 'error')}"))
    return marks


def _training(runs: Sequence[Run], marks: Sequence[Mark], *, num_rolled_back: int) -> Section:
    """Chart what the model logs: the loss first, its gradients' norm and its rate, then the rest as it comes."""
    measured = {*SPEED, *PHASE_NAMES, *MEMORY, "step", "time"}
    names = [name for name in _names(runs) if name not in measured]
    first = [name for name in FIRST if name in names] or ["loss"]
    groups = _grouped([*first, *(name for name in names if name not in first)])
    told = f"{num_rolled_back} logged steps do not count: the run went back to a checkpoint before them."
    charts = itertools.chain.from_iterable(_charts(runs, title, members) for title, members in groups.items())
    return Section("Training", told if num_rolled_back else "", [Charts(list(charts), marks)])


def _grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Group names as blocks/activation_rms/03 by what stands before their last slash; a name without one is alone."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition("/")[0] or name, []).append(name)
    return groups


def _speed(runs: Sequence[Run], marks: Sequence[Mark]) -> Section:
    present = _names(runs)
    charts = [_chart(runs, title, name) for name, title in SPEED.items() if name in present]
    phases = _charts(runs, "seconds of a step, by phase", [name for name in PHASE_NAMES if name in present])
    told = "Phases are means over the ranks. Ranks wait for each other in backward, optimizer and save."
    return Section("Speed", told, [Charts([*charts, *phases] or [Curves(SPEED["samples_per_sec"], {})], marks)])


def _memory(runs: Sequence[Run], marks: Sequence[Mark]) -> Section:
    present = _names(runs)
    charts = [_chart(runs, f"GiB of a {what}", name) for name, what in MEMORY.items() if name in present]
    empty = [Curves("GiB of a process", {})]
    return Section("Memory", "The peak of the rank with the most.", [Charts(charts or empty, marks)])


def _names(runs: Sequence[Run]) -> list[str]:
    """List what the runs have logged, in the order in which it came."""
    steps = itertools.chain.from_iterable(run.steps for run in runs)
    return list(dict.fromkeys(itertools.chain.from_iterable(steps)))


def _charts(runs: Sequence[Run], title: str, names: Sequence[str]) -> list[Curves]:
    """Chart values that belong together: of one run together, of several in a chart each, with a curve for each run."""
    if len(runs) > 1 or len(names) == 1:
        return [_chart(runs, name, name) for name in names]
    return [Curves(title, {name.rpartition("/")[2]: _points(runs[0], name) for name in names})] if names else []


def _chart(runs: Sequence[Run], title: str, name: str) -> Curves:
    return Curves(title, {run.name: _points(run, name) for run in runs})


def _points(run: Run, name: str) -> list[tuple[int, float]]:
    return [(record["step"], record[name]) for record in run.steps if name in record]


def _evaluations(runs: Sequence[Run]) -> list[Section]:
    """Chart what `evaluate world` left in the runs' folders; nothing where it left nothing."""
    found = {run.name: read_evaluations(run.folder) for run in runs}
    rows = []
    for name, evaluations in found.items():
        rows += [
            (name, one.file, one.step, one.measure, one.num_given, one.num_windows, one.model, one.rival)
            for one in evaluations
        ]
    if not rows:
        return []
    header = ("run", "file", "step", "error", "latent frames given", "windows", "model", "repeating the last frame")
    kinds = dict.fromkeys((one.measure, one.num_given) for one in itertools.chain.from_iterable(found.values()))
    charts = [_errors(found, measure, num_given) for measure, num_given in kinds]
    return [Section("Evaluations", "On held-out windows.", [Charts(charts), Table(header, rows)])]


def _errors(found: dict[str, list[Evaluation]], measure: str, num_given: int) -> Curves:
    """Chart one kind of error over steps: of one run beside that of repeating the last frame, of several each run's."""
    curves: dict[str, Points] = {}
    for name, evaluations in found.items():
        alike = [one for one in evaluations if (one.measure, one.num_given) == (measure, num_given)]
        curves[name] = [(one.step, one.model) for one in alike]
        if len(found) == 1:
            curves["repeating the last frame"] = [(one.step, one.rival) for one in alike]
    return Curves(f"{measure}, {num_given} latent frames given", curves)


def _ranks(times: RankTimes | None, events: Iterable[Record]) -> list[Section]:
    """Step time by rank and phase, the slowest hosts named; nothing of a run on one rank."""
    if times is None or len(times.hosts) == 1:
        return []
    own = times.own_sec()
    slow = sorted(range(len(own)), key=own.__getitem__, reverse=True)[:MAX_RANKS]
    noted = Counter(said(event, "host") for event in events if event["event"] == "straggler")
    hosts = [(host, seconds, noted[host]) for host, seconds in times.slowest_hosts()[:MAX_RANKS]]
    rows = [(rank, times.hosts[rank], *(times.phases[phase][rank] for phase in PHASES)) for rank in slow]
    return [
        Section(
            "Ranks",
            f"Up to step {times.step:,}, seconds of a step. A rank's own are data and forward, in which it does not "
            "wait for all others; the rank with the longest is whom the others wait for.",
            [
                Charts([_rank_bars(times, slow)]),
                Table(("host", "own seconds", "times it held up the others"), hosts, "The slowest hosts first."),
                Table(("rank", "host", *PHASES), rows, "The slowest ranks first."),
            ],
        )
    ]


def _rank_bars(times: RankTimes, ranks: Sequence[int]) -> Bars:
    bars = {phase: [(f"rank {rank}", times.phases[phase][rank]) for rank in ranks] for phase in PHASES}
    return Bars("seconds of a step by rank", bars, x_label="the slowest first")


def _samples(run_dir: Path) -> list[Section]:
    """The newest videos in RUN/samples."""
    paths = sorted((run_dir / "samples").rglob("*.mp4"), key=lambda path: path.stat().st_mtime)[-MAX_SAMPLES:]
    rows = []
    for path in paths:
        try:
            clip = whole_video(path)
            frames = list(read_frames(clip, start_frame=0, num_frames=clip.num_frames))
        except (BadVideoError, ClipError, av.error.FFmpegError):
            continue  # being written, or torn by a crash
        to_rgb = RgbConverter()
        chosen = frames[:: max(1, -(-len(frames) // MAX_FRAMES))]
        rows.append(FrameRow(str(path.relative_to(run_dir)), [to_rgb(frame) for frame in chosen]))
    return [Section("Samples", items=[FrameRows(rows, "The newest, from their first frame on.")])] if rows else []


def _history(status: Record, events: Sequence[Record]) -> Section:
    rows = []
    for event in events:
        if event["event"] != "straggler":
            told = [f"{name} {_short(value)}" for name, value in event.items() if name not in ("event", "time", "step")]
            rows.append((_when(event.get("time", 0)), event["event"], event["step"], ", ".join(told)))
    crashes = [(crash["host"], crash["rank"], crash["sentence"]) for crash in status["crashes"]]
    first = next((said(event, "error") for event in events if event["event"] == "failed"), None)
    told = crashes[0][2] if crashes else first
    items: list = [Table(("UTC", "what", "step", "details"), rows)]
    if status["damaged"]:
        items.insert(0, Table(("damaged checkpoint", "why"), list(status["damaged"].items())))
    if crashes:
        items.insert(0, Table(("host", "rank", "crash"), crashes, "What its jobs crashed of."))
    return Section("What happened", f"The first error: {told}" if told else "No error.", items)


def _when(seconds: float) -> str:
    """Empty of a time that is none, or that no calendar has."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S") if 0 < seconds < YEAR_3000 else ""


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _configuration(run_dir: Path) -> Section:
    names = ("run.yaml", "environment.txt", "code.diff")
    files = [run_dir / name for name in names]
    contents = {path.name: path.read_text(errors="replace") for path in files if path.is_file()}
    return Section(
        "Configuration",
        items=[Text(content, caption=name) for name, content in contents.items() if content],
    )
