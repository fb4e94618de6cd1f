"""Adapters in the files of other projects, in and out.

    diffusers   pytorch_lora_weights.safetensors: transformer.MODULE.lora_A.weight, the configuration in its header
    peft        a folder: adapter_model.safetensors, base_model.model.MODULE.lora_A.weight, and adapter_config.json
    official    a file of torch.save as NVIDIA's training has it: net.MODULE.lora_A.default.weight; no strength
    kohya       one file: lora_unet_MODULE.lora_down.weight, .lora_up.weight, .alpha; MODULE with _ for each dot

MODULE is diffusers' name in the first two, of models that diffusers has, and NVIDIA's in the others. When reading,
every spelling is known everywhere. What a file has must be used, all of it: elsewhere names that fit nothing are left
aside, and an adapter that does nothing looks like one that was loaded.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cosmos_tok.number_formats import require_finite, require_float
from cosmos_tok.weights import open_weights
from cosmos_train.config.errors import ConfigError
from cosmos_train.interop.adapters import Adapters, LowRank
from cosmos_train.interop.names import NUM_SHOWN, Entry
from cosmos_train.interop.names_dit import diffusers_name

LAYOUTS = ("diffusers", "peft", "official", "kohya")
DIFFUSERS_FILE, PEFT_FILE, PEFT_CONFIG = (
    "pytorch_lora_weights.safetensors",
    "adapter_model.safetensors",
    "adapter_config.json",
)
OFFICIAL_FILE, KOHYA_FILE = "adapters.pt", "adapters.safetensors"
METADATA = "lora_adapter_metadata"
"""Name of the configuration in the header of a diffusers file."""
DIFFUSERS_PREFIX, PEFT_PREFIX, KOHYA_PREFIX = "transformer.", "base_model.model.", "lora_unet_"
PREFIX = re.compile(
    r"(base_model\.model\.|transformer\.|diffusion_model\.|model\.|net\.|lora_unet_|lora_transformer_)*"
)
KEY = re.compile(r"(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_down|lora_up|alpha)(\.[A-Za-z0-9_]+)??(\.weight)?")
BASE_LAYER = ".base_layer."
"""It is in the names of a whole model's own weights where peft has put adapters into it."""
NOT_READ = ("lora_magnitude_vector", "dora_scale", "hada_", "lokr_", "lora_mid", "lora_embedding_", "lora_bias")
"""Parts of adapters of other kinds."""


@dataclass(frozen=True, slots=True)
class FileConfig:
    """A file's configuration says this of the strength of its adapters."""

    alpha: float | None = None
    alpha_pattern: Mapping[str, float] | None = None
    """Exceptions, by patterns of modules as peft has them."""
    is_rank_stabilised: bool = False

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> "FileConfig":
        """Take it out of a configuration of peft. Raises ConfigError where it is of adapters that are not read."""
        if values.get("use_dora"):
            raise ConfigError(
                f"{where} has use_dora=true, a strength for each row, which is not read; train without it"
            )
        alpha = values.get("lora_alpha")
        return cls(
            alpha=None if alpha is None else float(alpha),
            alpha_pattern=values.get("alpha_pattern") or {},
            is_rank_stabilised=bool(values.get("use_rslora")),
        )

    def scale(self, module: str, rank: int) -> float | None:
        """Return alpha / r of a module, or what takes its place; None where nothing is said."""
        alpha = self.alpha
        for pattern, other in (self.alpha_pattern or {}).items():
            if re.fullmatch(rf"(.*\.)?({pattern})", module):
                alpha = float(other)
        if alpha is None:
            return None
        return alpha / (rank**0.5 if self.is_rank_stabilised else rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterFile:
    """Adapters that are to be added to a model."""

    path: Path
    strength: float = 1.0
    """The adapters' product is multiplied by it; each of several files has its own."""
    alpha: float | None = None
    """The alpha is taken where a file does not say it."""

    @classmethod
    def parse(cls, text: str, alpha: float | None = None) -> "AdapterFile":
        """Take FILE or FILE=STRENGTH apart. Raises ConfigError where the strength is no finite number."""
        path, equals, strength = text.rpartition("=")
        if not equals:
            return cls(path=Path(text), alpha=alpha)
        try:
            number = float(strength)
        except ValueError as error:
            raise ConfigError(
                f"--adapter {text}: {strength!r} is no number; give FILE=STRENGTH, such as FILE=0.5"
            ) from error
        if not math.isfinite(number):
            raise ConfigError(f"--adapter {text}: a strength must be finite; give one such as FILE=0.5")
        return cls(path=Path(path), strength=number, alpha=alpha)


def read_adapters(
    path: Path, entries: Sequence[Entry], *, alpha: float | None = None, strength: float = 1.0
) -> Adapters:
    """Read adapters of a model, in any of the layouts above.

    Args:
        entries: of the model that they are of.
        alpha: of files that do not say it.
        strength: what is added is multiplied by it.

    Raises:
        ConfigError: there are none; some are of no matrix of the model, or of another size; their strength is not said;
            or they add nothing.
    """
    file, config = _find(path)
    if alpha is not None and config.alpha is None:
        config = FileConfig(alpha=alpha)
    weights = open_weights(file)
    parts, said = _parts_of(weights.meta, _spellings(entries), file)
    found = dict[str, LowRank]()
    shapes = _matrix_shapes(entries)
    for official, names in parts.items():
        if not {"a", "b"} <= names.keys():
            raise ConfigError(f"{file} has one matrix of two for {said[official]}; copy the file again")
        a, b = (_read(weights, names[part], file) for part in "ab")
        _require_shapes(said[official], a, b, shapes[official], file)
        own_alpha = float(weights.read(names["alpha"])) if "alpha" in names else None
        scale = config.scale(said[official], len(a)) if own_alpha is None else own_alpha / len(a)
        if scale is None:
            raise ConfigError(
                f"{file} does not say how strong its adapters are: it has neither a configuration nor alpha of "
                f"{said[official]}; give --alpha, which is as much as their rank, {len(a)}, where nobody said otherwise"
            )
        found[official] = LowRank(a, b, scale)
    if not any(one.b.any() for one in found.values()):
        raise ConfigError(f"all B of {file} are zero, so it changes nothing; it was never trained, or is a part of one")
    return Adapters(matrices=found, where=str(path), strength=strength)


def write_adapters(folder: Path, adapters: Adapters, to: str, *, in_diffusers: bool) -> Path:
    """Write adapters into a folder that exists, and return the file's path.

    Args:
        to: one of LAYOUTS.
        in_diffusers: diffusers has the model.

    Raises:
        ConfigError: diffusers does not have the model, and its layout is asked for.
    """
    if to == "diffusers" and not in_diffusers:
        raise ConfigError("an autoregressive world model is none of diffusers'; use --to peft, official or kohya")
    modules = {
        name: _module(name, diffusers=in_diffusers and to in ("diffusers", "peft")) for name in adapters.matrices
    }
    config = _config({modules[name]: one for name, one in adapters.matrices.items()}, adapters.strength)
    tensors = dict[str, Tensor]()
    for name, one in adapters.matrices.items():
        key_a, key_b = _keys(modules[name], to)
        tensors |= {key_a: one.a.contiguous(), key_b: one.b.contiguous()}
        if to == "kohya":
            tensors[key_a.replace(".lora_down.weight", ".alpha")] = torch.tensor(_alpha(one) * adapters.strength)
    if to == "diffusers":
        header = {DIFFUSERS_PREFIX + key: value for key, value in config.items()}
        save_file(tensors, folder / DIFFUSERS_FILE, {"format": "pt", METADATA: json.dumps(header, indent=2)})
        return folder / DIFFUSERS_FILE
    if to == "kohya":
        save_file(tensors, folder / KOHYA_FILE, {"format": "pt"})
        return folder / KOHYA_FILE
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    if to == "peft":
        save_file(tensors, folder / PEFT_FILE, {"format": "pt"})
        return folder / PEFT_FILE
    torch.save(tensors, folder / OFFICIAL_FILE)
    return folder / OFFICIAL_FILE


def _find(path: Path) -> tuple[Path, FileConfig]:
    """Return the file of weights, and what is said of its strength."""
    file = path
    if path.is_dir():
        candidates = (PEFT_FILE, DIFFUSERS_FILE, OFFICIAL_FILE, KOHYA_FILE, "adapter_model.bin")
        file = next((path / name for name in candidates if (path / name).is_file()), path)
        if file is path:
            raise ConfigError(f"{path} holds no adapters, which are called {', '.join(candidates)}; name the file")
    if not file.is_file():
        raise ConfigError(f"{path} does not exist; name the file or the folder of adapters")
    beside = file.parent / PEFT_CONFIG
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            header = (opened.metadata() or {}).get(METADATA)
        if header is not None:
            values = {key.removeprefix(DIFFUSERS_PREFIX): value for key, value in json.loads(header).items()}
            return file, FileConfig.of(values, str(file))
    if beside.is_file() and file.name in (PEFT_FILE, OFFICIAL_FILE, "adapter_model.bin"):
        return file, FileConfig.of(json.loads(beside.read_text()), str(beside))
    return file, FileConfig()


def _parts_of(
    meta: Mapping[str, Tensor], spellings: Mapping[str, str], file: Path
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return (official name -> part -> name in the file, official name -> module as the file has it)."""
    parts, said, unknown = dict[str, dict[str, str]](), dict[str, str](), list[str]()
    is_model = any(BASE_LAYER in name for name in meta)
    for name in meta:
        if any(other in name for other in NOT_READ):
            raise ConfigError(f"{file} has {name}, of adapters of another kind than LoRA, which are not read")
        found = KEY.fullmatch(PREFIX.sub("", name, count=1))
        official = spellings.get(found["module"]) if found else None
        if found and official is not None:
            part = {"lora_A": "a", "lora_down": "a", "lora_B": "b", "lora_up": "b", "alpha": "alpha"}[found["part"]]
            if part in parts.setdefault(official, {}):
                raise ConfigError(f"{file} has two of {found['module']}.{found['part']}; name a file of one adapter")
            parts[official][part] = name
            said[official] = found["module"]
        elif found or not is_model:
            unknown.append(name)
    if unknown or not parts:
        some = ", ".join(unknown[:NUM_SHOWN]) or "nothing"
        raise ConfigError(
            f"{file}: of {len(meta)} tensors {len(unknown) or len(meta)} are of no adapter of this model, first "
            f"{some}; its modules are such as {next(iter(spellings))}; take the file of this model"
        )
    return parts, said


def _spellings(entries: Sequence[Entry]) -> dict[str, str]:
    """Return each way to write a matrix' module -> its official name."""
    found = dict[str, str]()
    for name in _matrix_shapes(entries):
        for module in (_module(name, diffusers=True), _module(name, diffusers=False)):
            found[module] = found[module.replace(".", "_")] = name
    return found


def _matrix_shapes(entries: Sequence[Entry]) -> dict[str, tuple[int, ...]]:
    found = dict[str, tuple[int, ...]]()
    for entry in entries:
        found |= {name: shape for name, shape in entry.official.items() if len(shape) == 2}
    return found


def _module(official: str, *, diffusers: bool) -> str:
    name = diffusers_name(official) if diffusers else re.sub(r"^(net|model)\.", "", official)
    return name.removesuffix(".weight")


def _keys(module: str, to: str) -> tuple[str, str]:
    """Return the names of A and B in a file."""
    if to == "kohya":
        underscored = KOHYA_PREFIX + module.replace(".", "_")
        return f"{underscored}.lora_down.weight", f"{underscored}.lora_up.weight"
    prefix, ending = {
        "diffusers": (DIFFUSERS_PREFIX, "weight"),
        "peft": (PEFT_PREFIX, "weight"),
        "official": ("net.", "default.weight"),
    }[to]
    return f"{prefix}{module}.lora_A.{ending}", f"{prefix}{module}.lora_B.{ending}"


def _config(modules: Mapping[str, LowRank], strength: float) -> dict[str, Any]:
    """Return a LoraConfig of peft."""
    ranks = {module: len(one.a) for module, one in modules.items()}
    alphas = {module: _alpha(one) * strength for module, one in modules.items()}
    rank, alpha = (max(set(of.values()), key=list(of.values()).count) for of in (ranks, alphas))
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(modules),
        "rank_pattern": {f"^{re.escape(name)}": other for name, other in ranks.items() if other != rank},
        "alpha_pattern": {f"^{re.escape(name)}": other for name, other in alphas.items() if other != alpha},
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
    }


def _alpha(one: LowRank) -> float:
    return one.scale * len(one.a)


def _read(weights: Any, name: str, file: Path) -> Tensor:
    tensor = weights.read(name)
    require_float(name, tensor, str(file))
    require_finite(name, tensor, str(file))
    return tensor


def _require_shapes(module: str, a: Tensor, b: Tensor, shape: tuple[int, ...], file: Path) -> None:
    if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or (b.shape[0], a.shape[1]) != shape:
        raise ConfigError(
            f"{file}: of {module} A is {list(a.shape)} and B {list(b.shape)}, but its matrix {list(shape)}; they were "
            "trained on another model: name that"
        )
