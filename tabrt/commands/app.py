"""What the commands do: films, pictures and the demo, as functions that anything but a command line may call too.

for scene in map(tracker, frames):        # Frame -> Scene(frame, faces)
    for sink in sinks:
        sink(scene)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tabrt.ahead import ahead
from tabrt.commands.progress import Progress, Stopwatch, totals, where_time_went
from tabrt.drawing.overlay import draw as draw_scene
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.files import check_outputs
from tabrt.film.reading import PICTURE_SUFFIXES, open_film, read_image
from tabrt.film.writing import FilmWriter
from tabrt.sinks import LandmarkWriter, landmark_header, write_image
from tabrt.topology import Topology, topology_named
from tabrt.tracking.tracker import Tracker

Sink = Callable[[Scene], object]

DEPTH = 8  # frames that decoding, and scenes that tracking, may run ahead
DEMO_FILM = Path(__file__).parents[1] / "demo" / "pexels_face.mp4"
SHEET_COLUMNS, SHEET_ROWS, SHEET_WIDTH = 4, 3, 480  # of a contact sheet; px of one picture
WATCHED = ("decode", "detect", "crop", "network", "maps", "smooth", "draw", "encode", "write")  # stages, as they come


@dataclass(frozen=True)
class Summary:
    """What a run did: lines for people, and the numbers behind them."""

    frames: int
    faces: int  # ids seen
    seconds: dict[str, float]  # by stage
    lines: tuple[str, ...]


def video(
    source: str | Path,
    out: str | Path | None = None,
    landmarks: str | Path | None = None,
    *,
    overlay: bool = True,
    draw: str = "points",
    codec: str | None = None,
    crf: int = 20,
    **tracking: Any,
) -> Summary:
    """Track the faces of a film: `out` gets the film with them drawn, `landmarks` the numbers; either may be None.

    draw: "points", or "boundaries" for the network's boundary heatmaps too. tracking: what `Tracker` takes.
    Raises TabrtError; what was written until then is whole.
    """
    check_outputs([source], out, landmarks)
    watch = Stopwatch()
    with ExitStack() as stack:
        film = stack.enter_context(open_film(source))
        boundaries = out is not None and overlay and draw == "boundaries"
        tracker = stack.enter_context(Tracker(boundaries=boundaries, **tracking))
        topology = topology_named(tracker.engine.card.topology)
        sinks: list[Sink] = []
        notes: list[str] = []
        if out is not None:
            writer = FilmWriter(out, film.width, film.height, film.rate, codec=codec, crf=crf, film=film)
            stack.callback(_close, writer, watch)
            sinks.append(_film_sink(writer, watch, _drawing(topology, boundaries, watch) if overlay else None))
            notes = writer.notes
        if landmarks is not None:
            header = landmark_header(tracker.engine, str(source), film.width, film.height)
            sinks.append(_landmark_sink(stack, landmarks, header, topology, watch))
        progress = stack.enter_context(Progress(film.frames))
        sinks.append(progress)
        frames = stack.enter_context(closing(ahead(watch.each("decode", film), depth=DEPTH)))
        scenes = stack.enter_context(closing(ahead(map(tracker, frames), depth=DEPTH)))
        _run(scenes, sinks, progress)
        seconds = watch.seconds
        stages = tracker.seconds
    return _summary(progress, "frames", _merged(seconds, stages), [*notes, *film.notes])


def _run(scenes: Iterable[Scene], sinks: list[Sink], progress: Progress) -> None:
    try:
        for scene in scenes:
            for sink in sinks:
                sink(scene)
    except TabrtError as problem:
        done = f"{progress.frames} frame{'' if progress.frames == 1 else 's'}"
        raise TabrtError(f"{problem} (stopped after {done})") from problem


def _film_sink(writer: FilmWriter, watch: Stopwatch, drawing: Callable[[Scene], np.ndarray] | None) -> Sink:
    def sink(scene: Scene) -> None:
        image = drawing(scene) if drawing else scene.frame.image
        with watch.stage("encode"):
            writer.write(image, scene.frame.time)

    return sink


def _drawing(topology: Topology, boundaries: bool, watch: Stopwatch) -> Callable[[Scene], np.ndarray]:
    def drawing(scene: Scene) -> np.ndarray:
        with watch.stage("draw"):
            return draw_scene(scene, topology, boundaries=boundaries)

    return drawing


def _landmark_sink(stack: ExitStack, path: str | Path, header: dict, topology: Topology, watch: Stopwatch) -> Sink:
    writer = stack.enter_context(closing(LandmarkWriter(path, header, topology)))

    def sink(scene: Scene) -> None:
        with watch.stage("write"):
            writer(scene)

    return sink


def _close(writer: FilmWriter, watch: Stopwatch) -> None:
    with watch.stage("encode"):
        writer.close()


def _merged(watched: dict[str, float], tracked: dict[str, float]) -> dict[str, float]:
    """The seconds of all stages in the order of the data."""
    every = tracked | watched
    return {name: every[name] for name in WATCHED if name in every}


def _summary(progress: Progress, unit: str, seconds: dict[str, float], notes: list[str]) -> Summary:
    lines = [*notes, totals(progress, unit), where_time_went(seconds, progress.frames)]
    return Summary(progress.frames, len(progress.ids), seconds, tuple(lines))


# ------------------------------------------------------------------------------------------------------- pictures


def image(
    sources: list[str],
    out: str | Path | None = None,
    landmarks: str | Path | None = None,
    *,
    overlay: bool = True,
    draw: str = "points",
    **tracking: Any,
) -> Summary:
    """Find the faces of pictures, each on its own; a folder stands for the pictures in it.

    out: a folder; for one picture also a file. Frames of `landmarks` are numbered in the order of the pictures, which
    its `source` lists. A picture that cannot be read is passed over, and TabrtError raised at the end.
    """
    pictures = _pictures(sources)
    targets = _targets(pictures, out)
    check_outputs(pictures, *targets, landmarks)
    watch = Stopwatch()
    problems: list[str] = []
    with ExitStack() as stack:
        boundaries = out is not None and overlay and draw == "boundaries"
        tracker = stack.enter_context(Tracker(boundaries=boundaries, **tracking))
        topology = topology_named(tracker.engine.card.topology)
        drawing = _drawing(topology, boundaries, watch) if overlay else lambda scene: scene.frame.image
        progress = stack.enter_context(Progress(len(pictures)))
        sinks: list[Sink] = [progress]
        if out is not None:
            sinks.append(_picture_sink(targets, watch, drawing))
        if landmarks is not None:
            header = landmark_header(tracker.engine, *_names_and_size(pictures))
            sinks.append(_landmark_sink(stack, landmarks, header, topology, watch))
        _run(map(_alone(tracker), watch.each("decode", _read(pictures, problems))), sinks, progress)
        seconds = _merged(watch.seconds, tracker.seconds)
    if problems:
        raise TabrtError(_passed_over(problems, len(pictures)))
    return _summary(progress, "pictures", seconds, [])


def _pictures(sources: list[str]) -> list[Path]:
    pictures: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise TabrtError(f"there is no picture or folder {source}; check the path")
        found = _in_folder(source) if source.is_dir() else [source]
        if not found:
            raise TabrtError(f"{source} holds no pictures; give one with {', '.join(PICTURE_SUFFIXES)} in it")
        pictures += found
    return pictures


def _in_folder(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    except OSError as problem:
        raise TabrtError(f"cannot read {folder} ({problem.strerror}); check its rights") from None


def _targets(pictures: list[Path], out: str | Path | None) -> list[Path]:
    """Where each picture goes. The folder is made when it is missing."""
    if out is None:
        return []
    path = Path(out)
    if path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir():
        if len(pictures) > 1:
            raise TabrtError(f"{len(pictures)} pictures cannot go into one file; give a folder with --out")
        return [path]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise TabrtError(f"cannot make the folder {path} ({problem.strerror}); choose another --out") from None
    targets = [path / picture.name for picture in pictures]
    twice = next((target.name for target in targets if targets.count(target) > 1), None)
    if twice:
        raise TabrtError(f"several pictures are called {twice}; give their folders one at a time, each its own --out")
    return targets


def _read(pictures: list[Path], problems: list[str]) -> Iterator[Frame]:
    for index, path in enumerate(pictures):
        try:
            yield Frame(read_image(path), index, 0.0)
        except TabrtError as problem:
            problems.append(str(problem))


def _names_and_size(pictures: list[Path]) -> tuple[object, int | None, int | None]:
    """Source, width and height of the landmark file: the sizes of several pictures differ."""
    if len(pictures) > 1:
        return [str(path) for path in pictures], None, None
    height, width = read_image(pictures[0]).shape[:2]
    return str(pictures[0]), width, height


def _alone(tracker: Tracker) -> Callable[[Frame], Scene]:
    """Track one frame as if no other had been before."""

    def track(frame: Frame) -> Scene:
        tracker.reset()
        return tracker(frame)

    return track


def _picture_sink(targets: list[Path], watch: Stopwatch, drawing: Callable[[Scene], np.ndarray]) -> Sink:
    def sink(scene: Scene) -> None:
        picture = drawing(scene)
        with watch.stage("encode"):
            write_image(targets[scene.frame.index], picture)

    return sink


def _passed_over(problems: list[str], count: int) -> str:
    if count == 1:
        return problems[0]
    return f"{len(problems)} of {count} pictures could not be read, the others are done; the first: {problems[0]}"


# ----------------------------------------------------------------------------------------------------------- demo


def demo(folder: str | Path = "tabrt-demo", **tracking: Any) -> tuple[Summary, list[Path]]:
    """Run the main job on the film that ships with tabrt. Returns what was done, and the files it left in `folder`."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise TabrtError(f"cannot make the folder {folder} ({problem.strerror}); choose another with --out") from None
    film, landmarks, sheet = folder / "demo.mp4", folder / "demo.jsonl", folder / "demo.png"
    summary = video(DEMO_FILM, film, landmarks, **tracking)
    contact_sheet(film, sheet)
    return summary, [film, landmarks, sheet]


def contact_sheet(source: str | Path, out: str | Path) -> None:
    """Write one picture with twelve frames of a film, evenly spread, each with its time."""
    with open_film(source) as film:
        count = SHEET_COLUMNS * SHEET_ROWS
        size = SHEET_WIDTH, max(1, round(SHEET_WIDTH * film.height / film.width))
        step = max(1, math.floor((film.frames or count) / count))
        chosen = (frame for frame in film if frame.index % step == step // 2)
        tiles = [_tile(frame, size) for _, frame in zip(range(count), chosen, strict=False)]
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    tiles += [blank] * (count - len(tiles))
    rows = [np.hstack(tiles[i : i + SHEET_COLUMNS]) for i in range(0, count, SHEET_COLUMNS)]
    write_image(out, np.vstack(rows))


def _tile(frame: Frame, size: tuple[int, int]) -> np.ndarray:
    tile = cv2.resize(frame.image, size, interpolation=cv2.INTER_AREA)
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        text = f"{frame.time:.2f} s"
        cv2.putText(tile, text, (8, size[1] - 10), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
    return tile
