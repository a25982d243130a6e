"""Blinks, as events: a dip in the height of the eyes that comes back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

DROP = 0.12  # of the height before it, that eyes go down at least
BACK = 0.65  # of the drop, after which they are open again
BEFORE = 0.35  # s, whose greatest height is that before the blink
LONGEST = 2.0  # s: eyes that stay down for longer read, laugh or sleep
ONSET = 0.3  # of the drop, at which a blink begins


@dataclass(frozen=True)
class Blink:
    """One blink. Times are those of the frames."""

    time: float  # s, at which the eyes began to shut
    seconds: float  # until they were open again
    depth: float  # 0…1: 1 for eyes that were shut at its lowest
    lowest: float  # height of the eyes at its lowest, over that before
    lowest_time: float  # s


class BlinkFinder:
    """Finds blinks in heights of the eyes as they come: `finder(time, height)` gives the one that ended then, or None.

    It needs no calibration: only what the eyes did in the last third of a second counts.
    """

    def __init__(self) -> None:
        self._before: deque[tuple[float, float]] = deque()
        self._dip: tuple[float, float] | None = None  # when it began, and the height before
        self._lowest, self._lowest_time = 0.0, 0.0

    def __call__(self, time: float, height: float, shut: float = 0.6) -> Blink | None:
        """height: mean of both eyes, in any unit. shut: height of shut eyes, over that of open ones."""
        if not math.isfinite(height):
            self._start_anew()
            return None
        if self._dip is None:
            self._watch(time, height)
            return None
        began, top = self._dip
        if height < self._lowest:
            self._lowest, self._lowest_time = height, time
        if time - began > LONGEST:
            self._start_anew(time, height)
        elif height > self._lowest + BACK * (top - self._lowest):
            lowest = self._lowest / top
            depth = min(max((1 - lowest) / (1 - shut), 0.0), 1.0)
            self._start_anew(time, height)
            return Blink(began, time - began, depth, lowest, self._lowest_time)
        return None

    def _start_anew(self, *sample: float) -> None:
        self._dip = None
        self._before.clear()
        if sample:
            self._before.append((sample[0], sample[1]))

    def _watch(self, time: float, height: float) -> None:
        while self._before and time - self._before[0][0] > BEFORE:
            self._before.popleft()
        top = max((seen for _, seen in self._before), default=height)
        self._before.append((time, height))
        if height < top * (1 - DROP):
            high = top - ONSET * (top - height)
            self._dip = max(when for when, seen in self._before if seen >= high), top
            self._lowest, self._lowest_time = height, time


def find_blinks(samples: Iterable[tuple[float, float]]) -> list[Blink]:
    """The blinks in (time, height of the eyes) of one face, in order of time."""
    finder = BlinkFinder()
    found = (finder(time, height) for time, height in samples)
    return [blink for blink in found if blink is not None]
