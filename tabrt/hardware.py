"""What this machine has: cores, instructions, a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def available_threads(threads: int | None) -> int:
    """The threads asked for, or one for each core this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def has_vnni() -> bool:
    """Whether this CPU multiplies int8 in one step. Without it int8 gains little, and sums may overflow."""
    try:
        with CPU_INFO.open(encoding="utf-8", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


def has_cuda() -> bool:
    """Whether an NVIDIA driver is here: asked of the driver itself, for importing torch takes seconds."""
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(library)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False
