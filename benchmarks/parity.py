"""Every parallel layout against the single process: the same loss, gradients and parameters after three steps.

    python benchmarks/parity.py                          all layouts, up to 8 gloo processes (make parity)
    python benchmarks/parity.py --ranks 2 --only cp2     those that are named so

A small Cosmos DiT, the same steered by a camera's path and actions, and a small autoregressive model, real in kind, in
fp32, from the same weights and samples. Prints one JSON line per layout: loss_error is relative, gradient_error is the
largest difference of a gradient as a part of that parameter's largest gradient, parameter_error is absolute; the
parameter with the largest one is named. norm_error is the relative difference of the whole model's gradient norm before
clipping, over all steps, each of which clips. Exits with 1 where one exceeds its tolerance. Batches: `video` has 18
tokens, `odd` 45, which no layout here divides evenly, `image` 20 in one frame.
"""

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

from goals import tell_goals  # noqa: E402
from provenance import provenance  # noqa: E402
from support import tiny_ar, tiny_lora, tiny_world  # noqa: E402
from support.ranks import RankPool  # noqa: E402

from cosmos_train.parallel.config import ParallelConfig  # noqa: E402

LOSS_TOLERANCE, GRADIENT_TOLERANCE, PARAMETER_TOLERANCE, NORM_TOLERANCE = 1e-6, 1e-5, 1e-5, 1e-6
ERRORS = ("loss_error", "gradient_error", "parameter_error", "norm_error")
SHAPES_CTHW = {"video": (4, 3, 4, 6), "odd": (4, 3, 6, 10), "image": (4, 1, 8, 10)}
SHAPES_THW = {"odd": (3, 3, 5), "image": (1, 4, 5), "pair": (2, 3, 5)}
"""The autoregressive model's codes make as many tokens as the DiT's latents; pair has two frames and one action."""
MEASURES = {
    "dit": tiny_world.answers,
    "steered": tiny_world.steered_answers,
    "ar": tiny_ar.answers,
    "ar steered": tiny_ar.steered_answers,
    "lora": tiny_lora.answers,
    "ar lora": tiny_lora.ar_answers,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One layout on one kind of batch."""

    name: str
    ranks: int
    parallel: ParallelConfig
    batch: str = "odd"
    micro_batch_size: int = 1
    model: Literal["dit", "steered", "ar", "ar steered", "lora", "ar lora"] = "dit"

    @property
    def micro_batches(self) -> int:
        """Of one rank in one step; the global batch is always 4."""
        return 4 * self.parallel.ranks_per_replica // (self.ranks * self.micro_batch_size)


def _cases() -> Iterator[Case]:
    def case(name: str, ranks: int, batch: str = "odd", micro_batch_size: int = 1, **parallel: Any) -> Case:
        config = ParallelConfig(**parallel)
        return Case(name=name, ranks=ranks, parallel=config, batch=batch, micro_batch_size=micro_batch_size)

    yield case("compiled", 1, compile="blocks")
    yield case("dp2", 2)
    yield case("dp2 two samples at once", 2, micro_batch_size=2)
    yield case("dp2 overlapped", 2, overlap_grad_reduce="on")
    yield case("cp2 image whole overlapped", 2, "image", cp=2, cp_min_tokens=45, overlap_grad_reduce="on")
    yield case("tp2", 2, tp=2)
    yield case("tp2 sequence", 2, tp=2, sequence_parallel=True)
    yield case("tp2 sequence video", 2, "video", tp=2, sequence_parallel=True)
    yield case("tp2 sequence selective", 2, tp=2, sequence_parallel=True, recompute="selective")
    yield case("tp2 full", 2, tp=2, recompute="full")
    yield case("pp2", 2, pp=2)
    yield case("pp2 uneven", 2, pp=2, pp_first_blocks=1)
    yield case("pp2 interleaved", 2, pp=2, pp_chunks=2)
    yield case("pp2 interleaved full", 2, pp=2, pp_chunks=2, recompute="full")
    yield case("cp2 all_gather", 2, cp=2)
    yield case("cp2 a2a", 2, cp=2, cp_comm="a2a")
    yield case("cp2 selective", 2, cp=2, recompute="selective")
    yield case("cp2 two samples at once", 2, "video", 2, cp=2)
    yield case("cp2 image divided", 2, "image", cp=2)
    yield case("cp2 image whole", 2, "image", cp=2, cp_min_tokens=45)

    yield case("tp4", 4, tp=4)
    yield case("pp4", 4, pp=4)
    yield case("pp4 without blocks at the ends", 4, pp=4, pp_first_blocks=0, pp_last_blocks=0)
    yield case("cp4 all_gather", 4, cp=4)
    yield case("cp4 a2a", 4, cp=4, cp_comm="a2a")
    yield case("cp4 image whole", 4, "image", cp=4, cp_min_tokens=45)
    yield case("tp2 dp2", 4, tp=2)
    yield case("pp2 dp2", 4, pp=2)
    yield case("cp2 dp2", 4, cp=2)
    yield case("tp2 pp2", 4, tp=2, pp=2)
    yield case("tp2 pp2 sequence interleaved", 4, tp=2, pp=2, sequence_parallel=True, pp_chunks=2)
    yield case("tp2 cp2", 4, tp=2, cp=2)
    yield case("tp2 cp2 sequence", 4, tp=2, cp=2, sequence_parallel=True)
    yield case("tp2 cp2 sequence a2a", 4, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("tp2 cp2 sequence image whole", 4, "image", tp=2, cp=2, sequence_parallel=True, cp_min_tokens=45)
    yield case("pp2 cp2", 4, pp=2, cp=2)
    yield case("pp2 cp2 interleaved a2a", 4, pp=2, cp=2, pp_chunks=2, cp_comm="a2a")

    yield case("cp8 all_gather", 8, cp=8)
    for recompute in ("none", "selective", "full"):
        layout = {"tp": 2, "pp": 2, "cp": 2, "sequence_parallel": True, "recompute": recompute}
        yield case(f"tp2 pp2 cp2 sequence {recompute}", 8, **layout)
    yield case("tp2 pp2 cp2 sequence a2a video", 8, "video", tp=2, pp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("tp2 pp2 cp2 interleaved", 8, tp=2, pp=2, cp=2, pp_chunks=2)
    yield case("tp2 pp2 cp2 image whole", 8, "image", tp=2, pp=2, cp=2, cp_min_tokens=45)
    yield case("tp2 cp2 dp2", 8, tp=2, cp=2)
    yield case("tp2 cp2 dp2 sequence a2a", 8, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("pp2 cp2 dp2", 8, pp=2, cp=2)
    yield case("tp2 pp2 dp2 sequence", 8, tp=2, pp=2, sequence_parallel=True)


def _ar_cases() -> Iterator[Case]:
    """Yield what differs in it: causal attention, shared keys and values, a vocabulary that is divided, weights in
    norms."""

    def case(name: str, ranks: int, batch: str = "odd", **parallel: Any) -> Case:
        return Case(name=f"ar {name}", ranks=ranks, parallel=ParallelConfig(**parallel), batch=batch, model="ar")

    yield case("dp2", 2)
    yield case("dp2 overlapped", 2, overlap_grad_reduce="on")
    yield case("tp2", 2, tp=2)
    yield case("tp2 sequence selective", 2, tp=2, sequence_parallel=True, recompute="selective")
    yield case("pp2 interleaved", 2, pp=2, pp_chunks=2)
    yield case("pp2 full", 2, pp=2, recompute="full")
    yield case("cp2 all_gather", 2, cp=2)
    yield case("cp2 a2a", 2, cp=2, cp_comm="a2a")
    yield case("cp2 image whole", 2, "image", cp=2, cp_min_tokens=45)

    yield case("tp4 sequence", 4, tp=4, sequence_parallel=True)
    yield case("cp4 all_gather", 4, cp=4)
    yield case("cp4 a2a", 4, cp=4, cp_comm="a2a")
    yield case("tp2 cp2 sequence", 4, tp=2, cp=2, sequence_parallel=True)
    yield case("tp2 cp2 sequence a2a", 4, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("tp2 pp2 sequence interleaved", 4, tp=2, pp=2, sequence_parallel=True, pp_chunks=2)

    yield case("cp8 all_gather", 8, cp=8)
    yield case("tp2 pp2 cp2 sequence", 8, tp=2, pp=2, cp=2, sequence_parallel=True)
    yield case(
        "tp2 cp2 dp2 sequence a2a selective",
        8,
        tp=2,
        cp=2,
        sequence_parallel=True,
        cp_comm="a2a",
        recompute="selective",
    )


def _steered_cases() -> Iterator[Case]:
    """Yield what differs in a DiT that reads a camera's path and actions: a rank has tokens of several latent frames,
    each with a modulation of its own, and rays lie beside the latents."""

    def case(name: str, ranks: int, batch: str = "odd", **parallel: Any) -> Case:
        return Case(
            name=f"steered {name}", ranks=ranks, parallel=ParallelConfig(**parallel), batch=batch, model="steered"
        )

    yield case("dp2 overlapped", 2, overlap_grad_reduce="on")
    yield case("tp2 sequence selective", 2, tp=2, sequence_parallel=True, recompute="selective")
    yield case("pp2 interleaved full", 2, pp=2, pp_chunks=2, recompute="full")
    yield case("cp2 all_gather", 2, cp=2)
    yield case("cp2 a2a video", 2, "video", cp=2, cp_comm="a2a")
    yield case("cp2 whole", 2, cp=2, cp_min_tokens=100)

    yield case("tp2 cp2 sequence", 4, tp=2, cp=2, sequence_parallel=True)
    yield case("pp2 cp2 interleaved a2a", 4, pp=2, cp=2, pp_chunks=2, cp_comm="a2a")
    yield case("tp4 sequence", 4, tp=4, sequence_parallel=True)
    yield case("pp4", 4, pp=4)
    yield case("cp4 a2a video", 4, "video", cp=4, cp_comm="a2a")
    yield case("tp2 pp2 sequence interleaved", 4, tp=2, pp=2, sequence_parallel=True, pp_chunks=2)
    yield case("cp2 dp2 overlapped", 4, cp=2, overlap_grad_reduce="on")

    yield case("tp2 pp2 cp2 sequence full", 8, tp=2, pp=2, cp=2, sequence_parallel=True, recompute="full")
    yield case("cp8 all_gather", 8, cp=8)
    yield case("tp2 cp2 dp2 sequence a2a", 8, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("tp2 pp2 dp2 sequence", 8, tp=2, pp=2, sequence_parallel=True)
    yield case("pp2 cp2 dp2 interleaved", 8, pp=2, cp=2, pp_chunks=2)


def _ar_steered_cases() -> Iterator[Case]:
    """Yield what differs in an autoregressive model that reads actions: they take the text's place, whole on all
    ranks."""

    def case(name: str, ranks: int, **parallel: Any) -> Case:
        layout = ParallelConfig(**parallel)
        return Case(name=f"ar steered {name}", ranks=ranks, parallel=layout, batch="pair", model="ar steered")

    yield case("tp2 sequence", 2, tp=2, sequence_parallel=True)
    yield case("pp2", 2, pp=2)
    yield case("cp2", 2, cp=2)

    yield case("tp4 sequence", 4, tp=4, sequence_parallel=True)
    yield case("cp4 a2a", 4, cp=4, cp_comm="a2a")
    yield case("tp2 cp2 sequence", 4, tp=2, cp=2, sequence_parallel=True)
    yield case("tp2 pp2 sequence interleaved", 4, tp=2, pp=2, sequence_parallel=True, pp_chunks=2)
    yield case("pp2 dp2 full", 4, pp=2, recompute="full")

    yield case("tp2 pp2 cp2 sequence", 8, tp=2, pp=2, cp=2, sequence_parallel=True)
    yield case("tp2 cp2 dp2 sequence a2a", 8, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("pp2 cp2 dp2", 8, pp=2, cp=2)


def _lora_cases() -> Iterator[Case]:
    """Yield what differs where adapters are trained: one of their two matrices is divided as the base's weight is, the
    other whole, and what lies between the two is exchanged."""

    def case(name: str, ranks: int, model: Literal["lora", "ar lora"] = "lora", **parallel: Any) -> Case:
        return Case(name=f"{model} {name}", ranks=ranks, parallel=ParallelConfig(**parallel), model=model)

    yield case("dp2 overlapped", 2, overlap_grad_reduce="on")
    yield case("tp2", 2, tp=2)
    yield case("tp2 sequence selective", 2, tp=2, sequence_parallel=True, recompute="selective")
    yield case("pp2 interleaved full", 2, pp=2, pp_chunks=2, recompute="full")
    yield case("cp2 a2a", 2, cp=2, cp_comm="a2a")
    yield case("tp2 sequence", 2, "ar lora", tp=2, sequence_parallel=True)
    yield case("pp2", 2, "ar lora", pp=2)
    yield case("cp2", 2, "ar lora", cp=2)

    yield case("tp4 sequence", 4, tp=4, sequence_parallel=True)
    yield case("tp2 pp2", 4, tp=2, pp=2)
    yield case("tp2 pp2 sequence interleaved", 4, tp=2, pp=2, sequence_parallel=True, pp_chunks=2)
    yield case("tp2 cp2 sequence", 4, tp=2, cp=2, sequence_parallel=True)
    yield case("tp4", 4, "ar lora", tp=4)
    yield case("tp2 pp2 sequence", 4, "ar lora", tp=2, pp=2, sequence_parallel=True)

    yield case("tp2 pp2 cp2 sequence full", 8, tp=2, pp=2, cp=2, sequence_parallel=True, recompute="full")
    yield case("tp2 cp2 dp2 sequence a2a", 8, tp=2, cp=2, sequence_parallel=True, cp_comm="a2a")
    yield case("tp2 pp2 dp2 sequence", 8, "ar lora", tp=2, pp=2, sequence_parallel=True)


CASES = (*_cases(), *_steered_cases(), *_ar_cases(), *_ar_steered_cases(), *_lora_cases())


class Parity:
    """Answers of layouts, compared with the single process's, which are kept."""

    def __init__(self, pool: Callable[[int], RankPool], folder: Path, *, num_steps: int = 3) -> None:
        """pool(n): n running gloo processes. folder: for the latents of each kind of batch. num_steps: parameters are
        compared after so many."""
        self.pool, self.folder, self.num_steps = pool, folder, num_steps
        self.single: dict[tuple[str, str], dict[str, Any]] = {}

    def check(self, case: Case, *, measure: Callable[..., dict[str, Any]] | None = None) -> dict[str, Any]:
        """One line of the report. `measure` runs on every rank; tests pass one with a mistake in it."""
        correct = functools.partial(MEASURES[case.model], num_steps=self.num_steps)
        key = (case.model, case.batch)
        cache = self.folder / case.model / case.batch
        if not cache.exists():
            is_steered = case.model.endswith("steered")
            is_ar = case.model.startswith("ar")
            if is_ar:
                tiny_ar.write_cache(cache, shape_THW=SHAPES_THW[case.batch], is_steered=is_steered)
            else:
                tiny_world.write_cache(cache, shape_CTHW=SHAPES_CTHW[case.batch], is_steered=is_steered)
            if case.model.endswith("lora"):
                self.pool(1).run(tiny_lora.write_base_of, cache, is_ar)
        if key not in self.single:
            [self.single[key]] = self.pool(1).run(correct, cache, self.folder, ParallelConfig(), 1)
        started = time.perf_counter()
        found = self.pool(case.ranks).run(measure or correct, cache, self.folder, case.parallel, case.micro_batch_size)
        errors = compare(found, self.single[key])
        return {
            "layout": case.name,
            "ranks": case.ranks,
            "batch": case.batch,
            "recompute": case.parallel.recompute,
            "microbatches": case.micro_batches,
            **errors,
            "seconds": round(time.perf_counter() - started, 1),
            "ok": errors["loss_error"] <= LOSS_TOLERANCE
            and errors["gradient_error"] <= GRADIENT_TOLERANCE
            and errors["parameter_error"] <= PARAMETER_TOLERANCE
            and errors["norm_error"] <= NORM_TOLERANCE,
        }


def compare(found: list[dict[str, Any]], single: dict[str, Any]) -> dict[str, Any]:
    """The largest errors over ranks and parameters. Raises AssertionError where the ranks lack a part of the model."""
    held = set().union(*(answer["gradients"] for answer in found))
    assert held == single["gradients"].keys(), f"not on any rank: {single['gradients'].keys() - held}"
    assert min(single["grad_norms"]) > tiny_world.CLIP_GRAD_NORM, "a step did not clip, so its norm had no effect"
    gradients, parameters, norms = list[tuple[float, str]](), list[tuple[float, str]](), list[float]()
    for answer in found:
        for name, gradient in answer["gradients"].items():
            wanted = single["gradients"][name]
            gradients.append((float((gradient - wanted).abs().max() / wanted.abs().max()), name))
        for name, parameter in answer["parameters"].items():
            parameters.append((float((parameter - single["parameters"][name]).abs().max()), name))
        both = zip(answer["grad_norms"], single["grad_norms"], strict=False)  # tests take fewer steps
        norms += [abs(norm / wanted - 1) for norm, wanted in both]
    losses = [abs(answer["loss"] / single["loss"] - 1) for answer in found]
    (gradient_error, gradient_of), (parameter_error, parameter_of) = max(gradients), max(parameters)
    return {
        "loss_error": max(losses),
        "gradient_error": gradient_error,
        "gradient_of": gradient_of,
        "parameter_error": parameter_error,
        "parameter_of": parameter_of,
        "norm_error": max(norms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Every parallel layout against the single process.")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 4, 8], help="layouts of so many processes")
    parser.add_argument("--only", default="", help="layouts whose name contains this")
    options = parser.parse_args()
    chosen = [case for case in CASES if case.ranks in options.ranks and options.only in case.name]
    if not chosen:
        sys.exit(f"no layout has {options.only!r} in its name; there are: {', '.join(case.name for case in CASES)}")
    pools: dict[int, RankPool] = {}

    def pool(num_ranks: int) -> RankPool:
        for other in set(pools) - {1, num_ranks}:
            pools.pop(other).close()
        if num_ranks not in pools:
            pools[num_ranks] = RankPool(num_ranks)
        return pools[num_ranks]

    started, lines = time.perf_counter(), []
    try:
        with tempfile.TemporaryDirectory() as folder:
            parity = Parity(pool, Path(folder))
            for case in chosen:
                lines.append(parity.check(case))
                print(json.dumps(lines[-1]), flush=True)
    finally:
        for started_pool in pools.values():
            started_pool.close()
    summary = {
        "layouts": len(lines),
        "failed": [line["layout"] for line in lines if not line["ok"]],
        **{f"largest_{key}": max(line[key] for line in lines) for key in ERRORS},
        "seconds": round(time.perf_counter() - started),
        **provenance(),
    }
    print(json.dumps(summary))
    sys.exit(tell_goals([f"{layout} is not the single process" for layout in summary["failed"]]))


if __name__ == "__main__":
    main()
