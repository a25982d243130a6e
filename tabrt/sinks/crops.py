"""Faces as pictures of their own, or as a film for each id."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from tabrt.errors import TabrtError
from tabrt.faces import Face, Scene
from tabrt.film import FilmWriter
from tabrt.sinks.alignment import Aligning
from tabrt.sinks.film import write_image
from tabrt.sinks.records import landmark_suffix
from tabrt.sinks.sink import Sink

OUT_OF_SIGHT = 3.0  # seconds after which an id's film is closed: by then the tracker has given it up
MOST_FILMS = 64  # that are written at once: each has an encoder, of 13 MB for crops of 256 px and 34 for 512
DECIMALS = 8  # of a transform


class CropSink(Sink):
    """Writes each face of each scene, cut out and upright, as PNG. only: the ids that are written, where not all are.

    named: the file of a face in a folder, without its suffix; by default a folder for each id, and the frame's number.
    """

    def __init__(
        self,
        folder: Path,
        aligning: Aligning,
        only: Collection[int] | None = None,
        named: Callable[[Scene, Face], str] | None = None,
    ):
        self._folder, self._aligning, self._only = folder, aligning, only
        self._named = named or _by_id_and_frame
        self.count = 0  # of pictures

    @property
    def notes(self) -> Sequence[str]:
        return [f"faces cut out: {self.count}, in {self._folder}"]

    def __call__(self, scene: Scene) -> None:
        _make(self._folder)  # now, so that what cannot be read leaves none
        for face in _wanted(scene, self._only):
            path = self._folder / f"{self._named(scene, face)}.png"
            _make(path.parent)
            write_image(path, self._aligning.cut(face, scene.frame))
            self.count += 1


class CropFilms(Sink):
    """Writes a film for each id, each picture at its own time from the id's first on. rate: of the source.

    Where MOST_FILMS are being written, as in a film of many cuts, the one whose id was last seen longest ago is closed
    for the next; should its id come back, it has a second film.
    """

    def __init__(self, folder: Path, aligning: Aligning, rate: Fraction, only: Collection[int] | None = None):
        self._folder, self._aligning, self._rate, self._only = folder, aligning, rate, only
        self._films: dict[int, tuple[FilmWriter, float]] = {}  # and when the id was last seen
        self._begun_for: Counter[int] = Counter()  # films of each id

    @property
    def count(self) -> int:
        """Of films."""
        return self._begun_for.total()

    @property
    def notes(self) -> Sequence[str]:
        return [f"faces cut out: films of {len(self._begun_for)}, in {self._folder}"]

    def __call__(self, scene: Scene) -> None:
        _make(self._folder)
        time = scene.frame.time
        for number, (writer, seen) in list(self._films.items()):
            if time - seen > OUT_OF_SIGHT:
                del self._films[number]
                writer.close()
        for face in _wanted(scene, self._only):
            cut = self._aligning.cut(face, scene.frame)
            known = self._films.get(face.id)
            writer = known[0] if known else self._begun(face.id, cut.shape[0], time)
            self._films[face.id] = writer, time
            writer.write(cut, time)

    def close(self) -> None:
        films, self._films = self._films, {}
        problems = []
        for writer, _ in films.values():
            try:
                writer.close()
            except TabrtError as problem:  # the others are closed all the same
                problems.append(problem)
        if problems:
            raise problems[0]

    def _begun(self, number: int, size: int, time: float) -> FilmWriter:
        longest_gone = min(self._films, key=lambda each: self._films[each][1], default=number)
        if len(self._films) >= MOST_FILMS and self._films[longest_gone][1] < time:
            self._films.pop(longest_gone)[0].close()
        self._begun_for[number] += 1
        part = self._begun_for[number]
        name = f"id{number}.mp4" if part == 1 else f"id{number}-{part}.mp4"
        return FilmWriter(self._folder / name, size, size, self._rate, crf=16)


def crops_in(folder: str | Path, films: bool) -> int:
    """How many crops of a run lie in a folder: films, or pictures."""
    return sum(1 for _ in Path(folder).glob("id*.mp4" if films else "id*/*.png"))


def crop_transforms(
    aligning: Aligning, path: str | Path, only: Collection[int] | None = None
) -> Callable[[Scene], Any]:
    """What a landmark file at a path says of the crops of a frame: by id, (2, 3) from frame px to crop px.

    In a .csv or .parquet it is one cell, as JSON.
    """

    def told(scene: Scene) -> Any:
        faces = _wanted(scene, only)
        matrices = {str(face.id): aligning(face, scene.frame).matrix.round(DECIMALS).tolist() for face in faces}
        return json.dumps(matrices) if as_text else matrices

    as_text = landmark_suffix(path) != ".jsonl"
    return told


def _wanted(scene: Scene, only: Collection[int] | None) -> list[Face]:
    return [face for face in scene.faces if only is None or face.id in only]


def _by_id_and_frame(scene: Scene, face: Face) -> str:
    return f"id{face.id}/{scene.frame.index:06d}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise TabrtError(f"cannot make the folder {folder} ({problem.strerror}); choose another --crops") from None
