"""What this machine has: cores, instructions, a GPU."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
# By Linux's names, the fastest first.
INT8_INSTRUCTIONS = (("VNNI", "avx512_vnni"), ("VNNI", "avx_vnni"), ("AVX2", "avx2"), ("dot product", "asimddp"))


def available_threads(threads: int | None) -> int:
    """The threads asked for, or one for each core this process may use."""
    if threads is not None:
        return threads
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def has_cuda() -> bool:
    """Whether an NVIDIA driver is here: asked of the driver itself, for importing torch takes seconds."""
    library = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL(library)
        return driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 and count.value > 0
    except OSError:
        return False
