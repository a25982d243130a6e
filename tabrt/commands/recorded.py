"""Scenes of a film whose faces were tracked before: read of its landmark file, frame by frame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Face, Frame, Scene
from tabrt.film.times import clock_time
from tabrt.geometry import Box
from tabrt.measures import Calibration, Lens, Person, Sight
from tabrt.sinks import landmark_frames, landmark_lines
from tabrt.topology import WFLW98, Topology, topology_named
from tabrt.tracking import Tracker, as_shown
from tabrt.words import counted

WARM_UP = 5.0  # seconds before the stop that are tracked again, so that smoothing and measures are as they were
SAME_PLACE = 0.25  # face sides, mean distance of points at which a face of the file and a tracked one are the same
FARTHEST = 1e6  # px from a picture's corner, where a point may lie
SAME_TIME = 2e-6  # seconds, as files round them


class Recording:
    """The faces of a landmark file, of any kind: `recording(frame)` is the scene of a frame of its film.

    Frames are to be given in their order. fov: of the camera, for poses; it may be set later, as by what the header
    says. Raises TabrtError for a file that is none, for a damaged line, and for a frame that the file has at another
    time: that of another film.
    """

    def __init__(self, path: str | Path, fov: float | Calibration | None = None):
        self.path, self.fov = path, fov
        self._lines = landmark_frames(path)
        self.header: dict[str, Any] = next(self._lines)
        self.topology: Topology = _scheme(path, self.header)
        self._persons: dict[int, Person] = {}
        self._line: dict[str, Any] | None = None  # the next one, once it was asked for
        self._begun = False
        self._absent, self._first_absent, self._last_absent = 0, 0.0, 0.0  # frames, seconds

    @property
    def notes(self) -> list[str]:
        """What there is to tell of frames that the file does not have, as one of a run that was stopped."""
        if not self._absent:
            return []
        frames = counted(self._absent, "frame is", "frames are")
        first, last = clock_time(self._first_absent), clock_time(self._last_absent)
        where = first if self._absent == 1 else f"{first} to {last}"
        return [f"{frames} not in {self.path} ({where}): no faces are known there"]

    def __call__(self, frame: Frame) -> Scene:
        try:
            return self._scene(frame)
        except (KeyError, TypeError, ValueError, OverflowError):
            what = f"{self.path} has a line without the fields of a landmark file"
            raise TabrtError(f"{what} near frame {frame.index}; was it edited?") from None

    def _scene(self, frame: Frame) -> Scene:
        while not self._begun or (self._line is not None and int(self._line["frame"]) < frame.index):
            self._begun = True
            self._line = next(self._lines, None)
        line = self._line
        if line is None or int(line["frame"]) > frame.index:
            if not self._absent:
                self._first_absent = frame.time
            self._absent, self._last_absent = self._absent + 1, frame.time
            return Scene(frame)
        if line["time"] is not None and not abs(float(line["time"]) - frame.time) <= SAME_TIME:
            raise TabrtError(
                f"{self.path} has frame {frame.index} at {float(line['time']):g} s, the film at {frame.time:g} s; "
                "name the film that the file was made of"
            )
        return Scene(frame, tuple(self._face(face, frame) for face in line["faces"]))

    def _face(self, said: dict[str, Any], frame: Frame) -> Face:
        points = _numbers(said["points"], (self.topology.points, 2))
        confidence = _numbers(said["confidence"], (self.topology.points,))
        left, top, right, bottom = _numbers(said["box"], (4,)).tolist()
        box = Box(left, top, right, bottom, float(said["score"]))
        return Face(int(said["id"]), points, points, confidence, box, sight=self._sight(int(said["id"]), frame))

    def _sight(self, number: int, frame: Frame) -> Sight | None:
        if self.topology.name != "wflw98":
            return None
        height, width = frame.image.shape[:2]
        shown = as_shown(frame).image.shape[1::-1] if frame.pixel_aspect != 1 else (width, height)
        person = self._persons.setdefault(number, Person())
        scale = shown[0] / width, shown[1] / height
        return Sight(_lens(self.fov, *shown), person, frame.time, frame.time, scale)


def _scheme(path: str | Path, header: dict[str, Any]) -> Topology:
    """What a file's points are. Raises TabrtError."""
    if "scheme" in header or "points" not in header:
        return topology_named(str(header.get("scheme")))
    if header["points"] != WFLW98.points:  # a .csv names no scheme; tabrt's own networks have but this one
        raise TabrtError(f"{path} has {header['points']} points a face, and .csv names no scheme; name a .jsonl")
    return WFLW98


def _numbers(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    """float32 of this shape, NaN for null. Raises ValueError for another shape, and for what lies beyond FARTHEST."""
    found = np.array(values, float)
    if found.shape != shape or (np.abs(found[np.isfinite(found)]) > FARTHEST).any():
        raise ValueError(f"{found.shape} in place of {shape}, or beyond {FARTHEST:g} px")
    return found.astype(np.float32)


def _lens(fov: float | Calibration | None, width: int, height: int) -> Lens:
    if fov is None:
        return Lens.usual(width, height)
    return fov.lens(width, height) if isinstance(fov, Calibration) else Lens.seeing(fov, width, height)


class Past:
    """What a run that was broken off has left in its landmark file, for one that goes on after it.

    The tracker sees the last seconds before the stop once more; its faces are given the ids that the file has for those
    in the same places, and new ones count on from there. Raises TabrtError for a damaged file.
    """

    def __init__(self, path: str | Path, fov: float | Calibration | None = None):
        self._path, self._fov = path, fov
        self.frames, self.last, self._until, self._ids = 0, -1, -math.inf, 0
        lines = landmark_lines(path)
        next(lines)
        try:
            for line in lines:
                self.frames, self.last = self.frames + 1, int(line["frame"])
                self._until = float(line["time"])
                self._ids = max([self._ids, *(int(face["id"]) for face in line["faces"])])
        except (KeyError, TypeError, ValueError):
            raise TabrtError(f"{path} has a line without the fields of a landmark file; was it edited?") from None

    def note(self, drawn: bool) -> str:
        """What there is to tell of going on."""
        again = "; the film was drawn anew up to there, without the network" if drawn else ""
        return f"went on after {self.frames} frames of an earlier run{again}"

    def scenes(self, tracker: Tracker, frames: Iterable[Frame]) -> Iterator[Scene]:
        """The scenes of all frames: those of the file as it has them, then those that are tracked now."""
        recording = Recording(self._path, self._fov)
        together: Counter[tuple[int, int]] = Counter()  # frames in which a tracked face lay on one of the file
        renamed = self.last < 0
        for frame in frames:
            if frame.index > self.last:
                if not renamed:
                    tracker.rename(_names(together), self._ids + 1)
                    renamed = True
                yield tracker(frame)
            else:
                scene = recording(frame)
                if frame.time >= self._until - WARM_UP:
                    together.update(_pairs(tracker(frame), scene))
                yield scene


def _pairs(now: Scene, before: Scene) -> Iterator[tuple[int, int]]:
    for face in now.faces:
        for other in before.faces:
            far = np.linalg.norm(face.points - other.points, axis=1).mean()
            if far <= SAME_PLACE * max(face.box.width, face.box.height):
                yield face.id, other.id


def _names(together: Counter[tuple[int, int]]) -> dict[int, int]:
    """The old id of each new one, each given once: where there is a choice, what was together for longest."""
    names: dict[int, int] = {}
    for (new, old), _ in together.most_common():
        if new not in names and old not in names.values():
            names[new] = old
    return names
