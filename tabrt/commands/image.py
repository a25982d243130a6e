"""What `tabrt image` does."""

from __future__ import annotations

import glob
import mimetypes
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from tabrt.commands.options import ImageOptions
from tabrt.commands.progress import Progress, Stopwatch, Timed
from tabrt.commands.summary import Summary, drawing, landmark_header, stages, summary
from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.files import check_outputs, printable
from tabrt.film import PICTURE_SUFFIXES, left_out, pictures_in, read_image
from tabrt.sinks import LandmarkWriter, PictureSink, Sink
from tabrt.tracking import Tracker

MOST_NAMED = 5  # pictures, in a line
WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def image(options: ImageOptions, tracker: Tracker | None = None) -> Summary:
    """Find the faces of pictures, each on its own; a folder stands for the pictures in it.

    Frames of `landmarks` are numbered in the order of the pictures, which its `source` lists. A picture that cannot be
    read is passed over, and TabrtError raised at the end. tracker: one to use in place of a new one.
    """
    pictures = _pictures(options.sources)
    targets = _targets(pictures, options.out)
    check_outputs(pictures, *targets, options.landmarks, overwrite=options.overwrite)
    watch = Stopwatch()
    problems: list[str] = []
    with ExitStack() as stack:
        tracker = tracker or stack.enter_context(options.tracker(options.boundaries))
        sinks = [stack.enter_context(sink) for sink in _sinks(options, pictures, targets, tracker, watch)]
        progress = stack.enter_context(Progress(len(pictures), "pictures"))
        frames = watch.each("decode", _read(pictures, problems))
        with progress.stated():
            for scene in map(drawing(options, tracker, watch), map(tracker.still, frames)):
                for sink in (*sinks, progress):
                    sink(scene)
    if problems:
        raise TabrtError(_passed_over(problems, len(pictures)))
    notes = [note for sink in sinks for note in sink.notes]
    notes += [note for source in options.sources for note in left_out(source)]
    return summary(progress, stages(watch, tracker), notes)


def _sinks(
    options: ImageOptions, pictures: Sequence[Path], targets: Sequence[Path], tracker: Tracker, watch: Stopwatch
) -> Iterator[Sink]:
    yield _Doubts(pictures)
    if options.out is not None:
        yield Timed(watch, "encode", PictureSink(targets))
    if options.landmarks is not None:
        names = [str(path) for path in pictures]
        source, size = (names[0], _size(pictures[0])) if len(names) == 1 else (names, (None, None))
        header = landmark_header(options, tracker, source, size, "none")
        tags = {"picture": lambda scene: printable(names[scene.frame.index])}
        yield Timed(watch, "write", LandmarkWriter(options.landmarks, header, tracker.topology, tags, options.measures))


class _Doubts(Sink):
    """Tells of pictures in which the detector found a face, and the network none."""

    def __init__(self, pictures: Sequence[str | Path]):
        self._pictures = pictures
        self._detector: Detector | None = None
        self._doubted: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        named = [printable(path) for path in self._doubted[:MOST_NAMED]]
        more = len(self._doubted) - len(named)
        names = ", ".join(named) + (f" and {more} more" if more else "")
        return [f"a face was found that the network does not take for one in {names}"] if named else []

    def __call__(self, scene: Scene) -> None:
        if scene.faces:
            return
        self._detector = self._detector or Detector()
        if self._detector(scene.frame.image, 1):
            self._doubted.append(str(self._pictures[scene.frame.index]))

    def close(self) -> None:
        if self._detector is not None:
            self._detector.close()


def _pictures(sources: Sequence[str]) -> list[Path]:
    pictures: list[Path] = []
    for source in _expanded(sources):
        found = pictures_in(source) if os.path.isdir(source) else [source]
        if not found:
            raise TabrtError(f"{source} holds no pictures; give one with {', '.join(PICTURE_SUFFIXES)} in it")
        pictures += found
    return pictures


def _expanded(sources: Sequence[str]) -> Iterator[Path]:
    """The paths, and what the patterns among them stand for where no shell has expanded them."""
    for source in sources:
        if os.path.lexists(source):
            yield Path(source)
            continue
        found = sorted(glob.glob(source, recursive=True))
        if not found:
            raise TabrtError(f"there is no picture or folder {source}; check the path")
        yield from map(Path, found)


def _targets(pictures: Sequence[Path], out: str | Path | None) -> list[Path]:
    """Where each picture goes. The folder is made when it is missing."""
    if out is None:
        return []
    path = Path(out)
    if path.suffix.lower() in PICTURE_SUFFIXES and not os.path.isdir(path):
        if len(pictures) > 1:
            raise TabrtError(f"{len(pictures)} pictures cannot go into one file; give a folder with --out")
        return [path]
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise TabrtError(f"cannot make the folder {path} ({problem.strerror}); choose another --out") from None
    targets = [path / _written_name(picture) for picture in pictures]
    twice = next((target.name for target in targets if targets.count(target) > 1), None)
    if twice:
        raise TabrtError(f"several pictures are called {twice}; give their folders one at a time, each its own --out")
    return targets


def _written_name(picture: Path) -> str:
    """The picture's own name, with .png after it where its kind is read and not written."""
    return picture.name if picture.suffix.lower() in WRITTEN_SUFFIXES else f"{picture.name}.png"


def _read(pictures: Sequence[Path], problems: list[str]) -> Iterator[Frame]:
    for index, path in enumerate(pictures):
        try:
            yield Frame(_read_picture(path), index, 0.0)
        except TabrtError as problem:
            problems.append(str(problem))


def _read_picture(path: Path) -> np.ndarray:
    if (mimetypes.guess_type(path.name)[0] or "").startswith("video/"):
        raise TabrtError(f"{path} is a film, of which this would see the first picture only; use `tabrt video`")
    return read_image(path)


def _size(picture: Path) -> tuple[int, int]:
    height, width = _read_picture(picture).shape[:2]
    return width, height


def _passed_over(problems: list[str], count: int) -> str:
    if count == 1:
        return problems[0]
    return f"{len(problems)} of {count} pictures could not be read, the others are done; the first: {problems[0]}"
