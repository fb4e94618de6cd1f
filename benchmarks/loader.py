"""Random windows decoded by this project and by its rivals, in one run: same clips, same windows, interleaved.

    python benchmarks/loader.py --gops 12 60 250 --windows 24 --rounds 3

Prints JSON lines: frames per second of each way to read 1 + 8n frames of 256p at random places, and the memory that its
process held at most. Ways that are not installed are named and passed over (decord, torchcodec, webdataset are on no
list of requirements). Everyone gives uint8 RGB at the clip's own size, with as many threads.

    ours        the sample plan on packed tar shards, PyAVDecoder
    pyav        open, seek, decode forward, to_ndarray: what a loader without this project does first
    naive       open, decode from the first frame on until the window is full
    decord, torchcodec          their get_batch / get_frames_at, a reader opened for each window
    webdataset  tars read from the front (it has no random access): a sample's whole video is decoded, one window kept
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
from provenance import commit

from cosmos_data.clip import Clip
from cosmos_data.config import DataConfig
from cosmos_data.decode import PyAVDecoder
from cosmos_data.encoding import encode_pictures
from cosmos_data.loader import VideoBatches
from cosmos_data.manifest import Manifest
from cosmos_data.plan import Part, Sample, SamplePlan

HEIGHT_PX, WIDTH_PX, CLIP_FRAMES, BATCH = 256, 320, 300, 4


def make_clips(folder: Path, gop_frames: int, num_clips: int) -> Manifest:
    """Moving noise textures in H.264, packed into tar shards; and the same bytes as files for the rivals."""
    import torch

    from cosmos_data.build import build_manifest
    from cosmos_data.pack import PackRequest, pack_manifest

    videos = folder / "videos"
    videos.mkdir(parents=True)
    for number in range(num_clips):
        small = torch.rand(1, 3, 24, 30 + CLIP_FRAMES // 10, generator=torch.Generator().manual_seed(number)) * 255
        wide = torch.nn.functional.interpolate(small, (HEIGHT_PX, WIDTH_PX + CLIP_FRAMES), mode="bicubic").clamp(0, 255)
        pictures = (wide[0, :, :, t : t + WIDTH_PX].to(torch.uint8) for t in range(CLIP_FRAMES))
        path = videos / f"{number:03d}.mp4"
        encode_pictures(pictures, path, 24.0, HEIGHT_PX, WIDTH_PX, "h264", gop_frames=gop_frames)
    manifest, _ = build_manifest(videos, None, None, split_shots=False)
    pack_manifest(manifest, folder / "shards", PackRequest(codec="copy", shard_mib=64))
    return manifest


def read_pyav(sample: Sample, *, seek: bool) -> np.ndarray:
    wanted = range(sample.start_frame, sample.start_frame + sample.num_frames)
    found = []
    with av.open(sample.clip.path) as container:
        stream = container.streams.video[0]
        base = float(stream.time_base or 1)
        if seek:
            container.seek(int(sample.start_frame / 24 / base), stream=stream, backward=True)
        for frame in container.decode(stream):
            number = round((frame.pts or 0) * base * 24)
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
    from torchcodec.decoders import VideoDecoder  # pyright: ignore[reportMissingImports]

    decoder = VideoDecoder(sample.clip.path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="approximate")
    return decoder[sample.start_frame : sample.start_frame + sample.num_frames].numpy()


RIVALS: dict[str, Callable[[Sample], np.ndarray]] = {
    "pyav": lambda sample: read_pyav(sample, seek=True),
    "naive": lambda sample: read_pyav(sample, seek=False),
    "decord": read_decord,
    "torchcodec": read_torchcodec,
}


def run_ours(folder: Path, config: DataConfig, first: int, count: int) -> int:
    plan = SamplePlan([Part(Manifest.read(folder / "shards/manifest.parquet"))], 0, config)
    lists = [range(start, start + BATCH) for start in range(first, first + count, BATCH)]
    decoder = PyAVDecoder(config.num_workers)
    return sum(batch.pixels_B3THW.shape[0] * config.num_frames for batch in VideoBatches(plan, decoder, lists))


def run_webdataset(folder: Path, config: DataConfig, count: int) -> int:
    import io

    import webdataset  # pyright: ignore[reportMissingImports]

    shards = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    data = iter(webdataset.WebDataset(shards, shardshuffle=False).repeat())

    def decode(content: bytes) -> int:
        with av.open(io.BytesIO(content), "r") as container:
            return len([f.to_ndarray(format="rgb24") for f in container.decode(video=0)][: config.num_frames])

    with ThreadPoolExecutor(config.num_workers) as pool:
        return sum(pool.map(decode, [next(data)["mp4"] for _ in range(count)]))


def measure(way: str, folder: Path, config: DataConfig, clips: Sequence[Clip], first: int, count: int, answer) -> None:
    """In a process of its own: frames per second without imports, and its peak memory."""
    if way == "ours":
        work: Callable[[], int] = lambda: run_ours(folder, config, first, count)  # noqa: E731
    elif way == "webdataset":
        work = lambda: run_webdataset(folder, config, count)  # noqa: E731
    else:
        plan = SamplePlan([Part(Manifest(tuple(clips)))], 0, config)
        samples = [plan.sample(index) for index in range(first, first + count)]
        RIVALS[way](samples[0])  # imports

        def work() -> int:
            with ThreadPoolExecutor(config.num_workers) as pool:
                return sum(len(window) for window in pool.map(RIVALS[way], samples))

    started = time.perf_counter()
    frames = work()
    seconds = time.perf_counter() - started
    answer.put((frames / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def time_to_first_batch(folder: Path, config: DataConfig, index: int) -> float:
    """Seconds from nothing to the first batch of a run that was at sample `index`."""
    started = time.perf_counter()
    run_ours(folder, config, index, BATCH)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Random windows: this project against its rivals.")
    parser.add_argument("--gops", type=int, nargs="+", default=[12, 60, 250])
    parser.add_argument("--windows", type=int, default=24, help="windows a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--frames", type=int, default=17, help="frames of a window: 1 + 8n")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    ways = ["ours", "pyav", "naive"]
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
    processes = multiprocessing.get_context("spawn")
    for gop in arguments.gops:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            manifest = make_clips(folder, gop, arguments.clips)
            rates: dict[str, list[float]] = {way: [] for way in ways}
            memory: dict[str, float] = dict.fromkeys(ways, 0.0)
            for number in range(arguments.rounds):
                for way in ways:
                    answer = processes.SimpleQueue()
                    work = (way, folder, config, manifest.clips, number * arguments.windows, arguments.windows, answer)
                    process = processes.Process(target=measure, args=work)
                    process.start()
                    process.join()
                    assert process.exitcode == 0, f"{way} failed"
                    rate, mib = answer.get()
                    rates[way].append(rate)
                    memory[way] = max(memory[way], mib)
            for way in ways:
                ratios = [one / ours for one, ours in zip(rates[way], rates["ours"], strict=True)]
                result = {"gop": gop, "way": way, "frames_per_sec": round(statistics.median(rates[way]), 1)}
                result |= {"of_ours": round(statistics.median(ratios), 3), "peak_mib": round(memory[way])}
                print(json.dumps(result | {"commit": commit()}), flush=True)
            first = {index: round(time_to_first_batch(folder, config, index), 3) for index in (0, 10**6, 10**9)}
            print(json.dumps({"gop": gop, "seconds_to_first_batch_at_sample": first}), flush=True)


if __name__ == "__main__":
    main()
