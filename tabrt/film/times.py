"""When things are in a film: one clock over joins and late starts, and the part of a film that is wanted."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av

from tabrt.errors import TabrtError

BACKWARDS, FORWARDS = Fraction(1, 4), Fraction(10)  # seconds a clock may jump before the stream counts as joined
SAME_JOIN = Fraction(1)  # seconds by which sound and pictures may differ at a join
JOINS_KEPT = 16
LATE = 1  # seconds: a file that starts later is a piece of a longer one


class Clock:
    """Moves packets onto one clock, which starts at 0 and runs on where the stream's own jumps at a join.

    start: container seconds that become 0. jumps: whether the container is of a kind whose clock may.
    """

    def __init__(self, start: Fraction, jumps: bool):
        self.start, self.jumps = start, jumps
        self.joins = 0
        self._offsets = [-start]
        self._chosen: dict[int, Fraction] = {}
        self._ends: dict[int, Fraction] = {}

    def forget(self) -> None:
        """Take no jump for a join that was asked for by seeking."""
        self._offsets, self._chosen, self._ends = [-self.start], {}, {}

    def set(self, packet: av.Packet) -> None:
        """Change the packet's times from those of its container to those of the film."""
        ticks = packet.pts if packet.dts is None else packet.dts
        if ticks is None or not packet.time_base:
            return
        index, time = packet.stream_index, ticks * packet.time_base
        offset = self._chosen.get(index, self._offsets[-1])
        if self.jumps and packet.stream.type in ("video", "audio"):
            offset = self._chosen[index] = self._running_on(index, time, offset)
            length = (packet.duration or 0) * packet.time_base
            self._ends[index] = time + offset + min(length, Fraction(1))
            if packet.pts is not None and abs(packet.pts - ticks) * packet.time_base > FORWARDS:  # damaged
                packet.pts = ticks
        shift = round(offset / packet.time_base)
        if packet.dts is not None:
            packet.dts += shift
        if packet.pts is not None:
            packet.pts += shift

    def _running_on(self, index: int, time: Fraction, offset: Fraction) -> Fraction:
        """The offset with which the stream runs on: its own, another stream's after a join, or a new one."""
        end = self._ends.get(index)
        if end is None or -BACKWARDS <= time + offset - end <= FORWARDS:
            return offset
        others = [known for known in self._offsets if known != offset and abs(time + known - end) <= SAME_JOIN]
        if others:
            return min(others, key=lambda known: abs(time + known - end))
        self.joins += 1
        self._offsets = [*self._offsets, max(self._ends.values()) - time][-JOINS_KEPT:]
        return self._offsets[-1]


def clock_of(container: av.container.InputContainer, network: bool, tick: Fraction) -> Clock:
    """Broadcast and network streams start anywhere on their clock; a file that starts late is a piece of another."""
    jumps = bool(container.format.flags & cast(int, av.format.Flags.ts_discont.value))
    start = Fraction(container.start_time or 0, av.time_base)
    anywhere = network or jumps or start >= LATE
    return Clock(round(start / tick) * tick if anywhere else Fraction(0), jumps)


@dataclass(frozen=True)
class Part:
    """The pictures of a film from `start` on and before `end`, seconds; every so many of them."""

    start: float = 0.0
    end: float = math.inf
    every: int = 1

    @property
    def is_whole(self) -> bool:
        return self.start <= 0 and self.end == math.inf


def part_of(
    start: float | str | None, end: float | str | None, every: int, duration: float | None, name: str, sure: bool = True
) -> Part:
    """The part that was asked for; times before 0 count from the film's end.

    sure: whether the duration is more than an estimate.
    Raises TabrtError for what is no time, or lies outside the film.
    """
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise TabrtError(f"every is {every!r}; give a whole number from 1")
    first = _within(seconds(start), duration, name) if start is not None else 0.0
    last = _within(seconds(end), duration, name) if end is not None else math.inf
    if sure and duration is not None and first >= duration:
        raise TabrtError(f"{name} has {clock_time(duration)}; nothing is there from {clock_time(first)} on")
    if last <= first:
        raise TabrtError(f"the part of {name} ends at {clock_time(last)}, not after its start at {clock_time(first)}")
    return Part(first, last, every)


def _within(time: float, duration: float | None, name: str) -> float:
    if time >= 0:
        return time
    if duration is None:
        raise TabrtError(f"{name} does not say how long it is; give times from its start")
    return max(0.0, duration + time)


def seconds(time: float | str) -> float:
    """Seconds of a number, or of text like 90, 1:30, 1:02:03.5, -10 and -0:10. Raises TabrtError for anything else."""
    if isinstance(time, int | float) and not isinstance(time, bool) and math.isfinite(time):
        return float(time)
    found = re.fullmatch(r"\s*(-?)(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)\s*s?\s*", str(time), re.ASCII)
    if not found:
        raise TabrtError(f"{time!r} is no time; write seconds or a clock time, like 90, 1:30 or 1:02:03.5")
    sign, hours, minutes, rest = found.groups()
    total = int(hours or 0) * 3600 + int(minutes or 0) * 60 + float(rest)
    return -total if sign else total


def clock_time(time: float) -> str:
    """Like 12.5 s or 1:02:03."""
    if not math.isfinite(time):
        return "its end"
    if time < 60:
        return f"{time:.3f}".rstrip("0").rstrip(".") + " s"
    minutes, rest = divmod(time, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:02.0f}" if hours else f"{minutes}:{rest:04.1f}"
