"""The landmark file: one JSON line a frame, or CSV rows, whole on disk as soon as they are written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Face, Scene
from tabrt.sinks.sink import Sink
from tabrt.topology import Topology

FORMAT = "tabrt-landmarks"
VERSION = 1
MAX_LINE = 2**24  # bytes, of a file being read
SUFFIXES = (".jsonl", ".csv")

Tags = Mapping[str, Callable[[Scene], Any]]  # further fields of a frame, by name


class LandmarkWriter(Sink):
    """Writes scenes as JSON Lines (.jsonl, and `-` for standard output) or CSV (.csv).

    `header` goes into the first line of a JSON Lines file, after format, version and scheme: model, engine, source,
    width, height and whatever else it holds. CSV has a row of column names instead, then a row a face, and one with
    empty cells for a frame without faces. Points and boxes are frame px to 1/1000, times seconds. tags: further fields
    of each frame. A frame tells its size in CSV, and where the header does not.
    Each line is one write, so that a killed run leaves whole lines; after a full disk the file is cut back to them.
    Raises TabrtError: an unknown suffix, a file that cannot be written, a full disk.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any], topology: Topology, tags: Tags | None = None):
        self.path = Path(path)
        self._whole = 0  # bytes
        self._points = topology.points
        suffix = landmark_suffix(path)
        self._csv = suffix == ".csv"
        sized = self._csv or header.get("width") is None
        self._tags: Tags = (_SIZE if sized else {}) | dict(tags or {})
        self._file = _open_for_writing(path)
        if self._csv:
            self._put(_csv_text([[*_columns(topology.points), *self._tags]]))
        else:
            self._put(_json({"format": FORMAT, "version": VERSION, "scheme": topology.name} | dict(header)))

    def __call__(self, scene: Scene) -> None:
        """Add a scene: one JSON line, or one CSV row for each of its faces, at least one."""
        for face in scene.faces:
            if face.points.shape != (self._points, 2):
                raise ValueError(f"points {face.points.shape} in a file of ({self._points}, 2)")
        tags = {name: tag(scene) for name, tag in self._tags.items()}
        self._put(_csv_lines(scene, self._points, list(tags.values())) if self._csv else _json_line(scene, tags))

    def close(self) -> None:
        self._file.close()

    def _put(self, text: str) -> None:
        data = memoryview(text.encode())
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as problem:
            self._cut_back()
            raise TabrtError(_cannot_write(self.path, problem)) from None
        self._whole += len(text.encode())

    def _cut_back(self) -> None:
        if self._file.seekable() and str(self.path) != "-":
            self._file.truncate(self._whole)


_SIZE: dict[str, Callable[[Scene], Any]] = {
    "width": lambda scene: scene.frame.image.shape[1],
    "height": lambda scene: scene.frame.image.shape[0],
}


def landmark_suffix(path: str | Path) -> str:
    """.jsonl or .csv: how landmarks are written to the path. Raises TabrtError for another suffix.

    What is no file, such as standard output or a pipe of the shell, takes JSON Lines without one.
    """
    suffix = Path(path).suffix.lower()
    if str(path) == "-" or (suffix not in SUFFIXES and _is_pipe(path)):
        return ".jsonl"
    if suffix not in SUFFIXES:
        raise TabrtError(f"{path}: landmarks are written as {' or '.join(SUFFIXES)}; use one of these suffixes")
    return suffix


def _is_pipe(path: str | Path) -> bool:
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISCHR(kind) or stat.S_ISSOCK(kind)


def landmark_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines landmark file, the header first; a last line that was cut off is left out.

    Raises TabrtError for a file that is none, and for a damaged line.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                number += 1
                yield _parsed(line, path, number)
    except OSError as problem:
        raise TabrtError(f"cannot read {path} ({problem.strerror}); check the path") from None
    if number == 0 or len(line) == MAX_LINE:
        raise TabrtError(f"{path} is no landmark file; name a .jsonl that tabrt wrote")


def _parsed(line: bytes, path: str | Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict) or (number == 1 and row.get("format") != FORMAT):
        raise TabrtError(f"line {number} of {path} is no landmark line; name a .jsonl that tabrt wrote")
    if number == 1 and row.get("version") != VERSION:
        raise TabrtError(f"{path} is of version {row.get('version')}, not {VERSION}; read it with a newer tabrt")
    return row


def _open_for_writing(path: str | Path) -> io.FileIO:
    """Unbuffered: what is written is with the system when write returns."""
    if str(path) == "-":
        if sys.stdout is None:
            raise TabrtError("standard output is closed; write the landmarks to a file")
        return io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
    try:
        return io.FileIO(os.fspath(path), "wb")
    except OSError as problem:
        raise TabrtError(_cannot_write(path, problem)) from None


def _cannot_write(path: str | Path, problem: OSError) -> str:
    if isinstance(problem, BrokenPipeError):
        return "standard output was closed by its reader; write the landmarks to a file"
    return f"cannot write landmarks to {path} ({problem.strerror}); name another place, or free some space"


def _json_line(scene: Scene, tags: dict[str, Any]) -> str:
    faces = [
        {
            "id": face.id,
            "score": _number(face.box.score, 3),
            "box": _box(face),
            "points": _numbers(face.points),
            "confidence": _numbers(face.confidence),
        }
        for face in scene.faces
    ]
    return _json({"frame": scene.frame.index, "time": _number(scene.frame.time, 6)} | tags | {"faces": faces})


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def _csv_lines(scene: Scene, points: int, tags: list[Any]) -> str:
    """A row a face; a frame without faces has one of its own, whose cells are empty."""
    faces = [_cells(face) for face in scene.faces] or [[""] * (len(_columns(points)) - 2)]
    frame = [scene.frame.index, _number(scene.frame.time, 6)]
    return _csv_text([[*frame, *cells, *tags] for cells in faces])


def _columns(points: int) -> list[str]:
    each = [f"{axis}{index}" for index in range(points) for axis in "xyc"]
    return ["frame", "time", "id", "score", "left", "top", "right", "bottom", *each]


def _cells(face: Face) -> list[Any]:
    points = _numbers(np.column_stack([face.points, face.confidence]).ravel())
    return [face.id, _number(face.box.score, 3), *_box(face), *points]


def _csv_text(rows: list[list[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _box(face: Face) -> list[float | None]:
    box = face.box
    return [_number(side, 3) for side in (box.left, box.top, box.right, box.bottom)]


def _number(value: float, decimals: int) -> float | None:
    """Rounded; None for what JSON has no number for."""
    return round(float(value), decimals) if math.isfinite(value) else None


def _numbers(values: np.ndarray) -> list:
    """Nested lists, rounded to 3 decimals, None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), 3)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    some = rounded.astype(object)
    some[~np.isfinite(rounded)] = None
    return some.tolist()
