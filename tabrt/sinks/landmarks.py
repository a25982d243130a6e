"""A landmark file read back, as arrays."""

from __future__ import annotations

import contextlib
import csv
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from tabrt.errors import TabrtError, first_line
from tabrt.sinks.parquet import ParquetTable
from tabrt.sinks.records import (
    BEFORE_POINTS,
    MAX_LINE,
    MEASURES,
    SUFFIXES,
    columns_of,
    landmark_lines,
    landmark_suffix,
    measure_cells,
    parsed_header,
    point_columns,
)

LARGEST = 4 * 2**30  # bytes of one array of points


@dataclass(frozen=True, eq=False)
class Landmarks:
    """What a landmark file says, by frame and id: N frames, F ids, L points; NaN where a frame has no face of an id.

    header: the first line of a .jsonl, and of a .parquet the same; of a .csv what its columns say. points: frame px.
    Arrays of all frames and ids are made when first asked for; a film of an hour has some 100,000 frames, and each id
    costs 80 MB of points there.
    """

    header: dict[str, Any]
    frames: np.ndarray  # (N,) numbers of the frames
    times: np.ndarray  # (N,) seconds
    ids: np.ndarray  # (F,) ascending
    rows: Rows  # the faces one after the other, as the file has them

    @cached_property
    def points(self) -> np.ndarray:
        """(N, F, L, 2) float32."""
        return self._by_frame_and_id(self.rows.points)

    @cached_property
    def confidence(self) -> np.ndarray:
        """(N, F, L) float32, 0…1."""
        return self._by_frame_and_id(self.rows.confidence)

    @cached_property
    def scores(self) -> np.ndarray:
        """(N, F) float32: the confidence of each face."""
        return self._by_frame_and_id(self.rows.scores)

    @cached_property
    def boxes(self) -> np.ndarray:
        """(N, F, 4) float32: left, top, right, bottom."""
        return self._by_frame_and_id(self.rows.boxes)

    @property
    def has_measures(self) -> bool:
        """Whether the file tells what --measures adds."""
        return bool(np.isfinite(self.rows.pose).any())

    @cached_property
    def pose(self) -> np.ndarray:
        """(N, F, 3) float32, degrees: yaw, pitch, roll; NaN where they are not told, as without --measures."""
        return self._by_frame_and_id(self.rows.pose)

    @cached_property
    def eyes(self) -> np.ndarray:
        """(N, F, 2) float32: openness of the left and the right eye, 0…1; NaN likewise."""
        return self._by_frame_and_id(self.rows.eyes)

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row a face, and the .csv's columns but width, height and crops.

        Raises TabrtError without pandas.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise TabrtError("to_pandas needs pandas; run: pip install pandas") from None
        rows = self.rows
        table = {"frame": self.frames[rows.at], "time": self.times[rows.at], "id": rows.ids, "score": rows.scores}
        table |= dict(zip(("left", "top", "right", "bottom"), rows.boxes.T, strict=True))
        told = dict(zip(MEASURES, rows.measures.T, strict=True)) if self.has_measures else {}
        points = np.concatenate([rows.points, rows.confidence[..., None]], axis=2)
        names = point_columns(points.shape[1])
        return pandas.DataFrame(table | dict(zip(names, points.reshape(len(points), -1).T, strict=True)) | told)

    def _by_frame_and_id(self, values: np.ndarray) -> np.ndarray:
        shape = len(self.frames), len(self.ids), *values.shape[1:]
        if math.prod(shape) * values.itemsize > LARGEST:
            raise TabrtError(
                f"{shape[0]} frames with {shape[1]} ids are too many for one array; use to_pandas(), a row a face"
            )
        whole = np.full(shape, np.nan, values.dtype)
        whole[self.rows.at, np.searchsorted(self.ids, self.rows.ids)] = values
        return whole


@dataclass(frozen=True, eq=False)
class Rows:
    """The R faces of a file, one after the other."""

    at: np.ndarray  # (R,) index among the frames
    ids: np.ndarray  # (R,)
    scores: np.ndarray  # (R,)
    boxes: np.ndarray  # (R, 4)
    points: np.ndarray  # (R, L, 2)
    confidence: np.ndarray  # (R, L)
    measures: np.ndarray  # (R, M) the columns that --measures adds to a .csv; NaN where one is not told

    @property
    def pose(self) -> np.ndarray:
        """(R, 3) degrees: yaw, pitch, roll; NaN where it is not told, as without --measures."""
        return self.measures[:, :3]

    @property
    def eyes(self) -> np.ndarray:
        """(R, 2) openness of the person's left and right one, 0…1; NaN likewise."""
        first = MEASURES.index("eye_left")
        return self.measures[:, first : first + 2]


def read_landmarks(path: str | Path) -> Landmarks:
    """Read a landmark file, .jsonl, .csv or .parquet. A last line that was cut off is left out.

    Raises TabrtError for a file that cannot be read or is none, for a damaged line, and for a .parquet that was not
    finished, or without pyarrow.
    """
    suffix = _suffix_of(path)
    if suffix == ".parquet":
        with _table(path) as table:
            return _from_parquet(table, Path(path))
    lines = _csv_frames(Path(path)) if suffix == ".csv" else landmark_lines(path)
    header = next(lines)
    try:
        return _gathered(header, lines)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise TabrtError(f"{path} has a line without the fields of a landmark file; was it edited?") from None


def _suffix_of(path: str | Path) -> str:
    try:
        return landmark_suffix(path)
    except TabrtError:
        raise TabrtError(
            f"{path} is no landmark file, as its name ends in none of {', '.join(SUFFIXES)}; "
            "tabrt video FILM --landmarks points.jsonl makes one, of pictures tabrt image"
        ) from None


def _gathered(header: dict[str, Any], lines: Iterable[dict[str, Any]]) -> Landmarks:
    frames: list[int] = []
    times: list[float] = []
    at: list[int] = []
    ids: list[int] = []
    numbers: list[np.ndarray] = []  # of a face: score, box, points, confidence
    measured: list[list[float | None]] = []  # of a face: MEASURES
    count = 0
    for line in lines:
        if not frames or line["frame"] != frames[-1]:
            frames.append(int(line["frame"]))
            times.append(math.nan if line["time"] is None else float(line["time"]))
        for face in line["faces"]:
            points = np.array(face["points"], np.float32).reshape(-1, 2)
            count = count or len(points)
            at.append(len(frames) - 1)
            ids.append(int(face["id"]))
            parts = [face["score"]], face["box"], points.ravel(), face["confidence"]
            numbers.append(np.concatenate([np.array(part, np.float32) for part in parts]))
            if len(points) != count or len(numbers[-1]) != 5 + 3 * count:
                raise ValueError("faces of different schemes")
            measured.append(face["measured"] if "measured" in face else measure_cells(face))
    table = np.stack(numbers) if numbers else np.empty((0, 5), np.float32)
    score, box, flat, confidence = np.split(table, [1, 5, 5 + 2 * count], axis=1)
    places = flat.reshape(len(table), count, 2)
    told = np.array(measured, float).reshape(-1, len(MEASURES))
    rows = Rows(np.array(at, int), np.array(ids, int), score[:, 0], box, places, confidence, told)
    return Landmarks(header, np.array(frames, int), np.array(times), np.unique(rows.ids), rows)


def landmark_frames(path: str | Path) -> Iterator[dict[str, Any]]:
    """The header of a landmark file of any kind, then a line a frame, as JSON Lines have them, without measures.

    Of a .csv the header has what its columns say: width, height and the count of points. Raises TabrtError as
    `read_landmarks` does, and ValueError for a cell that is no number.
    """
    suffix = _suffix_of(path)
    if suffix == ".jsonl":
        yield from landmark_lines(path)
        return
    rows = _csv_frames(Path(path)) if suffix == ".csv" else _table_rows(path)
    yield next(rows)
    for _, together in itertools.groupby(rows, key=lambda row: row["frame"]):
        first, *others = together
        yield first | {"faces": [face for row in (first, *others) for face in row["faces"]]}


@contextlib.contextmanager
def _table(path: str | Path) -> Iterator[ParquetTable]:
    try:
        with Path(path).open("rb") as file:
            yield ParquetTable(file)
    except FileNotFoundError:
        raise TabrtError(f"cannot read {path} (No such file or directory); check the path") from None
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        raise TabrtError(
            f"{path} cannot be read: it was not finished, as by a run that was killed, or is no Parquet file; "
            "track again, into a .jsonl if a run may be killed"
        ) from None


def _table_rows(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, as `_csv_frames` gives those of CSV."""
    with _table(path) as table:
        yield parsed_header(table.header, path)
        count = _points_of(table.names)
        for batch in table.batches(columns_of(count)):
            for row in batch:
                time = None if math.isnan(row[1]) else float(row[1])
                yield {
                    "frame": int(row[0]),
                    "time": time,
                    "faces": [] if math.isnan(row[2]) else [_face(row[2:], count)],
                }


def _face(cells: np.ndarray, count: int) -> dict[str, Any]:
    """A face of its cells from the id on."""
    points = cells[6:].reshape(count, 3)
    whose = {"id": int(cells[0]), "score": float(cells[1]), "box": cells[2:6]}
    return whose | {"points": points[:, :2], "confidence": points[:, 2]}


def _points_of(columns: Iterable[str]) -> int:
    return sum(name.startswith("x") and name[1:].isdecimal() for name in columns)


def _from_parquet(table: ParquetTable, path: Path) -> Landmarks:
    header = parsed_header(table.header, path)
    count = _points_of(table.names)
    if len(table) * (5 + 3 * count) * 4 > LARGEST:
        raise TabrtError(f"{path} has {len(table)} rows, too many to hold at once; read it in parts with pyarrow")
    frames, times, ids = table.numbers(["frame", "time", "id"], float).T
    begins = np.diff(frames, prepend=np.nan) != 0
    there = np.isfinite(ids)
    names = ["score", "left", "top", "right", "bottom"]
    numbers = table.numbers([*names, *point_columns(count)])[there]
    points = numbers[:, 5:].reshape(-1, count, 3)
    at = (np.cumsum(begins) - 1)[there]
    measured = np.full((len(at), len(MEASURES)), np.nan)
    if set(MEASURES) <= set(table.names):
        measured = table.numbers(list(MEASURES), float)[there]
    rows = Rows(at, ids[there].astype(int), numbers[:, 0], numbers[:, 1:5], points[..., :2], points[..., 2], measured)
    return Landmarks(header, frames[begins].astype(int), times[begins], np.unique(rows.ids), rows)


def _csv_frames(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a CSV file as JSON lines have them, what they say of the whole film first."""
    try:
        with path.open(newline="\n", encoding="utf-8") as file:
            yield from _rows_as_lines(path, csv.reader(_whole_lines(file, path)))
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise TabrtError(f"cannot read {path} ({first_line(problem)}); name a .csv that tabrt wrote") from None


def _whole_lines(file: TextIO, path: Path) -> Iterator[str]:
    """The lines, but for a last one that was cut off. Raises TabrtError for one that is longer than any of tabrt's."""
    while (line := file.readline(MAX_LINE)).endswith("\n"):
        yield line
    if len(line) == MAX_LINE:
        raise TabrtError(f"{path} is no landmark file; name a .csv that tabrt wrote")


def _rows_as_lines(path: Path, rows: Iterator[list[str]]) -> Iterator[dict[str, Any]]:
    names = next(rows, [])
    if names[: len(BEFORE_POINTS)] != list(BEFORE_POINTS):
        raise TabrtError(f"{path} is no landmark file; name a .csv that tabrt wrote")
    count = _points_of(names)
    rest = names[8 + 3 * count :]
    told = [names.index(name) for name in MEASURES] if set(MEASURES) <= set(names) else []
    header: dict[str, Any] = {"width": None, "height": None, "points": count} | ({"measures": 1} if told else {})
    first = next(rows, None)
    if first is not None:
        said = dict(zip(rest, first[8 + 3 * count :], strict=False))
        header |= {name: int(said[name]) for name in ("width", "height") if said.get(name, "").isdecimal()}
    yield header
    for row in itertools.chain([] if first is None else [first], rows):
        yield _line(row, count, told)


def _line(row: list[str], count: int, told: list[int]) -> dict[str, Any]:
    line: dict[str, Any] = {"frame": int(row[0]), "time": _float(row[1]), "faces": []}
    if row[2]:
        cells = np.array([int(row[2]), *(_float(cell) for cell in row[3 : 8 + 3 * count])], float)
        line["faces"] = [_face(cells, count) | ({"measured": [_float(row[at]) for at in told]} if told else {})]
    return line


def _float(cell: str) -> float | None:
    return float(cell) if cell else None
