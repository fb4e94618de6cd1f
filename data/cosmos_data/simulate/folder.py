"""A folder of a simulated world: videos, their labels and a manifest as real footage has one.

    folder/
      settings.json                   what the folder is a function of
      train/000000.avi                a video for each clip; of several views NAME.VIEW.avi
            000000.labels.npz         its labels (cosmos_data.simulate.labels)
            000000.json               its caption, cameras and actions, as a listing says them; written last
      heldout/1000000.avi ...         clips of seeds that no training clip has
      clips.jsonl                     all clips as one listing
      manifest.arrow                  written when all else is there

Every clip is a function of its own seed, so it is the same whoever makes it, in whatever order. A clip whose .json is
there is whole. What a kill leaves is gone on with by the same request: clips that are whole stay.
"""

import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from cosmos_data.errors import DataError
from cosmos_data.location import file_sha256
from cosmos_data.manifests.build import build_manifest
from cosmos_data.manifests.clip import Split
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import plain_values
from cosmos_data.simulate.clips import SimulatedClip, SimulatedView
from cosmos_data.simulate.config import ArmConfig, MujocoConfig, TableConfig, WorldConfig, name_of
from cosmos_data.simulate.labels import SUFFIX, labels_bytes, labels_of
from cosmos_data.simulate.mujoco_policies import file_of
from cosmos_data.simulate.renderers import found_renderer
from cosmos_data.simulate.worlds import open_world
from cosmos_data.videos.written_codecs import ENCODINGS, PackCodec, encode_pictures
from cosmos_data.whole_file import PARTIAL, remove_abandoned, whole_file
from cosmos_data.writer import is_gone, own_name

FIRST_HELDOUT_SEED = 1_000_000
"""Training clips of seed 0 have the seeds 0, 1, ...; held-out ones these."""
SEEDS_EACH = 2 * FIRST_HELDOUT_SEED
"""A request's seed moves all of them by so many."""
SETTINGS, LISTING, MANIFEST = "settings.json", "clips.jsonl", "manifest.arrow"
LAYOUT_VERSION = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationRequest:
    """What a folder of a simulated world is a function of."""

    world: WorldConfig
    num_train: int
    num_heldout: int = 0
    seed: int = 0
    """Other seeds have other clips, all of them."""
    codec: PackCodec = "mjpeg"

    def __post_init__(self) -> None:
        for name, count, least in (("num_train", self.num_train, 1), ("num_heldout", self.num_heldout, 0)):
            if not least <= count <= FIRST_HELDOUT_SEED:
                raise DataError(f"{name}={count} must be at least {least} and at most {FIRST_HELDOUT_SEED}")
        if not 0 <= self.seed < 2**40:
            raise DataError(f"seed={self.seed} must be at least 0 and less than 2^40")

    def settings(self) -> dict[str, Any]:
        """Return what the folder keeps of the request, by the names of its keys: also the digests of the user's files,
        and the renderer that this machine has, since another one draws other pictures.

        Raises:
            DataError: the world is MuJoCo's, and its policy or every renderer is missing.
        """
        name = name_of(self.world)
        of_world = {f"{name}.{key}": value for key, value in asdict(self.world).items()}
        counts = {"num_train": self.num_train, "num_heldout": self.num_heldout, "seed": self.seed}
        of_files = dict[str, str]()
        if isinstance(self.world, MujocoConfig):
            of_files["mujoco.xml sha256"] = file_sha256(self.world.xml)
        if isinstance(self.world, TableConfig | ArmConfig | MujocoConfig):
            of_world[f"{name}.renderer"] = found_renderer(self.world.renderer)
            if ":" in self.world.policy:
                of_files[f"{name}.policy sha256"] = file_sha256(file_of(self.world.policy))
        return {"layout_version": LAYOUT_VERSION, "world": name, "codec": self.codec, **counts, **of_world, **of_files}


def simulate(
    folder: str | Path,
    request: SimulationRequest,
    *,
    num_workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Write the folder above, or what is missing of it, and return its manifest.

    Args:
        num_workers: processes that make clips; the bytes do not depend on it.
        progress: called with (clips that are there, clips in all).

    Raises:
        DataError: something else is in the folder, or a clip can not be made.
    """
    folder = Path(folder).absolute()
    if num_workers < 1:
        raise DataError(f"num_workers={num_workers} must be at least 1")
    open_world(request.world)  # what is wrong with it is said before anything is written
    _enter(folder, request)
    if (folder / MANIFEST).exists():
        return Manifest.read(folder / MANIFEST)
    every = list(_clips_of(request))
    missing = [clip for clip in every if not _row_path(folder, *clip).exists()]
    done = len(every) - len(missing)
    for _ in _written(folder, request, missing, num_workers):
        done += 1
        if progress is not None:
            progress(done, len(every))
    with whole_file(folder / LISTING) as aside:
        aside.write_text("".join(_line(folder, split, seed) for split, seed in every), encoding="utf-8")
    manifest = build_manifest(
        folder / LISTING, request.world.num_frames, None, split_shots=False, max_bad_share=0.0
    ).manifest
    manifest.write(folder / MANIFEST)
    return Manifest.read(folder / MANIFEST)


def _enter(folder: Path, request: SimulationRequest) -> None:
    """Make the folder this request's, or find that it is, and clear away what killed processes have left there."""
    path = folder / SETTINGS
    settings = json.loads(json.dumps(request.settings()))  # as it is stored: tuples become lists
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file, and clips go into a folder; choose another path, or remove it")
        if folder.exists():
            remove_abandoned(folder)  # a kill in the first moments leaves these settings half-written
        # Those of a process that is still there have a name of their own.
        if folder.exists() and any(not path.name.endswith(PARTIAL) for path in folder.iterdir()):
            raise DataError(f"{folder} exists already and is no simulated world; choose another folder, or remove it")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{folder} can not be made ({error.strerror}); choose another path") from error
        with whole_file(path) as aside:
            aside.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    stored = json.loads(path.read_text(encoding="utf-8"))
    for key in {**settings, **stored}:
        if settings.get(key) != stored.get(key):
            raise DataError(
                f"{folder} was begun with {key}={stored.get(key)}, and this asks for {key}={settings.get(key)};"
                " choose another folder, remove it, or ask for the same"
            )
    remove_abandoned(folder)
    for aside in folder.glob(f"*/.*{PARTIAL}"):
        if is_gone(aside.name.split(".")[-3]):
            shutil.rmtree(aside)


def _clips_of(request: SimulationRequest) -> Iterator[tuple[Split, int]]:
    first = request.seed * SEEDS_EACH
    first_heldout = first + FIRST_HELDOUT_SEED
    seeds: dict[Split, range] = {
        "train": range(first, first + request.num_train),
        "heldout": range(first_heldout, first_heldout + request.num_heldout),
    }
    for split, of_split in seeds.items():
        for seed in of_split:
            yield split, seed


def _row_path(folder: Path, split: Split, seed: int) -> Path:
    return folder / split / f"{seed:06d}.json"


def _line(folder: Path, split: Split, seed: int) -> str:
    """Return a clip's line of the listing, in which paths begin at the folder."""
    row = json.loads(_row_path(folder, split, seed).read_text(encoding="utf-8"))
    for file in (row, *row.get("views", ()), row["labels_file"]):
        file["path"] = f"{split}/{file['path']}"
    return json.dumps(row) + "\n"


def _written(
    folder: Path, request: SimulationRequest, clips: list[tuple[Split, int]], num_workers: int
) -> Iterator[None]:
    """Make clips, and yield whenever one is whole."""
    if min(num_workers, len(clips)) <= 1:
        for split, seed in clips:
            yield _write_clip(folder, request, split, seed)
        return
    # Spawned, not forked: torch's threads and a renderer's context do not survive a fork.
    spawning = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(num_workers, len(clips)), mp_context=spawning, initializer=_end_with_parent)
    try:
        made = [pool.submit(_write_clip, folder, request, split, seed) for split, seed in clips]
        yield from map(Future[None].result, as_completed(made))
    except BrokenProcessPool as error:
        raise DataError(
            f"a process that makes clips in {folder} was killed, or its renderer crashed (`cosmos-train doctor` tries"
            " it); with free memory, or fewer workers, the same command goes on where it was"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, even by SIGKILL: a pool alone would wait for ever."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked to stop, and stops the pool
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_clip(folder: Path, request: SimulationRequest, split: Split, seed: int) -> None:
    """Make a clip's files aside, then give them their names, the row's last."""
    clip = open_world(request.world).clip(seed)
    row_path = _row_path(folder, split, seed)
    aside = row_path.parent / f".{row_path.stem}.{own_name()}.{uuid4().hex[:8]}{PARTIAL}"
    aside.mkdir(parents=True)
    try:
        names = [_video_name(row_path.stem, view, request.codec) for view in clip.views]
        for name, view in zip(names, clip.views, strict=True):
            _encode(view, clip.fps, aside / name, request.codec)
        name_of_labels = row_path.stem + SUFFIX
        (aside / name_of_labels).write_bytes(labels_bytes(labels_of(clip)))
        row = _row(clip, names, split) | {"labels_file": {"path": name_of_labels}}
        (aside / row_path.name).write_text(json.dumps(row), encoding="utf-8")
        for path in sorted(aside.iterdir(), key=lambda path: path.name == row_path.name):
            path.replace(row_path.with_name(path.name))
    finally:
        shutil.rmtree(aside)


def _video_name(stem: str, view: SimulatedView, codec: PackCodec) -> str:
    return f"{stem}{'.' if view.name else ''}{view.name}{ENCODINGS[codec].suffix}"


def _encode(view: SimulatedView, fps: float, path: Path, codec: PackCodec) -> None:
    pictures_3HW = torch.from_numpy(view.pictures_THW3).permute(0, 3, 1, 2).unbind()
    _, height_px, width_px, _ = view.pictures_THW3.shape
    encode_pictures(pictures_3HW, path, fps, height_px, width_px, codec)


def _row(clip: SimulatedClip, names: list[str], split: Split) -> dict[str, Any]:
    """Return what a listing says of the clip; paths begin at the row's own folder."""
    first, *others = [_said_of_view(view, name) for view, name in zip(clip.views, names, strict=True)]
    row = first | {"caption": clip.caption, "split": split}
    if others:
        row["views"] = [view | {"caption": clip.caption} for view in others]
    signals = {"action": clip.action, "state": clip.state}
    row |= {name: plain_values(signal) for name, signal in signals.items() if signal is not None}
    return row


def _said_of_view(view: SimulatedView, name: str) -> dict[str, Any]:
    said: dict[str, Any] = {"path": name}
    if view.name:
        said["view"] = view.name
    if view.camera is not None:
        said["camera"] = plain_values(view.camera)
    return said
