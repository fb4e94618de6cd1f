"""`cosmos-train data build | check | pack`: videos -> a manifest -> what is wrong with it -> clips that are cheap to
read anywhere in. `data stats` is in `cosmos_launch.pages.data_page`."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from cosmos_data.errors import DataError
from cosmos_data.manifests.build import Built, build_manifest, listed, said_of_left_out
from cosmos_data.manifests.check import JOURNAL_SUFFIX, ManifestFinding, check_manifest
from cosmos_data.manifests.check_poses import prove_poses
from cosmos_data.manifests.clip import Clip
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.pack import PackRequest, pack_manifest
from cosmos_data.readers.bridge import GripperOpen
from cosmos_data.readers.metadataset import is_metadataset, read_metadataset
from cosmos_data.videos.shown import Rules
from cosmos_data.videos.written_codecs import PackCodec
from cosmos_train.train.telling.progress import progress

MOST_PRINTED = 50
"""Findings that are printed; the file of --out has all."""


def build(
    source: Path,
    out: Path,
    *,
    clip_frames: int,
    min_frames: int | None,
    keep_shots: bool,
    heldout_every: int,
    max_clips: int | None,
    cameras: Sequence[str],
    gripper_open: GripperOpen | None,
    pictures_fps: float | None,
    max_bad_share: float,
    pixels: Literal["square", "stored"],
    hdr: Literal["tone_map", "refuse", "keep"],
    interlaced: Literal["deinterlace", "refuse", "keep"],
    background: str,
) -> int:
    """Write the manifest; name what gave no clip, and what was left out. Returns the exit code.

    Clips are whole shots where clip_frames is 0, and none is held out where heldout_every is 0. Raises DataError where
    the source gives no clip or `out` is a folder.
    """
    if out.is_dir():
        raise DataError(f"--out {out} is a folder; name the manifest to write, such as {out / 'manifest.arrow'}")
    make = partial(
        build_manifest,
        clip_frames=clip_frames or None,
        heldout_every=heldout_every or None,
        min_frames=min_frames,
        split_shots=not keep_shots,
        max_bad_share=max_bad_share,
        cameras=cameras,
        gripper_open=gripper_open,
        pictures_fps=pictures_fps,
        rules=Rules(pixels=pixels, hdr=hdr, interlaced=interlaced, background=background),
    )
    if is_metadataset(source):
        return _build_blend(source, out, make, max_clips)
    _build_one(source, out, make, max_clips)
    return 0


Make = Callable[..., Built]
"""`build_manifest` with what the command line says of it; it takes the source, and keywords."""


def _build_blend(source: Path, out: Path, make: Make, max_clips: int | None) -> int:
    """Make a manifest for each energon folder of a metadataset; print the keys that blend them as it does."""
    parts, forgotten = read_metadataset(source)
    for key in forgotten:
        print(f"left out: {key} of {source}, which says how energon reads and changes no weight")
    first, *others = sorted(parts, key=lambda part: part.weight == 0)  # stable: those that are trained on come first
    _build_one(first.folder, out, partial(make, splits=first.splits), max_clips)
    blend = {}
    for number, part in enumerate(others, start=1):
        beside = out.with_name(f"{out.stem}.{number}-{part.folder.name}{out.suffix}")
        _build_one(part.folder, beside, partial(make, splits=part.splits), max_clips)
        if part.weight:
            blend[str(beside)] = part.weight / first.weight
    weights = ", ".join(f"{path}: {weight:.6g}" for path, weight in blend.items())
    print(f"to train on this blend: data.manifest={out} 'data.blend={{{weights}}}'")
    return 0


def _build_one(source: Path, out: Path, make: Make, max_clips: int | None) -> None:
    with progress("read", "videos") as advance:
        built = make(source, gathered_folder=out.with_suffix(".frames"), progress=advance)
    manifest = built.manifest
    if not len(manifest):
        raise DataError(
            f"{source} gives no clip of {built.num_videos} videos, so {out} is not written:\n{listed(built.bad)}"
        )
    if max_clips is not None and len(manifest) > max_clips:
        print(f"{len(manifest)} clips found, {max_clips} kept, evenly spread")
        manifest = Manifest(tuple(manifest[row * len(manifest) // max_clips] for row in range(max_clips)))
    manifest.write(out)
    for video in built.bad:
        print(f"skipped {video.path}: {video.reason}")
    for line in said_of_left_out(built.left_out):
        print(f"left out: {line}")
    if built.by_time:
        print(f"read by time, since rates differ: {len(built.by_time)} videos ({built.by_time[0]})")
    for line in said_of_treatment(manifest):
        print(line)
    counts = {split: sum(clip.split == split for clip in manifest) for split in ("train", "heldout")}
    print(
        f"found {built.num_videos} videos: {len(manifest)} clips ({counts['train']} train, {counts['heldout']} held"
        f" out), {len(built.bad)} videos skipped -> {out}"
    )


def check(source: Path, *, target_fps: float | None, poses: bool, out: Path | None) -> int:
    """Print what is wrong, errors first. Returns the exit code: 2 where there is an error.

    poses: whether cameras are compared with the pictures, a line for each.
    """
    manifest = Manifest.read(source)
    journal = source.with_name(source.name + JOURNAL_SUFFIX)
    with progress("check", "files") as advance:
        findings = check_manifest(manifest, journal=journal, target_fps=target_fps, progress=advance)
    for line in said_of_treatment(manifest):
        print(line)
    if poses:
        with progress("prove", "cameras") as advance:
            proofs = list(prove_poses(manifest, progress=advance))
        for proof in proofs:
            print(proof.line)
            findings += proof.findings()
        if not proofs:
            print("no clip has a camera whose poses could be proven")
    findings.sort(key=lambda finding: finding.level != "error")
    lines = [_line(finding) for finding in findings]
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    for line in lines[:MOST_PRINTED]:
        print(line)
    if len(lines) > MOST_PRINTED:
        print(f"... and {len(lines) - MOST_PRINTED} more; --out writes all of them")
    num_errors = sum(finding.level == "error" for finding in findings)
    print(f"{len(manifest)} clips: {num_errors} errors, {len(findings) - num_errors} warnings")
    return 2 if num_errors else 0


def pack(
    source: Path,
    out: Path,
    *,
    codec: PackCodec | Literal["copy"],
    height_px: int | None,
    width_px: int | None,
    allow_upscale: bool,
    gop_frames: int,
    shard_mib: int | None,
) -> int:
    """Write the clips and their manifest. Returns the exit code."""
    request = PackRequest(
        codec=codec,
        height_px=height_px,
        width_px=width_px,
        allow_upscale=allow_upscale,
        gop_frames=gop_frames,
        shard_mib=shard_mib,
    )
    manifest = Manifest.read(source)
    with progress("pack", "clips") as advance:
        packed = pack_manifest(manifest, out, request, progress=advance)
    first = packed[0]
    print(f"{len(packed)} clips, {first.width_px}x{first.height_px} {first.codec} -> {out / 'manifest.arrow'}")
    return 0


def said_of_treatment(clips: Iterable[Clip]) -> Iterator[str]:
    """Yield a line for each thing that is made of pictures before anybody sees them; it says of how many clips."""
    counts: Counter[str] = Counter()
    for clip in clips:
        counts.update(view.treatment for view in clip.each_view() if view.treatment)
    for treatment, count in sorted(counts.items()):
        yield f"shown otherwise than stored: {count} clips: {treatment}"


def _line(finding: ManifestFinding) -> str:
    return f"{finding.level}: {finding.where}: {finding.text}"
