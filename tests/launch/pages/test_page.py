"""The page: what was put in is in it, nothing from elsewhere is, and a browser would parse it."""

import base64
import io
import json
import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.page import Page

from cosmos_launch.pages.page import (
    Fact,
    FrameRow,
    FrameRows,
    LossCurve,
    Mark,
    Report,
    Section,
    Table,
    Text,
    read_metrics,
    render,
    write_report,
)


def frames(count: int, height_px: int = 24, width_px: int = 40) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height_px, width_px, 3), dtype=np.uint8))


def example(series: dict[str, list[tuple[int, float]]] | None = None) -> Report:
    training = [(step, 2.0 * math.exp(-step / 100) + 0.1) for step in range(400)]
    curve = LossCurve(
        series or {"training": training, "held out": training[::40]},
        [Mark(120, "killed"), Mark(121, "resumed on 2 ranks"), Mark(300, "resumed on 4 ranks")],
        log_y=True,
        caption="Loss of the demo.",
    )
    rows = FrameRows([FrameRow("Original", frames(5)), FrameRow("Reconstruction", frames(5))], "Held-out clip.", fps=8)
    table = Table(["layout", "ranks", "loss"], [["tp=1", 1, 0.084112], ["tp=2", 2, 0.084113]], "Layouts agree.")
    return Report(
        "Demo",
        [Fact("Final loss", 0.08411, "at step 400"), Fact("Parameters", 12345678), Fact("Device", "CPU")],
        [
            Section("Tokenizer", "First paragraph.\n\nSecond paragraph.", [curve, rows]),
            Section("Layouts", items=[table, Text("seed: 0\nsteps: 400", "The run.")]),
        ],
    )


def image_of(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def test_what_was_put_in_is_in_the_page(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", example())
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        *("Demo", "Final loss", "0.08411", "at step 400", "12,345,678", "First paragraph.", "Second paragraph."),
        *("loss, logarithmic", "training: 2.1 at step 0", "120: killed", "121: resumed on 2 ranks"),
        *("Loss of the demo.", "Original", "Reconstruction", "Held-out clip."),
        *("0.084112", "0.084113", "Layouts agree.", "seed: 0\nsteps: 400"),
    ):
        assert words in page.text, words
    assert page.tags["svg"] == 2  # a wide and a narrow one
    assert page.tags["h1"] == 1
    assert page.tags["h2"] == 2
    assert [path.name for path in path.parent.iterdir()] == ["report.html"]  # what was written aside is gone


def test_the_pictures_are_the_frames() -> None:
    page = Page(render(example()))
    stills = [uri for uri in page.values("img", "src") if uri.startswith("data:image/png")]
    assert len(stills) == 10
    for uri, frame in zip(stills, frames(5) * 2, strict=True):
        assert np.array_equal(np.asarray(image_of(uri)), frame)
    moving = [image_of(uri) for uri in page.values("img", "src") if uri.startswith("data:image/webp")]
    assert [getattr(picture, "n_frames", 1) for picture in moving] == [5, 5]
    assert page.values("source", "media") == ["(prefers-reduced-motion: reduce)"] * 2
    assert len(page.values("img", "alt")) == page.tags["img"]
    assert "Original, frame 0" in page.values("img", "alt")


def test_large_frames_are_shrunk_and_bad_ones_refused() -> None:
    (uri,) = Page(render(rows_of([frames(1, 360, 1280)[0]]))).values("img", "src")
    assert uri.startswith("data:image/jpeg")
    assert image_of(uri).size == (640, 180)
    with pytest.raises(ValueError, match=r"a frame is float32 \[3, 8, 8\]; give uint8 \[H, W, 3\]"):
        render(rows_of([np.zeros((3, 8, 8), np.float32)]))


def rows_of(pictures: list[np.ndarray]) -> Report:
    return Report("Frames", sections=[Section("Frames", items=[FrameRows([FrameRow("a", pictures)])])])


def test_the_page_needs_nothing_but_itself() -> None:
    html = render(example())
    page = Page(html)
    for tag, name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
            assert value.startswith(("data:image/", "#")), f"{tag} {name}={value[:60]}"
    assert not page.tags.keys() & {"script", "link", "iframe", "object", "embed", "form"}
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "http://" not in html
    assert "https://" not in html
    assert "prefers-color-scheme: dark" in style


def test_colours_are_the_pages_and_ids_are_used_once() -> None:
    page = Page(render(example()))
    assert not any(re.search(r"#0[0-3]0[12]0", value) for _, name, value in page.attributes if name == "style")
    assert any("var(--series-1)" in value for value in page.values("path", "style"))
    ids = Counter(value for _, name, value in page.attributes if name == "id")
    assert [name for name, count in ids.items() if count > 1] == []


def test_what_a_user_writes_is_escaped() -> None:
    evil = """<script>alert("1")</script> & 'x' $a_b$"""
    report = Report(
        evil,
        [Fact(evil, evil, evil)],
        [
            Section(
                evil,
                evil,
                [
                    LossCurve({evil: [(0, 1.0), (1, 0.5)]}, [Mark(1, evil)], evil, evil, caption=evil),
                    FrameRows([FrameRow(evil, frames(2))], evil, fps=4),
                    Table([evil], [[evil]], evil),
                    Text(evil, evil),
                    Text(f"{evil}\n" * 40, evil),
                ],
            )
        ],
    )
    html = render(report)
    page = Page(html)
    assert "script" not in page.tags
    assert "<script" not in html
    assert page.text.count(evil) >= 15
    assert f"{evil}, frame 0" in page.values("img", "alt")


@pytest.mark.parametrize(
    "series",
    [{}, {"loss": []}, {"loss": [(0, math.nan)]}],
    ids=["no series", "an empty series", "no finite value"],
)
def test_a_curve_without_values_says_so(series: dict[str, list[tuple[int, float]]]) -> None:
    report = Report("Empty", sections=[Section("Loss", items=[LossCurve(series)])])
    assert "No values yet." in Page(render(report)).text


@pytest.mark.parametrize("log_y", [False, True])
def test_values_that_cannot_be_drawn_are_counted(log_y: bool) -> None:
    points = [(0, 1.0), (1, math.nan), (2, math.inf), (3, 0.25)]
    curve = LossCurve({"loss": points, "none": [], "one": [(2, 0.5)]}, log_y=log_y)
    text = Page(render(Report("Gaps", sections=[Section("Loss", items=[curve])]))).text
    assert "2 values are not finite and are left out." in text
    assert "loss: 1 at step 0, 0.25 at step 3" in text
    assert "none: no values" in text


def test_a_long_series_is_drawn_thin() -> None:
    points = [(step, 1.0 + (step % 7)) for step in range(100_000)]
    html = render(Report("Long", sections=[Section("Loss", items=[LossCurve({"loss": points})])]))
    assert len(html) < 60_000
    assert "Band: the smallest and the largest of them." in Page(html).text


def test_numbers_stand_to_the_right() -> None:
    table = Table(["name", "loss", "time"], [["a", 0.5, "1.2 s"], ["b", 12345.6, "–"]])
    html = render(Report("Table", sections=[Section("Table", items=[table])]))
    assert '<td>a</td><td class="number">0.5</td><td class="number">1.2 s</td>' in html
    assert '<td class="number">12,346</td>' in html
    with pytest.raises(ValueError, match="row 0 of a table has 1 cells, its header 2"):
        Table(["a", "b"], [["a"]])


def test_equal_data_give_an_equal_page() -> None:
    assert render(example()) == render(example())


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match="a frame is"):
        write_report(path, rows_of([np.zeros((8, 8), np.uint8)]))
    assert path.read_text() == "old"


def metrics(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_metrics_are_read(tmp_path: Path) -> None:
    records = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    lines = "\n".join(map(json.dumps, records))
    assert read_metrics(metrics(tmp_path / "a.jsonl", f"{lines}\n")) == records
    assert read_metrics(metrics(tmp_path / "b.jsonl", lines)) == records  # whole, though its newline is lost
    assert read_metrics(metrics(tmp_path / "c.jsonl", "")) == []


@pytest.mark.parametrize("torn", ['{"step": 3, "lo', "{", "3", '{"step": 3, "loss": 0.5}}'])
def test_a_torn_last_line_is_left_out(tmp_path: Path, torn: str) -> None:
    assert read_metrics(metrics(tmp_path / "metrics.jsonl", '{"step": 1}\n' + torn)) == [{"step": 1}]


@pytest.mark.parametrize("line", ['{"step": 2, "lo', "[1]", "", '{"step": 2}{"step": 3}', "\0" * 400])
def test_any_other_broken_line_is_named_and_left_out(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = metrics(tmp_path / "metrics.jsonl", f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert f"{path}:2: the line is n" in caplog.text and "left out" in caplog.text
    assert read_metrics(path.with_name("metrics.jsonl")) and path.read_text().count("\n") == 3, "it stays there"
