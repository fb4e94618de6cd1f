"""PyAV and DALI. What they decode is not guessed from version numbers: a clip of each codec is made and decoded."""

import io
import tempfile
import textwrap
from dataclasses import dataclass, field
from functools import partial
from json import loads
from pathlib import Path

from cosmos_launch.cli.doctor.child import TIMED_OUT, in_child, last_words
from cosmos_launch.cli.doctor.finding import Finding, Status, isolated, of_package, pip_install, version_of

# Codec -> PyAV's encoder, container, pixel format, encoder options.
CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "mjpeg": ("mjpeg", "avi", "yuvj420p", {}),
    "vp8": ("libvpx", "webm", "yuv420p", {}),
    "vp9": ("libvpx-vp9", "webm", "yuv420p", {}),
    "h264": ("libx264", "mp4", "yuv420p", {}),
    "hevc": ("libx265", "mp4", "yuv420p", {"x265-params": "log-level=none"}),
}
IMPORTED = "imported"
"""The first line of the child that tries DALI."""
NUM_FRAMES, HEIGHT_PX, WIDTH_PX = 16, 96, 128


def probe_decoders() -> list[Finding]:
    """Look at PyAV, at DALI and at each codec: a clip is written with PyAV, then read with PyAV and with DALI.

    What one of them raises is a finding of its own, and costs the others no line.
    """
    clips: dict[str, bytes] = {}
    findings = {codec: isolated(f"video {codec}", partial(_roundtrip, codec, clips))[0] for codec in CODECS}
    dali = isolated("DALI", partial(_probe_dali, clips, findings))
    return [*isolated("PyAV", _pyav), *dali, *findings.values()]


def _probe_dali(clips: dict[str, bytes], findings: dict[str, Finding]) -> Finding:
    """Look at DALI, and add to each codec's finding what DALI does with its clip."""
    build = _dali_build()
    trial = DaliTrial() if build is None else try_dali(clips)
    for codec, (broken, told) in trial.outcomes.items():
        pyav = findings[codec]
        status: Status = "wrong" if broken else pyav.status
        remedy = pyav.remedy or ("reinstall DALI, or decode with PyAV" if broken else "")
        findings[codec] = Finding(pyav.name, status, f"{pyav.detail}; {told}", remedy)
    return _dali(build, trial)


def _dali(build: str | None, trial: "DaliTrial") -> Finding:
    """Judge the installed build of DALI, if any, by whether it could be imported."""
    install = f"{pip_install('cosmos-train[dali]')}; on CUDA 12 {pip_install('nvidia-dali-cuda120')}"
    if build is None and version_of("nvidia-dali"):
        return Finding("DALI", "wrong", "nvidia-dali is an empty stub", f"pip uninstall nvidia-dali; {install}")
    if build is None:
        return Finding("DALI", "missing", "video is decoded by PyAV on the CPU, never by NVDEC", install)
    if trial.import_failure:
        return Finding("DALI", "wrong", f"{build} does not import: {trial.import_failure}", install)
    return Finding("DALI", "ok", build)


def _pyav() -> Finding:
    finding = of_package("av", "av", "no video can be read or written", "PyAV")
    if finding.status != "ok":
        return finding
    import av

    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    return Finding("PyAV", "ok", f"{av.__version__}, libavcodec {libavcodec}")


def _dali_build() -> str | None:
    builds = {name: version_of(name) for name in ("nvidia-dali-cuda130", "nvidia-dali-cuda120")}
    return next((f"{name} {version}" for name, version in builds.items() if version), None)


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
    """Encode a grey ramp that moves sideways for NUM_FRAMES frames."""
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


# The child says that DALI can be imported, then decodes one file after the other and says so line by line: a crash
# leaves the lines before it. DALI raises for a codec that it does not have on the CPU, which counts as no frames.
DALI_CHILD = textwrap.dedent("""
    import json, sys
    import numpy as np
    from nvidia.dali import fn, pipeline_def

    print("imported", flush=True)

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


@dataclass(frozen=True, kw_only=True)
class DaliTrial:
    """What DALI did with the clips."""

    import_failure: str = ""
    """Why it could not be imported; empty where it could, and where it is not installed."""
    outcomes: dict[str, tuple[bool, str]] = field(default_factory=dict)
    """Codec -> whether DALI is broken, and in words what it does."""


def try_dali(clips: dict[str, bytes]) -> DaliTrial:
    """Import DALI and decode the clips with it on the CPU, in child processes."""
    outcomes: dict[str, tuple[bool, str]] = {}
    with tempfile.TemporaryDirectory(prefix="cosmos-doctor-") as folder:
        waiting = {str(Path(folder, codec)): codec for codec in clips}
        for path, codec in waiting.items():
            Path(path).write_bytes(clips[codec])
        while True:
            child = in_child(DALI_CHILD, *waiting)
            said = child.stdout.splitlines()
            for line in said:
                if line.startswith('["'):
                    path, num_frames = loads(line)
                    outcomes[waiting.pop(path)] = _dali_outcome(num_frames)
            import_failure = "" if IMPORTED in said else last_words(child)
            # A crash costs the clip it came at, and the rest get a new child. A hang costs the rest too: time is short.
            lost = list(waiting) if import_failure or child.returncode == TIMED_OUT else list(waiting)[:1]
            for path in lost:
                outcomes[waiting.pop(path)] = (True, f"DALI fails: {last_words(child)}")
            if not waiting:
                return DaliTrial(import_failure=import_failure, outcomes=outcomes)


def _dali_outcome(num_frames: int) -> tuple[bool, str]:
    if num_frames == NUM_FRAMES:
        return False, "DALI decodes on the CPU"
    if num_frames == 0:
        return False, "DALI does not decode it on the CPU, PyAV stands in"
    return True, f"DALI decodes {num_frames} of {NUM_FRAMES} frames"
