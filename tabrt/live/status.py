"""What a live run says of itself: a frozen value at each moment, made of its state and its counts."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from tabrt.faces import Scene
from tabrt.words import counted

MAX_LATENCY = 10_000  # ms; a longer latency counts as this one
MESSAGE_SECONDS = 4.0  # seconds that a message stays on the screen
RATE_SECONDS = 3.0  # seconds behind the numbers on the screen


class State(StrEnum):
    """How a live source is. Stalled: waiting before the next attempt; Reconnecting: being opened anew."""

    STARTING = "Starting"
    RUNNING = "Running"
    STALLED = "Stalled"
    RECONNECTING = "Reconnecting"
    STOPPED = "Stopped"


@dataclass(frozen=True)
class Counts:
    """Counts of a live run until now; rates and latencies are of its last seconds."""

    frames: int = 0
    dropped: int = 0
    faces: int = 0  # in the last frame
    fps: float = 0.0  # frames shown a second; 0 while none are
    latency: float = math.nan  # seconds from captured to shown, median; NaN while none are
    latency95: float = math.nan  # within which 95 % were shown

    def lines(self) -> tuple[str, str]:
        """For the corner of the window."""
        latency = f", latency {1000 * self.latency:.0f} ms (95 %: {1000 * self.latency95:.0f} ms)" if self.fps else ""
        return f"{self.fps:.1f} fps{latency}", f"{counted(self.faces, 'face')}, {self.dropped} dropped"


@dataclass(frozen=True)
class Status:
    """How a live run is at one moment."""

    state: State = State.STARTING
    reason: str = ""  # for the state
    reconnections: int = 0
    counts: Counts = field(default_factory=Counts)
    paused: bool = False
    boundaries: bool = False
    recording: bool = False
    recorded: float = 0.0  # seconds in the film being written
    snapshots: int = 0  # asked for so far
    neutrals: int = 0  # times that the faces were said to be at rest
    quit: str = ""  # why, once it is asked for
    signal: int = 0  # that quit was asked for by
    message: str = ""  # of the last file written, or the last problem
    said: float = -math.inf  # monotonic time of the message

    @property
    def news(self) -> str:
        """The message, while it is fresh."""
        return self.message if time.monotonic() - self.said < MESSAGE_SECONDS else ""

    @property
    def trouble(self) -> str:
        """Why no new pictures come; nothing while they do."""
        return "" if self.state is State.RUNNING else f"{self.state}: {self.reason}"


class Numbers:
    """Counts of a live run. Memory does not grow with its length: latencies are counted by whole milliseconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.frames = 0
        self.dropped = 0
        self.faces = 0  # in the last frame
        self.most_faces = 0
        self._latencies = np.zeros(MAX_LATENCY + 1, np.int64)
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
        self.skip(scene)
        self.faces = len(scene.faces)
        self.most_faces = max(self.most_faces, self.faces)
        self._latencies[min(MAX_LATENCY, round(1000 * latency))] += 1
        self._recent.append((now, latency))

    def skip(self, scene: Scene) -> None:
        """Note a scene that nobody asked for, as while paused: neither shown nor dropped."""
        self._last_index = scene.frame.index

    def now(self) -> Counts:
        since = self._clock() - RATE_SECONDS
        while self._recent and self._recent[0][0] <= since:
            self._recent.popleft()
        if not self._recent:
            return Counts(self.frames, self.dropped, self.faces)
        seconds = self._recent[-1][0] - self._recent[0][0]
        fps = (len(self._recent) - 1) / max(seconds, 1e-6) if len(self._recent) > 1 else 0.0
        median, most = np.quantile([latency for _, latency in self._recent], (0.5, 0.95)).tolist()
        return Counts(self.frames, self.dropped, self.faces, fps, median, most)

    @property
    def seconds(self) -> float:
        """From the first frame shown to the last."""
        return self._ended - self._began if self._began is not None else 0.0

    def latency(self, share: float) -> float:
        """Seconds within which this share of all frames was shown, to 1 ms."""
        total = self._latencies.cumsum()
        return float(np.searchsorted(total, share * total[-1])) / 1000 if total[-1] else 0.0

    def summary(self) -> str:
        """The whole run in one line."""
        if not self.frames:
            return "no frame came"
        rate = (self.frames - 1) / self.seconds if self.seconds else 0.0
        return (
            f"{counted(self.frames, 'frame')} in {self.seconds:.1f} s ({rate:.1f} fps), {self.dropped} dropped; "
            f"faces at once: at most {self.most_faces}; from captured to shown: median "
            f"{1000 * self.latency(0.5):.0f} ms, 95 % within {1000 * self.latency(0.95):.0f} ms"
        )
