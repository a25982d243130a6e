"""What the commands share: what is drawn, and what is told at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tabrt import __version__
from tabrt.card import ModelCard
from tabrt.commands.options import OutputOptions, TrackingOptions
from tabrt.commands.progress import Progress, Stopwatch, totals, where_time_went
from tabrt.drawing import Drawing, Expression, face_layers
from tabrt.faces import Layer
from tabrt.files import printable, without_password
from tabrt.topology import Topology
from tabrt.tracking import Tracker
from tabrt.variants import SHIPPED

Size = tuple[int | None, int | None]  # width and height, px

STAGES = ("decode", "detect", "crop", "network", "maps", "smooth", "hide", "draw", "encode", "write")  # in their order


@dataclass(frozen=True)
class Summary:
    """What a run did: lines for people, and the numbers behind them."""

    frames: int
    faces: int  # seen: ids of a film, faces of pictures
    seconds: dict[str, float]  # by stage
    notes: tuple[str, ...]  # what there is to tell
    lines: tuple[str, ...]  # the notes, and what was done


def drawing(options: OutputOptions, tracker: Tracker, watch: Stopwatch, hide: Layer | None = None) -> Drawing:
    """What is drawn on the pictures of a run, with its time counted. hide: the layer that hides faces before."""
    return drawing_of(options, tracker.topology, watch, hide, tracker.engine.card.offset)


def drawing_of(
    options: OutputOptions, topology: Topology, watch: Stopwatch, hide: Layer | None = None, offset: float | None = None
) -> Drawing:
    """As `drawing`. offset: of the boundary maps, as the model's card says; without it none are drawn."""
    if not options.drawn:
        return Drawing(hide=hide)
    layers = face_layers(topology) if offset is None or not options.boundaries else face_layers(topology, True, offset)
    more = (Expression(),) if options.measures else ()
    return Drawing(tuple(watch.layer("draw", layer) for layer in (*layers, *more)), hide)


def landmark_header(
    options: TrackingOptions, tracker: Tracker, source: str | Sequence[str], size: Size, clock: str
) -> dict[str, Any]:
    """What the first line of a landmark file says of its making.

    clock: what the times of its frames are: "film", seconds of presentation time as the film has them; "monotonic",
    seconds of this machine's monotonic clock; "none", where pictures have no time.
    """
    card, engine = tracker.engine.card, tracker.engine.name
    width, height = size
    return {
        "model": model_called(options.model_name),
        "engine": engine,
        "source": _shown(source) if isinstance(source, str) else [_shown(each) for each in source],
        "width": width,
        "height": height,
        "clock": clock,
        "tabrt": __version__,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {
            "faces": options.most_faces,
            "smoothing": options.smoothing,
            "precision": card.precision,
            "threads": options.threads,
        },
        "weights": weights_of(card),
    }


def model_called(name: str) -> str:
    """A model as landmark files name it: a shipped one by its name, a file without its folder."""
    return name if name in SHIPPED else printable(Path(name).name)


def weights_of(card: ModelCard) -> dict[str, Any]:
    """What landmark files say of the weights."""
    return {"name": card.name, "version": card.version, "date": card.date}


def _shown(source: str) -> str:
    return printable(without_password(source))


def stages(watch: Stopwatch, tracker: Tracker) -> dict[str, float]:
    """The seconds of all stages in the order of the data."""
    every = tracker.seconds | watch.seconds
    return {name: every[name] for name in STAGES if name in every}


def summary(progress: Progress, seconds: dict[str, float], notes: Sequence[str]) -> Summary:
    lines = [*notes, totals(progress), where_time_went(seconds, progress.frames)]
    return Summary(progress.frames, progress.faces, seconds, tuple(notes), tuple(lines))
