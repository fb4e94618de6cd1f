"""Every module is named by a test: one imports it, has its dotted name in a string, or lies in the mirrored place.

What a test of something larger runs whole, and has nothing that could be tried alone, is in RUN_WHOLE with that test.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "cosmos_train": (".", "tests"),
    "cosmos_launch": ("launch", "tests/launch"),
    "cosmos_data": ("data", "tests/data"),
    "cosmos_tok": ("tokenizers", "tests/tok"),
}
"""Package -> its source root, and where its tests are."""
RUN_WHOLE = {
    "cosmos_data.readers.lerobot": "tests/data/readers/test_sources.py",
    "cosmos_data.readers.lerobot_signals": "tests/data/readers/test_lerobot.py",
    "cosmos_data.simulate.draws": "tests/data/simulate/test_room.py",
    "cosmos_data.simulate.mujoco_api": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.simulate.mujoco_arm": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.simulate.mujoco_policies": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.simulate.mujoco_render": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.simulate.mujoco_table": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.simulate.mujoco_world": "tests/data/simulate/test_mujoco.py",
    "cosmos_data.steering.interpolation": "tests/data/steering/test_camera_path.py",
    "cosmos_train.evaluate.following.figure": "tests/evaluate/following/test_places.py",
    "cosmos_train.models.dit.actions": "tests/models/test_dit_actions.py",
    "cosmos_train.encoding.filling_cache": "tests/encoding/test_finished_cache.py",
    "cosmos_launch.cli.encode": "tests/launch/cli/test_main.py",
    "cosmos_launch.cli.evaluate": "tests/evaluate/test_tokenizer.py",
    "cosmos_launch.cli.sample_ranks": "tests/launch/cli/test_main.py",
    "cosmos_launch.cli.train": "tests/launch/cli/test_main.py",
    "cosmos_launch.cli.__main__": "tests/launch/cli/test_main.py",
    "cosmos_launch.jobs.text_encoding": "tests/launch/cli/test_main.py",
}


def unnamed(root: Path) -> list[str]:
    """The modules under a root that no test names."""
    names = set(names_in(root / "tests"))
    return [
        module
        for module, mirrored in modules_of(root)
        if module not in names and not (root / mirrored).is_file() and not (root / RUN_WHOLE.get(module, "-")).is_file()
    ]


def modules_of(root: Path) -> Iterator[tuple[str, str]]:
    """(dotted name, where its test would be) of each module that is not a package's own file."""
    for package, (source, tests) in PACKAGES.items():
        for path in sorted((root / source / package).rglob("*.py")):
            inside = path.relative_to(root / source / package)
            if inside.name != "__init__.py":
                name = ".".join((package, *inside.with_suffix("").parts))
                yield name, f"{tests}/{inside.parent}/test_{inside.name}"


def names_in(folder: Path) -> Iterator[str]:
    """What the code under a folder imports, and each word of its strings that stands alone; comments name nothing."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path != Path(__file__):
                yield from node.value.split()


def test_every_module_is_named_by_a_test() -> None:
    found = unnamed(ROOT)
    assert not found, f"no test names {', '.join(found)}: write one that fails where the module is broken"


def test_a_module_that_no_test_names_is_seen(tmp_path: Path) -> None:
    contents = dict.fromkeys(
        [
            f"cosmos_train/train/{name}.py"
            for name in ("imported", "within", "started", "mirrored", "lonely", "__init__")
        ]
        + [
            "cosmos_train/encoding/filling_cache.py",
            "tests/train/test_mirrored.py",
            RUN_WHOLE["cosmos_train.encoding.filling_cache"],
        ],
        "",
    )
    contents["tests/a/test_a.py"] = "from cosmos_train.train.imported import x\nfrom cosmos_train.train import within"
    contents["tests/a/test_b.py"] = "line = 'python -m cosmos_train.train.started'  # cosmos_train.train.lonely"
    for name, content in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert unnamed(tmp_path) == ["cosmos_train.train.lonely"]
    (tmp_path / RUN_WHOLE["cosmos_train.encoding.filling_cache"]).unlink()
    assert unnamed(tmp_path) == ["cosmos_train.encoding.filling_cache", "cosmos_train.train.lonely"]
