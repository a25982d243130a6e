"""What a machine has, by each system's way of telling: Linux' files, and stand-ins for macOS' and Windows' calls."""

from __future__ import annotations

import ctypes
import os
import sys
import types
from pathlib import Path

import pytest

from tabrt.hardware import available_threads, cache_folder, cpu, cpu_name, int8_instructions

INTEL = "processor\t: 0\nmodel name\t: Intel(R) Core(TM) i7\nflags\t\t: fpu avx2\n"
RASPBERRY = "processor\t: 0\nFeatures\t: fp asimd asimddp\n\nRevision\t: d04170\nModel\t\t: Raspberry Pi 5 Model B\n"


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch):
    """Make this machine another system's: system("win32")."""
    int8_instructions.cache_clear()
    yield lambda name: monkeypatch.setattr(sys, "platform", name)
    int8_instructions.cache_clear()


@pytest.mark.parametrize(
    ("text", "name", "int8"),
    [(INTEL, "Intel(R) Core(TM) i7", "AVX2"), (RASPBERRY, "Raspberry Pi 5 Model B", "dot product")],
)
def test_linux_tells_by_its_description(monkeypatch, tmp_path: Path, system, text: str, name: str, int8: str):
    system("linux")
    monkeypatch.setattr(cpu, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(text)
    assert (cpu_name(), int8_instructions()) == (name, int8)


class Kernel:
    """macOS' sysctlbyname: a value goes where the pointer says, and its length beside it."""

    def __init__(self, values: dict[str, str | int]):
        self._values = values

    def sysctlbyname(self, name: bytes, into, length, _new, _new_length) -> int:
        value = self._values.get(name.decode())
        if value is None:
            return -1
        data = value.to_bytes(4, sys.byteorder) if isinstance(value, int) else value.encode() + b"\0"
        ctypes.memmove(into, data, len(data))
        length._obj.value = len(data)
        return 0


@pytest.mark.parametrize(
    ("told", "name", "int8"),
    [
        ({"machdep.cpu.brand_string": "Apple M2", "hw.optional.arm.FEAT_DotProd": 1}, "Apple M2", "dot product"),
        ({"machdep.cpu.brand_string": "Apple X", "hw.optional.arm.FEAT_DotProd": 0}, "Apple X", None),
        (
            {"machdep.cpu.brand_string": "Intel(R) Core(TM) i5", "machdep.cpu.leaf7_features": "RDWRFSGS BMI1 AVX2"},
            "Intel(R) Core(TM) i5",
            "AVX2",
        ),
        (
            {"machdep.cpu.brand_string": "Intel i9", "machdep.cpu.leaf7_features": "AVX512VNNI AVX2"},
            None,
            "VNNI",
        ),
    ],
)
def test_macos_tells_by_sysctl(monkeypatch: pytest.MonkeyPatch, system, told: dict, name: str | None, int8: str | None):
    system("darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda _library: Kernel(told))
    assert int8_instructions() == int8
    assert cpu_name() == (name or told["machdep.cpu.brand_string"])


def _windows(monkeypatch: pytest.MonkeyPatch, features: set[int], name: str | None) -> None:
    kernel = types.SimpleNamespace(IsProcessorFeaturePresent=lambda number: int(number in features))
    monkeypatch.setattr(ctypes, "windll", types.SimpleNamespace(kernel32=kernel), raising=False)

    class Key:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    def open_key(root: str, path: str) -> Key:
        if name is None:
            raise OSError(path)
        assert path.endswith(r"CentralProcessor\0") and "\\\\" not in path
        return Key()

    registry = types.SimpleNamespace(
        HKEY_LOCAL_MACHINE="machine", OpenKey=open_key, QueryValueEx=lambda key, value: (f"{name}  ", 1)
    )
    monkeypatch.setitem(sys.modules, "winreg", registry)


@pytest.mark.parametrize(("features", "int8"), [({40}, "AVX2"), ({43}, "dot product"), ({6, 10}, None)])
def test_windows_tells_by_calls(monkeypatch: pytest.MonkeyPatch, system, features: set[int], int8: str | None):
    system("win32")
    _windows(monkeypatch, features, "AMD Ryzen 7")
    assert (cpu_name(), int8_instructions()) == ("AMD Ryzen 7", int8)


def test_a_system_that_tells_nothing_has_some_name_and_runs_in_float32(monkeypatch: pytest.MonkeyPatch, system):
    system("win32")
    _windows(monkeypatch, set(), None)
    monkeypatch.delattr(ctypes, "windll")
    assert cpu_name()
    assert int8_instructions() is None
    system("darwin")
    int8_instructions.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _library: types.SimpleNamespace())
    assert int8_instructions() is None


@pytest.mark.parametrize(("quota", "threads"), [("150000 100000", 2), ("50000 100000", 1), ("max 100000", 4), ("", 4)])
def test_threads_are_no_more_than_a_container_may_use(monkeypatch, tmp_path: Path, quota: str, threads: int):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(4)), raising=False)
    monkeypatch.setattr(cpu, "CPU_QUOTA", tmp_path / "cpu.max")
    assert available_threads(None) == 4
    (tmp_path / "cpu.max").write_text(quota)
    assert available_threads(None) == threads
    assert available_threads(7) == 7


def test_without_an_affinity_every_core_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """As on macOS and Windows."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setattr(cpu, "CPU_QUOTA", tmp_path / "none")
    assert available_threads(None) == 6


@pytest.mark.parametrize(
    ("name", "folder"),
    [("linux", ".cache/tabrt"), ("darwin", "Library/Caches/tabrt"), ("win32", "AppData/Local/tabrt")],
)
def test_each_system_has_a_place_for_what_is_kept(monkeypatch, tmp_path: Path, system, name: str, folder: str):
    system(name)
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert cache_folder() == tmp_path / folder
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == (tmp_path / "local" / "tabrt" if name == "win32" else tmp_path / folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine" / "tabrt"
