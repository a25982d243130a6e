"""What `tabrt doctor` says of machines that are not this one."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT, environment

from tabrt.card import ModelCard
from tabrt.commands import doctor
from tabrt.engines import CPU, gpu
from tabrt.hardware import Gpu

RTX = Gpu("NVIDIA GeForce RTX 3060", (8, 6), 12 << 30, "580.65", (13, 0))
OLD = Gpu("NVIDIA GeForce GTX 1080", (6, 1), 8 << 30, "535.10", (12, 2))


def _installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name.replace("-", "_") not in versions:
            raise gpu.metadata.PackageNotFoundError(name)
        return versions[name.replace("-", "_")]

    monkeypatch.setattr(gpu.metadata, "version", version)


def _card(monkeypatch: pytest.MonkeyPatch, card: Gpu | str) -> str:
    monkeypatch.setattr(doctor, "look_for_gpu", lambda: card)
    monkeypatch.setattr(gpu, "look_for_gpu", lambda: card)
    return "\n".join(doctor._gpu())


def test_a_card_is_shown_with_what_fits_it_and_what_installs_that(monkeypatch: pytest.MonkeyPatch):
    _installed(monkeypatch, torch_tensorrt="2.13.0")
    told = _card(monkeypatch, RTX)
    assert "NVIDIA GeForce RTX 3060, compute capability 8.6, 12 GiB, driver 580.65 (CUDA 13.0)" in told
    assert "TensorRT by Torch-TensorRT: installed (2.13.0), and it serves this card" in told
    assert (
        "TensorRT-RTX in ONNX Runtime: it would serve this card; in tabrt's checkout, run: pip install '.[rtx]'" in told
    )


def test_a_card_that_nothing_serves_is_told_why(monkeypatch: pytest.MonkeyPatch):
    _installed(monkeypatch)
    told = _card(monkeypatch, OLD)
    assert told.count(": no: ") == len(gpu.LIBRARIES)
    assert "compute capability 6.1" in told
    assert "pip install '.[rtx]'" not in told


def test_without_a_card_it_says_why(monkeypatch: pytest.MonkeyPatch):
    _installed(monkeypatch)
    assert _card(monkeypatch, "CUDA_VISIBLE_DEVICES='' hides every GPU; unset it").endswith("unset it")


def test_two_packages_of_one_module_are_told_also_without_a_card(monkeypatch: pytest.MonkeyPatch):
    _installed(monkeypatch, torch_tensorrt="2.13.0", torch_tensorrt_rtx="2.13.0")
    assert "own the same module" in _card(monkeypatch, "no NVIDIA driver is here")


def test_tensorrt_is_not_compiled_to_answer(monkeypatch: pytest.MonkeyPatch):
    """Nor said to run where torch would run in its place."""
    from tabrt.engines import tensorrt

    _installed(monkeypatch, torch_tensorrt="2.13.0")
    _card(monkeypatch, RTX)
    monkeypatch.setattr(tensorrt, "is_cached", lambda path: False)
    monkeypatch.setattr(tensorrt, "load", lambda *_: pytest.fail("it was compiled"))
    assert doctor.engine_state("tensorrt").startswith("installed; nothing is compiled yet")
    _card(monkeypatch, OLD)
    assert doctor.engine_state("tensorrt").startswith("no: TensorRT by Torch-TensorRT does not serve")


def test_looking_at_the_card_imports_no_torch():
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from tabrt.commands import doctor\n"
        "from tabrt.hardware import Gpu\n"
        "doctor.look_for_gpu = lambda: Gpu('x', (8, 6), 1, '580', (13, 0))\n"
        "doctor.importlib.util.find_spec = lambda name: None\n"
        "print(list(doctor._gpu())[-1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert done.stdout.strip() == "torch: not installed (optional)", done.stderr


@pytest.mark.parametrize(
    ("text", "told"), [("cuda: Optional[str] = '13.0'\n", "made for CUDA 13.0"), ("cuda = None\n", "made without CUDA")]
)
def test_what_torch_was_made_for_is_read_from_its_files(monkeypatch, tmp_path: Path, text: str, told: str):
    (tmp_path / "version.py").write_text("__version__ = '2.13.0'\n" + text)
    spec = type("Spec", (), {"origin": str(tmp_path / "__init__.py")})
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
    assert doctor._torch_state().startswith(told)


def test_folders_that_cannot_be_written_are_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(doctor.tempfile, "gettempdir", lambda: "/proc")
    monkeypatch.setattr(doctor, "cache_folder", lambda: Path("/proc/1/nothing/tabrt"))
    temporary, cache = doctor._folders()
    assert "NOT WRITABLE" in temporary and "TMPDIR" in temporary
    assert "NOT WRITABLE" in cache and "XDG_CACHE_HOME" in cache
    monkeypatch.setattr(doctor, "cache_folder", lambda: tmp_path / "not" / "yet")
    assert list(doctor._folders())[1].endswith("not/yet")


def test_what_this_ffmpeg_lacks_is_named(monkeypatch: pytest.MonkeyPatch):
    assert "is there" in "\n".join(doctor._films())
    monkeypatch.setattr(doctor, "ENCODERS", ("libx264", "no_such_encoder"))
    monkeypatch.setattr(doctor, "FILTERS", ("bwdif", "no_such_filter"))
    told = "\n".join(doctor._films())
    assert "encoders missing: no_such_encoder;" in told
    assert "filters missing: no_such_filter;" in told


def _default(monkeypatch: pytest.MonkeyPatch, device: str, precision: str, card: Gpu | str, int8: str | None) -> str:
    engine = type("Loaded", (), {"close": lambda self: None})()
    engine.name, engine.device, engine.card = "onnxruntime", device, ModelCard(name="x", precision=precision)
    monkeypatch.setattr(doctor, "load_engine", lambda: engine)
    monkeypatch.setattr(doctor, "look_for_gpu", lambda: card)
    monkeypatch.setattr(doctor, "int8_instructions", lambda: int8)
    return doctor.default_choice()


def test_the_default_is_told_with_its_reason_on_every_kind_of_machine(monkeypatch: pytest.MonkeyPatch):
    no = "no NVIDIA driver is here"
    told = _default(monkeypatch, CPU, "int8", no, "VNNI")
    assert f"in int8 by onnxruntime on the CPU: {no}, and this CPU is faster in int8 (VNNI)" in told
    assert "no faster in int8" in _default(monkeypatch, CPU, "fp32", no, None)
    told = _default(monkeypatch, "NVIDIA GeForce RTX 3060", "fp16", RTX, "VNNI")
    assert "in fp16 by onnxruntime on the NVIDIA GeForce RTX 3060" in told
    told = _default(monkeypatch, CPU, "int8", RTX, "VNNI")
    assert "nothing that is installed starts on the NVIDIA GeForce RTX 3060 at once" in told


def test_no_default_is_a_line_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "load_engine", lambda: (_ for _ in ()).throw(RuntimeError("broken\ninstall")))
    assert doctor.default_choice() == "none: broken"


def test_every_package_that_commands_need_is_looked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.match(r"[\w-]+", each)[0] for each in requirements if "sys_platform" not in each}

    assert names(project["dependencies"]) == set(doctor.RUNTIME)
    workshops = {"dev", "style", "docs"}
    optional = {
        name
        for extra, needed in project["optional-dependencies"].items()
        if extra not in workshops
        for name in names(needed)
    }
    assert optional - {*doctor.RUNTIME, *doctor.OPTIONAL} == set()


@pytest.mark.skipif(importlib.util.find_spec("mediapipe") is None, reason="MediaPipe is not installed")
def test_mediapipe_starts_without_a_word_of_its_own(capfd):
    assert doctor.detector_state("mediapipe") == "runs"
    assert capfd.readouterr().err == ""
