"""Are conditions followed? Post-training of small worlds by a camera's path, by actions, by an instruction.

    python benchmarks/control.py --out runs/control                    # all three: some two hours on 2 quiet cores
    python benchmarks/control.py --out runs/control --only action

The way of a user from end to end: a simulated world (`cosmos-train data simulate`), a tokenizer, its latents, a
Video2World model without a condition, and from that the post-training; the runs are those of configs/run/control. Then
held-out clips: what the condition was about is found again in the generated frames, by estimators that never see the
command, beside the same of true frames (the floor) and of shuffled commands (the ceiling). Whatever is there already is
not made again.

Prints a JSON line for each figure and a line for all, writes OUT/report.html, and exits with 1 where a goal is missed.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

from control_measures import Measured, measure_action, measure_camera, measure_instruction
from goals import tell_goals
from provenance import provenance

from cosmos_data.simulate.config import PusherConfig, RoomConfig
from cosmos_launch.pages.contents import Fact, FrameRow, FrameRows, Report, Section, Table
from cosmos_launch.pages.page import write_report
from cosmos_launch.pages.run_records import read_metrics
from cosmos_train.evaluate.following.figure import Figure

NUM_TRAIN, NUM_PATHS, NUM_HELDOUT = 8000, 16000, 32
"""The small models learn 2,000 clips much by heart: pushes of other clips go less far than they should. Clips of the
room are half as long, and twice as many."""
NUM_FRAMES, NUM_PATH_FRAMES, NUM_TASK_FRAMES = 17, 9, 25
STEP_M = 0.9
"""So far the camera may go along each axis. In pictures of 32 pixels a small move looks much like a small turn."""
TOKENIZER_STEPS = 1200
"""More than the recipe has: where a small thing is must not be lost between pixels and latents."""
MOST_MINUTES = 20.0
"""A post-training may take so long."""


@dataclass(frozen=True, slots=True)
class Goal:
    """Figures whose names end so must lie between two numbers."""

    ending: str
    least: float = float("-inf")
    most: float = float("inf")
    share_of: Literal["", "floor", "ceiling"] = ""
    """The numbers are shares of what true frames have, or of what frames have that follow nothing."""

    def missed(self, figure: Figure) -> str:
        """Say how a figure misses it; empty where it does not, or where it is another figure's goal."""
        if not figure.name.endswith(self.ending):
            return ""
        whole = {"": 1.0, "floor": figure.floor, "ceiling": figure.ceiling}[self.share_of]
        value = figure.value / whole if whole else float("nan")  # a share of nothing meets no goal
        if self.least <= value <= self.most:
            return ""
        what = f" of its {self.share_of}" if self.share_of else ""
        return f"{figure.name} is {value:.3g}{what}, not from {self.least:g} to {self.most:g}"


COUNTERFACTUAL = Goal("in errors to the own", least=5.0)
MOVES = Goal("movement under commands", least=0.5, share_of="floor")
DENOISING = [Goal(f"the own command at sigma {sigma}", least=0.95) for sigma in (1, 3, 10)]
"""These noise levels hide what moves and not yet everything."""
KEPT_QUALITY = Goal("in the error before the post-training", most=1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Study:
    """One condition, and what it takes to train and to measure it."""

    title: str
    clips: str
    """Folder of the clips of the post-training, below OUT."""
    world: str
    """Folder of tokenizer and Video2World model, below OUT."""
    base: str
    run: str
    """Runs without and with the condition."""
    simulate: Sequence[str]
    """Words of `data simulate` that make the clips, of this length."""
    num_frames: int
    num_train: int
    """So many clips are trained on."""
    measure: Callable[[Path], Measured]
    goals: Sequence[Goal]


STUDIES = {
    "camera": Study(
        title="A camera's path",
        clips="room/clips",
        world="room",
        base="run/control/room_world",
        run="run/control/room_camera",
        simulate=["room", f"room.step_m={STEP_M}"],
        num_frames=NUM_PATH_FRAMES,
        num_train=NUM_PATHS,
        measure=lambda run_dir: measure_camera(run_dir, RoomConfig(num_frames=NUM_PATH_FRAMES, step_m=STEP_M)),
        goals=[
            Goal("rotation error", most=3.0),
            Goal("share of the move", most=0.15),
            COUNTERFACTUAL,
            Goal("there and back", most=0.5, share_of="ceiling"),
            Goal("in moves under the command", least=1.6, most=2.4),
            MOVES,
            *DENOISING,
            KEPT_QUALITY,
        ],
    ),
    "action": Study(
        title="Actions of a hand",
        clips="pusher/clips",
        world="pusher",
        base="run/control/pusher_world",
        run="run/control/pusher_action",
        simulate=["pusher"],
        num_frames=NUM_FRAMES,
        num_train=NUM_TRAIN,
        measure=lambda run_dir: measure_action(run_dir, PusherConfig(num_frames=NUM_FRAMES)),
        goals=[
            *(Goal(f"place correlation in {axis}", least=0.95) for axis in "xy"),
            *(Goal(f"place slope in {axis}", least=0.8, most=1.2) for axis in "xy"),
            *(Goal(f"place error in {axis}", most=1.0) for axis in "xy"),
            Goal("way under no action", most=0.5),
            COUNTERFACTUAL,
            Goal("inverse dynamics R^2", least=0.9, share_of="floor"),
            MOVES,
            *DENOISING,
            KEPT_QUALITY,
        ],
    ),
    "instruction": Study(
        title="An instruction",
        clips="tasks/clips",
        world="pusher",
        base="run/control/pusher_world",
        run="run/control/pusher_instruction",
        simulate=["pusher", "pusher.policy=task"],
        num_frames=NUM_TASK_FRAMES,
        num_train=NUM_TRAIN,
        measure=lambda run_dir: measure_instruction(run_dir, PusherConfig(num_frames=NUM_TASK_FRAMES)),
        goals=[Goal("right task of two", least=0.9), KEPT_QUALITY],
    ),
}


@dataclass(frozen=True, slots=True)
class Result:
    """A result holds what was found in one study."""

    study: Study
    measured: Measured
    minutes: float
    """The post-training took so long."""

    @property
    def missed(self) -> list[str]:
        """Say which goals are missed, and how.

        Raises ValueError where a goal is of no figure, and so would be met whatever is measured.
        """
        names = [figure.name for figure in self.measured.figures]
        for goal in self.study.goals:
            if not any(name.endswith(goal.ending) for name in names):
                raise ValueError(f"no figure of {names} is named as the goal {goal.ending!r}; correct its ending")
        found = [goal.missed(figure) for figure, goal in product(self.measured.figures, self.study.goals)]
        if self.minutes > MOST_MINUTES:
            found.append(f"post-training took {self.minutes:.1f} minutes, not {MOST_MINUTES:g} at most")
        return [text for text in found if text]


def main() -> None:
    parser = argparse.ArgumentParser(description="Are conditions followed? Small worlds, held-out clips.")
    parser.add_argument("--out", type=Path, default=Path("runs/control"), help="folder of all results")
    parser.add_argument("--only", choices=STUDIES, nargs="+", default=list(STUDIES), help="the conditions to study")
    parser.add_argument("--nproc", type=int, default=2, help="processes that train")
    options = parser.parse_args()
    out, results = options.out.absolute(), list[Result]()
    for name in options.only:
        results.append(carried_out(name, STUDIES[name], out, options.nproc))
    write_report(out / "report.html", page_of(results))
    missed = list[str]()
    for result in results:
        missed += [f"{result.study.title}: {text}" for text in result.missed]
    sys.exit(tell_goals(missed))


def carried_out(name: str, study: Study, out: Path, nproc: int) -> Result:
    """Make what is not there yet, measure, and print the figures."""
    world, clips, run_dir = out / study.world, out / study.clips, out / name
    tokenizer = [f"latents.tokenizer={world}/tokenizer/tokenizer", "tracking.wandb=disabled"]
    base_clips = world / "clips"
    base = [study.base, f"data.manifest={base_clips}/manifest.arrow", f"latents.folder={world}/latents", *tokenizer]
    of_world = STUDIES["camera" if study.world == "room" else "action"]
    simulate(of_world, base_clips)
    simulate(study, clips)
    made = [f"data.manifest={base_clips}/manifest.arrow", f"run_dir={world}/tokenizer", "tracking.wandb=disabled"]
    made += [f"train.num_steps={TOKENIZER_STEPS}", f"data.num_frames={of_world.num_frames}"]
    train(["run/simulated_tokenizer", *made], world / "tokenizer/tokenizer", nproc)
    cosmos_train("tokenize", *base, "--nproc", str(nproc))
    train([*base, f"run_dir={world}/world"], world / "world/done", nproc)
    latents = clips.parent / "latents"
    post = [study.run, f"data.manifest={clips}/manifest.arrow", f"latents.folder={latents}", *tokenizer]
    cosmos_train("tokenize", *post, "--nproc", str(nproc))
    train([*post, f"run_dir={run_dir}", f"checkpoint.init_from={world}/world"], run_dir / "done", nproc)
    logged = [record for record in read_metrics(run_dir / "metrics.jsonl") if "step_sec" in record]
    step_sec = sorted(record["step_sec"] for record in logged)[len(logged) // 2]
    result = Result(study, study.measure(run_dir), logged[-1]["step"] * step_sec / 60)
    for figure in result.measured.figures:
        print(f"# {figure}", flush=True)
        shown = {"figure": figure.name, "value": figure.value, "floor": figure.floor, "ceiling": figure.ceiling}
        print(json.dumps({"benchmark": "control", "study": name, **shown, "clips": figure.num_clips}), flush=True)
    summary = {"train_min": round(result.minutes, 1), "missed": result.missed, "processes": nproc}
    print(json.dumps({"benchmark": "control", "study": name, **summary, **provenance()}), flush=True)
    return result


def simulate(study: Study, clips: Path) -> None:
    """Make a study's folder of clips, where it is not there yet."""
    if not (clips / "manifest.arrow").exists():
        clips.parent.mkdir(parents=True, exist_ok=True)
        counts = ["--frames", str(study.num_frames), "--clips", str(study.num_train), "--heldout", str(NUM_HELDOUT)]
        cosmos_train("data", "simulate", *study.simulate, "--out", str(clips), *counts)


def train(words: Sequence[str], result: Path, nproc: int) -> None:
    """Carry a run out, or go on with it, where its result is not there yet."""
    if not result.exists():
        cosmos_train("train", *words, "--nproc", str(nproc))
        result.touch()


def cosmos_train(*arguments: str) -> None:
    """Run a command as a user does. Exits as it did where it fails."""
    code = subprocess.run([sys.executable, "-m", "cosmos_launch.cli", *arguments], stdout=sys.stderr).returncode
    if code:
        sys.exit(code)


def page_of(results: Sequence[Result]) -> Report:
    """Return a page with the figures and some clips of each study."""
    sections = []
    for result in results:
        rows = [
            (one.name, one.unit, *(f"{x:.3g}" for x in (one.value, one.floor, one.ceiling)))
            for one in result.measured.figures
        ]
        strips = [FrameRow(strip.label, list(strip.frames_THW3)) for strip in result.measured.strips]
        header = ["figure", "unit", "generated", "true frames", "shuffled commands"]
        sections.append(
            Section(
                title=result.study.title,
                text="; ".join(result.missed) or "All goals are met.",
                items=[
                    Table(header=header, rows=rows, caption="Held-out clips; estimators never see the command."),
                    FrameRows(rows=strips, caption="The same first frame under two commands."),
                ],
            )
        )
    facts = [
        Fact(result.study.title, "followed" if not result.missed else "missed", f"{result.minutes:.0f} min of training")
        for result in results
    ]
    return Report(title="Are conditions followed?", summary=facts, sections=sections)


if __name__ == "__main__":
    main()
