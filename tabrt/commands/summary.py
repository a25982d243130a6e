"""What the commands share: what is drawn, and what is told at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tabrt.commands.options import OutputOptions
from tabrt.commands.progress import Progress, Stopwatch, totals, where_time_went
from tabrt.drawing import Drawing, face_layers
from tabrt.tracking.tracker import Tracker

STAGES = ("decode", "detect", "crop", "network", "maps", "smooth", "draw", "encode", "write")  # in their order


@dataclass(frozen=True)
class Summary:
    """What a run did: lines for people, and the numbers behind them."""

    frames: int
    faces: int  # ids seen
    seconds: dict[str, float]  # by stage
    lines: tuple[str, ...]


def drawing(options: OutputOptions, tracker: Tracker, watch: Stopwatch) -> Drawing:
    """What is drawn on the pictures of a run, with its time counted."""
    if not options.overlay:
        return Drawing()
    layers = face_layers(tracker.topology, options.boundaries, tracker.engine.card.offset)
    return Drawing(tuple(watch.layer("draw", layer) for layer in layers))


def stages(watch: Stopwatch, tracker: Tracker) -> dict[str, float]:
    """The seconds of all stages in the order of the data."""
    every = tracker.seconds | watch.seconds
    return {name: every[name] for name in STAGES if name in every}


def summary(progress: Progress, unit: str, seconds: dict[str, float], notes: Sequence[str]) -> Summary:
    lines = [*notes, totals(progress, unit), where_time_went(seconds, progress.frames)]
    return Summary(progress.frames, len(progress.ids), seconds, tuple(lines))
