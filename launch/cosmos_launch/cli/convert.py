"""`cosmos-train convert`: a tokenizer or a world model from one layout to another; what was found, how it compared."""

from collections.abc import Sequence
from pathlib import Path

from cosmos_tok.convert import Conversion, read_arguments
from cosmos_tok.convert import convert as convert_tokenizer
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.adapter_files import AdapterFile
from cosmos_train.interop.adapters import Adapters
from cosmos_train.interop.convert import WorldConversion, convert_adapters
from cosmos_train.interop.convert import convert as convert_world
from cosmos_train.interop.source import is_world_model
from cosmos_train.models.dit.config import DiTConfig
from cosmos_train.models.world_ar.config import WorldARConfig


def convert(
    source: Path,
    out: Path,
    *,
    to: str,
    arguments: Path | None,
    weights: str,
    tokenizer: Path | None = None,
    tp: int = 1,
    statistics: str = "bf16",
    adapters: Sequence[str] = (),
    alpha: float | None = None,
    only_adapters: bool = False,
) -> int:
    """Convert what there is at `source`, print what was found and compared, and return the exit code."""
    given = None if arguments is None else read_arguments(arguments)
    files = [AdapterFile.parse(text, alpha) for text in adapters]
    if alpha is not None and not adapters:
        raise ConfigError(f"--alpha {alpha:g} is about --adapter, which is not given; leave it out")
    if only_adapters:
        found = _describe_adapters(convert_adapters(source, out, to=to, weights=weights, adapters=files))
    elif is_world_model(source):
        if statistics != "bf16":
            raise ConfigError(
                f"--statistics {statistics} belongs to a tokenizer, and {source} is a world model; leave it out"
            )
        done = convert_world(
            source, out, to=to, arguments=given, weights=weights, tokenizer=tokenizer, tp=tp, adapters=files
        )
        found = _describe(done)
    elif tokenizer is not None or tp != 1 or adapters:
        option = f"--tokenizer {tokenizer}" if tokenizer is not None else f"--tp {tp}"
        option = f"--adapter {adapters[0]}" if adapters else option
        raise ConfigError(f"{option} belongs to a world model, and {source} is none; leave it out")
    else:
        found = _describe_tokenizer(
            convert_tokenizer(source, out, to=to, arguments=given, weights=weights, statistics=statistics)
        )
    print(found)
    print(f"wrote     {out} ({to})")
    return 0


def _describe(done: WorldConversion) -> str:
    config, (frames, height, width) = done.config, done.size_THW
    lines = [
        f"found     {done.layout} layout: {_kind(config)}",
        f"          text width {config.text_width}, {done.num_parameters:,} parameters"
        f"{', learned uncertainty' if done.learned_uncertainty else ''}",
        *(f"note      {note}" for note in done.notes),
        f"compared  on {frames} latent frames of {height}x{width} with {done.compared_with}: largest difference "
        f"{done.difference:.2g}; all tensors equal bit for bit",
    ]
    return "\n".join(lines)


def _describe_adapters(found: Adapters) -> str:
    ranks = sorted({len(one.a) for one in found.matrices.values()})
    scales = sorted({round(one.scale * found.strength, 6) for one in found.matrices.values()})
    return (
        f"found     adapters of {len(found.matrices)} matrices in {found.where}, rank {', '.join(map(str, ranks))}, "
        f"alpha / rank {', '.join(f'{scale:g}' for scale in scales)}"
    )


def _kind(config: DiTConfig | WorldARConfig) -> str:
    size = f"{config.num_blocks} blocks of width {config.width}"
    if isinstance(config, DiTConfig):
        kind = "Video2World" if config.condition_mask else "Text2World"
        lora = f"AdaLN rank {config.adaln_rank}" if config.adaln_rank else "AdaLN without low rank"
        channels = f"{config.in_channels} channels in, {config.latent_channels} out"
        return f"{kind} world model, {size}, {config.num_heads} heads, {lora}, {channels}"
    kind = "Video2World" if config.cross_attention else "world"
    yarn = f", YaRN {config.yarn_scale:g}" if config.yarn_scale != 1 else ""
    sinusoid = ", sinusoid" if config.absolute_positions else ""
    heads = f"{config.num_heads} heads over {config.num_kv_heads} of keys and values"
    codes = f"{config.vocab_size:,} codes{' and a begin token' if config.begin_token else ''}"
    return f"autoregressive {kind} model, {size}, {heads}, {codes}{yarn}{sinusoid}"


def _describe_tokenizer(done: Conversion) -> str:
    config, (frames, height, width) = done.config, done.clip
    rate = f"{config.temporal_rate}x{config.spatial_rate}x" if config.media == "video" else f"{config.spatial_rate}x"
    codes = f"codes of {config.codebook_size:,}" if config.kind == "discrete" else f"{config.latent_channels} channels"
    lines = [
        f"found     {done.layout} layout: {config.kind} {config.media} tokenizer {rate}{config.spatial_rate}, {codes}",
        f"          patch {config.patch}, widths {config.channels} -> {', '.join(map(str, config.widths))}, "
        f"{config.num_res_blocks} blocks a level, z {config.z_channels}, {done.num_parameters:,} parameters",
        *(f"note      {note}" for note in done.notes),
        f"compared  on {frames} frames of {height}x{width} with {done.compared_with}: largest difference "
        f"{done.encode_difference:.2g} encoding, {done.decode_difference:.2g} decoding",
    ]
    return "\n".join(lines)
