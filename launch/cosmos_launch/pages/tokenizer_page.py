"""The page of a tokenizer's evaluation: its figures, frames side by side with their reconstructions, every clip."""

from pathlib import Path
from typing import Any

from cosmos_launch.pages.contents import Fact, FrameRow, FrameRows, Report, Section, Table, Text
from cosmos_launch.pages.page import write_report
from cosmos_train.evaluate.tokenizer import ERROR_GAIN, ShownClip


def write_page(path: Path, result: dict[str, Any], shown: list[ShownClip]) -> None:
    """Write the page of what evaluation.json holds; `shown` are the clips that came out worst and best."""
    report = Report(
        title=f"Evaluation of a {_name(result['architecture'])} tokenizer",
        summary=_facts(result),
        sections=[
            *map(_side_by_side, shown),
            Section("Clips", _definitions(result["protocol"]), [_table(result["clips"])]),
            Section("What was evaluated", items=[Text(_origin(result), caption="tokenizer, videos and protocol")]),
        ],
    )
    write_report(path, report)


def _name(architecture: dict[str, Any]) -> str:
    """As the family's members are called: CV8x8x8, DI16x16."""
    rates = [architecture["spatial_rate"]] * 2
    if architecture["media"] == "video":
        rates.insert(0, architecture["temporal_rate"])
    return f"{architecture['kind'][0]}{architecture['media'][0]}".upper() + "x".join(map(str, rates))


def _facts(result: dict[str, Any]) -> list[Fact]:
    overall, is_discrete = result["overall"], result["architecture"]["kind"] == "discrete"
    facts = [
        Fact("PSNR", f"{overall['psnr_db']:.2f} dB", "mean over the clips"),
        Fact("SSIM", f"{overall['ssim']:.4f}", "mean over the clips"),
        Fact("rFVD", overall["rfvd"], f"of {overall['num_clips']} clips, by {result['fvd_network']['file']}")
        if "rfvd" in overall
        else Fact("rFVD", "not measured", "needs a feature network: --fvd-network"),
        Fact(
            "compression",
            f"{overall['compression']:.0f} : 1",
            f"bits of RGB over bits of {'codes' if is_discrete else 'bfloat16 latents'}; "
            f"{overall['pixels_per_latent']:.0f} pixels for each latent",
        ),
    ]
    if is_discrete:
        facts.append(
            Fact("codes used", f"{overall['code_usage']:.1%}", f"perplexity {overall['code_perplexity']:,.0f}")
        )
    return [*facts, Fact("clips", overall["num_clips"], f"{overall['num_frames']:,} frames")]


def _side_by_side(clip: ShownClip) -> Section:
    rows = [
        FrameRow("original", [frame.original for frame in clip.frames]),
        FrameRow("reconstruction", [frame.reconstruction for frame in clip.frames]),
        FrameRow(f"difference x {ERROR_GAIN}", [frame.difference for frame in clip.frames]),
    ]
    scores = f"PSNR {clip.psnr_db:.2f} dB, SSIM {clip.ssim:.4f}, over the whole clip. Shown are frames of its start."
    return Section(clip.name, scores, [FrameRows(rows, fps=clip.fps)])


def _table(clips: list[dict[str, Any]]) -> Table:
    columns = {"clip": "name", "frames": "num_frames", "PSNR dB": "psnr_db", "SSIM": "ssim"}
    columns |= {"compression": "compression"}
    columns |= {"codes used": "code_usage", "perplexity": "code_perplexity"} if "code_usage" in clips[0] else {}
    digits = {"psnr_db": ".2f", "ssim": ".4f", "compression": ".1f", "code_usage": ".2%", "code_perplexity": ",.0f"}
    rows = [
        [format(clip[key], digits[key]) if key in digits else clip[key] for key in columns.values()]
        for clip in sorted(clips, key=lambda clip: clip["psnr_db"])
    ]
    return Table(list(columns), rows, caption="Worst first.")


def _definitions(protocol: dict[str, Any]) -> str:
    coded = "as a whole" if protocol["window_frames"] is None else f"in windows of {protocol['window_frames']} frames"
    window = {"gaussian": "an 11 x 11 Gaussian window", "uniform": "a 7 x 7 window, as scikit-image has it"}
    return (
        "Shown above are the clips with the lowest and with the highest PSNR. "
        f"Clips were coded {coded}. PSNR is that of a clip's mean square error over its 8-bit frames, SSIM the mean "
        f"over its frames with {window[protocol['ssim_window']]}."
    )


def _origin(result: dict[str, Any]) -> str:
    lines = [f"tokenizer  {result['tokenizer']}", f"digest     {result['tokenizer_digest']}"]
    lines += [f"videos     {result['videos']}", ""]
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in result["protocol"].items())])
