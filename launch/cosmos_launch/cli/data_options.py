"""What may follow `cosmos-train data build | check | pack | simulate | stats`."""

import argparse
from pathlib import Path

WHAT = (
    "a folder of videos (a .txt beside a video is its caption, a .json its actions, cameras and so on) or of scenes "
    "with camera poses (RealEstate10K, nerfstudio, DL3DV, COLMAP), a LeRobot, Bridge, 1X or Megatron-Energon folder, "
    "an energon metadataset (.yaml), a .jsonl listing, a WebDataset .tar, or a folder that holds any of these"
)


def build(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train data build`."""
    parser.add_argument("source", type=Path, help=WHAT)
    parser.add_argument(
        "--out", type=Path, required=True, help="the manifest to write (.arrow; .parquet is for other programs)"
    )
    parser.add_argument("--clip-frames", type=int, default=48, help="frames of a clip; 0: whole shots")
    parser.add_argument("--min-frames", type=int, help="keep a shot's shorter last clip if it has so many frames")
    parser.add_argument("--keep-shots", action="store_true", help="do not cut where one shot ends and another begins")
    parser.add_argument("--heldout-every", type=int, default=5, help="every n-th clip is held out; 0: none")
    parser.add_argument("--max-clips", type=int, help="keep so many clips at most, evenly spread")
    parser.add_argument(
        "--cameras", nargs="+", default=(), metavar="NAME", help="of LeRobot, the views to take, in order"
    )
    parser.add_argument(
        "--gripper-open",
        type=int,
        choices=(0, 1),
        help="of Bridge, the gripper's value when it is open; none: 1, which the grasps of each data set must show",
    )
    parser.add_argument(
        "--pictures-fps",
        type=float,
        help="frames per second of frames that lie as pictures, where nothing says it; they become videos beside --out",
    )
    parser.add_argument("--max-bad-share", type=float, default=0.05, help="share of bad videos that is an error")
    parser.add_argument(
        "--pixels", choices=("square", "stored"), default="square", help="stored: also of those that are not"
    )
    parser.add_argument(
        "--hdr", choices=("tone_map", "refuse", "keep"), default="tone_map", help="what becomes of PQ and HLG videos"
    )
    parser.add_argument(
        "--interlaced",
        choices=("deinterlace", "refuse", "keep"),
        default="deinterlace",
        help="what becomes of pictures whose lines are of two moments",
    )
    parser.add_argument("--background", default="000000", help="RRGGBB behind transparent pictures, or keep")


def check(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train data check`."""
    parser.add_argument("source", type=Path, help="the manifest; what was read is remembered beside it")
    parser.add_argument("--target-fps", type=float, help="data.target_fps of the run that the clips are for")
    parser.add_argument(
        "--poses", action="store_true", help="prove from the pictures what cameras' poses and intrinsics mean"
    )
    parser.add_argument("--out", type=Path, help="a text file for all findings")


def pack(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train data pack`."""
    parser.add_argument("source", type=Path, help="the manifest")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make")
    parser.add_argument("--height-px", type=int, help="height of the packed clips")
    parser.add_argument("--width-px", type=int, help="width of the packed clips")
    parser.add_argument(
        "--codec", choices=("mjpeg", "vp9", "h264", "copy"), default="mjpeg", help="copy: do not encode again"
    )
    parser.add_argument("--gop-frames", type=int, default=12, help="frames from key frame to key frame (vp9, h264)")
    parser.add_argument("--shard-mib", type=int, help="put the clips into tar shards of about so many MiB")
    parser.add_argument("--allow-upscale", action="store_true", help="enlarge clips that are smaller")


def simulate(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train data simulate`."""
    parser.add_argument(
        "world", help="discs, room, pusher, table, arm or mujoco; `cosmos-train explain WORLD` lists its keys"
    )
    parser.add_argument("overrides", nargs="*", help="world.key=value: keys of the world, such as room.scenes=random")
    parser.add_argument("--out", type=Path, required=True, help="the folder to make, or to go on with")
    parser.add_argument("--clips", type=int, default=64, help="clips to train on")
    parser.add_argument("--heldout", type=int, default=8, help="held-out clips, of other seeds")
    parser.add_argument("--frames", type=int, help="frames of a clip")
    parser.add_argument("--size", metavar="HxW", help="height and width of the pictures, in pixels")
    parser.add_argument("--fps", type=float, help="frames per second")
    parser.add_argument("--seed", type=int, default=0, help="another seed: other clips")
    parser.add_argument("--codec", choices=("mjpeg", "vp9", "h264"), default="mjpeg", help="how videos are stored")
    parser.add_argument("--workers", type=int, help="processes that make clips; none: one for each CPU")


def stats(parser: argparse.ArgumentParser) -> None:
    """Add the options of `cosmos-train data stats`."""
    parser.add_argument("source", type=Path, help="the manifest")
    parser.add_argument("--out", type=Path, required=True, help="the page to write (.html)")
