"""The landmark file: one JSON line a frame, or CSV rows, whole on disk as soon as they are written; or Parquet."""

from __future__ import annotations

import contextlib
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
from tabrt.files import REPLACED, claim, inode_of, make_room
from tabrt.measures import SHAPES, EyeGaze
from tabrt.sinks.parquet import ParquetRows, ParquetTable, pyarrow
from tabrt.sinks.sink import Sink
from tabrt.topology import Topology

FORMAT = "tabrt-landmarks"
VERSION = 1
MEASURES_VERSION = 1  # of what --measures adds
MAX_LINE = 2**24  # bytes, of a file being read
LONGEST_END = 4096  # bytes of a closing record
SUFFIXES = (".jsonl", ".csv", ".parquet")

END = "end"  # of the closing record
BEFORE_POINTS = ("frame", "time", "id", "score", "left", "top", "right", "bottom")  # the first columns of a table

Tags = Mapping[str, Callable[[Scene], Any]]  # further fields of a frame, by name


class LandmarkWriter(Sink):
    """Writes scenes as JSON Lines (.jsonl, and `-` for standard output), CSV (.csv) or Parquet (.parquet).

    `header` goes into the first line of a JSON Lines file, after format, version and scheme: model, engine, source,
    width, height and whatever else it holds. CSV has a row of column names instead, then a row a face, and one with
    empty cells for a frame without faces. Points and boxes are frame px to 1/1000, times seconds. tags: further fields
    of each frame. A frame tells its size in CSV, and where the header does not. measures: of each face pose, gaze and
    what it does, as `face_measures` gives them; the header says so, and CSV has them as its last columns. Whoever reads
    version 1 by names, or the columns up to the points, reads these files as before.
    Each line is one write, so that a killed run leaves whole lines; after a full disk the file is cut back to them.
    after: go on with the JSON Lines file that a broken-off run has left, after its frame of this number; what was not
    written whole is cut off, and scenes up to that one are passed over.
    A file that is there already is not written into but makes room, so that two writers of one path leave one whole
    file: that of the later one.
    `finish` closes a JSON Lines file with a line that says so; a file without it was broken off. end: what more that
    line says.
    Parquet has the columns of CSV, and header and closing record in its metadata. It is written a group of rows at a
    time and can be read only once `close` was called: a killed run, or a full disk, leaves nothing that can be read.
    Raises TabrtError: an unknown suffix, a file that cannot be written, a full disk, .parquet without pyarrow, and from
    `finish` a file that was replaced or removed meanwhile.
    """

    def __init__(
        self,
        path: str | Path,
        header: Mapping[str, Any],
        topology: Topology,
        tags: Tags | None = None,
        measures: bool = False,
        after: int | None = None,
        end: Callable[[], Mapping[str, Any]] = dict,
    ):
        self.path = Path(path)
        self._whole = 0  # bytes
        self._frames = 0
        self._points = topology.points
        suffix = landmark_suffix(path)
        self._csv = suffix == ".csv"
        self._table: ParquetRows | None = None
        sized = suffix != ".jsonl" or header.get("width") is None
        self._tags: Tags = (_SIZE if sized else {}) | dict(tags or {})
        self._measures = measures
        self._after = after
        self._end = end
        if after is not None:
            self._file, self._whole, self._frames = _open_for_going_on(path)
            return
        if suffix == ".parquet":
            pyarrow()  # before a file is replaced
        self._file = _open_for_writing(path)
        columns = [*columns_of(topology.points), *self._tags, *(MEASURES if measures else ())]
        header = dict(header) | ({"measures": MEASURES_VERSION} if measures else {})
        head = _json({"format": FORMAT, "version": VERSION, "scheme": topology.name} | header)
        if suffix == ".parquet":
            kinds = {name: KINDS.get(name, "string" if name in self._tags else "float") for name in columns}
            self._table = ParquetRows(self._file, kinds, head)
        else:
            self._put(_csv_text([columns]) if self._csv else head)

    def __call__(self, scene: Scene) -> None:
        """Add a scene: one JSON line, or one CSV row for each of its faces, at least one."""
        if self._after is not None and scene.frame.index <= self._after:
            return
        for face in scene.faces:
            if face.points.shape != (self._points, 2):
                raise ValueError(f"points {face.points.shape} in a file of ({self._points}, 2)")
        tags = {name: tag(scene) for name, tag in self._tags.items()}
        if self._table is not None:
            with self._said():
                self._table.add(_rows(scene, self._points, list(tags.values()), self._measures))
        elif self._csv:
            self._put(_csv_text(_rows(scene, self._points, list(tags.values()), self._measures)))
        else:
            self._put(_json_line(scene, tags, self._measures))
        self._frames += 1

    def finish(self) -> None:
        """Add the closing record, for those who ask later whether the run came to its end."""
        if _is_file(self.path, self._file) and inode_of(self.path) != inode_of(self._file.fileno()):
            raise TabrtError(f"{self.path} {REPLACED}")
        record = {"frames": self._frames, **self._end()}
        if self._table is not None:
            self._table.end(_json(record))
        elif not self._csv and _is_file(self.path, self._file):
            self._put(_json({END: record}))

    def close(self) -> None:
        if self._table is not None:
            with self._said():
                self._table.close()
        self._file.close()

    @contextlib.contextmanager
    def _said(self) -> Iterator[None]:
        """A table that could not be written is given up."""
        try:
            yield
        except OSError as problem:
            table, self._table = self._table, None
            if table is not None:
                table.abandon()
            raise TabrtError(_cannot_write(self.path, problem)) from None

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
            with contextlib.suppress(OSError):  # a device has no length
                self._file.truncate(self._whole)


_SIZE: dict[str, Callable[[Scene], Any]] = {
    "width": lambda scene: scene.frame.image.shape[1],
    "height": lambda scene: scene.frame.image.shape[0],
}


def landmark_suffix(path: str | Path) -> str:
    """.jsonl, .csv or .parquet: how landmarks are written to the path. Raises TabrtError for another suffix.

    What is no file, such as standard output or a pipe of the shell, takes JSON Lines without one.
    """
    suffix = Path(path).suffix.lower()
    if str(path) == "-" or (suffix not in SUFFIXES and _is_pipe(path)):
        return ".jsonl"
    if suffix not in SUFFIXES:
        raise TabrtError(f"{path}: landmarks are written as {', '.join(SUFFIXES)}; use one of these suffixes")
    return suffix


def _is_pipe(path: str | Path) -> bool:
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISCHR(kind) or stat.S_ISSOCK(kind)


def _is_file(path: Path, file: io.FileIO) -> bool:
    """Whether it lies on a disk; a stream has an end of its own."""
    return str(path) != "-" and stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def landmark_lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSON Lines landmark file, the header first; a last line that was cut off is left out, and the
    closing record.

    Raises TabrtError for a file that is none, and for a damaged line.
    """
    try:
        with open(path, "rb") as file:
            number = 0
            while (line := file.readline(MAX_LINE)).endswith(b"\n"):
                number += 1
                row = _parsed(line, path, number)
                if END not in row:
                    yield row
    except OSError as problem:
        raise TabrtError(f"cannot read {path} ({problem.strerror}); check the path") from None
    if number == 0 or len(line) == MAX_LINE:
        raise TabrtError(f"{path} is no landmark file; name a .jsonl that tabrt wrote")


def landmark_ends(
    path: str | Path, opened: Callable[..., Any] = open
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """The header of a JSON Lines or Parquet landmark file, and its closing record, if it has one.

    Without reading what is between. Twice None for what is no such file. opened: what opens it, if it is elsewhere.
    """
    try:
        with opened(path, "rb") as file:
            if str(path).lower().endswith(".parquet"):
                table = ParquetTable(file)
                header, end = parsed_header(table.header, path), {END: json.loads(table.end)}
            else:
                header = _parsed(file.readline(MAX_LINE), path, 1)
                file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_END))
                *_, last = file.read(LONGEST_END).split(b"\n")[:-1] or [b""]
                end = _parsed_end(last, path)
    except (OSError, ValueError, TabrtError):
        return None, None
    return header, end.get(END) if isinstance(end.get(END), dict) else None


def _parsed_end(line: bytes, path: str | Path) -> dict[str, Any]:
    """A last line; nothing for one that is no whole line, as of a file whose lines are long."""
    try:
        return _parsed(line, path, 2)
    except TabrtError:
        return {}


def parsed_header(text: bytes, path: str | Path) -> dict[str, Any]:
    """The header of a landmark file. Raises TabrtError where it is none, or of another version."""
    return _parsed(text, path, 1)


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
    make_room(path)
    try:
        file = io.FileIO(os.fspath(path), "wb")
    except OSError as problem:
        raise TabrtError(_cannot_write(path, problem)) from None
    if _is_file(Path(path), file):  # /dev/null is everybody's
        claim(file, path)
    return file


def _open_for_going_on(path: str | Path) -> tuple[io.FileIO, int, int]:
    """The file cut back to its whole lines, its bytes, and how many frames it has."""
    try:
        file = io.FileIO(os.fspath(path), "r+b")
        whole = lines = at = 0
        while block := file.read(2**20):
            lines += block.count(b"\n")
            if b"\n" in block:
                whole = at + block.rindex(b"\n") + 1
            at += len(block)
        file.truncate(whole)
        file.seek(whole)
    except OSError as problem:
        raise TabrtError(_cannot_write(path, problem)) from None
    return file, whole, max(lines - 1, 0)


def _cannot_write(path: str | Path, problem: OSError) -> str:
    if isinstance(problem, BrokenPipeError):
        return "standard output was closed by its reader; write the landmarks to a file"
    return f"cannot write landmarks to {path} ({problem.strerror}); name another place, or free some space"


def face_measures(face: Face) -> dict[str, Any]:
    """What landmark files tell of a face with --measures; empty for one without a pose.

    pose: yaw, pitch, roll in degrees; translation in metres; quaternion x, y, z, w of the rotation; whether the focal
    length is a guess. gaze: of each eye yaw and pitch in the head, in degrees, direction in the camera's axes, and
    confidence; None for one that is shut. eyes: openness of the person's left and right one. measures: by ARKit's
    names, those that are told. blink: the one that ended in this frame, if one did.
    """
    pose, gaze, measures = face.pose, face.gaze, face.measures
    if pose is None or gaze is None or measures is None:
        return {}
    blink = measures.blink
    told = {
        "pose": {
            **dict(zip(("yaw", "pitch", "roll"), (_number(angle, 2) for angle in pose.angles), strict=True)),
            "translation": [_number(each, 4) for each in pose.translation],
            "quaternion": [_number(each, 5) for each in pose.quaternion],
            "guessed": pose.guessed,
        },
        "gaze": {"left": _eye(gaze.left), "right": _eye(gaze.right)},
        "eyes": {"left": _number(measures.left_eye, 3), "right": _number(measures.right_eye, 3)},
        "measures": {name: _number(value, 3) for name, value in measures.items()},
    }
    if blink is not None:
        told["blink"] = {
            "time": _number(blink.time, 6),
            "seconds": _number(blink.seconds, 3),
            "depth": _number(blink.depth, 3),
        }
    return told


def _eye(eye: EyeGaze | None) -> dict[str, Any] | None:
    if eye is None:
        return None
    angles = {"yaw": _number(eye.yaw, 2), "pitch": _number(eye.pitch, 2)}
    direction = [_number(each, 4) for each in eye.direction]
    return angles | {"direction": direction, "confidence": _number(eye.confidence, 3)}


def measure_cells(told: dict[str, Any]) -> list[Any]:
    """The cells of MEASURES, of what `face_measures` tells; None where something is not told."""
    if not told.get("pose"):
        return [None] * len(MEASURES)
    pose, gaze, blink = told["pose"], told["gaze"], told.get("blink", {})
    cells = [pose[angle] for angle in ("yaw", "pitch", "roll")] + pose["translation"] + pose["quaternion"]
    for side in ("left", "right"):
        cells += [(gaze[side] or {}).get(part) for part in ("yaw", "pitch", "confidence")]
    cells += [told["eyes"]["left"], told["eyes"]["right"], *(told["measures"].get(name) for name in SHAPES)]
    return [*cells, *(blink.get(part) for part in ("time", "seconds", "depth"))]


# The columns that --measures adds to CSV and Parquet.
MEASURES = (
    *("yaw", "pitch", "roll", "head_x", "head_y", "head_z", "head_qx", "head_qy", "head_qz", "head_qw"),
    *(f"gaze_{side}_{part}" for side in ("left", "right") for part in ("yaw", "pitch", "confidence")),
    *("eye_left", "eye_right", *SHAPES, "blink_time", "blink_seconds", "blink_depth"),
)

# What Parquet holds columns as; others are text if they are tags, else float.
KINDS = {"frame": "int64", "time": "double", "id": "int64", "width": "int32", "height": "int32", "blink_time": "double"}


def _json_line(scene: Scene, tags: dict[str, Any], measures: bool) -> str:
    faces = [
        {
            "id": face.id,
            "score": _number(face.box.score, 3),
            "box": _box(face),
            "points": _numbers(face.points),
            "confidence": _numbers(face.confidence),
            **(face_measures(face) if measures else {}),
        }
        for face in scene.faces
    ]
    return _json({"frame": scene.frame.index, "time": _number(scene.frame.time, 6)} | tags | {"faces": faces})


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, allow_nan=False, ensure_ascii=False, separators=(",", ":")) + "\n"


def _rows(scene: Scene, points: int, tags: list[Any], measures: bool) -> list[list[Any]]:
    """A row a face; a frame without faces has one of its own, whose cells are empty."""
    faces = [(_cells(face), measure_cells(face_measures(face)) if measures else []) for face in scene.faces]
    nobody: tuple[list[Any], list[Any]] = [None] * (6 + 3 * points), [None] * (len(MEASURES) if measures else 0)
    frame = [scene.frame.index, _number(scene.frame.time, 6)]
    return [[*frame, *cells, *tags, *more] for cells, more in faces or [nobody]]


def columns_of(points: int) -> list[str]:
    """The columns of a table up to its points: of each x, y, confidence."""
    return [*BEFORE_POINTS, *point_columns(points)]


def point_columns(points: int) -> list[str]:
    """The columns of the points alone."""
    return [f"{axis}{index}" for index in range(points) for axis in "xyc"]


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


def _numbers(values: np.ndarray) -> list[Any]:
    """Nested lists, rounded to 3 decimals, None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), 3)
    if np.isfinite(rounded).all():
        return rounded.tolist()
    some = rounded.astype(object)
    some[~np.isfinite(rounded)] = None
    return some.tolist()
