"""Each extra brings what the code behind it imports: no more is assumed of an environment than pyproject says."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, environment

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Of packages that are imported by another name than they are installed by.
INSTALLED_AS = {
    "cv2": "opencv-contrib-python",
    "h5py": "h5py",
    "lightning_fabric": "lightning-fabric",
    "pythonosc": "python-osc",
    "torch_tensorrt": "torch-tensorrt",
    "onnxruntime_ep_nv_tensorrt_rtx": "onnxruntime-ep-nv-tensorrt-rtx-cu13",
}
BROUGHT = {"PIL": "matplotlib", "tensorrt": "torch-tensorrt"}  # by a package that cannot be without it
# The user's choice: asked for by name where they are used, with what installs them.
OPTIONAL = {"pyvirtualcam", "scipy", "torchvision", "prometheus_client"}
# What an extra is for: the modules it makes run.
ENTRIES = {
    "": ["tabrt/cli.py", "tabrt/commands", "tabrt/live/loop.py", "tabrt/tracking", "tabrt/engines/onnxruntime"],
    "export": ["tabrt/exporting", "tabrt/engines/torch.py"],
    "cuda": ["tabrt/engines/tensorrt", "tabrt/exporting/export.py"],
    "rtx": ["tabrt/engines/onnxruntime"],
    "openvino": ["tabrt/engines/openvino.py"],
    "serve": ["tabrt/live/page.py"],
    "osc": ["tabrt/sinks/osc.py", "tabrt/sinks/vmc.py"],
    "parquet": ["tabrt/sinks/parquet.py"],
    "cluster": ["tabrt/commands/cluster.py"],
    "plot": ["tabrt/commands/plot.py"],
    "mediapipe": ["tabrt/detection/mediapipe.py"],
    "train": ["training"],
}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(lines: list[str]) -> set[str]:
    """The distributions that requirement lines name; those of extras of tabrt's own included."""
    names = set()
    for line in lines:
        name, extras = re.match(r"([\w.-]+)(?:\[([^]]*)\])?", line).groups()
        if name == "tabrt":
            for extra in extras.split(","):
                names |= _requirements(PROJECT["optional-dependencies"][extra.strip()])
        else:
            names.add(_normal(name))
    return names


def _installed(extra: str) -> set[str]:
    more = PROJECT["optional-dependencies"][extra] if extra else []
    return _requirements(PROJECT["dependencies"] + more)


def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    return next((found for found in (path.with_suffix(".py"), path / "__init__.py") if found.is_file()), None)


def _imports(path: Path) -> Iterator[str]:
    """What a file imports as soon as it is imported itself, but for typing alone."""
    tree = ast.parse(path.read_text("utf-8"))
    later = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in later:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def needs(entries: list[str]) -> dict[str, str]:
    """Third-party packages by the name they are imported under, each with a file that imports it."""
    waiting = [file for entry in entries for file in _files(ROOT / entry)]
    seen: set[Path] = set()
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in _imports(path):
            top = name.split(".")[0]
            if top in ("tabrt", "training", "export"):
                own = _file_of(name)
                waiting += [own] if own else []
            elif top not in sys.stdlib_module_names:
                found.setdefault(top, path.relative_to(ROOT).as_posix())
    return found


def _files(entry: Path) -> list[Path]:
    if entry.is_dir():
        return sorted(entry.rglob("*.py"))
    return [entry if entry.suffix else entry.with_suffix(".py")]


@pytest.mark.parametrize("extra", list(ENTRIES))
def test_an_extra_brings_what_its_code_imports(extra: str):
    there = _installed(extra)
    for name, where in needs(ENTRIES[extra]).items():
        package = _normal(BROUGHT.get(name) or INSTALLED_AS.get(name, name))
        assert package in there or name in OPTIONAL, f"{where} imports {name}; [{extra}] does not bring {package}"


def test_every_extra_is_looked_at():
    assert {*ENTRIES, "dev", "style", "docs"} == {"", *PROJECT["optional-dependencies"]}


def test_the_test_sees_an_import_that_nothing_brings():
    """`[cuda]` without onnx: what had been promised and could not run."""
    assert "onnx" in needs(["tabrt/exporting/converting.py"])
    assert "onnx" not in {_normal(name) for name in _installed("cuda")}
    assert "onnx" not in needs(ENTRIES["cuda"])


def _blocked(*modules: str) -> str:
    return "import sys; sys.modules.update(dict.fromkeys(" + repr(modules) + "))\n"


def test_export_to_tensorrt_needs_nothing_of_onnx():
    """As in an environment with exactly `[cuda]`: it gets as far as the missing GPU."""
    pytest.importorskip("torch", reason="needs torch: the extra `export`")
    program = _blocked("onnx", "onnxscript") + (
        "from tabrt import hardware; hardware.has_cuda = lambda: False\n"
        "sys.argv = ['tabrt', 'export', '--hourglasses', '1', '--to', 'tensorrt']\n"
        "from tabrt.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 1
    assert "NVIDIA" in done.stderr and "onnx is not installed" not in done.stderr


def test_export_to_onnx_without_onnx_names_what_brings_it():
    pytest.importorskip("torch", reason="needs torch: the extra `export`")
    program = _blocked("onnx") + (
        "sys.argv = ['tabrt', 'export', '--hourglasses', '1', '--to', 'onnx']\nfrom tabrt.cli import main; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, env=environment()
    )
    assert done.returncode == 1
    assert "onnx is not installed; in tabrt's checkout, run: pip install '.[export]'" in done.stderr
