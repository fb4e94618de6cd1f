"""What a rank does does not grow with the data set. Steps and bytes are counted and never seconds: with ten times the
rows there are no more of them."""

import gc
import hashlib
import sys
import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import FrameType

import pytest
from support.clips import CLIP
from support.many import SHAPE_CTHW, write_many_rows, write_many_windows

from cosmos_data.caches.latents import LatentStore
from cosmos_data.config import SIZES_PX, DataConfig
from cosmos_data.manifests.manifest import Manifest
from cosmos_data.manifests.rows import to_row
from cosmos_data.manifests.table import ClipTable
from cosmos_data.sample_plan.order import ROUNDS, Alternation, IndexPlan
from cosmos_data.sample_plan.plan import Part, SamplePlan

ROWS, TIMES = 1000, 10
CONFIG = DataConfig(manifest="m", num_frames=9, height_px=256, width_px=256, buckets="256")


def cost_of(function: Callable[[], object]) -> tuple[int, int]:
    """(lines that run and calls of C functions, bytes that objects and arrays take meanwhile): the second is for loops
    that run within one call. Of the function's second run, after what is done once."""
    function()
    steps = 0

    def step(frame: FrameType, event: str, argument: object) -> Callable:
        nonlocal steps
        steps += event in ("line", "c_call")
        return step

    before = sys.gettrace(), sys.getprofile()
    gc.disable()  # it would run what other tests have left behind
    sys.settrace(step)
    sys.setprofile(step)
    try:
        function()
    finally:
        sys.settrace(before[0])
        sys.setprofile(before[1])
        gc.enable()
    tracemalloc.start()
    function()
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return steps, peak_bytes


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of ROWS clips and of TIMES as many, of sizes of five aspect buckets."""
    folder = tmp_path_factory.mktemp("manifests")
    pictures = [to_row(CLIP) | {"height_px": height, "width_px": width} for height, width in SIZES_PX["256"]]
    for name, num_rows in (("few", ROWS), ("many", TIMES * ROWS)):
        write_many_rows(folder / name, pictures, num_rows)
    return folder / "few", folder / "many"


def plan_of(path: Path, *, verify: bool = False) -> SamplePlan:
    """Of twenty strata: two parts, five buckets, images and videos."""
    train = Manifest.read(path, verify=verify).select("train")
    return SamplePlan([Part(train), Part(train, 0.5)], 0, CONFIG, image_share=0.2)


def test_a_manifest_is_opened_and_planned_by_columns(manifests: tuple[Path, Path]) -> None:
    """Of each row a few numbers are held at a time, and no Python object is made; nor by who verifies the file."""
    (few, few_bytes), (many, many_bytes) = (cost_of(lambda path=path: plan_of(path)) for path in manifests)
    assert many <= 1.05 * few
    assert many_bytes - few_bytes < 100 * (TIMES - 1) * ROWS
    few, many = (cost_of(lambda path=path: plan_of(path, verify=True))[0] for path in manifests)
    assert many <= 1.05 * few


def test_a_sample_costs_the_same_however_many_rows(
    manifests: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one clip is made for it, of the row that is sampled."""
    made = list[int]()
    getitem = ClipTable.__getitem__
    monkeypatch.setattr(ClipTable, "__getitem__", lambda self, row: made.append(row) or getitem(self, row))
    costs = []
    for path in manifests:
        plan = plan_of(path)
        assert not made
        costs.append(cost_of(lambda plan=plan: [plan.sample(index * 1009) for index in range(100)]))
        assert len(made) == 3 * 100
        made.clear()
    (few, few_bytes), (many, many_bytes) = costs
    assert many <= 1.05 * few
    assert many_bytes <= 1.2 * few_bytes


@pytest.mark.parametrize("num_items", [7, 10**3, 10**6, 10**9, 10**12])
def test_an_item_costs_the_same_however_many_there_are(num_items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: hashes for 200 items far out, in epochs that were never begun."""
    calls = 0
    blake2b = hashlib.blake2b

    def counted(*args, **kwargs):
        nonlocal calls
        calls += 1
        return blake2b(*args, **kwargs)

    monkeypatch.setattr(hashlib, "blake2b", counted)
    plan = IndexPlan(num_items, "digest", 3)
    for number in range(200):
        assert 0 <= plan.item(number * 982_451_653 + 10**15) < num_items
    assert calls <= 200 * ROUNDS * (1.5 if num_items < 100 else 1.05)


def test_a_turn_costs_the_same_at_any_place() -> None:
    turns = Alternation([Fraction(1, 7)] * 5)
    near, far = (cost_of(lambda n=n: turns.turn(n))[0] for n in (0, 10**15))
    assert near == far


def cost_of_cache(folder: Path, num_shards: int, per_shard: int) -> dict[str, tuple[int, int]]:
    write_many_windows(folder, num_shards, per_shard)
    store, last = LatentStore(folder), num_shards * per_shard - 1
    window = store.window(last)
    assert window.z_CTHW.shape == SHAPE_CTHW and (window.z_CTHW == last).all()
    return {
        "open": cost_of(lambda: LatentStore(folder)),
        "first": cost_of(lambda: LatentStore(folder).window(last)),
        "window": cost_of(lambda: store.window(last)),
        "describe": cost_of(lambda: store.describe(last)),
    }


def test_a_cache_costs_what_its_shards_do(tmp_path: Path) -> None:
    """Ten times the windows and captions cost nothing; ten times the shards make opening so much dearer, and a window
    not at all."""
    small = cost_of_cache(tmp_path / "small", 4, 20)
    full = cost_of_cache(tmp_path / "full", 4, 20 * TIMES)
    long = cost_of_cache(tmp_path / "long", 4 * TIMES, 20)
    for name, (steps, peak_bytes) in small.items():
        assert full[name][0] == steps, name
        assert full[name][1] <= peak_bytes + 2**13, name
    for name in ("window", "describe"):
        assert long[name][0] == small[name][0], name
    assert long["open"][0] <= TIMES * small["open"][0]
    assert small["window"][0] < 500
