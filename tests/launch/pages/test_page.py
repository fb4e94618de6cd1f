"""The page: what was put in is in it, nothing from elsewhere is, and a browser would parse it."""

import html
import math
import re
from pathlib import Path

import numpy as np
import pytest
from plotly.offline import get_plotlyjs
from support.page import Page

from cosmos_launch.pages.contents import (
    Bars,
    Charts,
    Curves,
    Fact,
    FrameRow,
    FrameRows,
    Mark,
    Report,
    Section,
    Table,
    Text,
)
from cosmos_launch.pages.page import render, write_report


def frames(count: int, height_px: int = 24, width_px: int = 40) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, height_px, width_px, 3), dtype=np.uint8))


TRAINING = [(step, 2.0 * math.exp(-step / 100) + 0.1) for step in range(400)]
"""A curve of 400 steps."""


def example() -> Report:
    marks = [Mark(120, "killed"), Mark(121, "resumed on 2 ranks"), Mark(300, "resumed on 4 ranks")]
    losses = Curves("loss", {"training": TRAINING, "held out": TRAINING[::40]})
    sizes = Bars("sizes", {"clips": [("32x32", 3), ("64x32", 1)]}, x_label="width x height")
    curve = Charts([losses, sizes], marks, "Loss of the demo.")
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


def test_what_was_put_in_is_in_the_page(tmp_path: Path) -> None:
    path = write_report(tmp_path / "new" / "report.html", example())
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        *("Demo", "Final loss", "0.08411", "at step 400", "12,345,678", "First paragraph.", "Second paragraph."),
        *("120: killed", "121: resumed on 2 ranks"),
        *("Loss of the demo.", "Original", "Reconstruction", "Held-out clip."),
        *("0.084112", "0.084113", "Layouts agree.", "seed: 0\nsteps: 400"),
    ):
        assert words in page.text, words
    told = next(story for story in page.values("div", "aria-label") if story.startswith("loss. "))
    assert "training: 2.1 at step 0" in told, "what who can not see the chart is told of it"
    assert page.curves("loss")["training"] == TRAINING
    assert page.curves("loss")["held out"] == TRAINING[::40]
    assert page.curves("sizes")["clips"] == [("32x32", 3), ("64x32", 1)]
    assert page.tags["h1"] == 1
    assert page.tags["h2"] == 2
    assert [path.name for path in path.parent.iterdir()] == ["report.html"]  # what was written aside is gone


def test_pictures_have_words_and_stand_still_where_that_is_asked_for() -> None:
    page = Page(render(example()))
    kinds = [uri.partition(";")[0] for uri in page.values("img", "src")]
    assert kinds.count("data:image/png") == 10 and kinds.count("data:image/webp") == 2
    assert page.values("source", "media") == ["(prefers-reduced-motion: reduce)"] * 2
    assert len(page.values("img", "alt")) == page.tags["img"]
    assert "Original, frame 0" in page.values("img", "alt")
    assert "--columns: 5; --frame: 80px" in page.values("figure", "style")


def rows_of(pictures: list[np.ndarray]) -> Report:
    return Report("Frames", sections=[Section("Frames", items=[FrameRows([FrameRow("a", pictures)])])])


def test_the_page_needs_nothing_but_itself() -> None:
    written = render(example())
    page = Page(written)
    for tag, name, value in page.attributes:
        if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
            assert value.startswith(("data:image/", "#")), f"{tag} {name}={value[:60]}"
    assert not page.tags.keys() & {"link", "iframe", "object", "embed", "form"}
    style = written[written.index("<style>") : written.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    script = Path("launch/cosmos_launch/pages/page.js").read_text(encoding="utf-8")
    assert not re.search(r"https?:|fetch\(|import\(|XMLHttpRequest", script)
    assert get_plotlyjs() not in render(rows_of(frames(1))), "a page without charts has no use for it"
    assert written.count(get_plotlyjs()) == 1, "once, however many charts"


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
                    Charts(
                        [Curves(evil, {evil: TRAINING, "b": []}, evil), Bars(evil, {evil: [(evil, 1)]}, evil)],
                        [Mark(1, evil)],
                        evil,
                    ),
                    FrameRows([FrameRow(evil, frames(2))], evil, fps=4),
                    Table([evil], [[evil]], evil),
                    Text(evil, evil),
                    Text(f"{evil}\n" * 40, evil),
                ],
            )
        ],
    )
    page = Page(render(report))
    assert page.tags["script"] == 2 + len(page.figures), "plotly's, the page's, and those that hold figures"
    assert page.text.count(evil) >= 15
    assert f"{evil}, frame 0" in page.values("img", "alt")
    for figure in page.figures:  # plotly takes texts for HTML
        assert html.unescape(figure["data"][0]["name"]) == evil and "<" not in figure["data"][0]["name"]
        assert "<" not in figure["layout"]["xaxis"]["title"]["text"]
    assert "&lt;" in page.figures[0]["data"][2]["text"][0] and "<script" not in page.figures[0]["data"][2]["text"][0]
    assert "<" not in page.figures[1]["data"][0]["x"][0]


def test_numbers_stand_to_the_right() -> None:
    table = Table(["name", "loss", "time"], [["a", 0.5, "1.2 s"], ["b", 12345.6, "–"]])
    page = render(Report("Table", sections=[Section("Table", items=[table])]))
    assert '<td>a</td><td class="number">0.5</td><td class="number">1.2 s</td>' in page
    assert '<td class="number">12,346</td>' in page
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
