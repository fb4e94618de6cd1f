"""The words of `cosmos-train data ...`. Nothing heavy is imported before a command runs."""

import argparse
from pathlib import Path

WHAT = (
    "a folder of videos (a .txt beside a video is its caption, a .json its actions, cameras and so on), a LeRobot "
    "or Megatron-Energon folder, an energon metadataset (.yaml), a .jsonl listing, a WebDataset .tar, or a folder that "
    "holds any of these"
)


def add_data_commands(parser: argparse.ArgumentParser) -> None:
    """build, check, pack and stats, under the `data` command."""
    commands = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, action, help: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=help, description=help)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(command=action)
        return command

    build = add("build", _build, "make a manifest of videos: decode them once, cut them into clips")
    build.add_argument("source", type=Path, help=WHAT)
    build.add_argument(
        "--out", type=Path, required=True, help="the manifest to write (.arrow; .parquet is for other programs)"
    )
    build.add_argument("--clip-frames", type=int, default=48, help="frames of a clip; 0: whole shots")
    build.add_argument("--min-frames", type=int, help="keep a shot's shorter last clip if it has so many frames")
    build.add_argument("--keep-shots", action="store_true", help="do not cut where one shot ends and another begins")
    build.add_argument("--heldout-every", type=int, default=5, help="every n-th clip is held out; 0: none")
    build.add_argument("--max-clips", type=int, help="keep so many clips at most, evenly spread")
    build.add_argument(
        "--cameras", nargs="+", default=(), metavar="NAME", help="of LeRobot, the views to take, in order"
    )
    build.add_argument("--max-bad-share", type=float, default=0.05, help="share of bad videos that is an error")
    build.add_argument(
        "--pixels", choices=("square", "stored"), default="square", help="stored: also of those that are not"
    )
    build.add_argument(
        "--hdr", choices=("tone_map", "refuse", "keep"), default="tone_map", help="what becomes of PQ and HLG videos"
    )
    build.add_argument(
        "--interlaced",
        choices=("deinterlace", "refuse", "keep"),
        default="deinterlace",
        help="what becomes of pictures whose lines are of two moments",
    )
    build.add_argument("--background", default="000000", help="RRGGBB behind transparent pictures, or keep")

    check = add("check", _check, "say what is wrong with a manifest and its files, and where")
    check.add_argument("source", type=Path, help="the manifest; what was read is remembered beside it")
    check.add_argument("--target-fps", type=float, help="data.target_fps of the run that the clips are for")
    check.add_argument("--out", type=Path, help="a text file for all findings")

    pack = add("pack", _pack, "write a manifest's clips so that they are cheap to read anywhere in")
    pack.add_argument("source", type=Path, help="the manifest")
    pack.add_argument("--out", type=Path, required=True, help="the folder to make")
    pack.add_argument("--height-px", type=int, help="height of the packed clips")
    pack.add_argument("--width-px", type=int, help="width of the packed clips")
    pack.add_argument(
        "--codec", choices=("mjpeg", "vp9", "h264", "copy"), default="mjpeg", help="copy: do not encode again"
    )
    pack.add_argument("--gop-frames", type=int, default=12, help="frames from key frame to key frame (vp9, h264)")
    pack.add_argument("--shard-mib", type=int, help="put the clips into tar shards of about so many MiB")
    pack.add_argument("--allow-upscale", action="store_true", help="enlarge clips that are smaller")

    stats = add("stats", _stats, "show lengths, sizes, frame rates and buckets of a manifest as a page with plots")
    stats.add_argument("source", type=Path, help="the manifest")
    stats.add_argument("--out", type=Path, required=True, help="the page to write (.html)")


def _build(arguments: argparse.Namespace) -> int:
    from functools import partial

    from cosmos_data.manifests.build import build_manifest
    from cosmos_data.videos.shown import Rules
    from cosmos_launch.cli.data import build

    names = ("pixels", "hdr", "interlaced", "background")
    make = partial(
        build_manifest,
        clip_frames=arguments.clip_frames or None,
        heldout_every=arguments.heldout_every or None,
        min_frames=arguments.min_frames,
        split_shots=not arguments.keep_shots,
        max_bad_share=arguments.max_bad_share,
        cameras=arguments.cameras,
        rules=Rules(**{name: vars(arguments)[name] for name in names}),
    )
    return build(arguments.source, arguments.out, make, max_clips=arguments.max_clips)


def _check(arguments: argparse.Namespace) -> int:
    from cosmos_launch.cli.data import check

    return check(arguments.source, target_fps=arguments.target_fps, out=arguments.out)


def _pack(arguments: argparse.Namespace) -> int:
    from cosmos_data.manifests.pack import PackRequest
    from cosmos_launch.cli.data import pack

    names = ("codec", "height_px", "width_px", "allow_upscale", "gop_frames", "shard_mib")
    return pack(arguments.source, arguments.out, PackRequest(**{name: vars(arguments)[name] for name in names}))


def _stats(arguments: argparse.Namespace) -> int:
    from cosmos_launch.pages.data_page import stats

    return stats(arguments.source, out=arguments.out)
