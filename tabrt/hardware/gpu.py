"""The NVIDIA card, asked of its driver."""

from __future__ import annotations

import ctypes
import functools
import os
from dataclasses import dataclass

NO_DEVICE = 100  # CUDA's error of that name
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # attributes of a device in CUDA's driver API


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
