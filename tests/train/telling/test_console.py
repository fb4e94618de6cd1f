"""A bar on a terminal, plain lines elsewhere: throughput, utilisation, waiting, time left."""

import time

import pytest

from cosmos_train.train.telling.console import RunConsole

VALUES = {"loss": 0.51239, "grad_norm": 2.0, "lr": 1e-3, "step_sec": 0.25}
SPEED = {"samples_per_sec": 16.0, "tokens_per_sec": 1024.0, "mfu": 0.4125, "data_wait_share": 0.0071}


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]):
    console = RunConsole(num_steps=8, first_step=2)
    console.started = time.monotonic() - 100.0
    console.step(3, VALUES, is_logged=False)
    console.step(4, VALUES | SPEED, is_logged=True)
    console.step(8, VALUES, is_logged=True)
    console.close()
    first, last = capsys.readouterr().out.splitlines()
    figures = "loss 0.5124  grad_norm 2  lr 0.001  0.25 s/step  16 samples/s  1024 tokens/s  mfu 41.2%  data_wait 0.7%"
    assert first == f"step 4/8  {figures}  left 3 min 20 s"
    assert last == "step 8/8  loss 0.5124  grad_norm 2  lr 0.001  0.25 s/step  left 0 s"


def test_a_bar_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich: stdout is one
    monkeypatch.setenv("COLUMNS", "160")
    console = RunConsole(num_steps=8, first_step=0)
    console.step(7, VALUES | SPEED, is_logged=True)
    console.step(8, VALUES | {"loss": 0.25}, is_logged=False)
    console.close()
    shown = capsys.readouterr().out
    assert "8/8" in shown and "left" in shown
    assert "loss 0.25  16 samples/s  1024 tokens/s  mfu 41.2%  data_wait 0.7%" in shown, "the speed logged last stays"
    assert "step 8/8  loss" not in shown
