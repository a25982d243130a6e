"""Live pictures that come for days, whatever they come from: watched, and opened anew.

A capture is read in a thread of its own, which keeps only the newest picture. When it stalls it is left to itself, for
a driver may block in `read()` for ever, and opened anew: first after one second, then after two, four … thirty.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import av
import cv2
import numpy as np

from tabrt.ahead import ahead
from tabrt.errors import TabrtError, first_line
from tabrt.faces import Frame
from tabrt.film import Soundtrack, fit
from tabrt.live.status import State

REOPEN_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each attempt to reopen; the last one again and again
MAX_STUCK = 4  # abandoned readers that may hang at once

log = logging.getLogger("tabrt")


class Capture(Protocol):
    """An open source. `rate`: pictures a second, None if unknown; `live`: it has no end, so it is watched.

    sound: its streams of sound. hear: what is called with their packets, which are on the monotonic clock.
    """

    rate: float | None
    live: bool
    sound: Sequence[av.AudioStream]
    hear: Callable[[av.Packet], None]

    def read(self) -> np.ndarray | None:
        """Wait for the next picture, uint8 (H, W, 3) BGR; None at the end."""
        ...

    def close(self) -> None: ...


class LiveCamera:
    """The newest frame of a source, for as long as it takes.

    Iterating gives Frames whose `time` is the monotonic clock when the picture had been read and whose `index` counts
    every picture that came, dropped ones too; and None every `tick` seconds in which nothing came. Pictures keep the
    size of the first one: others are fitted into it. `openings` grows each time pictures begin to come (again).

    stall: seconds without a picture, frozen: seconds of one and the same picture, before the source is reopened;
    patience: seconds for opening it, until the first picture. waits: seconds before each attempt to reopen.
    Raises TabrtError, from iterating, when the source cannot be opened the first time; with `exit_when_lost` also when
    it is lost later.
    """

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        name: str = "camera",
        *,
        mirror: bool = False,
        exit_when_lost: bool = False,
        stall: float = 2.0,
        patience: float = 10.0,
        frozen: float = 10.0,
        waits: tuple[float, ...] = REOPEN_DELAYS,
        tick: float = 0.1,
    ):
        self.name = name
        self.condition = State.STARTING, ""  # the state and its reason, together: other threads look
        self.size: tuple[int, int] | None = None  # width, height
        self.rate: float | None = None
        self.openings = 0
        self.soundtrack = Soundtrack((), None)  # that a recorder may take from
        self._open, self._mirror, self._exit_when_lost = open_capture, mirror, exit_when_lost
        self._stall, self._patience, self._frozen, self._waits, self._tick = stall, patience, frozen, waits, tick
        self._stop = threading.Event()
        self._why = "let go"  # it stopped
        self._readers: list[_Reader] = []
        self._pictures = 0
        self._failures = 0  # since the picture last changed
        self._sample: np.ndarray | None = None

    @property
    def state(self) -> State:
        return self.condition[0]

    @property
    def reason(self) -> str:
        """Why it is in this state."""
        return self.condition[1]

    def stop(self, reason: str = "") -> None:
        """Let the source go. Iterating ends within a tick, even while a read is stuck. reason: for the log."""
        self._why = reason or self._why
        self._stop.set()

    def __iter__(self) -> Generator[Frame | None, None, None]:
        self._enter(State.STARTING, f"opening {self.name}")
        try:
            while not self._stop.is_set():
                reader = self._new_reader()
                lost = yield from self._frames(reader)
                if not lost:
                    self._why = self._why if self._stop.is_set() else "the film ended"
                    return
                self._why = lost
                self._check_lost(lost)
                yield from self._wait_to_reopen(lost)
        finally:
            self._release()

    def _new_reader(self) -> _Reader:
        if self.size is not None:
            self._enter(State.RECONNECTING, f"opening {self.name}")
        reader = _Reader(self._open, self.soundtrack)
        self._readers.append(reader)
        return reader

    def _frames(self, reader: _Reader):
        """Frames, and ticks, until the source is lost; returns why, or "" at its end or when it was stopped."""
        last = changed = time.monotonic()
        limit = self._patience
        while not self._stop.is_set():
            try:
                picture = reader.take(self._tick)
            except _Ended as end:
                return str(end)
            now = time.monotonic()
            if picture is None:
                if reader.live and now - last > limit:
                    return f"no picture for {now - last:.1f} s"
                yield None
                continue
            self._running(reader)
            last, limit = now, self._stall
            if self._has_changed(picture.image):
                changed, self._failures = now, 0
            elif reader.live and now - changed > self._frozen:
                return f"the picture is frozen for {now - changed:.1f} s"
            yield Frame(self._fitted(picture.image), self._pictures + picture.index, picture.time)
        return ""

    def _running(self, reader: _Reader) -> None:
        if self.state is not State.RUNNING:
            self.rate = reader.rate
            self.openings += 1
            self._enter(State.RUNNING, self.name)

    def _has_changed(self, image: np.ndarray) -> bool:
        sample = image[::8, ::8].copy()
        same = self._sample is not None and np.array_equal(sample, self._sample)
        self._sample = sample
        return not same

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """Mirrored if asked for, and in the size of the first picture, with bars where the shape differs."""
        if self._mirror:
            image = cv2.flip(image, 1)
        size = image.shape[1], image.shape[0]
        if self.size is None:
            self.size = size
        return image if size == self.size else fit(image, *self.size)

    def _check_lost(self, lost: str) -> None:
        if self.size is None:
            raise TabrtError(lost if self.name in lost else f"{self.name}: {lost}; check the source")
        if self._exit_when_lost:
            raise TabrtError(f"{self.name} was lost ({lost}); leave --exit-when-lost out to wait for it")

    def _wait_to_reopen(self, lost: str) -> Iterator[None]:
        reader = self._readers[-1]
        reader.abandon()
        self._pictures += reader.pictures
        wait = self._waits[min(self._failures, len(self._waits) - 1)]
        self._failures += 1
        self._enter(State.STALLED, f"{lost}; opened again in {wait:g} s")
        until = time.monotonic() + wait
        while time.monotonic() < until or self._stuck() >= MAX_STUCK:
            if self._stop.wait(self._tick):
                return
            yield None

    def _stuck(self) -> int:
        self._readers = [reader for reader in self._readers if reader.alive]
        return len(self._readers)

    def _release(self) -> None:
        for reader in self._readers[:-1]:
            reader.abandon()
        for reader in self._readers[-1:]:
            reader.abandon(0.3)
        self._enter(State.STOPPED, self._why)

    def _enter(self, state: State, reason: str) -> None:
        self.condition = state, reason
        troubled = state in (State.STALLED, State.RECONNECTING)
        log.log(logging.WARNING if troubled else logging.INFO, "%s: %s", state, reason)


@dataclass(frozen=True)
class _Picture:
    """One picture as it came: image uint8 (H, W, 3), its number, the monotonic time."""

    image: np.ndarray
    index: int
    time: float


class _Reader:
    """Opens and reads one capture in a thread of its own, keeping the newest picture. It closes what it opened."""

    def __init__(self, open_capture: Callable[[], Capture], soundtrack: Soundtrack):
        self._soundtrack = soundtrack
        self.pictures = 0  # that came
        self.rate: float | None = None
        self.live = True
        self._newest = ahead(self._read(open_capture), drop=True)

    @property
    def alive(self) -> bool:
        return self._newest.alive

    def take(self, timeout: float) -> _Picture | None:
        """The newest picture not taken yet, waited for at most `timeout` seconds. Raises _Ended."""
        try:
            return self._newest.take(timeout)
        except StopIteration:
            raise _Ended("the stream ended" if self.live else "") from None
        except TabrtError as problem:
            raise _Ended(str(problem)) from None
        except Exception as problem:  # whatever a driver throws, it is a reason to open it anew
            raise _Ended(f"{type(problem).__name__}: {first_line(problem)}") from None

    def abandon(self, patience: float = 0.0) -> None:
        self._newest.close(patience)

    def _read(self, open_capture: Callable[[], Capture]) -> Iterator[_Picture]:
        with closing(open_capture()) as capture:
            self.rate, self.live = capture.rate, capture.live
            streams: list[Any] = list(capture.sound)
            self._soundtrack.streams = streams
            capture.hear = self._hear
            try:
                while (image := capture.read()) is not None:
                    self.pictures += 1
                    yield _Picture(image, self.pictures - 1, time.monotonic())
            finally:
                with self._soundtrack.held:
                    if self._soundtrack.streams is streams:
                        self._soundtrack.streams = []

    def _hear(self, packet: av.Packet) -> None:
        if self._soundtrack.wanted:
            self._soundtrack.put(packet)
        else:
            self._soundtrack.clear()


class _Ended(Exception):
    """No more pictures come; says why, or nothing where a film has come to its end."""
