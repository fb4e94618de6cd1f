"""`cosmos-train data build | pack`: a folder of videos -> a manifest -> clips that are cheap to read anywhere in."""

from pathlib import Path

from cosmos_data.build import build_manifest
from cosmos_data.errors import DataError
from cosmos_data.manifest import Manifest
from cosmos_data.pack import PackCodec, pack_manifest
from cosmos_launch.progress import progress


def build(
    folder: Path, out: Path, *, clip_frames: int, heldout_every: int, max_bad_share: float, max_clips: int | None = None
) -> int:
    """Write the manifest; name the videos that gave no clip. Returns the exit code."""
    if out.is_dir():
        raise DataError(f"--out {out} is a folder; name the manifest to write, such as {out / 'manifest.parquet'}")
    with progress("read", "videos") as advance:
        manifest, bad = build_manifest(
            folder, clip_frames, heldout_every, max_bad_share=max_bad_share, progress=advance
        )
    if max_clips is not None and len(manifest) > max_clips:
        print(f"{len(manifest)} clips found, {max_clips} kept, evenly spread")
        manifest = Manifest(tuple(manifest[row * len(manifest) // max_clips] for row in range(max_clips)))
    out.parent.mkdir(parents=True, exist_ok=True)
    manifest.write(out)
    for video in bad:
        print(f"skipped {video.path}: {video.reason}")
    counts = {split: sum(clip.split == split for clip in manifest) for split in ("train", "heldout")}
    print(
        f"{len(manifest)} clips of {clip_frames} frames ({counts['train']} train, {counts['heldout']} held out), "
        f"{len(bad)} videos skipped -> {out}"
    )
    return 0


def pack(
    manifest_path: Path, out: Path, *, height_px: int, width_px: int, codec: PackCodec, allow_upscale: bool
) -> int:
    """Re-encode the clips at one size with a short GOP; write their manifest. Returns the exit code."""
    manifest = Manifest.read(manifest_path)
    with progress("pack", "clips") as advance:
        packed = pack_manifest(
            manifest,
            out,
            height_px=height_px,
            width_px=width_px,
            codec=codec,
            allow_upscale=allow_upscale,
            progress=advance,
        )
    print(f"{len(packed)} clips, {width_px}x{height_px} {codec} -> {out / 'manifest.parquet'}")
    return 0
