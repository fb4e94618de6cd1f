"""What a trained tokenizer's latents are whitened with: statistics over windows of its training clips, and over images.

A world model meets latents of windows and, in joint training, of single frames. The first latent frame of a window is
coded alone too, but a window's statistics hold the spread of later frames, so images have statistics of their own
(Cosmos keeps `mean_std.pt` and `image_mean_std.pt`).
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from cosmos_data.config import DataConfig
from cosmos_data.decoders.decode import VideoDecoder
from cosmos_data.sample_plan.loader import VideoBatches
from cosmos_data.sample_plan.plan import Part, SamplePlan
from cosmos_tok.model import CausalVideoTokenizer, to_unit_range
from cosmos_tok.whitening import LatentStatistics, LatentStatisticsAccumulator
from cosmos_train.parallel.mesh import Mesh

log = logging.getLogger(__name__)


def measure_latents(
    tokenizer: CausalVideoTokenizer,
    parts: Sequence[Part],
    data: DataConfig,
    decoder: VideoDecoder,
    mesh: Mesh,
    *,
    num_windows: int,
) -> tuple[LatentStatistics | None, LatentStatistics | None]:
    """Of `num_windows` windows, and of as many single frames, as a sample plan cuts them; shared among the ranks.

    None for either that whitens nothing, with the reason in the log: a channel is the same everywhere.
    """
    log.info("whitening statistics of %d windows and as many images", num_windows)
    return (
        _measure(tokenizer, parts, data, decoder, mesh, num_windows),
        _measure(tokenizer, parts, replace(data, num_frames=1), decoder, mesh, num_windows),
    )


@torch.inference_mode()
def _measure(
    tokenizer: CausalVideoTokenizer,
    parts: Sequence[Part],
    data: DataConfig,
    decoder: VideoDecoder,
    mesh: Mesh,
    num_windows: int,
) -> LatentStatistics | None:
    plan = SamplePlan(parts, 0, replace(data, buckets="one"))
    mine = range(mesh.dp.rank(), num_windows, mesh.dp.size())
    videos = VideoBatches(plan, decoder, [[index] for index in mine])
    latents = (tokenizer.encode(to_unit_range(batch.pixels_B3THW.to(mesh.device))) for batch in videos)
    gathered = gather_by_number(mine, latents)
    metadata = {
        "manifest_digest": plan.digest,
        "num_windows": str(num_windows),
        "window_frames": str(data.num_frames),
        "height_px": str(data.height_px),
        "width_px": str(data.width_px),
    }
    try:
        return merged_in_order(gathered, mesh.dp).statistics(metadata)
    except ValueError as error:
        log.warning("no whitening statistics of windows of %d frames: %s", data.num_frames, error)
        return None


def gather_by_number(numbers: Iterable[int], latents: Iterable[Tensor]) -> dict[int, LatentStatisticsAccumulator]:
    """Return the statistics of each window by its number. latents: [1, C, T, H, W] of each, in the order of numbers."""
    found = dict[int, LatentStatisticsAccumulator]()
    for number, z_1CTHW in zip(numbers, latents, strict=True):
        found[number] = LatentStatisticsAccumulator(*z_1CTHW.shape[1:3])
        found[number].update(z_1CTHW)
    return found


def merged_in_order(
    mine: Mapping[int, LatentStatisticsAccumulator], group: dist.ProcessGroup
) -> LatentStatisticsAccumulator:
    """The statistics of windows, by their numbers, that the ranks of a group have shared: the same bits for any number
    of ranks."""
    shares: list[Mapping[int, LatentStatisticsAccumulator]] = [mine] * group.size()
    dist.all_gather_object(shares, mine, group=group)
    found = dict[int, LatentStatisticsAccumulator]()
    for share in shares:
        found |= share
    first, *others = (found[number] for number in sorted(found))
    for other in others:
        first.merge(other)
    return first
