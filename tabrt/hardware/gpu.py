"""What this machine has: cores, instructions, a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from tabrt.errors import EngineUnavailable

CPU_INFO = Path("/proc/cpuinfo")
# By Linux's names, the fastest first.
INT8_INSTRUCTIONS = (("VNNI", "avx512_vnni"), ("VNNI", "avx_vnni"), ("AVX2", "avx2"), ("dot product", "asimddp"))
NO_DEVICE = 100  # CUDA's error of that name
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # attributes of a device in CUDA's driver API


def available_threads(threads: int | None) -> int:
    """The threads asked for, or one for each core this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """What the CPU calls itself."""
    try:
        lines = CPU_INFO.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, platform.processor() or platform.machine())


@functools.cache
def int8_instructions() -> str | None:
    """The instructions by which this CPU multiplies int8 faster than float32, None where it has none of them.

    AVX2 alone is enough: in two thirds of float32's time, where VNNI takes well under half. Asked of Linux only.
    """
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as file:
            flags = next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    except OSError:
        return None
    return next((name for name, flag in INT8_INSTRUCTIONS if flag in flags), None)


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA card, as its driver describes it."""

    name: str
    capability: tuple[int, int]  # compute capability: 8.6 of an RTX 30
    memory: int  # bytes
    driver: str  # its version
    cuda: tuple[int, int]  # the newest CUDA that this driver runs

    @property
    def capability_name(self) -> str:
        return ".".join(map(str, self.capability))


@functools.cache
def look_for_gpu() -> Gpu | str:
    """The first NVIDIA card that programs may use, or why there is none.

    Asked of the driver itself (CUDA's driver API and NVML), for importing torch takes seconds.
    """
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        return _first_card(driver)
    except OSError:
        return "no NVIDIA driver is here"
    except AttributeError as error:  # a function that this driver does not have
        return f"the NVIDIA driver is too old ({error})"


def has_cuda() -> bool:
    """Whether an NVIDIA card and its driver are here."""
    return isinstance(look_for_gpu(), Gpu)


def _first_card(driver: ctypes.CDLL) -> Gpu | str:
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    state, count, version, device = driver.cuInit(0), ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    if state not in (0, NO_DEVICE):
        return f"the NVIDIA driver does not start (CUDA error {state}); after an update of it, restart the machine"
    if state == NO_DEVICE or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        if hidden is not None:
            return f"CUDA_VISIBLE_DEVICES={hidden!r} hides every GPU; unset it"
        return "the NVIDIA driver finds no GPU"
    driver.cuDriverGetVersion(ctypes.byref(version))
    driver.cuDeviceGet(ctypes.byref(device), 0)
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    capability = []
    for attribute in (CAPABILITY_MAJOR, CAPABILITY_MINOR):
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        capability.append(value.value)
    major, minor = divmod(version.value, 1000)
    return Gpu(
        name.value.decode(errors="replace"),
        (capability[0], capability[1]),
        memory.value,
        _driver_version(),
        (major, minor // 10),
    )


def _driver_version() -> str:
    """The NVIDIA driver's version, from its management library."""
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        version = ctypes.create_string_buffer(80)
        library.nvmlInit_v2()
        library.nvmlSystemGetDriverVersion(version, len(version))
        return version.value.decode(errors="replace") or "unknown"
    except (OSError, AttributeError):
        return "unknown"


def cache_folder() -> Path:
    """Where what was made for this machine is kept: `$XDG_CACHE_HOME/tabrt` or `~/.cache/tabrt`."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tabrt"
    except RuntimeError as error:  # a user without a name, as in some containers
        raise EngineUnavailable("this user has no home folder; set HOME or XDG_CACHE_HOME") from error
