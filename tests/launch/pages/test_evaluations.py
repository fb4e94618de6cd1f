"""What `evaluate world` left in a run's folder is read in the order of steps; anything else is named and left out."""

import json
from pathlib import Path

import pytest
from support.run_folder import write_evaluation

from cosmos_launch.pages.evaluations import Evaluation, read_evaluations


def test_evaluations_come_in_the_order_of_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (100, 20):
        write_evaluation(tmp_path, step, model=1 / step)
    (tmp_path / "evaluation-torn.json").write_text('{"step": 3')
    (tmp_path / "evaluation.json").write_text('{"overall": {}}')
    first, second = read_evaluations(tmp_path)
    assert first == Evaluation("evaluation-20.json", 20, "latent_mse", 1, 32, model=0.05, rival=1.5)
    assert second.step == 100
    assert caplog.text.count("is no evaluation of a world model, and left out") == 2
    assert read_evaluations(tmp_path / "nowhere") == []


@pytest.mark.parametrize("measure", ["latent_mse", "code_error"])
def test_a_file_without_the_name_of_its_measure_is_read(tmp_path: Path, measure: str) -> None:
    facts = {"step": 3, "num_condition_frames": 1, "num_windows": 2, measure: {"model": 0.5, "repeat_last_frame": 1.5}}
    (tmp_path / "evaluation.json").write_text(json.dumps(facts))
    [one] = read_evaluations(tmp_path)
    assert (one.measure, one.model) == (measure, 0.5)
