"""The live loop: the newest frame of a camera is tracked, shown and written, for hours.

    camera -> tracker, in a thread, only the newest -> window, page, files: in the main thread

A slow part drops frames; nothing queues, so the picture is never late by more than one frame's work in each part.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import closing

import numpy as np

from tabrt.ahead import ahead
from tabrt.drawing import Drawing
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.live.camera import LiveCamera
from tabrt.live.run import Run, Wish, quit_by_signal
from tabrt.sinks import Sink
from tabrt.tracking import Tracker


def follow(
    camera: LiveCamera,
    tracker: Tracker,
    run: Run,
    sinks: Iterable[Sink],
    drawings: tuple[Drawing, Drawing] = (Drawing(), Drawing()),
    stop_after: float | None = None,
) -> None:
    """Track, show and write the newest frames until the source ends, someone quits, or `stop_after` seconds are over.

    drawings: without and with boundaries, by `run.status.boundaries`. While the run is paused, or nothing comes, sinks
    are only told that time goes by.
    """
    sinks = list(sinks)
    until = time.monotonic() + (math.inf if stop_after is None else stop_after)
    last: Scene | None = None  # that was shown
    with quit_by_signal(run), closing(ahead(tracked(camera, tracker), drop=True)) as scenes:
        try:
            for scene in scenes:
                if time.monotonic() >= until:
                    run.ask(Wish("quit", why=f"{stop_after:g} s are over"))
                status = run.refresh()
                if status.quit:
                    break
                drawing = drawings[status.boundaries]
                if scene is None or status.paused:
                    if scene is not None:
                        run.numbers.skip(scene)
                    last = _as_drawn_now(last, drawing)
                    for sink in sinks:
                        sink.tick(last)
                    continue
                last = drawing(scene)
                for sink in sinks:
                    sink(last)
        except TabrtError as problem:
            run.ask(Wish("quit", why=str(problem)))
            raise
        finally:
            camera.stop(run.refresh().quit)
            run.refresh()


def _as_drawn_now(scene: Scene | None, drawing: Drawing) -> Scene | None:
    """The scene shown last, drawn anew only where something else is to be drawn."""
    return scene if scene is None or scene.layers == drawing.layers else drawing.over(scene)


def tracked(camera: LiveCamera, tracker: Tracker) -> Iterator[Scene | None]:
    """Scenes of a camera's frames, its ticks passed on. Ids start afresh when the source was opened anew."""
    openings = None
    with closing(iter(camera)) as frames:
        for frame in frames:
            if frame is None:
                yield None
                continue
            if openings not in (None, camera.openings):
                tracker.reset()
            openings = camera.openings
            yield tracker(frame)


def warm_up(tracker: Tracker) -> None:
    """Run everything once, for a first run is many times slower than the next."""
    size = tracker.engine.card.crop_size
    tracker.engine(np.zeros((1, size, size, 3), np.uint8))
    tracker(Frame(np.zeros((480, 640, 3), np.uint8), 0, time.monotonic()))
    tracker.reset()
