"""`cosmos-train convert`: a tokenizer from one layout to another, with what was found and how it was compared."""

from pathlib import Path

from cosmos_tok.convert import convert as convert_tokenizer
from cosmos_tok.convert import read_arguments


def convert(source: Path, out: Path, *, to: str, arguments: Path | None, weights: str) -> int:
    """Convert, print what was found and the comparison's figures, and return the exit code."""
    given = None if arguments is None else read_arguments(arguments)
    done = convert_tokenizer(source, out, to=to, arguments=given, weights=weights)
    config, (frames, height, width) = done.config, done.clip
    rate = f"{config.temporal_rate}x{config.spatial_rate}x" if config.media == "video" else f"{config.spatial_rate}x"
    codes = f"codes of {config.codebook_size:,}" if config.kind == "discrete" else f"{config.latent_channels} channels"
    print(
        f"found     {done.layout} layout: {config.kind} {config.media} tokenizer {rate}{config.spatial_rate}, {codes}"
    )
    print(
        f"          patch {config.patch}, widths {config.channels} -> {', '.join(map(str, config.widths))}, "
        f"{config.num_res_blocks} blocks a level, z {config.z_channels}, {done.num_parameters:,} parameters"
    )
    for note in done.notes:
        print(f"note      {note}")
    print(
        f"compared  on {frames} frames of {height}x{width} with {done.compared_with}: largest difference "
        f"{done.encode_difference:.2g} encoding, {done.decode_difference:.2g} decoding"
    )
    print(f"wrote     {out} ({to})")
    return 0
