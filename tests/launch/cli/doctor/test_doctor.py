"""The doctor never crashes: not here, not with packages hidden, with impostors, with probes and children that fail."""

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import pytest

from cosmos_data.simulate import renderers
from cosmos_launch.cli.doctor import child, decoders, doctor, engine, finding, machine, renderer
from cosmos_launch.cli.doctor.decoders import DaliTrial
from cosmos_launch.cli.doctor.engine import TorchFacts
from cosmos_launch.cli.doctor.finding import Finding
from cosmos_train.parallel.apex import has_fused_weight_gradient

ROOT = Path(__file__).resolve().parents[4]
STATUSES = {"ok", "missing", "wrong"}

HIDE = """
    import importlib.abc, importlib.metadata, sys

    HIDDEN_MODULES, HIDDEN_DISTRIBUTIONS = {modules!r}, {distributions!r}

    class Hide(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name.partition(".")[0] in HIDDEN_MODULES:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    real_version = importlib.metadata.version

    def version(name):
        if name in HIDDEN_DISTRIBUTIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return real_version(name)

    sys.meta_path.insert(0, Hide())
    importlib.metadata.version = version
"""


def doctor_process(prelude: str = "", *, as_json: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """The doctor in a process of its own, after some lines of Python that spoil it."""
    call = f"import sys\nfrom cosmos_launch.cli.doctor.doctor import doctor\nsys.exit(doctor(as_json={as_json}))\n"
    paths = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(prelude) + call],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths} | environment,
        timeout=120,
    )


def hidden(modules: list[str], distributions: list[str]) -> tuple[int, dict[str, dict[str, str]]]:
    done = doctor_process(HIDE.format(modules=modules, distributions=distributions))
    assert not done.stderr, done.stderr
    return done.returncode, {line["name"]: line for line in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def here() -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.collect()}


def test_this_machine_is_complete_enough_to_run(here: dict[str, Finding]) -> None:
    assert {finding.status for finding in here.values()} <= STATUSES
    assert {name: here[name].status for name in doctor.REQUIRED} == dict.fromkeys(doctor.REQUIRED, "ok")
    assert all(finding.detail for finding in here.values())
    assert all(finding.remedy for finding in here.values() if finding.status != "ok")


def test_every_codec_is_really_decoded(here: dict[str, Finding]) -> None:
    for codec in decoders.CODECS:
        finding = here[f"video {codec}"]
        assert finding.status == "ok", finding
        assert "PyAV encodes and decodes" in finding.detail
    if here["DALI"].status == "ok":
        for codec in ("mjpeg", "vp8", "vp9"):
            assert "DALI decodes on the CPU" in here[f"video {codec}"].detail
        for codec in ("h264", "hevc"):
            assert "DALI does not decode it on the CPU" in here[f"video {codec}"].detail


def test_mujoco_is_made_to_draw(here: dict[str, Finding], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there says what draws; what is missing says what is lost and how to get it."""
    if here["MuJoCo"].status == "ok" and here["MuJoCo renderer"].status == "ok":
        assert re.match(r"(egl|osmesa), \w+", here["MuJoCo renderer"].detail)
        with monkeypatch.context() as patch:
            patch.setattr(renderer, "RENDERER_CHILD", "import sys; sys.exit('the picture is blank')")
            [_, blank] = renderer.probe_renderer()
            assert blank.status == "wrong" and "does not draw: the picture is blank" in blank.detail
    monkeypatch.setattr(renderers, "LIBRARIES", {"egl": "libNoSuchEGL.so.1"})
    if here["MuJoCo"].status == "ok":
        [_, lacking] = renderer.probe_renderer()
        assert lacking.status == "missing" and "libegl1" in lacking.remedy
    _, found = hidden(["mujoco"], ["mujoco"])
    assert found["MuJoCo"]["status"] == "missing" and "cosmos-train[simulate]" in found["MuJoCo"]["remedy"]
    assert "MuJoCo renderer" not in found


def test_the_plain_page_has_a_line_per_finding_and_no_secret(here: dict[str, Finding]) -> None:
    begin = time.monotonic()
    done = doctor_process(as_json=False, WANDB_API_KEY="0123456789abcdef", WANDB_MODE="online")
    assert time.monotonic() - begin < 60  # about 4 s on two idle cores
    assert done.returncode == 0, done.stderr
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == list(here)
    assert "runs are online: WANDB_MODE=online" in done.stdout
    assert "0123456789abcdef" not in done.stdout + done.stderr


def test_tracking_is_offline_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", os.devnull)  # of whoever runs the tests
    assert machine.probe_wandb().detail.endswith("runs are offline: there is neither WANDB_API_KEY nor a login")
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    assert machine.probe_wandb().detail.endswith("runs are online: WANDB_API_KEY is set")


def test_what_a_run_would_do_is_told_as_the_run_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    for text, told in (("dryrun", "offline"), ("disabled", "disabled"), ("shared", "online")):
        monkeypatch.setenv("WANDB_MODE", text)
        assert machine.probe_wandb().detail.endswith(f"runs are {told}: WANDB_MODE={text}")
    monkeypatch.setenv("WANDB_MODE", "ofline")
    assert machine.probe_wandb().status == "wrong" and "WANDB_MODE=ofline is no mode" in machine.probe_wandb().detail


def test_ranks_that_a_shell_has_left_over_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert machine.probe_ranks().status == "ok" and "as many as --nproc says" in machine.probe_ranks().detail
    monkeypatch.setenv("RANK", "0")
    assert (
        machine.probe_ranks().status == "wrong" and "RANK=0 is set without WORLD_SIZE" in machine.probe_ranks().detail
    )
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "rank 0 of 1" in machine.probe_ranks().detail


def test_json_is_one_array(here: dict[str, Finding]) -> None:
    done = doctor_process()
    findings = json.loads(done.stdout)
    assert [finding["name"] for finding in findings] == list(here)
    assert set(findings[0]) == {"name", "status", "detail", "remedy"}


def test_importing_the_doctor_imports_nothing_heavy() -> None:
    heavy = {"torch", "megatron", "av", "nvidia", "numpy", "wandb", "rich"}
    program = f"import sys, cosmos_launch.cli.doctor.doctor; print(sorted({heavy!r} & set(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.check_output([sys.executable, "-c", program], env=environment, text=True).strip() == "[]"


def test_without_torch() -> None:
    code, found = hidden(["torch"], ["torch"])
    assert code == 1
    assert [found[name]["status"] for name in ("torch", "CUDA", "collectives")] == ["missing"] * 3
    assert found["torch"]["remedy"] == 'pip install "torch>=2.11,<2.14"'
    assert found["video vp9"]["status"] == "ok"


def test_without_pyav_and_dali() -> None:
    code, found = hidden(["av"], ["av", "nvidia-dali-cuda130", "nvidia-dali-cuda120"])
    assert code == 1
    assert {found[f"video {codec}"]["status"] for codec in decoders.CODECS} == {"missing"}
    assert found["PyAV"]["status"] == found["DALI"]["status"] == "missing"
    assert "nvidia-dali-cuda120" in found["DALI"]["remedy"]


def test_an_optional_package_that_is_missing_is_no_failure() -> None:
    code, found = hidden(["wandb", "nvidia"], ["wandb", "nvidia-dali-cuda130", "nvidia-dali-cuda120"])
    assert code == 0
    assert found["W&B"]["status"] == found["DALI"]["status"] == "missing"
    assert found["video mjpeg"] == {
        "name": "video mjpeg",
        "status": "ok",
        "detail": "PyAV encodes and decodes",
        "remedy": "",
    }


@pytest.mark.parametrize("package", ["psutil", "omegaconf", "megatron-core"])
def test_a_required_package_that_is_missing_fails(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finding, "version_of", lambda name: None if name == package else "1.0")
    found = finding.of_package(package, "json", "it is needed")
    assert found.status == "missing"
    assert package in found.remedy
    monkeypatch.setattr(doctor, "collect", lambda: [found])
    assert doctor.doctor(as_json=True) == 1


def add_distribution(folder: Path, name: str, summary: str) -> None:
    info = folder / f"{name.replace('-', '_')}-0.9.10.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.9.10\nSummary: {summary}\n")


def test_the_apex_of_pyramid_is_told_from_nvidias(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "apex").mkdir()
    (tmp_path / "apex" / "__init__.py").write_text("")
    assert engine.probe_apex().status == "wrong"
    (tmp_path / "apex" / "multi_tensor_apply").mkdir()
    assert engine.probe_apex().status == "wrong", "built without CUDA, it has no kernel that training uses"
    (tmp_path / "fused_weight_gradient_mlp_cuda.py").write_text("")
    importlib.invalidate_caches()
    assert engine.probe_apex().status == "ok" and has_fused_weight_gradient()
    add_distribution(tmp_path, "apex", "Pyramid toolkit to add sessions and flash messages")
    found = engine.probe_apex()
    assert found.status == "wrong"
    assert "Pyramid" in found.detail


def test_the_stub_of_dali_is_told_from_dali(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_distribution(tmp_path, "nvidia-dali", "A placeholder")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = decoders._dali(None, DaliTrial())
    assert (found.status, "stub" in found.detail) == ("wrong", True)


def test_a_probe_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> Finding:
        raise OSError("libcuda.so.1: cannot open shared object file")

    for module, probe in (
        (engine, "probe_torch"),
        (decoders, "probe_decoders"),
        (machine, "probe_disk"),
        (machine, "probe_slurm"),
    ):
        monkeypatch.setattr(module, probe, fail)
    assert doctor.doctor(as_json=True) == 1
    found = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    for name in ("torch", "video", "disk", "Slurm"):
        assert found[name]["status"] == "wrong"
        assert found[name]["detail"] == "OSError: libcuda.so.1: cannot open shared object file"


def clips() -> dict[str, bytes]:
    return {codec: codec.encode() for codec in ("mjpeg", "vp8", "vp9")}


def test_a_crash_of_dali_costs_one_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = """
        import json, os, sys
        print("imported", flush=True)
        for path in sys.argv[1:]:
            if path.endswith("vp8"):
                os.kill(os.getpid(), 11)
            print(json.dumps([path, 16]), flush=True)
    """
    monkeypatch.setattr(decoders, "DALI_CHILD", textwrap.dedent(crash))
    outcomes = decoders.try_dali(clips()).outcomes
    assert outcomes["vp8"] == (True, "DALI fails: killed by signal 11")
    assert outcomes["mjpeg"] == outcomes["vp9"] == (False, "DALI decodes on the CPU")


def test_a_hang_of_dali_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    hang = """
        import json, sys, time
        print("imported", flush=True)
        print(json.dumps([sys.argv[1], 15]), flush=True)
        time.sleep(600)
    """
    monkeypatch.setattr(decoders, "DALI_CHILD", textwrap.dedent(hang))
    monkeypatch.setattr(child, "CHILD_LIMIT_SEC", 1.0)
    outcomes = decoders.try_dali(clips()).outcomes
    assert outcomes["mjpeg"] == (True, "DALI decodes 15 of 16 frames")
    assert outcomes["vp8"] == outcomes["vp9"] == (True, "DALI fails: no answer within 1 s")


def test_a_dali_that_does_not_import_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "DALI_CHILD", "raise ImportError('libcuda.so.1 is not there')")
    trial = decoders.try_dali(clips())
    assert decoders._dali("nvidia-dali-cuda130 2.4.0", trial).detail.endswith("ImportError: libcuda.so.1 is not there")
    assert all(is_broken for is_broken, _ in trial.outcomes.values())


def test_a_torch_that_dies_is_told_of_all_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "TORCH_CHILD", "import os; os.kill(os.getpid(), 11)")
    found = engine.probe_torch()
    assert [one.name for one in found] == ["torch", "CUDA", "collectives"]
    assert {one.status for one in found} == {"wrong"}
    assert found[0].detail.endswith("does not import: killed by signal 11")


def test_versions_are_compared_as_numbers() -> None:
    assert finding.is_within("2.13.0+cpu", ">=2.11,<2.14")
    assert finding.is_within("2.11.0", ">=2.11,<2.14")
    assert not finding.is_within("2.9.1", ">=2.11,<2.14")
    assert not finding.is_within("2.14.0a0+git", ">=2.11,<2.14")
    assert finding.is_within("0.16.1", "==0.16.1")
    assert not finding.is_within("0.16.10", "==0.16.1")


def test_the_supported_versions_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {"python": project["requires-python"]}
    for requirement in [*project["dependencies"], *project["optional-dependencies"]["simulate"]]:
        name, versions = re.split(r"(?=[<>=])", requirement, maxsplit=1)
        declared[name] = versions
    assert {name: declared[name] for name in finding.SUPPORTED} == finding.SUPPORTED


def test_a_trial_of_dali_that_raises_costs_no_other_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "_dali_build", lambda: "nvidia-dali-cuda130 2.4.0")
    monkeypatch.setattr(decoders, "DALI_CHILD", "print('[\"no JSON')")
    found = {one.name: one for one in decoders.probe_decoders()}
    assert (found["DALI"].status, found["PyAV"].status) == ("wrong", "ok")
    assert found["video mjpeg"].status == "ok"


def test_a_cuda_that_raises_is_wrong_alone() -> None:
    facts = TorchFacts(
        version="2.11.0", cuda="13.0", devices=[], cuda_error="RuntimeError: CUDA error", gloo=True, nccl=True
    )
    assert engine._cuda(facts) == Finding("CUDA", "wrong", "RuntimeError: CUDA error", "see what nvidia-smi says")
