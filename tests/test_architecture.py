"""The shape of the code, read with `ast` and never by importing: who may import whom, where heavy packages live, names.

A line of LAYERS imports only lines below it; the names on one line are strangers. Configuration leaves (`config.py`,
`errors.py` and cosmos_train/config/) hold dataclasses and no torch: every layer sees them, except that cosmos_data and
cosmos_tok never import cosmos_train. Every rule is a function from modules to sentences, and a test of its own shows it
a violation.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = {
    "cosmos_train": Path(),
    "cosmos_launch": Path("launch"),
    "cosmos_data": Path("data"),
    "cosmos_tok": Path("tokenizers"),
}

LAYERS = [
    ["cosmos_launch"],
    ["cosmos_train.evaluate"],
    ["cosmos_train.footprint", "cosmos_train.encoding", "cosmos_train.worlds"],
    ["cosmos_train.recipes"],
    ["cosmos_train.windows"],
    ["cosmos_train.interop"],
    ["cosmos_train.train", "cosmos_train.generate"],
    ["cosmos_train.conditions"],
    ["cosmos_train.models", "cosmos_train.objectives", "cosmos_train.text"],
    ["cosmos_train.parallel"],
    ["cosmos_data", "cosmos_tok"],
]

# Package -> the only modules and packages that may import it.
HOMES = {
    "megatron": [
        "cosmos_train.parallel",
        "cosmos_train.train.checkpoint.load",
        "cosmos_train.train.checkpoint.save",
        "cosmos_train.train.checkpoint.saver",
        "cosmos_train.train.checkpoint.state",
    ],
    "transformer_engine": ["cosmos_train.parallel"],
    "nvidia": ["cosmos_data.decoders.dali", "cosmos_launch.cli.doctor"],
    "mujoco": ["cosmos_data.simulate"],
    "OpenGL": ["cosmos_data.simulate"],
    "wandb": ["cosmos_train.train.telling.wandb_run"],
    "torchcodec": [],  # they open whatever FFmpeg can, texts that name other files among it
    "decord": [],
    "diffusers": ["cosmos_tok.convert", "cosmos_train.interop.compare"],  # run beside ours, where installed
    "os.environ": ["cosmos_train.config.environment", "cosmos_launch"],
}

# They open videos to read them: one by a list of formats, the other what it has just written.
OPENERS = ["cosmos_data.videos.opened", "cosmos_launch.cli.doctor"]
ENVIRONMENT = {"environ", "environb", "getenv", "putenv"}
HEAVY = [
    "torch",
    "megatron",
    "transformer_engine",
    "nvidia",
    "av",
    "mujoco",
    "wandb",
    "transformers",
    "diffusers",
    "plotly",
    "jinja2",
]
PLACES = ["launch", "data", "tokenizers", "configs", "tests"]  # folders that are no packages
VAGUE_NAMES = {"utils", "helpers", "common"}
HUGGING_FACE = {"tokenizers", "datasets", "transformers", "diffusers", "accelerate", "safetensors"}


@dataclass(frozen=True)
class Import:
    """One imported name."""

    module: str
    """`import module` or `from module import name`, absolute."""
    name: str
    """A module in it or something else: only the list of all modules tells. Empty in `import module`."""
    line: int
    """Where it stands."""
    at_start: bool
    """Whether it runs when the module is imported: not in a function, not under TYPE_CHECKING."""


@dataclass(frozen=True)
class Module:
    """A source file and what it imports."""

    name: str
    """Dotted; a package has the name of its folder."""
    path: Path
    """Relative to the root of the checkout."""
    imports: tuple[Import, ...]
    """Every import statement in it, wherever it stands."""


# Reading


def read_modules(root: Path) -> list[Module]:
    """The modules of the four packages under a root; packages that are not there yet are none."""
    modules = []
    for package, source_root in SOURCE_ROOTS.items():
        paths = sorted((root / source_root / package).rglob("*.py"))
        modules += [read_module(root, path, source_root) for path in paths]
    return modules


def read_module(root: Path, path: Path, source_root: Path) -> Module:
    parts = list(path.relative_to(root / source_root).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    name = ".".join(parts[:-1] if is_package else parts)
    package = name if is_package else name.rpartition(".")[0]
    found = imports_of(ast.parse(path.read_text(encoding="utf-8"), str(path)), package, at_start=True)
    return Module(name, path.relative_to(root), tuple(found))


def imports_of(node: ast.AST, package: str, *, at_start: bool) -> Iterator[Import]:
    """Imports under a node: statements, `import_module("...")`, and os.environ as if it were a package."""
    for child in ast.iter_child_nodes(node):
        for module, name in names_of(child, package):
            yield Import(module, name, getattr(child, "lineno", 0), at_start)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        yield from imports_of(child, package, at_start=at_start and not is_function and not is_typing)


def names_of(node: ast.AST, package: str) -> list[tuple[str, str]]:
    match node:
        case ast.Import(names=names):
            return [(alias.name, "") for alias in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            return [(".".join([*above, *([module] if module else [])]), alias.name) for alias in names]
        case ast.Attribute(value=ast.Name(id="os"), attr=name) if name in ENVIRONMENT:
            return [("os", name)]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
            args=[ast.Constant(value=str(target)), *_],
        ):
            return [(target, "")]
        case _:
            return []


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is a package or in it."""
    return name == package or name.startswith(f"{package}.")


def inside_any(name: str, packages: Iterable[str]) -> bool:
    return any(inside(name, package) for package in packages)


def origin(one: Import, modules: set[str]) -> str:
    """The module that an import names: `from package import module` counts as an import of package.module."""
    full = f"{one.module}.{one.name}"
    return full if full in modules else one.module


# The rules. Each returns a sentence per violation.


def is_leaf(name: str) -> bool:
    return name.endswith((".config", ".errors")) or inside(name, "cosmos_train.config")


def level_of(name: str) -> int | None:
    levels = (level for level, packages in enumerate(LAYERS) if inside_any(name, packages))
    return next(levels, None)


def why_not(importer: str, imported: str) -> str | None:
    """The rule that an import of one module of the project by another breaks, or None."""
    if inside_any(importer, LAYERS[-1]) and inside(imported, "cosmos_train"):
        return "cosmos_data and cosmos_tok know nothing of the framework; move it down, or pass it in"
    if is_leaf(importer):
        return None if is_leaf(imported) else "a configuration leaf imports only other leaves"
    if is_leaf(imported) or imported == "cosmos_train":
        return None
    here, there = level_of(importer), level_of(imported)
    if here is None or there is None:
        return f"{importer if here is None else imported} has no line in LAYERS; give it one"
    if here > there:
        return "it stands above it; what both need belongs in a lower layer"
    same = any(inside(importer, package) and inside(imported, package) for package in LAYERS[here])
    return "they are strangers on one line; a layer above brings them together" if here == there and not same else None


def layer_violations(modules: list[Module]) -> list[str]:
    names = {module.name for module in modules}
    found = []
    for module in modules:
        for one in module.imports:
            imported = origin(one, names)
            if inside_any(imported, SOURCE_ROOTS) and (rule := why_not(module.name, imported)):
                found.append(f"{module.path}:{one.line}: {module.name} may not import {imported}: {rule}")
    return found


def uses(one: Import, package: str) -> bool:
    if package == "os.environ":
        return one.module == "os" and one.name in ENVIRONMENT
    return inside(one.module, package)


def home_violations(modules: list[Module]) -> list[str]:
    found = []
    for module in modules:
        for one, (package, homes) in product(module.imports, HOMES.items()):
            if uses(one, package) and not inside_any(module.name, homes):
                home = " and ".join(homes) or "outside this project"
                found.append(f"{module.path}:{one.line}: {module.name} may not use {package}: its home is {home}")
    return found


def opening_violations(root: Path, modules: list[Module]) -> list[str]:
    """Videos that are opened to be read by any format that FFmpeg knows."""
    rule = "may not open a video by av.open, which takes texts that name other files for videos, too"
    found = []
    for module in modules:
        if not inside_any(module.name, OPENERS):
            lines = lines_that_open((root / module.path).read_text(encoding="utf-8"))
            found += [f"{module.path}:{line}: {module.name} {rule}; use cosmos_data.videos.opened" for line in lines]
    return found


def lines_that_open(text: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="av"), attr="open"), args=[_, ast.Constant(value="w")]):
                pass
            case ast.Call(func=ast.Attribute(value=ast.Name(id="av"), attr="open")):
                yield node.lineno
            case ast.ImportFrom(module="av" | "av.container", names=names) if any(one.name == "open" for one in names):
                yield node.lineno


def heavy_violations(modules: list[Module], starts: Iterable[str]) -> list[str]:
    """Paths of imports at module level from one of `starts` to a heavy package, packages on the way included."""
    by_name = {module.name: module for module in modules}
    found = []
    for start in sorted(starts):
        paths, waiting = {start: start}, [start]
        while waiting:
            module = by_name[waiting.pop()]
            for one in (one for one in module.imports if one.at_start):
                if inside_any(one.module, HEAVY):
                    found.append(f"{start} must stay light, but {one.module} comes in through {paths[module.name]}")
                for name in ancestors(origin(one, set(by_name))):
                    if name in by_name and name not in paths:
                        paths[name] = f"{paths[module.name]} -> {name}"
                        waiting.append(name)
    return found


def ancestors(name: str) -> list[str]:
    """A module and the packages it lies in: importing it runs their `__init__` too."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def cycle_violations(modules: list[Module]) -> list[str]:
    """One sentence per cycle found by a depth-first search; imports inside functions count."""
    names = {module.name for module in modules}
    below = {
        module.name: sorted({origin(one, names) for one in module.imports} & names - {module.name})
        for module in modules
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> None:
        if name in trail:
            found.append(f"a cycle of imports: {' -> '.join([*trail[trail.index(name) :], name])}")
        elif name not in done:
            for imported in below[name]:
                visit(imported, [*trail, name])
            done.add(name)

    for name in below:
        visit(name, [])
    return found


def name_violations(root: Path, modules: list[Module]) -> list[str]:
    found = [
        f"{place}/__init__.py would make a package of {place}/ that shadows the one of that name on the path; remove it"
        for place in PLACES
        if (root / place / "__init__.py").exists()
    ]
    places = ("launch", "data", "tokenizers")
    loose = [path.relative_to(root) for path in chain.from_iterable((root / place).glob("*.py") for place in places)]
    for path in [module.path for module in modules] + loose:
        name = path.parent.name if path.stem == "__init__" else path.stem
        if name in sys.stdlib_module_names:
            found.append(f"{path} shadows Python's own module {name} when its folder is first on the path; rename it")
        if name in HUGGING_FACE:
            found.append(f"{path} shadows the package {name} when its folder is first on the path; rename it")
        if path.stem in VAGUE_NAMES:
            found.append(f"{path} has a name that says nothing; name it after what is in it")
    return found


def comprehension_violations(root: Path) -> list[str]:
    """Comprehensions that do more than one thing: a loop is read from its start to its end."""
    folders = [root / source_root / package for package, source_root in SOURCE_ROOTS.items()]
    found = list[str]()
    for folder in [*folders, root / "benchmarks"]:
        for path in sorted(folder.rglob("*.py")):
            faults = crowded_comprehensions(path.read_text(encoding="utf-8"))
            found += [f"{path.relative_to(root)}:{fault}; write a loop, or name a part of it" for fault in faults]
    return found


def crowded_comprehensions(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            continue
        if len(node.generators) > 1:
            yield f"{node.lineno}: a comprehension has {len(node.generators)} `for`"
        if any(len(generator.ifs) > 1 for generator in node.generators):
            yield f"{node.lineno}: a comprehension has several `if`"
        if any(isinstance(part, ast.NamedExpr) for part in ast.walk(node)):
            yield f"{node.lineno}: a comprehension assigns with `:=`"


# The project keeps them


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return read_modules(ROOT)


def listing(violations: list[str]) -> str:
    return "\n" + "\n".join(violations)


def test_imports_point_down(modules: list[Module]) -> None:
    violations = layer_violations(modules)
    assert not violations, listing(violations)


def test_layers_name_what_is_there(modules: list[Module]) -> None:
    assert {*chain.from_iterable(LAYERS)} <= {module.name for module in modules}


def test_heavy_packages_stay_at_home(modules: list[Module]) -> None:
    violations = home_violations(modules)
    assert not violations, listing(violations)


def test_videos_are_opened_in_one_place(modules: list[Module]) -> None:
    violations = opening_violations(ROOT, modules)
    assert not violations, listing(violations)


def test_configuration_leaves_are_light(modules: list[Module]) -> None:
    violations = heavy_violations(modules, [module.name for module in modules if is_leaf(module.name)])
    assert not violations, listing(violations)


def test_the_command_starts_light(modules: list[Module]) -> None:
    names = {module.name for module in modules}
    violations = heavy_violations(modules, {"cosmos_launch.cli.main"} & names)
    assert not violations, listing(violations)


def test_there_is_no_cycle(modules: list[Module]) -> None:
    violations = cycle_violations(modules)
    assert not violations, listing(violations)


def test_names_shadow_nothing_and_say_something(modules: list[Module]) -> None:
    violations = name_violations(ROOT, modules)
    assert not violations, listing(violations)


def test_comprehensions_do_one_thing() -> None:
    violations = comprehension_violations(ROOT)
    assert not violations, listing(violations)


# A violation of each rule is seen


def written(root: Path, files: dict[str, str]) -> list[Module]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return read_modules(root)


def test_a_root_with_nothing_in_it_breaks_nothing(tmp_path: Path) -> None:
    assert read_modules(tmp_path) == []
    assert name_violations(tmp_path, []) == []
    assert heavy_violations([], []) == cycle_violations([]) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "tokenizers/cosmos_tok/x.py",
            "import cosmos_train.config.schema",
            "cosmos_tok.x may not import cosmos_train",
        ),
        ("tokenizers/cosmos_tok/x.py", "from cosmos_data import shards", "cosmos_data: they are strangers"),
        ("data/cosmos_data/x.py", "def f():\n    from cosmos_train.config import a", "know nothing of the framework"),
        ("cosmos_train/models/x.py", "from cosmos_train.train.loop import run", "it stands above it"),
        ("cosmos_train/models/x.py", "from ..objectives import edm", "cosmos_train.objectives: they are strangers"),
        ("cosmos_train/generate/x.py", "from cosmos_train import train", "cosmos_train.train: they are strangers"),
        ("cosmos_train/train/x.py", "import cosmos_launch.cli", "it stands above it"),
        ("cosmos_train/train/x.py", "import_module('cosmos_train.recipes.a')", "it stands above it"),
        ("cosmos_train/odd/x.py", "import cosmos_data", "cosmos_train.odd.x has no line in LAYERS"),
        ("cosmos_train/models/config.py", "from cosmos_train.parallel.mesh import M", "leaf imports only other leaves"),
    ],
)
def test_an_import_upwards_is_seen(tmp_path: Path, file: str, text: str, said: str) -> None:
    (violation,) = layer_violations(written(tmp_path, {file: text, "cosmos_train/train/__init__.py": ""}))
    assert said in violation
    assert violation.startswith(f"{file}:")


def test_an_import_downwards_is_fine(tmp_path: Path) -> None:
    files = {
        "launch/cosmos_launch/cli.py": "from cosmos_train.recipes import a\nimport cosmos_train, cosmos_tok",
        "cosmos_train/__init__.py": "",
        "cosmos_train/recipes/a.py": "from cosmos_train.train import loop\nfrom cosmos_train.models.dit import model",
        "cosmos_train/train/loop.py": "from . import step\nimport cosmos_data.shards",
        "cosmos_train/train/step.py": "from cosmos_train.generate.config import SampleConfig",
        "cosmos_train/config/schema.py": "import cosmos_tok.config\nfrom cosmos_train.models.dit.config import B",
        "data/cosmos_data/shards.py": "from .config import DataConfig\nimport numpy",
    }
    assert layer_violations(written(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (
            "cosmos_train/train/loop.py",
            "from megatron.core import x",
            "its home is cosmos_train.parallel and cosmos_",
        ),
        (
            "cosmos_train/models/x.py",
            "def f():\n    import transformer_engine.pytorch",
            "may not use transformer_engine",
        ),
        (
            "data/cosmos_data/shards.py",
            "import nvidia.dali as dali",
            "its home is cosmos_data.decoders.dali and cosmos_launch",
        ),
        (
            "data/cosmos_data/decoders/decode.py",
            "from torchcodec.decoders import V",
            "its home is outside this project",
        ),
        ("cosmos_train/train/loop.py", "import wandb", "its home is cosmos_train.train.telling.wandb_run"),
        ("cosmos_train/interop/x.py", "from diffusers import A", "its home is cosmos_tok.convert"),
        ("cosmos_train/train/loop.py", "import os\nrank = os.environ['RANK']", "may not use os.environ"),
        ("cosmos_train/train/loop.py", "from os import getenv", "may not use os.environ"),
        ("cosmos_train/train/loop.py", "import os\nrank = os.getenv('RANK')", "may not use os.environ"),
    ],
)
def test_a_package_away_from_home_is_seen(tmp_path: Path, file: str, text: str, said: str) -> None:
    (violation,) = home_violations(written(tmp_path, {file: text}))
    assert said in violation


def test_a_package_at_home_is_fine(tmp_path: Path) -> None:
    files = {
        "cosmos_train/parallel/init.py": "import megatron.core",
        "cosmos_train/config/environment.py": "import os\nos.environ.get('RANK')",
        "cosmos_train/train/checkpoint/load.py": "from megatron.core import dist_checkpointing",
        "cosmos_train/train/telling/wandb_run.py": "def f():\n    import wandb",
        "data/cosmos_data/decoders/dali.py": "from nvidia.dali import fn",
        "launch/cosmos_launch/jobs/submit.py": "from os import environ",
    }
    assert home_violations(written(tmp_path, files)) == []


@pytest.mark.parametrize(
    "text",
    [
        "import av\nav.open('a.mp4')",
        "import av\nwith av.open('a.mp4', 'r') as video:\n    pass",
        "def f(path):\n    from av import open as open_it",
    ],
)
def test_a_video_that_is_opened_elsewhere_is_seen(tmp_path: Path, text: str) -> None:
    (violation,) = opening_violations(tmp_path, written(tmp_path, {"launch/cosmos_launch/x.py": text}))
    assert violation.startswith("launch/cosmos_launch/x.py:2: cosmos_launch.x may not open a video")


def test_a_video_that_is_written_may_be_opened_anywhere(tmp_path: Path) -> None:
    files = {
        "launch/cosmos_launch/x.py": "import av\nav.open('a.mp4', 'w')",
        "data/cosmos_data/videos/opened.py": "import av\nav.open('a.mp4')",
    }
    assert opening_violations(tmp_path, written(tmp_path, files)) == []


def test_torch_on_the_way_to_help_is_seen(tmp_path: Path) -> None:
    files = {
        "launch/cosmos_launch/cli.py": "import cosmos_launch.jobs.submit",
        "launch/cosmos_launch/jobs/submit.py": "from cosmos_train.recipes.a import b",
        "cosmos_train/recipes/__init__.py": "import torch.nn as nn",
        "cosmos_train/recipes/a.py": "def b():\n    import av",
    }
    assert heavy_violations(written(tmp_path, files), ["cosmos_launch.cli"]) == [
        "cosmos_launch.cli must stay light, but torch.nn comes in through "
        "cosmos_launch.cli -> cosmos_launch.jobs.submit -> cosmos_train.recipes"
    ]


def test_torch_for_types_or_in_a_function_is_light(tmp_path: Path) -> None:
    text = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\ndef f():\n    import torch"
    assert heavy_violations(written(tmp_path, {"data/cosmos_data/config.py": text}), ["cosmos_data.config"]) == []


def test_a_cycle_is_seen(tmp_path: Path) -> None:
    files = {
        "cosmos_train/train/a.py": "from cosmos_train.train.b import x",
        "cosmos_train/train/b.py": "def f():\n    from .c import y",
        "cosmos_train/train/c.py": "from . import a",
    }
    (violation,) = cycle_violations(written(tmp_path, files))
    cycle = " -> ".join(f"cosmos_train.train.{name}" for name in "abca")
    assert violation == f"a cycle of imports: {cycle}"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("launch/__init__.py", "launch/__init__.py would make a package"),
        ("tests/__init__.py", "tests/__init__.py would make a package"),
        ("launch/profile.py", "shadows Python's own module profile"),
        ("launch/cosmos_launch/signal.py", "shadows Python's own module signal"),
        ("cosmos_train/types/__init__.py", "shadows Python's own module types"),
        ("data/cosmos_data/datasets.py", "shadows the package datasets"),
        ("cosmos_train/train/utils.py", "a name that says nothing"),
    ],
)
def test_a_bad_name_is_seen(tmp_path: Path, file: str, said: str) -> None:
    (violation,) = name_violations(tmp_path, written(tmp_path, {file: ""}))
    assert said in violation


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [b for a in c for b in a]", "benchmarks/x.py:1: a comprehension has 2 `for`"),
        ("x = {a for a in c if a if not b}", "benchmarks/x.py:1: a comprehension has several `if`"),
        ("x = {a: b for a in c if (b := f(a))}", "benchmarks/x.py:1: a comprehension assigns with `:=`"),
    ],
)
def test_a_crowded_comprehension_is_seen(tmp_path: Path, text: str, said: str) -> None:
    written(tmp_path, {"benchmarks/x.py": text})
    (violation,) = comprehension_violations(tmp_path)
    assert violation.startswith(said)


def test_a_plain_comprehension_is_fine(tmp_path: Path) -> None:
    written(tmp_path, {"data/cosmos_data/x.py": "x = [a + 1 for a in c if a and b]"})
    assert comprehension_violations(tmp_path) == []
