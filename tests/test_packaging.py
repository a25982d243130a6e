"""What is installed, what importing it costs, and what it never does."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT, command, environment

import tabrt
from tabrt.errors import SYSTEM_PACKAGES

MAY_LOAD_TORCH = ("network", "exporting", "engines/torch.py", "engines/decoding.py", "engines/tensorrt")


# ---------------------------------------------------------------------------------------------------------- the API


def test_the_public_names_are_these_and_can_be_had():
    classes = ["Box", "Face", "Frame", "Scene", "TabrtError", "Tracker"]
    functions = ["align", "draw", "load_engine", "open_film", "put_back", "read_landmarks", "to_68"]
    assert tabrt.__all__ == [*classes, "__version__", *functions]
    for name in tabrt.__all__:
        assert getattr(tabrt, name) is not None
        assert name in dir(tabrt)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Trakcer"):
        _ = tabrt.Trakcer  # type: ignore[attr-defined]


def test_a_type_checker_sees_that_a_name_is_unknown(tmp_path):
    """And knows those that are there; on a copy of the top level alone, for speed."""
    api = pytest.importorskip("mypy.api", reason="mypy is not installed here")
    (tmp_path / "tabrt").mkdir()
    shutil.copy(ROOT / "tabrt" / "__init__.py", tmp_path / "tabrt")
    program = tmp_path / "program.py"
    program.write_text("import tabrt\n" + "".join(f"tabrt.{name}\n" for name in [*tabrt.__all__, "Trakcer"]))
    words = [f"--cache-dir={tmp_path}", "--config-file=", "--ignore-missing-imports", str(program)]
    found = [line for line in api.run(words)[0].splitlines() if "program.py:" in line]
    assert (
        len(found) == 1 and f'program.py:{len(tabrt.__all__) + 2}: error: Module has no attribute "Trakcer"' in found[0]
    )


def test_a_missing_system_library_is_named_with_the_line_that_installs_it(tmp_path):
    problem = "libGL.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / "cv2.py").write_text(f"raise ImportError({problem!r})\n")
    words = [sys.executable, "-m", "tabrt", "video", "in.mp4", "--out", "out.mp4"]
    where = {**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(words, cwd=tmp_path, env=where, capture_output=True, text=True, timeout=60)
    remedy = f"sudo apt-get install {SYSTEM_PACKAGES}"
    assert done.returncode == 1
    assert done.stderr == f"tabrt: libGL.so.1 is not installed; on Debian and Ubuntu: {remedy}\n"
    assert remedy in (ROOT / "README.md").read_text("utf-8")
    assert SYSTEM_PACKAGES in (ROOT / ".ci" / "run").read_text("utf-8")


def loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(' '.join(sys.modules))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=60)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_and_the_command_line_is_cheap():
    heavy = {"numpy", "cv2", "av", "onnxruntime", "mediapipe", "torch"}
    assert not heavy & loaded_by("import tabrt")
    assert not heavy & loaded_by("import tabrt.cli")


def test_everything_but_the_network_is_had_without_torch():
    assert "torch" not in loaded_by(
        "import tabrt.commands.video, tabrt.commands.live, tabrt.commands.doctor, tabrt.cli\n"
        "tabrt.Tracker, tabrt.load_engine"
    )


def test_the_tracker_is_had_without_scipy_and_plots():
    loaded = loaded_by("import tabrt.commands.video, tabrt; tabrt.Tracker().close()")
    assert "onnxruntime" in loaded
    assert not {"filterpy", "scipy", "matplotlib", "sounddevice", "mediapipe"} & loaded


# --------------------------------------------------------------------------------------------------------- the rooms


def modules() -> Iterator[tuple[Path, str]]:
    """Each file of the package, with its room: the module or folder right under tabrt/."""
    for path in sorted((ROOT / "tabrt").rglob("*.py")):
        yield path, path.relative_to(ROOT / "tabrt").parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """What a file imports, and whether as soon as it is imported itself."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.dump(branch.test)
        for node in ast.walk(branch)
    }
    late = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) not in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"tabrt.{alias.name}" for alias in node.names] if node.module == "tabrt" else [node.module]
            yield from ((name, id(node) not in late) for name in names)


def test_the_rooms_import_only_downwards():
    """By the layers in pyproject.toml; imports within functions count as well."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed here")
    there = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, env=there, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_only_the_network_and_its_engines_import_torch():
    for path, _ in modules():
        place = path.relative_to(ROOT / "tabrt").as_posix()
        if not place.startswith(MAY_LOAD_TORCH):
            for name, at_once in imports(path):
                assert name.split(".")[0] not in ("torch", "torch_tensorrt"), place
                assert not (at_once and name.startswith("tabrt.network")), place


def test_the_package_needs_nothing_of_the_workshops():
    for path, _ in modules():
        for name, _ in imports(path):
            assert name.split(".")[0] not in ("training", "export", "benchmarks", "tests"), path


# --------------------------------------------------------------------------------------------------------- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="the build backend is not installed here")
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*words, str(ROOT)], check=True, timeout=300)
    return zipfile.ZipFile(next(folder.glob("tabrt-*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile):
    assert {name.split("/")[0] for name in wheel.namelist()} == {"tabrt", f"tabrt-{tabrt.__version__}.dist-info"}
    installed = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tabrt").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed <= set(wheel.namelist())
    for name in ("py.typed", "demo/pexels_face.mp4", "demo/LICENCE.txt", "models/face_detection_short_range.tflite"):
        assert f"tabrt/{name}" in installed


def test_the_wheel_names_its_needs(wheel: zipfile.ZipFile):
    folder = f"tabrt-{tabrt.__version__}.dist-info"
    metadata = wheel.read(f"{folder}/METADATA").decode()
    always = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert not any("mediapipe" in line for line in always)
    assert "Requires-Dist: mediapipe==0.10.33; extra == 'mediapipe'" in metadata.splitlines()
    assert not any("torch" in line or "opencv-python" in line for line in always)
    for extra in ("train", "export", "mediapipe", "openvino", "cuda", "rtx", "serve", "osc", "dev"):
        assert f"Provides-Extra: {extra}\n" in metadata
    assert "tabrt = tabrt.cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    licence = "License-Expression: Apache-2.0 AND LicenseRef-tabrt-weights-research-only AND LicenseRef-Pexels"
    assert licence in metadata.splitlines()
    assert f"{folder}/licenses/LICENSE" in wheel.namelist()
    assert f"{folder}/licenses/tabrt/models/MODEL_CARD.md" in wheel.namelist()
    assert f"{folder}/licenses/tabrt/demo/LICENCE.txt" in wheel.namelist()
    assert f"{folder}/licenses/NOTICE" in wheel.namelist()


def test_whatever_is_not_written_here_is_named_in_the_notice():
    named = re.findall(r"[\w./*-]+/[\w.*-]+\.\w+", (ROOT / "NOTICE").read_text("utf-8"))
    rooms = (ROOT / "tabrt", ROOT / "tests" / "data")
    data = [path for room in rooms for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    others = [path for path in data if path.suffix not in (".py", ".typed", ".html", ".md", ".txt")]
    paths = {path.relative_to(ROOT).as_posix() for path in (*others, *(ROOT / "docs").glob("*.jpg"))}
    assert len(paths) > 15
    assert {path for path in paths if not any(fnmatch.fnmatch(path, name) for name in named)} == set()


def test_the_source_archive_carries_whatever_its_tests_are_about():
    """The rooms whole: tests that go out with it must find what they import, read and run."""
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="the build backend is not installed here")
    carried = {each.distribution_path for each in sdist.SdistBuilder(str(ROOT)).recurse_included_files()}
    for room in ("tabrt", "tests", "training", "export", "benchmarks", "examples", "docs"):
        paths = (path.relative_to(ROOT) for path in (ROOT / room).rglob("*.py"))
        there = {path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts)}
        assert there and there - carried == set()
    at_the_top = {"README.md", "CONTRIBUTING.md", "Makefile", "Dockerfile", "mkdocs.yml", "pyproject.toml"}
    assert {*at_the_top, ".ci/run", "tools/try-release"} - carried == set()
    assert not any(path.startswith("training/weights/") for path in carried)


SYSTEMS = {  # pip's names of what a system takes, the newest first
    "Linux x86-64": [f"manylinux_{version}_x86_64" for version in ("2_28", "2_27", "2_17")],
    "Linux ARM": [f"manylinux_{version}_aarch64" for version in ("2_28", "2_27", "2_17")],
    "Windows x86-64": ["win_amd64"],
    "macOS ARM": [f"macosx_{version}" for version in ("14_0_arm64", "13_0_arm64", "11_0_arm64", "13_0_universal2")],
}


def _needs(system: str) -> list[str]:
    """What pip would ask for there; markers are taken from this machine otherwise, those of packages too."""
    from packaging.requirements import Requirement

    platform = {"Windows x86-64": "win32", "macOS ARM": "darwin"}.get(system, "linux")
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["dependencies"]
    needs = []
    for need in map(Requirement, asked):
        if need.marker is None or need.marker.evaluate({"sys_platform": platform}):
            need.marker = None
            needs.append(str(need))
    return needs + (["pyobjc-framework-AVFoundation"] if platform == "darwin" else [])  # of cv2-enumerate-cameras


def test_only_where_opencv_knows_cameras_by_number_their_names_are_asked_for():
    pytest.importorskip("packaging")
    asked = {system: any("cv2-enumerate-cameras" in need for need in _needs(system)) for system in SYSTEMS}
    assert asked == {"Linux x86-64": False, "Linux ARM": False, "Windows x86-64": True, "macOS ARM": True}


@pytest.mark.slow
@pytest.mark.skipif("TABRT_TEST_INDEX" not in os.environ, reason="asks the package index; set TABRT_TEST_INDEX=1")
@pytest.mark.parametrize("python", ["3.11", "3.13", "3.14"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_everything_that_tabrt_needs_is_there_for_each_system(tmp_path: Path, system: str, python: str):
    """Wheels alone, so that nothing is compiled; only found, not fetched."""
    needs = _needs(system)
    platforms = [word for name in SYSTEMS[system] for word in ("--platform", name)]
    words = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--target", tmp_path]
    words += ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *platforms, *needs]
    done = subprocess.run(words, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_tests_are_found_where_linux_own_modules_are_not():
    """As on Windows: no fcntl, no resource, no SIGHUP, no fork, no affinity."""
    pytest.importorskip("torch", reason="the tests of the network need torch")
    words = [sys.executable, str(ROOT / "tests" / "as_windows.py"), "tests"]
    done = subprocess.run(words, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "tests/test_devices.py::" in done.stdout and "error" not in done.stdout.splitlines()[-1]


def test_the_version_is_said_once():
    installed = importlib.import_module("importlib.metadata")
    try:
        assert installed.version("tabrt") == tabrt.__version__
    except installed.PackageNotFoundError:
        pytest.skip("tabrt is not installed here, only checked out")


# ----------------------------------------------------------------------------------------------- what it never does


def test_tracking_a_film_never_loads_torch(run: Callable[..., subprocess.CompletedProcess], clip: Path, tmp_path: Path):
    (tmp_path / "trap").mkdir()
    (tmp_path / "trap" / "torch.py").write_text("raise SystemExit('torch was loaded')")
    done = run("video", clip, "--out", "out.mp4", env=environment(PYTHONPATH=str(tmp_path / "trap")))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("engine", ["auto", "openvino", "torch"])
def test_nothing_is_sent(clip: Path, tmp_path: Path, engine: str):
    """In a network namespace of its own the kernel counts what a run tries to send: not even a name is looked up."""
    if engine != "auto" and importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed here")
    look_up = [sys.executable, "-c", "import socket; socket.getaddrinfo('example.org', 80)"]
    if _attempts(look_up, tmp_path) in (None, 0):
        pytest.skip("no network namespace can be made here (it takes Linux, unshare and the right to use it)")
    words = ["video", str(clip), "--out", "out.mp4", "--landmarks", "out.jsonl", "--engine", engine]
    assert _attempts([*command(), *words], tmp_path) == 0
    assert (tmp_path / "out.mp4").stat().st_size > 0


def _attempts(words: list[str], folder: Path) -> int | None:
    """Packets that a command tried to send; None where that cannot be counted."""
    count = "import json, sys; print(json.dumps([open('/proc/net/snmp').read(), open('/proc/net/snmp6').read()]))"
    script = f'"$@" >/dev/null 2>&1; exec {sys.executable} -c "{count}"'
    # Some packages send nothing where they see that they are tested.
    outside = {name: value for name, value in environment().items() if name not in ("CI", "PYTEST_CURRENT_TEST")}
    outside["HOME"] = str(folder)  # others have noted there what they were told by a user
    isolated = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    try:
        done = subprocess.run(
            [*isolated, "sh", "-c", script, "sh", *words],
            **{"cwd": folder, "env": outside, "capture_output": True, "text": True, "timeout": 300},
        )
        old, new = json.loads(done.stdout)
    except (OSError, ValueError):
        return None
    names, values = (line.split() for line in old.splitlines() if line.startswith("Ip:"))
    counters = dict(zip(names, values, strict=True)) | dict(line.split() for line in new.splitlines())
    wanted = ("OutRequests", "OutNoRoutes", "OutDiscards")
    # A new interface announces itself by IPv6 multicast; the namespace has none but a loopback that is down.
    return sum(int(counters[name]) for name in (*wanted, *(f"Ip6{name}" for name in wanted)))
