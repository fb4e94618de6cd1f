"""What `cosmos-train evaluate world` has left in a run's folder, as RUN/evaluation*.json."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How far a model was off on held-out windows, and how far off repeating the last frame was."""

    file: str
    step: int
    measure: str
    """The name of the error: latent_mse or code_error."""
    num_given: int
    """Latent frames that were given."""
    num_windows: int
    model: float
    rival: float


def read_evaluations(run_dir: Path) -> list[Evaluation]:
    """Read a run's evaluations in the order of their steps; a file that can not be read is warned of and left out."""
    found = []
    for path in sorted(run_dir.glob("evaluation*.json")):
        try:
            found.append(_read(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is no evaluation of a world model, and left out: %r", path, error)
    return sorted(found, key=lambda one: one.step)


def _read(path: Path) -> Evaluation:
    facts = json.loads(path.read_text(encoding="utf-8"))
    # Files of before the key `measure` hold one of the two kinds of error.
    measure = facts.get("measure") or ("code_error" if "code_error" in facts else "latent_mse")
    errors = facts[measure]
    return Evaluation(
        file=path.name,
        step=int(facts["step"]),
        measure=str(measure),
        num_given=int(facts["num_condition_frames"]),
        num_windows=int(facts["num_windows"]),
        model=float(errors["model"]),
        rival=float(errors["repeat_last_frame"]),
    )
