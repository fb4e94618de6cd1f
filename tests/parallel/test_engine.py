"""Every layout gives the single process's answer (benchmarks/parity.py), and the comparison sees known mistakes.

After one step; after three in `make parity`.
"""

import functools
from collections.abc import Callable

import pytest
from parity import CASES, GRADIENT_TOLERANCE, LOSS_TOLERANCE, NORM_TOLERANCE, Case, Parity, compare
from support import mistakes
from support.ranks import RankPool

from cosmos_train.parallel.config import ParallelConfig

FAST = [case for case in CASES if case.ranks == 2]


@pytest.fixture(scope="module")
def parity(ranks: Callable[[int], RankPool], tmp_path_factory: pytest.TempPathFactory) -> Parity:
    return Parity(ranks, tmp_path_factory.mktemp("parity"), num_steps=1)


@pytest.mark.parametrize("case", FAST, ids=[case.name for case in FAST])
def test_layout_gives_the_answer_of_one_process(parity: Parity, case: Case):
    line = parity.check(case)
    assert line["ok"], line


def test_the_layouts_are_those_that_are_promised():
    """Kinds of parallelism that 2 ranks can show, here; their combinations on 4 and 8 in `make parity`."""
    for key, values in {
        "tp": {1, 2},
        "pp": {1, 2},
        "cp": {1, 2},
        "pp_chunks": {1, 2},
        "sequence_parallel": {False, True},
        "cp_comm": {"all_gather", "a2a"},
        "recompute": {"none", "selective", "full"},
        "overlap_grad_reduce": {"auto", "on"},
    }.items():
        assert {getattr(case.parallel, key) for case in FAST} == values
    degrees = {(case.ranks, case.parallel.tp, case.parallel.pp, case.parallel.cp) for case in CASES}
    assert {(8, 2, 2, 2), (8, 2, 1, 2), (4, 2, 2, 1), (8, 1, 1, 8)} <= degrees


CONTEXT, SEQUENCE = ParallelConfig(cp=2), ParallelConfig(tp=2, sequence_parallel=True)


@pytest.mark.parametrize(
    ("mistake", "parallel", "named"),
    [
        # A part of the tokens' gradient is missing in what is not divided; what is divided is right.
        ("no sequence reduction", SEQUENCE, ("modulation", "net.embed", "net.position", "net.timestep", "net.final")),
        # Heads of the other rank are missing in what all heads share.
        ("head norms not summed", ParallelConfig(tp=2), ("q_layernorm", "k_layernorm")),
        # Another video comes out, so every parameter's gradient is wrong.
        ("wrong order of context", CONTEXT, ("net.",)),
        ("context averaged twice", CONTEXT, ("net.", "uncertainty.")),
        # The wrong ones are those that were drawn, or see what they make.
        ("same draws on tensor ranks", ParallelConfig(tp=2), ("net.",)),
    ],
)
def test_a_mistake_is_reported_by_name(parity: Parity, mistake: str, parallel: ParallelConfig, named: tuple[str, ...]):
    case = Case(name=mistake, ranks=2, parallel=parallel)
    line = parity.check(case, measure=functools.partial(mistakes.answers_with, mistake))
    assert not line["ok"]
    assert line["gradient_error"] > 1000 * GRADIENT_TOLERANCE, line
    assert any(part in line["gradient_of"] for part in named), line
    if mistake in ("wrong order of context", "same draws on tensor ranks"):
        assert line["loss_error"] > 1000 * LOSS_TOLERANCE, line
    else:  # what only exit codes and loss curves would never show
        assert line["loss_error"] <= LOSS_TOLERANCE, line


@pytest.mark.parametrize(
    ("mistake", "parallel"),
    [
        ("copies counted in the norm", ParallelConfig(tp=2)),
        ("shared counted in the norm", ParallelConfig(pp=2)),
    ],
)
def test_a_miscounted_norm_is_reported(parity: Parity, mistake: str, parallel: ParallelConfig):
    """Gradients and loss are right, and Adam hides the wrong clipping in the parameters."""
    case = Case(name=mistake, ranks=2, parallel=parallel)
    line = parity.check(case, measure=functools.partial(mistakes.answers_with, mistake))
    assert not line["ok"] and line["norm_error"] > 1000 * NORM_TOLERANCE, line
    assert line["gradient_error"] <= GRADIENT_TOLERANCE and line["loss_error"] <= LOSS_TOLERANCE, line


def test_what_is_summed_over_heads_does_not_hang_on_its_name(parity: Parity):
    """megatron-core sums parameters whose name has q_layernorm or k_layernorm."""
    parity.check(Case(name="tp2", ranks=2, parallel=ParallelConfig(tp=2)))  # writes the latents
    cache = parity.folder / "dit" / "odd"
    [single] = parity.pool(1).run(mistakes.answers_of_renamed, cache, parity.folder, ParallelConfig())
    found = parity.pool(2).run(mistakes.answers_of_renamed, cache, parity.folder, ParallelConfig(tp=2))
    assert any("query_norm" in name for name in single["gradients"])
    errors = compare(found, single)
    assert errors["gradient_error"] <= GRADIENT_TOLERANCE and errors["norm_error"] <= NORM_TOLERANCE, errors


def test_twice_averaged_is_off_by_exactly_the_degree(parity: Parity):
    case = Case(name="context averaged twice", ranks=2, parallel=CONTEXT)
    line = parity.check(case, measure=functools.partial(mistakes.answers_with, "context averaged twice"))
    assert line["gradient_error"] == pytest.approx(0.5, abs=1e-4)
