"""What a live run knows of itself: the numbers it shows, and what the people watching it asked for."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tabrt.faces import Scene

LONGEST = 10_000  # ms; a longer latency counts as this one
FRESH = 4.0  # seconds that a message stays on the screen
RECENT = 3.0  # seconds behind the numbers on the screen


@dataclass
class Controls:
    """What was asked for by keys, by the page or by a signal. The live loop looks at it at each frame and tick."""

    paused: bool = False
    recording: bool = False
    recorded: float = 0.0  # seconds in the film being written
    snapshot: bool = False
    boundaries: bool = False
    numbers: bool = True
    help: bool = False
    quit: str = ""  # why, once it is asked for
    signal: int = 0  # that quit was asked for by
    message: str = ""  # of the last file written, or the last problem
    said: float = -math.inf  # monotonic time of the message

    def say(self, message: str) -> None:
        self.message, self.said = message, time.monotonic()

    @property
    def news(self) -> str:
        """The message, while it is fresh."""
        return self.message if time.monotonic() - self.said < FRESH else ""


class Numbers:
    """Counts of a live run. Memory does not grow with its length: latencies are counted by whole milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.frames = 0
        self.dropped = 0
        self.faces = 0  # in the last frame
        self.most_faces = 0
        self._latencies = np.zeros(LONGEST + 1, np.int64)
        self._recent: deque[tuple[float, float]] = deque(maxlen=1000)  # time shown, latency; seconds
        self._began: float | None = None
        self._ended = 0.0
        self._last_index: int | None = None

    def add(self, scene: Scene) -> None:
        """Count a scene that has just been shown."""
        now = self._clock()
        latency = max(0.0, now - scene.frame.time)
        self._began = now if self._began is None else self._began
        self._ended = now
        self.frames += 1
        if self._last_index is not None:
            self.dropped += max(0, scene.frame.index - self._last_index - 1)
        self.pass_over(scene)
        self.faces = len(scene.faces)
        self.most_faces = max(self.most_faces, self.faces)
        self._latencies[min(LONGEST, round(1000 * latency))] += 1
        self._recent.append((now, latency))

    def pass_over(self, scene: Scene) -> None:
        """Note a scene that nobody asked for, as while paused: neither shown nor dropped."""
        self._last_index = scene.frame.index

    @property
    def seconds(self) -> float:
        """From the first frame shown to the last."""
        return self._ended - self._began if self._began is not None else 0.0

    @property
    def fps(self) -> float:
        """Frames shown a second, lately; 0 while none are."""
        times = [shown for shown, _ in self._lately()]
        return (len(times) - 1) / max(times[-1] - times[0], 1e-6) if len(times) > 1 else 0.0

    def recent_latency(self, share: float) -> float:
        """Seconds within which this share of the latest frames was shown; NaN while none are."""
        latencies = [latency for _, latency in self._lately()]
        return float(np.quantile(latencies, share)) if latencies else math.nan

    def _lately(self) -> list[tuple[float, float]]:
        since = self._clock() - RECENT
        return [each for each in list(self._recent) if each[0] > since]  # a copy: other threads ask, too

    def latency(self, share: float) -> float:
        """Seconds within which this share of all frames was shown, to 1 ms."""
        total = self._latencies.cumsum()
        return float(np.searchsorted(total, share * total[-1])) / 1000 if total[-1] else 0.0

    def lines(self) -> tuple[str, str]:
        """For the corner of the window."""
        median, most = 1000 * self.recent_latency(0.5), 1000 * self.recent_latency(0.95)
        latency = f", latency {median:.0f} ms (95 %: {most:.0f} ms)" if self.fps else ""
        return f"{self.fps:.1f} fps{latency}", f"{self.faces} face{_s(self.faces)}, {self.dropped} dropped"

    def summary(self) -> str:
        """The whole run in one line."""
        if not self.frames:
            return "no frame came"
        rate = (self.frames - 1) / self.seconds if self.seconds else 0.0
        return (
            f"{self.frames} frame{_s(self.frames)} in {self.seconds:.1f} s ({rate:.1f} fps), {self.dropped} dropped; "
            f"faces at once: at most {self.most_faces}; from captured to shown: median "
            f"{1000 * self.latency(0.5):.0f} ms, 95 % within {1000 * self.latency(0.95):.0f} ms"
        )


def _s(count: int) -> str:
    return "" if count == 1 else "s"
