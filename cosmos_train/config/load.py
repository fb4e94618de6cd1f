"""A YAML file and dotted overrides -> a typed run. Includes, then the file, then the command line; the last one wins.

recipe: world_dit
include: {model: model/dit_7b}      # a section's values, from configs/ or from beside the file
model: {num_blocks: 4}              # the file's own values stand over the included ones
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from cosmos_data.errors import DataError
from cosmos_data.simulate.config import WORLD_NAMES, WorldConfig, WorldsConfig
from cosmos_tok.config import TokenizerError
from cosmos_train.config.cluster import ClusterConfig, ClusterFile
from cosmos_train.config.errors import ConfigError, nearest
from cosmos_train.config.protocol import ProtocolConfig
from cosmos_train.config.schema import RUNS, RunConfig
from cosmos_train.config.typed import defaults, shown, typed
from cosmos_train.config.validate import fit_to_cluster
from cosmos_train.config.yaml_text import parse, parse_typed
from cosmos_train.generate.config import SampleConfig

OVERRIDE = re.compile(r"[a-z]\w*(\.[a-z]\w*)*=.*", re.DOTALL | re.IGNORECASE)


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
    shipped = sorted(p.relative_to(configs_dir()).with_suffix("").as_posix() for p in configs_dir().rglob("*.yaml"))
    raise ConfigError(
        f"there is no file {wanted}, and none of that name in {configs_dir()}"
        f"{nearest(wanted.with_suffix('').as_posix(), shipped)}"
    )


def load_run(
    name: str, overrides: Sequence[str] = (), *, standing: Mapping[str, Mapping[str, Any]] | None = None
) -> RunConfig:
    """Read, merge, type-check and validate a run. Raises ConfigError with the key, the value and the rule.

    Args:
        standing: section -> values of keys that neither the file nor an override says.
    """
    path = find_yaml(name)
    merged = _merged(path, _with_includes(path), overrides)
    for section, values in (standing or {}).items():
        merged[section] = {**values, **(merged.get(section) or {})}
    recipe = _with_references({"recipe": merged.get("recipe")}, RunConfig, path)["recipe"]
    if not isinstance(recipe, str) or recipe not in RUNS:
        given = "recipe is missing" if recipe is None else f"recipe={shown(recipe)} is unknown"
        raise ConfigError(f"{path}: {given}; use one of {', '.join(RUNS)}")
    run = _made(merged, RUNS[recipe], path, kind=f"a {recipe} run")
    assert isinstance(run, RunConfig)
    return run


def said_values(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a run's file and overrides say, without defaults, as texts, lists and mappings. Raises ConfigError
    where they can not be read."""
    path = find_yaml(name)
    return _merged(path, _with_includes(path), overrides)


def load_cluster(name: str, overrides: Sequence[str] = ()) -> ClusterConfig:
    """Read and validate a cluster file; overrides are `cluster.key=value`. Raises ConfigError as load_run does."""
    path = find_yaml(name if "/" in name or name.endswith((".yaml", ".yml")) else f"cluster/{name}")
    values = _merged(path, OmegaConf.create({"cluster": _read(path)}), overrides)
    file = _made(values, ClusterFile, path, kind="a cluster file")
    assert isinstance(file, ClusterFile)
    return file.cluster


def load_run_on_cluster(name: str, cluster_name: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, ClusterConfig]:
    """A run, checked for the GPUs of a cluster and measured by their peak. `cluster.key=value` overrides the file's."""
    for_cluster = [override for override in overrides if override.startswith("cluster.")]
    cluster = load_cluster(cluster_name, for_cluster)
    run = load_run(name, [override for override in overrides if override not in for_cluster])
    return fit_to_cluster(run, cluster), cluster


def load_protocol(name: str | None, overrides: Sequence[str] = ()) -> ProtocolConfig:
    """A file of configs/evaluate, or for None the defaults; overrides are `key=value`. Raises ConfigError."""
    path = None if name is None else find_yaml(name)
    base = OmegaConf.create({}) if path is None else _read(path)
    where = path or Path("evaluate tokenizer")
    protocol = _made(_merged(where, base, overrides), ProtocolConfig, where, kind="an evaluation's protocol")
    assert isinstance(protocol, ProtocolConfig)
    return protocol


def load_world(name: str, overrides: Sequence[str] = ()) -> WorldConfig:
    """Return a simulated world's configuration; overrides are `name.key=value`. Raises ConfigError."""
    if name not in WORLD_NAMES:
        raise ConfigError(f"there is no world {name!r}; use one of {', '.join(WORLD_NAMES)}")
    for override in overrides:
        if not override.startswith(f"{name}."):
            raise ConfigError(f"{override} is no key of the world {name}; its keys begin with {name}.")
    where = Path("data simulate")
    worlds = _made(_merged(where, OmegaConf.create({}), overrides), WorldsConfig, where, kind="a simulated world")
    return getattr(worlds, name)


def load_sampling(name: str) -> SampleConfig:
    """A file of configs/sample, or another with the keys of `sample` of a diffusion model. Raises ConfigError."""
    path = find_yaml(name if name.endswith((".yaml", ".yml")) else f"sample/{name}")
    config = _made(_merged(path, _read(path), ()), SampleConfig, path, kind="a way of sampling")
    assert isinstance(config, SampleConfig)
    return config


def read_values(path: Path) -> dict[str, Any]:
    """A file of keys as texts, lists and mappings, of which no types are known yet. Raises ConfigError."""
    return _merged(path, _read(path), ())


def to_yaml(run: RunConfig) -> str:
    """The resolved run as YAML that `load_run` reads back."""
    return OmegaConf.to_yaml(OmegaConf.create(_without_references(to_dict(run))))


def to_dict(run: RunConfig) -> dict[str, Any]:
    """The resolved run as plain dictionaries, lists and scalars."""
    return _as_lists(dataclasses.asdict(run))


def _as_lists(value: Any) -> Any:
    """The same with lists for tuples, as YAML and JSON have them."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    return [_as_lists(item) for item in value] if isinstance(value, tuple) else value


def _without_references(value: Any) -> Any:
    """The same with `${` in texts written so that it refers to nothing."""
    if isinstance(value, dict):
        return {key: _without_references(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_references(item) for item in value]
    return value.replace("${", r"\${") if isinstance(value, str) else value


def _merged(path: Path, base: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Base, then overrides, with references as they were written."""
    try:
        values = OmegaConf.to_container(OmegaConf.merge(base, *map(_parse_override, overrides)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {_key_and_first_line(error)}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _made(values: dict[str, Any], into: type, path: Path, *, kind: str) -> Any:
    """The values as the dataclass they belong to."""
    resolved = _with_references(values, into, path)
    try:
        return typed(resolved, into, kind)
    except (ConfigError, DataError, TokenizerError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _with_references(values: dict[str, Any], into: type, path: Path) -> dict[str, Any]:
    """The values with what `${key}` stands for: another value, also where that is a default."""
    if "${" not in str(values):
        return values
    try:
        found = OmegaConf.to_container(OmegaConf.merge(defaults(into), values), resolve=True)
    except OmegaConfBaseException as error:  # one that leads nowhere
        raise ConfigError(f"{path}: {_key_and_first_line(error)}") from error
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def _with_includes(path: Path) -> DictConfig:
    loaded = _read(path)
    include = loaded.pop("include", None) or DictConfig({})
    if not isinstance(include, DictConfig):
        raise ConfigError(f"{path}: include={include} names no section; write it as {{model: model/dit_demo}}")
    base = OmegaConf.create({})
    for section, name in include.items():
        try:
            base[section] = _read(find_yaml(str(name), beside=path.parent))
        except ConfigError as error:
            raise ConfigError(f"{path}: include.{section}={name}: {error}") from error
    merged = OmegaConf.merge(base, loaded)
    assert isinstance(merged, DictConfig)
    return merged


def _read(path: Path) -> DictConfig:
    try:
        values = parse(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {_where(error)}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not YAML: it is no UTF-8 text") from error
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} is not a mapping of keys to values")
    try:
        return OmegaConf.create(values or {})
    except OmegaConfBaseException as error:  # an interpolation that does not end
        raise ConfigError(f"{path}: {_key_and_first_line(error)}") from error


def _parse_override(override: str) -> DictConfig:
    if not OVERRIDE.fullmatch(override):
        raise ConfigError(f"override {override!r} is not of the form section.key=value")
    path, _, text = override.partition("=")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        shown_bytes = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise ConfigError(f"override {path}={shown_bytes} has bytes that are no UTF-8 text; rename what it names")
    try:
        value = parse_typed(text)
        for name in reversed(path.split(".")):
            value = {name: value}
        return OmegaConf.create(value)
    except (YAMLError, OmegaConfBaseException) as error:  # the second: an interpolation that does not end
        raise ConfigError(f"override {override!r} has a value that is not YAML; put it in quotes") from error


def _where(error: YAMLError) -> str:
    """What stands where it should not, without the parser's story of how it came there."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} in line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"


def _key_and_first_line(error: OmegaConfBaseException) -> str:
    return f"{error.full_key}: {str(error).splitlines()[0]}"
