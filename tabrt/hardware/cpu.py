"""The CPU: its cores, its name, and whether it is faster in int8.

Linux tells by files, macOS by sysctl, Windows by calls.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds, and of how many

# The fastest first: what a CPU is said to have, by each system's names. Windows cannot be asked for VNNI; the model to
# run is the same as for AVX2.
INT8_INSTRUCTIONS = (
    ("VNNI", {"avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni"}),
    ("AVX2", {"avx2"}),
    ("dot product", {"asimddp", "hw.optional.arm.FEAT_DotProd"}),
)
SYSCTL_FLAGS = ("hw.optional.arm.FEAT_DotProd",)
SYSCTL_LISTS = ("machdep.cpu.features", "machdep.cpu.leaf7_features")  # of Intel's
WINDOWS_FEATURES = {40: "avx2", 43: "asimddp"}  # of IsProcessorFeaturePresent
WINDOWS_CPU_KEY = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"


def available_threads(threads: int | None) -> int:
    """The threads asked for, or one for each core this process may use."""
    if threads is not None:
        return threads
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota() -> int | None:
    """The cores that a container's time is worth, rounded up; None where there is no limit."""
    try:
        time, period = CPU_QUOTA.read_text("ascii").split()[:2]
        return -(-int(time) // int(period))
    except (OSError, ValueError, ZeroDivisionError):
        return None


def cpu_name() -> str:
    """What the CPU calls itself."""
    ways = {"win32": _windows_name, "darwin": _macos_name}
    return ways.get(sys.platform, _linux_name)() or platform.processor() or platform.machine()


@functools.cache
def int8_instructions() -> str | None:
    """The instructions by which this CPU multiplies int8 faster than float32, None where it has none of them.

    AVX2 alone is enough: in two thirds of float32's time, where VNNI takes well under half.
    """
    ways = {"win32": _windows_flags, "darwin": _macos_flags}
    flags = ways.get(sys.platform, _linux_flags)()
    return next((name for name, any_of in INT8_INSTRUCTIONS if any_of & flags), None)


# --------------------------------------------------------------------------------------------------------------- Linux


def _cpu_info() -> Iterator[tuple[str, str]]:
    """The fields of the kernel's description, in its order."""
    with contextlib.suppress(OSError), CPU_INFO.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            field, _, value = line.partition(":")
            yield field.strip(), value.strip()


def _linux_name() -> str:
    """On ARM it is the board that has a name."""
    return next((value for field, value in _cpu_info() if field in ("model name", "Hardware", "Model")), "")


def _linux_flags() -> set[str]:
    return next((set(value.split()) for field, value in _cpu_info() if field in ("flags", "Features")), set())


# --------------------------------------------------------------------------------------------------------------- macOS


def _sysctl(name: str) -> str:
    """A value that macOS' kernel names, numbers in words; empty where it names none."""
    try:
        ask = ctypes.CDLL(None).sysctlbyname
    except (OSError, AttributeError, TypeError):
        return ""
    size, value = ctypes.c_size_t(4096), ctypes.create_string_buffer(4096)
    if ask(name.encode(), value, ctypes.byref(size), None, ctypes.c_size_t(0)):
        return ""
    if size.value == 4 and name in SYSCTL_FLAGS:
        return str(int.from_bytes(value.raw[:4], sys.byteorder))
    return value.value.decode(errors="replace").strip()


def _macos_name() -> str:
    return _sysctl("machdep.cpu.brand_string")


def _macos_flags() -> set[str]:
    listed = " ".join(_sysctl(name) for name in SYSCTL_LISTS).lower().split()
    return {name for name in SYSCTL_FLAGS if _sysctl(name) == "1"} | set(listed)


# ------------------------------------------------------------------------------------------------------------- Windows


def _windows_name() -> str:
    try:
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, WINDOWS_CPU_KEY) as key:  # type: ignore[attr-defined]
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()  # type: ignore[attr-defined]
    except (ImportError, OSError):
        return ""


def _windows_flags() -> set[str]:
    """A Windows that does not know a feature says that it is not there: then the model runs in float32."""
    try:
        has = ctypes.windll.kernel32.IsProcessorFeaturePresent  # type: ignore[attr-defined]
    except AttributeError:
        return set()
    return {flag for number, flag in WINDOWS_FEATURES.items() if has(number)}
