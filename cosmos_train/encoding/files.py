"""`cosmos-train tokenize SOURCE --tokenizer FOLDER`: clips to latents, one safetensors file each, and back to videos.

Clips go through the tokenizer piece by piece, so memory does not grow with their length. A file that is there already
and was made of the same pixels, by the same tokenizer, in the same way, is left as it is: an interrupted command goes
on where it stopped, and a changed clip is done again.
"""

import math
from collections import Counter
from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path

import torch
from torch import Tensor

from cosmos_data.errors import DataError
from cosmos_data.location import file_sha256
from cosmos_data.manifests.clip import Clip
from cosmos_data.readers.given_clips import GivenClip, find_clips, gathered, read_pixels, scaled_size
from cosmos_data.videos.media import mp4_comment, write_mp4_pieces
from cosmos_data.whole_file import remove_abandoned
from cosmos_tok.config import PaddingPolicy, TokenizerConfig, TokenizerError
from cosmos_tok.latent_file import LatentFile, LatentOrigin, latents_of, load_latents, save_latents, stored_origin
from cosmos_tok.model import CausalVideoTokenizer, shown, to_unit_range
from cosmos_tok.padding import InnerBox, Padding, plan_padding
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_train.train.telling.progress import progress

SUFFIX = ".safetensors"
FRAMES_AT_ONCE = 16
"""Frames that are decoded, scaled and handed to the encoder together."""
LATENT_FRAMES_AT_ONCE = 2


def encode_files(
    path: Path, out: Path, *, tokenizer: Path, padding: PaddingPolicy | None, short_side_px: int | None, fps: float
) -> int:
    """Write OUT/NAME.safetensors for every clip at `path`; return the exit code.

    padding: what to do with clips that the tokenizer does not take as they are; None is to refuse them.
    fps: frames per second of folders of pictures.

    Clips that cannot be decoded are left out and named in a DataError at the end. Another clip's mistake ends it.
    """
    if short_side_px is not None and short_side_px < 1:
        raise DataError(f"--short-side-px {short_side_px} must be at least 1")
    if not 0 < fps < math.inf:
        raise DataError(f"--fps {fps} must be greater than 0")
    digest, clips = tokenizer_digest(tokenizer), find_clips(path, pictures_fps=fps)
    model, _ = load_tokenizer(tokenizer)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    transform = {"short_side_px": short_side_px, "padding": padding}
    bad: list[str] = []
    num_done = 0
    for number, given in enumerate(clips, start=1):
        place = _place(out, given.name)
        try:
            origin = LatentOrigin(
                tokenizer_digest=digest,
                source_digest=given.digest(),
                transform=transform,
                dtype=str(model.dtype).removeprefix("torch."),
            )
            if stored_origin(place) == origin:
                continue
            save_latents(place, _encode(model, given, origin, f"encode {number}/{len(clips)} {given.name}"))
            num_done += 1
        except DataError as error:
            bad.append(str(error))
    print(f"{num_done} clips encoded, {len(clips) - num_done - len(bad)} were done already -> {out}")
    if bad:
        listing = "\n".join(f"  {reason}" for reason in bad)
        raise DataError(f"{len(bad)} of {len(clips)} clips could not be encoded; repair or remove them:\n{listing}")
    return 0


def decode_files(path: Path, out: Path, *, tokenizer: Path) -> int:
    """Write OUT/NAME.mp4 for one file of latents, or for all in and below a folder; return the exit code."""
    digest = tokenizer_digest(tokenizer)
    files = _find_latents(path)
    model, _ = load_tokenizer(tokenizer)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    for folder in {_place(out, name, suffix=".mp4").parent for _, name in files}:
        remove_abandoned(folder)
    num_done = 0
    for number, (file, name) in enumerate(files, start=1):
        place = _place(out, name, suffix=".mp4")
        comment = f"decoded from {file_sha256(file)} by {digest}"
        if mp4_comment(place) == comment:
            continue
        stored = load_latents(file)
        if stored.origin.tokenizer_digest != digest:
            raise TokenizerError(
                f"{file} was encoded by the tokenizer {stored.origin.tokenizer_digest[:12]}, and {tokenizer} is "
                f"{digest[:12]}; name the tokenizer that it was encoded with"
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        pieces = _decode(model, stored, f"decode {number}/{len(files)} {name}")
        write_mp4_pieces(place, pieces, fps=stored.fps, comment=comment)
        num_done += 1
    print(f"{num_done} clips decoded, {len(files) - num_done} were done already -> {out}")
    return 0


def padding_of(
    clip: Clip, size_THW: tuple[int, int, int], config: TokenizerConfig, policy: PaddingPolicy | None
) -> Padding:
    """The named padding of a clip of this size; none is an error unless the tokenizer takes it as it is."""
    if policy is not None:
        return plan_padding(size_THW, config, policy)
    frames, height_px, width_px = size_THW
    try:
        config.latent_frames(frames)
        config.latent_size(height_px, width_px)
    except TokenizerError as error:
        raise TokenizerError(
            f"clip {clip.clip_id}: {error}; or name what to pad it with: edge, black or official"
        ) from error
    return Padding("edge", InnerBox((0, 0, 0), size_THW), size_THW)


def padded_chunks(frames: Iterator[Tensor], padding: Padding, device: torch.device) -> Iterator[Tensor]:
    """uint8 frames [3, 1, H, W] of a whole clip -> its padded form in [-1, 1], in pieces [1, 3, t, H', W']."""
    counts = Counter(padding.times)
    repeated = chain.from_iterable(repeat(frame, counts[time]) for time, frame in enumerate(frames))
    for piece in gathered(repeated, FRAMES_AT_ONCE):
        yield padding.pad_sides(to_unit_range(piece[None].to(device)))


def _encode(model: CausalVideoTokenizer, given: GivenClip, origin: LatentOrigin, title: str) -> LatentFile:
    clip = given.describe()
    height_px, width_px = scaled_size(clip, origin.transform["short_side_px"])
    size_THW = (clip.num_frames, height_px, width_px)
    padding = padding_of(clip, size_THW, model.config, origin.transform["padding"])
    device = next(model.parameters()).device
    with progress(title, "frames") as advance:

        def counted() -> Iterator[Tensor]:
            frames = read_pixels(clip, num_frames=clip.num_frames, height_px=height_px, width_px=width_px)
            for done, frame in enumerate(frames, start=1):
                yield frame
                advance(done, clip.num_frames)

        latents = latents_of(model, padded_chunks(counted(), padding, device))
    return LatentFile(origin=origin, source=given.name, fps=clip.fps, box=padding.box, latents=latents)


def _decode(model: CausalVideoTokenizer, stored: LatentFile, title: str) -> Iterator[Tensor]:
    """uint8 [3, t, H, W] on the CPU, without the padding."""
    device = next(model.parameters()).device
    done, num_frames = 0, stored.box.size_THW[0]
    latents = (piece.to(device) for piece in stored.pieces(model, LATENT_FRAMES_AT_ONCE))
    with progress(title, "frames") as advance:
        for piece in stored.box.crop_pieces(model.decode_stream(latents)):
            yield shown(piece, stored.source)[0].cpu()
            done += piece.shape[2]
            advance(done, num_frames)


def _find_latents(path: Path) -> list[tuple[Path, str]]:
    """(file, name without the suffix of latents), in the order of their names."""
    if path.is_file():
        return [(path, path.name.removesuffix(SUFFIX))]
    files = sorted(file for file in path.rglob(f"*{SUFFIX}") if not file.name.startswith("."))
    if not files:
        raise DataError(f"{path} holds no file of latents ({SUFFIX}); name what `cosmos-train tokenize` wrote")
    return [(file, file.relative_to(path).as_posix().removesuffix(SUFFIX)) for file in files]


def _place(out: Path, name: str, *, suffix: str = SUFFIX) -> Path:
    """Where the result of a clip lies. A name that leads out of the folder is refused."""
    place = out / (name if name.endswith(suffix) else f"{name}{suffix}")
    if not place.resolve().is_relative_to(out.resolve()):
        raise DataError(f"the clip's name {name!r} leads out of {out}; build the manifest again with other names")
    return place
