"""The wheel, used as a user has it: built, installed into a fresh environment, imported far from any checkout.

The environment sees this one's third-party packages but not its editable install: a path file adds them as a plain
folder, and the path files in a folder added that way are not read.
"""

import importlib.metadata
import json
import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "cosmos_train": ROOT,
    "cosmos_launch": ROOT / "launch",
    "cosmos_data": ROOT / "data",
    "cosmos_tok": ROOT / "tokenizers",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel in it."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "third_party.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-index", "--no-deps"]
    command = [*pip, "--target", str(site_packages), str(wheel)]
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return folder / "bin" / "python"


def output_of(python: Path, program: str, cwd: Path) -> dict[str, str]:
    """Run a program that prints one JSON object; -I leaves PYTHONPATH, the user's packages and the folder out."""
    command = [str(python), "-I", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_file_of_the_packages_and_every_configuration_travels(wheel: Path) -> None:
    expected = set()
    for name, root in PACKAGES.items():
        files = [path for path in (root / name).rglob("*") if path.is_file()]
        expected |= {path.relative_to(root).as_posix() for path in files if "__pycache__" not in path.parts}
    expected |= {f"cosmos_train/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.yaml")}
    expected |= {"cosmos_launch/slurm/train.sbatch"}
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(expected - inside) == []


def test_nothing_else_reaches_site_packages(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_the_packages_import_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    program = f"""
        import importlib, json, sys
        found = {{name: importlib.import_module(name).__file__ for name in {sorted(PACKAGES)}}}
        found["path"] = ":".join(sys.path)
        print(json.dumps(found))
    """
    found = output_of(python, program, tmp_path)
    path = found.pop("path").split(":")
    assert not {str(place) for place in [ROOT, *PACKAGES.values()]} & set(path)
    site_packages = python.parent.parent / "lib"
    assert all(Path(file).is_relative_to(site_packages) for file in found.values()), found


def test_the_configurations_are_found_beside_the_package(python: Path, tmp_path: Path) -> None:
    program = """
        import json
        from cosmos_train.config.load import configs_dir
        print(json.dumps({"folder": str(configs_dir()), "there": configs_dir().is_dir()}))
    """
    found = output_of(python, program, tmp_path)
    assert found["there"]
    assert Path(found["folder"]).is_relative_to(python.parent.parent)
    assert Path(found["folder"]).parts[-2:] == ("cosmos_train", "configs")


def test_a_job_is_rendered_from_the_wheel_alone(python: Path, tmp_path: Path) -> None:
    program = """
        import contextlib, io, json
        from cosmos_launch.cli.main import main
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            code = main("submit run/demo_world --cluster cpu_two_nodes --nodes 2 --dry-run".split())
        print(json.dumps({"code": code, "first": shown.getvalue().splitlines()[0]}))
    """
    assert output_of(python, program, tmp_path) == {"code": 0, "first": "#!/bin/bash"}


def test_hugging_faces_tokenizers_is_still_itself(python: Path, tmp_path: Path) -> None:
    program = """
        import json, tokenizers
        print(json.dumps({"version": tokenizers.__version__, "class": tokenizers.Tokenizer.__module__}))
    """
    found = output_of(python, program, tmp_path)
    assert found == {"version": importlib.metadata.version("tokenizers"), "class": "tokenizers"}


def test_the_command_answers_from_the_wheel(python: Path, tmp_path: Path) -> None:
    program = """
        import importlib.metadata, json
        (command,) = importlib.metadata.entry_points(group="console_scripts", name="cosmos-train")
        print(json.dumps({"value": command.value, "name": command.load().__name__}))
    """
    assert output_of(python, program, tmp_path) == {"value": "cosmos_launch.cli.main:main", "name": "main"}
