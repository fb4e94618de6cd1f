"""`cosmos-train train RUN --dry-run`: what each kind of rank would hold and what a step would compute."""

import json
import sys
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from cosmos_train.config.schema import RunConfig
from cosmos_train.footprint import Plan, RankKind, make_plan

HEADER = ("pipeline", "ranks", "blocks", "parameters", "weights", "gradients", "optimizer", "EMA", "together", "tokens")
NOTE = "Of each rank, and from step to step: activations come on top. Tokens are those of a micro-batch."


def dry_run(run: RunConfig, world_size: int, *, as_json: bool) -> int:
    """Plan and print: one JSON object, a table on a terminal, or plain lines. Returns the exit code."""
    plan = make_plan(run, world_size)
    if as_json:
        print(json.dumps(to_dict(plan), indent=2))
        return 0
    for name, text in summary(plan).items():
        print(f"{name:<8}  {text}")
    print(f"\n{NOTE}")
    rows = [HEADER, *(cells(kind, plan) for kind in plan.kinds)]
    if sys.stdout.isatty():
        _print_table(rows)
    else:
        _print_plain(rows)
    return 0


def to_dict(plan: Plan) -> dict:
    """The plan, with the sums that its parts have."""
    plain = asdict(plan)
    for kind, shown in zip(plan.kinds, plain["kinds"], strict=True):
        shown["memory"]["total"] = kind.memory.total
    for key, flops in (("step_flops", plan.step_flops), ("recompute_flops", plan.recompute_flops)):
        if flops is not None:
            plain[key]["total"] = flops.total
    return plain


def summary(plan: Plan) -> dict[str, str]:
    """What is the same on all ranks: a heading and a line for each."""
    per_rank = plan.num_micro_batches * plan.micro_batch_size
    lines = {
        "ranks": f"{plan.world_size:,}, none of them started: {plan.layout}",
        "model": f"{plan.parameters:,} parameters in {plan.precision}",
        "step": f"{plan.global_batch_size:,} samples = {plan.global_batch_size // per_rank:,} data-parallel x "
        f"{plan.num_micro_batches} micro-batches x {plan.micro_batch_size}",
    }
    if plan.sample is not None:
        channels, frames, height, width = plan.sample.latent_CTHW
        lines["sample"] = (
            f"latents {channels} x {frames} x {height} x {width}: {plan.sample.tokens:,} tokens"
            + (f", {plan.sample.text_tokens} of text" if plan.sample.text_tokens else "")
            + f" (from {plan.sample.source})"
        )
    if plan.step_flops is not None and plan.recompute_flops is not None:
        total = plan.step_flops.total
        lines["compute"] = (
            f"{total:.4g} FLOPs of the model in a step, {plan.step_flops.attention / total:.0%} of them attention: "
            f"{total / plan.world_size / 1e12:,.4g} TFLOP each rank; "
            f"recompute={plan.recompute} adds {plan.recompute_flops.total / total:.0%}"
        )
    return lines


def cells(kind: RankKind, plan: Plan) -> tuple[str, ...]:
    """A row of the table."""
    memory = kind.memory
    sizes = (memory.weights, memory.gradients, memory.optimizer, memory.ema, memory.total)
    return (
        _stages(kind.stages),
        f"{kind.num_ranks:,}",
        str(kind.blocks) if plan.sample is not None else "-",
        f"{kind.parameters:,}",
        *(_bytes(size) for size in sizes),
        f"{kind.tokens:,}" if plan.sample is not None else "-",
    )


def _stages(stages: tuple[int, ...]) -> str:
    """`3`, `1-6`, or `1,4` where they do not follow each other."""
    if len(stages) > 1 and stages[-1] - stages[0] == len(stages) - 1:
        return f"{stages[0]}-{stages[-1]}"
    return ",".join(map(str, stages))


def _bytes(size: int) -> str:
    if size == 0:
        return "-"
    return f"{size / 2**30:,.2f} GiB" if size >= 2**27 else f"{size / 2**20:,.2f} MiB"


def _print_table(rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    Console(highlight=False).print(table)


def _print_plain(rows: list[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))
