"""`cosmos-train tokenize RUN.yaml`: fill the latent cache that a world model's run names.

Windows of every clip go through the trained tokenizer, captions through the text encoder; whitening statistics come
from the training split alone. An autoregressive model's cache holds codes, which need none. The cache is complete or
absent; a complete one of the same content is left as it is.
"""

import itertools
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from cosmos_data.decode import Decoder, choose_decoder
from cosmos_data.latents import INDEX_NAME, LatentMetadata, LatentStore, LatentWriter
from cosmos_data.manifest import Manifest
from cosmos_data.plan import Part, Sample, SamplePlan, cover_windows
from cosmos_launch.progress import progress
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.store import load_tokenizer, tokenizer_digest
from cosmos_tok.text import FolderTextEncoder, TextEncoder, text_encoder_folder
from cosmos_tok.text_cache import CachedTextEncoder
from cosmos_tok.whitening import LatentStatisticsAccumulator, save_statistics
from cosmos_train.config.schema import WorldARRun, WorldDiTRun
from cosmos_train.recipes.kept_statistics import STATISTICS
from cosmos_train.recipes.world_ar import check_codec
from cosmos_train.recipes.world_dit import text_identity

WINDOWS_AT_ONCE = 4


def load_text_encoder(run: WorldDiTRun | WorldARRun, device: torch.device) -> TextEncoder:
    """The configured encoder, from its folder or package; behind a cache of its states where there is one."""
    folder = text_encoder_folder(run.text.encoder)
    if run.text.cache is not None:
        return CachedTextEncoder(folder, run.text.max_tokens, Path(run.text.cache), device)
    return FolderTextEncoder(folder, run.text.max_tokens, device)


def encode_clips(run: WorldDiTRun | WorldARRun) -> int:
    """Returns the exit code. Raises DataError, TokenizerError or ValueError where the input is wrong."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = Path(run.latents.folder)
    manifest = Manifest.read(run.data.manifest)
    metadata = LatentMetadata(
        tokenizer_digest=tokenizer_digest(Path(run.latents.tokenizer)),
        text_encoder=text_identity(run.text),
        manifest_digest=manifest.digest,
        window_frames=run.data.num_frames,
        frame_stride=run.data.frame_stride,
        height_px=run.data.height_px,
        width_px=run.data.width_px,
        windows=_windows_asked(run),
    )
    if (folder / INDEX_NAME).exists():
        LatentStore(folder).require(**asdict(metadata))
        print(f"{folder} is complete already")
        return 0
    model, codec = load_tokenizer(Path(run.latents.tokenizer))
    if isinstance(run, WorldARRun):
        check_codec(run, codec)
    windows = choose_windows(manifest, run)
    decoder = choose_decoder(run.data, [manifest], device)
    started = time.perf_counter()
    writer = LatentWriter(folder, metadata)
    encoder = load_text_encoder(run, device)
    for caption in sorted({clip.caption for clip in manifest}):
        states = encoder.encode([caption])
        if states.dropped_B[0]:
            print(
                f"caption cut by {int(states.dropped_B[0])} tokens to text.max_tokens={run.text.max_tokens}: {caption}"
            )
        writer.add_text(caption, states.states_BSE[0, : int(states.length_B[0])])
    as_codes = isinstance(run, WorldARRun)
    statistics = _encode_windows(model.eval().to(device), decoder, windows, writer, device, as_codes=as_codes)
    if statistics is not None:
        save_statistics(folder / STATISTICS, statistics.statistics({"manifest_digest": manifest.digest}))
    writer.finish()
    seconds = time.perf_counter() - started
    num_frames = len(windows) * run.data.num_frames
    print(
        f"{len(windows)} windows, {num_frames} frames in {seconds:.1f} s, {num_frames / seconds:.0f} frames/s: {folder}"
    )
    return 0


def _windows_asked(run: WorldDiTRun | WorldARRun) -> str:
    """The settings, besides those that LatentMetadata has, that `choose_windows` goes by."""
    data, latents = run.data, run.latents
    settings = {"hop_frames": latents.hop_frames, "target_fps": data.target_fps, "resize": data.resize}
    if latents.planned_per_clip:
        settings |= {"planned_per_clip": latents.planned_per_clip, "seed": run.seed, "flip": data.flip}
    return " ".join(f"{name}={value}" for name, value in settings.items())


def choose_windows(manifest: Manifest, run: WorldDiTRun | WorldARRun) -> list[Sample]:
    """The windows to cache, clip after clip: regular ones, or for training clips planned ones where asked for."""
    regular = list(cover_windows(manifest, run.data, hop_frames=run.latents.hop_frames))
    if not run.latents.planned_per_clip:
        return regular
    train = manifest.select("train")
    plan = SamplePlan([Part(train)], run.seed, replace(run.data, buckets="one"))
    planned = [plan.sample(index) for index in range(len(train) * run.latents.planned_per_clip)]
    planned.sort(key=lambda sample: (sample.clip.clip_id, sample.index))
    return planned + [sample for sample in regular if sample.clip.split != "train"]


@torch.inference_mode()
def _encode_windows(
    model: CausalVideoTokenizer,
    decoder: Decoder,
    windows: list[Sample],
    writer: LatentWriter,
    device: torch.device,
    *,
    as_codes: bool,
) -> LatentStatisticsAccumulator | None:
    """as_codes: int32 [N, 1, T, H, W], of which there are no statistics, in the place of latents."""
    statistics = None
    done = 0
    with progress("tokenize", "windows") as advance:
        for clip, of_clip in itertools.groupby(windows, key=lambda sample: sample.clip):
            samples = list(of_clip)
            latents = []
            for start in range(0, len(samples), WINDOWS_AT_ONCE):
                some = samples[start : start + WINDOWS_AT_ONCE]
                pixels = decoder.decode(some).to(device)
                z_BCTHW = model.encode(to_unit_range(pixels)).float()
                latents.append((model.indices(z_BCTHW)[:, None].int() if as_codes else z_BCTHW).cpu())
                done += len(some)
                advance(done, len(windows))
            z_NCTHW = torch.cat(latents)
            if statistics is None and not as_codes:
                statistics = LatentStatisticsAccumulator(*z_NCTHW.shape[1:3])
            if statistics is not None and clip.split == "train":
                statistics.update(z_NCTHW)
            inner = samples[0].inner  # all windows of a clip have its shape
            writer.add_clip(
                clip.clip_id,
                z_NCTHW,
                [sample.start_frame for sample in samples],
                split=clip.split,
                caption=clip.caption,
                fps=samples[0].fps,
                inner_px=None if inner is None else (inner.top_px, inner.left_px, inner.height_px, inner.width_px),
            )
    return statistics
