"""What a card is doing while it is timed: its clock, power, temperature, and whether it was held back."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

SM_CLOCK, GPU_SENSOR = 1, 0  # NVML's numbers
# Bits of nvmlDeviceGetCurrentClocksThrottleReasons; idle (1) and clocks that were asked for (2) are no hindrance.
REASONS = {0x4: "power cap", 0x8: "hardware slowdown", 0x20: "heat", 0x40: "heat (hardware)", 0x80: "power brake"}


@dataclass(frozen=True)
class State:
    """One look at a card."""

    clock: int  # MHz of its multiprocessors
    watts: float
    limit_watts: float
    celsius: int
    throttled: tuple[str, ...]

    def __str__(self) -> str:
        held = f", held back by {' and '.join(self.throttled)}" if self.throttled else ""
        return f"{self.clock} MHz, {self.watts:.0f} of {self.limit_watts:.0f} W, {self.celsius} °C{held}"


def look() -> State | None:
    """The first card as NVML sees it now; None where there is none."""
    try:
        library = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
        handle = ctypes.c_void_p()
        if library.nvmlInit_v2() or library.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)):
            return None
        clock, watts, limit, celsius = (ctypes.c_uint() for _ in range(4))
        reasons = ctypes.c_ulonglong()
        library.nvmlDeviceGetClockInfo(handle, SM_CLOCK, ctypes.byref(clock))
        library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(watts))
        library.nvmlDeviceGetEnforcedPowerLimit(handle, ctypes.byref(limit))
        library.nvmlDeviceGetTemperature(handle, GPU_SENSOR, ctypes.byref(celsius))
        library.nvmlDeviceGetCurrentClocksThrottleReasons(handle, ctypes.byref(reasons))
    except (OSError, AttributeError):
        return None
    held = tuple(name for bit, name in REASONS.items() if reasons.value & bit)
    return State(clock.value, watts.value / 1e3, limit.value / 1e3, celsius.value, held)
