"""What `tabrt image` does."""

from __future__ import annotations

import mimetypes
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from tabrt.commands.naming import Source, expanded, new_folders, targets
from tabrt.commands.options import ImageOptions
from tabrt.commands.progress import Progress, Stopwatch, Timed
from tabrt.commands.summary import Summary, drawing, landmark_header, stages, summary
from tabrt.detection import Detector
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.files import check_folder, check_outputs, folders_for, printable
from tabrt.film import PICTURE_SUFFIXES, left_out, pictures_in, read_image
from tabrt.sinks import CropSink, LandmarkWriter, PictureSink, Sink, crop_transforms
from tabrt.tracking import Tracker
from tabrt.words import listed

MOST_NAMED = 5  # pictures, in a line
WRITTEN_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def image(options: ImageOptions, tracker: Tracker | None = None) -> tuple[Summary, str | None]:
    """Find the faces of pictures, each on its own; a folder stands for the pictures in it.

    Frames of `landmarks` are numbered in the order of the pictures, which its `source` lists. A picture that cannot be
    read is passed over; returns what was done, and the problem if some could not be read. Raises TabrtError where none
    could. tracker: one to use in place of a new one.
    """
    named = _pictures(options.sources)
    drawn = [Path(each) for each in targets(options.out, named, "pictures", "--out", _written_name)]
    pictures = [Path(picture.path) for picture in named]
    folders = new_folders(options.out, drawn)
    check_outputs(pictures, *drawn, options.landmarks, overwrite=options.overwrite, folders=folders)
    check_folder(options.crops, options.overwrite)
    watch = Stopwatch()
    problems: dict[Path, str] = {}
    told: dict[str, list[Path]] = {}  # what was done to pictures, and to which
    with ExitStack() as stack:
        tracker = tracker or stack.enter_context(options.tracker(options.boundaries))
        stack.enter_context(folders_for(drawn))
        sinks = [stack.enter_context(sink) for sink in _sinks(options, pictures, drawn, tracker, watch)]
        progress = stack.enter_context(Progress(len(pictures), "pictures"))
        frames = watch.each("decode", _read(pictures, problems, told))
        hiding = options.hiding(tracker.topology)
        hide = None
        if hiding is not None:
            hiding.report.pictures = [printable(path) for path in pictures]
            hide = watch.layer("hide", stack.enter_context(hiding).still)
        with progress.stated():
            for scene in map(drawing(options, tracker, watch, hide), map(tracker.still, frames)):
                for sink in (*sinks, progress):
                    sink(scene)
            for sink in sinks:
                sink.finish()
    problem = _passed_over(problems, len(pictures)) if problems else None
    if problem and len(problems) == len(pictures):
        raise TabrtError(problem)
    notes = [f"{_names(found)}: {note}" for note, found in told.items()]
    notes += [note for sink in sinks for note in sink.notes]
    notes += hiding.notes if hiding is not None else []
    notes += [note for source in options.sources for note in left_out(source)]
    return summary(progress, stages(watch, tracker), notes), problem


def _sinks(
    options: ImageOptions, pictures: Sequence[Path], drawn: Sequence[Path], tracker: Tracker, watch: Stopwatch
) -> Iterator[Sink]:
    yield _Doubts(pictures)
    if options.out is not None:
        yield Timed(watch, "encode", PictureSink(drawn))
    aligning = options.aligning(tracker.topology)
    if options.crops is not None and aligning is not None:
        stems = _stems(pictures)
        named = lambda scene, face: f"{stems[scene.frame.index]}-{face.id}"  # noqa: E731
        yield CropSink(Path(options.crops), aligning, options.cut_ids, named)
    if options.landmarks is not None:
        names = [str(path) for path in pictures]
        source, size = (names[0], _size(pictures[0])) if len(names) == 1 else (names, (None, None))
        header = landmark_header(options, tracker, source, size, "none")
        tags: dict[str, Callable[[Scene], Any]] = {"picture": lambda scene: printable(names[scene.frame.index])}
        if aligning is not None:
            header["crops"], tags["crops"] = (
                aligning.told,
                crop_transforms(aligning, options.landmarks, options.cut_ids),
            )
        yield Timed(watch, "write", LandmarkWriter(options.landmarks, header, tracker.topology, tags, options.measures))


def _stems(pictures: Sequence[Path]) -> list[str]:
    """What the crops of each picture are called: its name without the suffix, where no other is called so."""
    count = Counter(path.stem for path in pictures)
    return [path.stem if count[path.stem] == 1 else f"{number}-{path.name}" for number, path in enumerate(pictures)]


class _Doubts(Sink):
    """Tells of pictures in which the detector found a face, and the network none."""

    def __init__(self, pictures: Sequence[str | Path]):
        self._pictures = pictures
        self._detector: Detector | None = None
        self._doubted: list[str] = []

    @property
    def notes(self) -> Sequence[str]:
        if not self._doubted:
            return []
        return [f"a face was found that the network does not take for one in {_names(self._doubted)}"]

    def __call__(self, scene: Scene) -> None:
        if scene.faces:
            return
        self._detector = self._detector or Detector()
        if self._detector(scene.frame.image, 1):
            self._doubted.append(str(self._pictures[scene.frame.index]))

    def close(self) -> None:
        if self._detector is not None:
            self._detector.close()


def _pictures(names: Sequence[str]) -> list[Source]:
    pictures: list[Source] = []
    for name in expanded(names):
        if not os.path.lexists(name):
            raise TabrtError(f"there is no picture or folder {name}; check the path")
        found = [str(path) for path in pictures_in(name)] if os.path.isdir(name) else [name]
        if not found:
            raise TabrtError(f"{name} holds no pictures; give one with {', '.join(PICTURE_SUFFIXES)} in it")
        pictures += map(Source, found)
    return pictures


def _written_name(picture: Source) -> str:
    """The picture's own name, with .png after it where its kind is read and not written."""
    name = picture.file_name
    return name if Path(name).suffix.lower() in WRITTEN_SUFFIXES else f"{name}.png"


def _read(pictures: Sequence[Path], problems: dict[Path, str], told: dict[str, list[Path]]) -> Iterator[Frame]:
    for index, path in enumerate(pictures):
        notes: list[str] = []
        try:
            picture = _read_picture(path, notes)
        except TabrtError as problem:
            problems[path] = str(problem)
            continue
        for note in notes:
            told.setdefault(note, []).append(path)
        yield Frame(picture, index, 0.0)


def _read_picture(path: Path, notes: list[str]) -> np.ndarray:
    if (mimetypes.guess_type(path.name)[0] or "").startswith("video/"):
        raise TabrtError(f"{path} is a film, of which this would see the first picture only; use `tabrt video`")
    return read_image(path, notes)


def _size(picture: Path) -> tuple[int, int]:
    height, width = _read_picture(picture, []).shape[:2]
    return width, height


def _passed_over(problems: dict[Path, str], count: int) -> str:
    first, *others = problems.values()
    if count == 1:
        return first
    names = f" ({_names(list(problems))})" if others else ""
    rest = "" if len(problems) == count else ", the others are done"
    return f"{len(problems)} of {count} pictures could not be read{names}{rest}; the first: {first}"


def _names(pictures: Sequence[str | Path]) -> str:
    return listed([printable(picture) for picture in pictures], MOST_NAMED)
