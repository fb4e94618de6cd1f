"""`cosmos-train train RUN --dry-run`: a page for a person or an object for a program; nothing written or started."""

import json
from pathlib import Path

import pytest

from cosmos_launch.cli.dry_run import HEADER
from cosmos_launch.cli.main import main

LINE = (
    "train run/pretrain/dit_7b_720p --dry-run --world-size 1024 parallel.pp=4 parallel.recompute=full "
    "image_share=0 latents.image_folder=null"
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_plain_lines(capsys: pytest.CaptureFixture[str], elsewhere: Path):
    assert main(LINE.split()) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    lines = shown.out.splitlines()
    assert lines[0] == "ranks     1,024, none of them started: tp8 pp4 cp1 dp32"
    assert lines[1] == "model     7,236,192,384 parameters in bf16"
    assert lines[2] == "step      1,024 samples = 32 data-parallel x 32 micro-batches x 1"
    assert "56,320 tokens, 512 of text" in lines[3]
    assert "66% of them attention" in lines[4] and lines[4].endswith("recompute=full adds 33%")
    table = [line.split() for line in lines[lines.index("") + 2 :]]
    assert tuple(table[0]) == HEADER
    assert [row[:3] for row in table[1:]] == [["0", "256", "7"], ["1-2", "512", "7"], ["3", "256", "7"]]
    assert list(elsewhere.iterdir()) == []


def test_a_table_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(LINE.split()) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in HEADER) and "1-2" in shown


def test_an_object_for_programs(capsys: pytest.CaptureFixture[str]):
    assert main([*LINE.split(), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["world_size"] == sum(kind["num_ranks"] for kind in plan["kinds"]) == 1024
    flops = plan["step_flops"]
    assert flops["total"] == flops["gemm"] + flops["attention"] == pytest.approx(1024 * 6.63e15, rel=0.01)
    for kind in plan["kinds"]:
        memory = kind["memory"]
        assert memory.pop("total") == sum(memory.values())


def test_a_tokenizer_run(capsys: pytest.CaptureFixture[str]):
    assert main(["train", "run/demo_tokenizer", "--dry-run", "--nproc", "2"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("ranks     2, none of them started: tp1 pp1 cp1 dp2\n") and "FLOPs" not in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{LINE} --world-size 0", "--world-size 0 must be at least 1"),
        (f"{LINE} --world-size 1000", "parallel.tp=8 * parallel.pp=4 * parallel.cp=1 = 32 does not divide the 1000 "),
        (f"{LINE} parallel.tp=5", "model.num_heads=32 is not divisible by parallel.tp=5"),
        ("train run/demo_world --world-size 4", "--world-size and --json belong to --dry-run; add it, or start ranks"),
        ("train run/demo_world --json", "--world-size and --json belong to --dry-run; add it, or start ranks"),
    ],
)
def test_wrong_input(line: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("cosmos-train: ") and said in shown.err
    assert shown.err.count("\n") == 1
