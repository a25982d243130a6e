"""How far the work is, and where its time went."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from tabrt.errors import TabrtError
from tabrt.faces import Layer, Scene
from tabrt.sinks import Sink
from tabrt.words import counted

Item = TypeVar("Item")

SECONDS_BETWEEN_LINES = 10.0  # where there is no terminal to draw a bar on
SECONDS_BETWEEN_LOOKS = 0.2


class Stopwatch:
    """Seconds spent in each stage of the work, by name; those of a stage within another count for the inner one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._within = threading.local()  # seconds of the stages that ended within the present one

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start, outer = time.perf_counter(), getattr(self._within, "seconds", 0.0)
        self._within.seconds = 0.0
        try:
            yield
        finally:
            passed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + passed - self._within.seconds
            self._within.seconds = outer + passed

    def each(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with the time that each took to come counted under this name."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def layer(self, name: str, layer: Layer) -> Layer:
        """The layer of a picture, with its time counted under this name."""

        def timed(image: np.ndarray, scene: Scene) -> None:
            with self.stage(name):
                layer(image, scene)

        return timed


class Timed(Sink):
    """A sink with its time counted under a name."""

    def __init__(self, watch: Stopwatch, name: str, sink: Sink):
        self._watch, self._name, self._sink = watch, name, sink

    @property
    def notes(self) -> Sequence[str]:
        return self._sink.notes

    def __call__(self, scene: Scene) -> None:
        with self._watch.stage(self._name):
            self._sink(scene)

    def finish(self) -> None:
        with self._watch.stage(self._name):
            self._sink.finish()

    def close(self) -> None:
        with self._watch.stage(self._name):
            self._sink.close()


@dataclass(frozen=True)
class Standing:
    """How far a run has come: a plain value, which can be told to another process."""

    frames: int
    total: int | None
    faces: int  # in the last frame
    speed: float  # frames/s, so far

    @property
    def left(self) -> float | None:
        """Seconds that are left, as far as that is known."""
        return max(self.total - self.frames, 0) / max(self.speed, 1e-6) if self.total else None

    def __str__(self) -> str:
        of = f" of {self.total}" if self.total else ""
        text = f"frame {self.frames}{of}, {self.speed:.1f} frames/s, faces {self.faces} now"
        return text if self.left is None else f"{text}, {self.left:.0f} s left"


Tell = Callable[[Standing], None]


class Progress(Sink):
    """Counts frames and faces, and shows how far the work is, or tells it to `tell` some five times a second."""

    def __init__(self, total: int | None = None, unit: str = "frames", tell: Tell | None = None):
        self.total, self.unit = total, unit
        self.frames = 0
        self.frames_with_faces = 0
        self.ids: set[int] = set()
        self.all_faces = 0  # of all frames
        self.most_faces = 0  # in one frame
        self._start = time.monotonic()
        self._told = -math.inf
        self._shown = Shown() if tell is None else None
        self._tell = tell or self._shown

    def close(self) -> None:
        if self._shown:
            self._shown.close()

    def __call__(self, scene: Scene) -> None:
        self.frames += 1
        self.frames_with_faces += bool(scene.faces)
        self.ids.update(face.id for face in scene.faces)
        self.all_faces += len(scene.faces)
        self.most_faces = max(self.most_faces, len(scene.faces))
        now = time.monotonic()
        if self._tell and (now - self._told > SECONDS_BETWEEN_LOOKS or self.frames == self.total):
            self._told = now
            self._tell(Standing(self.frames, self.total, len(scene.faces), self.speed))

    @contextmanager
    def stated(self, before: int = 0, remedy: str | None = None) -> Iterator[None]:
        """Say with a problem, or with a signal that ends the program, how far the work had come.

        before: frames that an earlier run has left. remedy: how to go on with what is kept.
        """
        one = self.unit.removesuffix("s")
        try:
            yield
        except TabrtError as problem:
            raise TabrtError(f"{problem} (stopped after {counted(self.frames, one)})") from problem
        except SystemExit as end:
            kept = max(self.frames, before)
            end.add_note(f"{counted(kept, f'{one} is', f'{one}s are')} kept" if kept else "nothing was written yet")
            if kept and remedy is not None:
                end.add_note(remedy)
            raise

    @property
    def faces(self) -> int:
        """Different faces seen: ids of a film; each picture is on its own, and all of its faces count."""
        return len(self.ids) if self.unit == "frames" else self.all_faces

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._start

    @property
    def speed(self) -> float:
        """Frames a second, so far."""
        return self.frames / max(self.elapsed, 1e-6)


class Shown:
    """Shows on stderr how far one run is: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._last_line = time.monotonic()
        if sys.stderr.isatty():
            self._bar = bar("{task.completed:.0f} frames · {task.fields[speed]:.1f}/s · faces {task.fields[faces]} now")
            self._task = self._bar.add_task("", total=None, speed=0.0, faces=0)
            self._bar.start()

    def __call__(self, now: Standing) -> None:
        if self._bar:
            self._bar.update(self._task, completed=now.frames, total=now.total, speed=now.speed, faces=now.faces)
        elif time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(now, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


def bar(text: str, *before: ProgressColumn) -> Bar:
    """A bar on stderr that goes away at its end; text: what stands behind it."""
    columns = (*before, BarColumn(), TextColumn(f"{text} · left"), TimeRemainingColumn())
    return Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=5)


def totals(progress: Progress) -> str:
    """What was done, in one line."""
    unit = progress.unit
    faces = f"faces {progress.faces}, in {progress.frames_with_faces} of the {unit}"
    if unit == "frames":  # a film's faces are counted by their ids
        faces += f", at most {progress.most_faces} at once"
    seen = faces if progress.faces else "no face found"
    done = counted(progress.frames, unit.removesuffix("s"))
    return f"{done} in {progress.elapsed:.1f} s ({progress.speed:.1f} {unit}/s); {seen}"


def where_time_went(seconds: dict[str, float], frames: int) -> str:
    """Milliseconds a frame of each stage, in one line. Stages run side by side, so they add up to more than all."""
    parts = [f"{name} {1000 * value / max(frames, 1):.1f}" for name, value in seconds.items()]
    return f"ms a frame, stages overlap: {', '.join(parts)}"
