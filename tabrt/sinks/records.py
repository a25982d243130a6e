"""The landmark file: one JSON line a frame, or one CSV row a face, whole on disk as soon as it is written."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tabrt.engines.engine import Engine
from tabrt.errors import TabrtError
from tabrt.faces import Face, Scene
from tabrt.sinks.sink import Sink
from tabrt.topology import Topology

FORMAT = "tabrt-landmarks"
VERSION = 1
MAX_LINE = 2**24  # bytes, of a file being read
SUFFIXES = (".jsonl", ".csv")


class LandmarkWriter(Sink):
    """Writes scenes as JSON Lines (.jsonl, and `-` for standard output) or CSV (.csv).

    `header` goes into the first line of a JSON Lines file, after format, version and scheme: model, engine, source,
    width, height. CSV has a row of column names instead. Points and boxes are frame px to 1/1000, times seconds.
    Each line is one write, so that a killed run leaves whole lines; after a full disk the file is cut back to them.
    Raises TabrtError: an unknown suffix, a file that cannot be written, a full disk.
    """

    def __init__(self, path: str | Path, header: dict[str, Any], topology: Topology):
        self.path = Path(path)
        self._whole = 0  # bytes
        self._points = topology.points
        suffix = landmark_suffix(path)
        self._lines = _csv_lines if suffix == ".csv" else _json_lines
        self._file = _open_for_writing(path)
        if suffix == ".csv":
            self._put(_csv_text([_columns(topology.points)]))
        else:
            self._put(_json({"format": FORMAT, "version": VERSION, "scheme": topology.name} | header))

    def __call__(self, scene: Scene) -> None:
        """Add a scene: one JSON line, faces or not; one CSV row for each of its faces."""
        for face in scene.faces:
            if face.points.shape != (self._points, 2):
                raise ValueError(f"points {face.points.shape} in a file of ({self._points}, 2)")
        self._put(self._lines(scene))

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


def landmark_suffix(path: str | Path) -> str:
    """.jsonl or .csv: how landmarks are written to the path. Raises TabrtError for another suffix."""
    suffix = ".jsonl" if str(path) == "-" else Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise TabrtError(f"{path}: landmarks are written as {' or '.join(SUFFIXES)}; use one of these suffixes")
    return suffix


def read_landmarks(path: str | Path) -> Iterator[dict[str, Any]]:
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
        return io.FileIO(sys.stdout.fileno(), "wb", closefd=False)
    try:
        return io.FileIO(os.fspath(path), "wb")
    except OSError as problem:
        raise TabrtError(_cannot_write(path, problem)) from None


def _cannot_write(path: str | Path, problem: OSError) -> str:
    if isinstance(problem, BrokenPipeError):
        return "standard output was closed by its reader; write the landmarks to a file"
    return f"cannot write landmarks to {path} ({problem.strerror}); name another place, or free some space"


def _json_lines(scene: Scene) -> str:
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
    return _json({"frame": scene.frame.index, "time": _number(scene.frame.time, 6), "faces": faces})


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def _csv_lines(scene: Scene) -> str:
    return _csv_text([_row(scene, face) for face in scene.faces])


def _columns(points: int) -> list[str]:
    each = [f"{axis}{index}" for index in range(points) for axis in "xyc"]
    return ["frame", "time", "id", "score", "left", "top", "right", "bottom", *each]


def _row(scene: Scene, face: Face) -> list[Any]:
    points = _numbers(np.column_stack([face.points, face.confidence]).ravel())
    return [
        scene.frame.index,
        _number(scene.frame.time, 6),
        face.id,
        _number(face.box.score, 3),
        *_box(face),
        *points,
    ]


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
    return np.where(np.isfinite(rounded), rounded.astype(object), None).tolist()


def landmark_header(engine: Engine, source: object, width: int | None, height: int | None) -> dict:
    """What the first line of a landmark file says of its making."""
    return {
        "model": engine.card.name,
        "engine": engine.name,
        "source": source,
        "width": width,
        "height": height,
    }
