"""A YAML file and dotted overrides -> a typed run. Includes, then the file, then the command line; the last one wins.

recipe: world_dit
include: {model: model/dit_7b}      # a section's values, from configs/ or from beside the file
model: {num_blocks: 4}              # the file's own values stand over the included ones
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cosmos_train.config.errors import ConfigError
from cosmos_train.config.schema import RUNS, RunConfig


def configs_dir() -> Path:
    """The shipped YAML files: inside the installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parent.parent
    return package / "configs" if (package / "configs").is_dir() else package.parent / "configs"


def find_yaml(name: str, beside: Path | None = None) -> Path:
    """A YAML file by path, by path beside another file, or by its name under configs/ (`.yaml` may be left out)."""
    wanted = Path(name) if name.endswith((".yaml", ".yml")) else Path(f"{name}.yaml")
    places = [Path(), configs_dir()] if beside is None else [beside, configs_dir()]
    for place in places:
        if (place / wanted).is_file():
            return place / wanted
    known = sorted(p.relative_to(configs_dir()).with_suffix("").as_posix() for p in configs_dir().rglob("*.yaml"))
    near = difflib.get_close_matches(wanted.with_suffix("").as_posix(), known, n=3, cutoff=0.3)
    hint = f"; shipped files with a similar name: {', '.join(near)}" if near else ""
    raise ConfigError(f"no configuration file {name!r}{hint}")


def load_run(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, merge, type-check and validate a run. Raises ConfigError with the key, the value and the rule."""
    path = find_yaml(name)
    try:
        merged = _with_includes(path)
        for override in overrides:
            if "=" not in override or override.startswith("-"):
                raise ConfigError(f"override {override!r} is not of the form section.key=value")
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        assert isinstance(merged, DictConfig)
        recipe = merged.get("recipe")
        if recipe not in RUNS:
            raise ConfigError(f"{path}: recipe={recipe!r} is not one of {', '.join(RUNS)}")
        typed = OmegaConf.merge(OmegaConf.structured(RUNS[recipe]), merged)
        run = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_first_lines(error)}") from error
    except ConfigError:
        raise
    except ValueError as error:  # a section's own check, in __post_init__
        raise ConfigError(f"{path}: {error}") from error
    assert isinstance(run, RunConfig)
    return run


def to_yaml(run: RunConfig) -> str:
    """The resolved run as YAML that `load_run` reads back."""
    return OmegaConf.to_yaml(OmegaConf.structured(run))


def to_dict(run: RunConfig) -> dict[str, Any]:
    """The resolved run as plain dictionaries, lists and scalars."""
    plain = OmegaConf.to_container(OmegaConf.structured(run))
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _with_includes(path: Path) -> DictConfig:
    loaded = OmegaConf.load(path)
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{path} is not a mapping of sections")
    include = loaded.pop("include", {})
    base = OmegaConf.create({})
    for section, name in include.items():
        part = OmegaConf.load(find_yaml(str(name), beside=path.parent))
        OmegaConf.update(base, str(section), part)
    merged = OmegaConf.merge(base, loaded)
    assert isinstance(merged, DictConfig)
    return merged


def _first_lines(error: OmegaConfBaseException) -> str:
    """omegaconf's message without its type dump: the reason, the full key, the suggestion."""
    kept = [
        line.strip() for line in str(error).splitlines() if "object_type" not in line and "reference_type" not in line
    ]
    return "; ".join(line for line in kept if line)
