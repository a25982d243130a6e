"""A layer that shows what faces do: the head's axes, where the eyes look, and bars of what moves.

Small faces get their axes alone: the rest would cover them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from tabrt.drawing.overlay import label_places
from tabrt.faces import Face, Scene
from tabrt.geometry import Box
from tabrt.measures import Gaze, Measures, Pose

AXES = ((90, 90, 255), (110, 225, 110), (255, 170, 90))  # BGR: red x, green y, blue out of the face
LENGTH = 0.05  # m, of an axis
GAZE = (90, 245, 255)  # BGR
SIGHT = 0.09  # m, of a line of sight
NOSE_TIP, PUPILS = 54, {"right": 96, "left": 97}
SMALL = 80  # px: faces below get their axes alone
SHOWN = 6, 3, 0  # bars at most; fewer where more would cover a face
LEAST = 0.1  # of a shape that has a bar
LABEL = 10.0  # how many px of a face one of an id counts for: ids are small, and are to be read
COVERED = 0.1  # of a panel that may lie over faces and other panels, before a smaller one is taken
FONT, SMALLEST, LARGEST = cv2.FONT_HERSHEY_SIMPLEX, 0.42, 1.0  # OpenCV's units: below, letters cannot be read
PANEL, TRACK, FILL, INK = 0.3, (90, 90, 90), (150, 190, 60), (245, 245, 245)  # share of the picture left; BGR
SHIFT = 4  # bits of a pixel's fraction that OpenCV draws with
FARTHEST = 2**15  # px


@dataclass(frozen=True)
class Expression:
    """A layer: axes at the tip of the nose, lines of sight, and the strongest shapes as bars beside each face.

    kept: the place in a picture that something else will be written on.
    """

    kept: Callable[[np.ndarray], Box] | None = None

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        taken = [(face.box, 1.0) for face in scene.faces]
        taken += [(place, LABEL) for place in label_places(image, scene.faces)]
        if self.kept is not None:
            taken.append((self.kept(image), LABEL))
        for face in scene.faces:
            pose, gaze, measures = face.pose, face.gaze, face.measures
            if pose is None or gaze is None or measures is None:
                continue
            _draw_axes(image, face, pose)
            if _size(face) >= SMALL:
                _draw_gaze(image, face, pose, gaze)
                taken.append((_draw_panel(image, face, pose, measures, taken), 1.0))


def _size(face: Face) -> float:
    """Geometric mean of the sides of the points' box, px."""
    return math.sqrt(max(face.box.width, 1.0) * max(face.box.height, 1.0))


def _draw_axes(image: np.ndarray, face: Face, pose: Pose) -> None:
    """Seen along the line of sight, as the angles are told: of a face that looks into the lens the third is a dot."""
    directions = pose.rotation * (1, 1, -1)  # the third comes out of the face
    start = face.points[NOSE_TIP]
    ends = LENGTH * _pixels(pose) * directions[:2].T / _scale(face) + start
    # What points away from the camera is drawn first.
    for axis in np.argsort(-directions[2]):
        _line(image, start, ends[axis], AXES[axis], face)


def _draw_gaze(image: np.ndarray, face: Face, pose: Pose, gaze: Gaze) -> None:
    """As the axes: so that eyes that look the same way have lines side by side."""
    pixels = SIGHT * _pixels(pose) / _scale(face)
    for side, eye in (("right", gaze.right), ("left", gaze.left)):
        if eye is None or eye.confidence < 0.2:
            continue
        start = face.points[PUPILS[side]]
        _line(image, start, start + pixels * eye.direction[:2], GAZE, face)


def _pixels(pose: Pose) -> float:
    """Of a metre across the line of sight, where the head is."""
    return pose.lens.focal / float(np.linalg.norm(pose.translation))


def _scale(face: Face) -> np.ndarray:
    return np.array((1.0, 1.0) if face.sight is None else face.sight.scale)


def _line(image: np.ndarray, start: np.ndarray, end: np.ndarray, colour: tuple[int, int, int], face: Face) -> None:
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        return
    (x, y), (far_x, far_y) = np.round(np.clip([start, end], -FARTHEST, FARTHEST) * 2**SHIFT).astype(int).tolist()
    thickness = max(2, round(_size(face) / 90))  # 1 px loses its colour in yuv420p, beside black edges
    cv2.line(image, (x, y), (far_x, far_y), (0, 0, 0), thickness + 2, cv2.LINE_AA, SHIFT)
    cv2.line(image, (x, y), (far_x, far_y), colour, thickness, cv2.LINE_AA, SHIFT)


@dataclass(frozen=True)
class _Panel:
    """Lines of text, of which those with a value have a bar behind them; all sizes in px."""

    lines: tuple[tuple[str, float | None], ...]
    scale: float  # of the letters, in OpenCV's units

    @property
    def line(self) -> int:
        return round(32 * self.scale)

    @property
    def pad(self) -> int:
        return round(10 * self.scale)

    @property
    def bar(self) -> int:
        return round(110 * self.scale)

    @property
    def height(self) -> int:
        return self.line * len(self.lines) + self.pad

    @property
    def names(self) -> int:
        """Width of the widest name of a bar."""
        return max((self.wide(text) for text, value in self.lines if value is not None), default=0)

    @property
    def width(self) -> int:
        bars = self.names + 2 * self.pad + self.bar + self.wide("0.00") if self.names else 0
        return max(bars, *(self.wide(text) for text, value in self.lines if value is None)) + 2 * self.pad

    def wide(self, text: str) -> int:
        return cv2.getTextSize(text, FONT, self.scale, 1)[0][0]


def _draw_panel(image: np.ndarray, face: Face, pose: Pose, measures: Measures, taken: list[tuple[Box, float]]) -> Box:
    """The head's angles, and the shapes that are strongest, beside the face; where it lies.

    taken: what is not to be covered, and how bad it is to do so.
    """
    angles = "  ".join(f"{name} {round(getattr(pose, name))}" for name in ("yaw", "pitch", "roll"))
    strongest = sorted(((value, name) for name, value in measures.items() if value >= LEAST), reverse=True)
    scale = float(np.clip(_size(face) / 420, SMALLEST, LARGEST))
    for most in SHOWN:
        lines = ((angles, None), *((name, value) for value, name in strongest[:most]))
        panel = _Panel(lines, scale)
        panel = _Panel(lines, scale * min(1.0, image.shape[1] / panel.width))
        place = _place(image, face, panel, taken)
        if _covered(place, taken) <= COVERED * panel.width * panel.height:
            break
    _draw_lines(image, panel, int(place.left), int(place.top))
    return place


def _draw_lines(image: np.ndarray, panel: _Panel, left: int, top: int) -> None:
    plate = image[top : top + panel.height, left : left + panel.width]
    if plate.size == 0:
        return
    plate[...] = (plate * PANEL).astype(np.uint8)
    for number, (text, value) in enumerate(panel.lines):
        y = top + panel.pad // 2 + number * panel.line
        base = y + round(0.7 * panel.line)
        _write(image, text, left + panel.pad, base, panel.scale)
        if value is not None:
            start, end = left + 2 * panel.pad + panel.names, y + round(0.8 * panel.line)
            upper = y + round(0.3 * panel.line)
            cv2.rectangle(image, (start, upper), (start + panel.bar, end), TRACK, -1)
            cv2.rectangle(image, (start, upper), (start + round(panel.bar * value), end), FILL, -1)
            _write(image, f"{value:.2f}", start + panel.bar + panel.pad, base, panel.scale)


def _write(image: np.ndarray, text: str, x: int, y: int, scale: float) -> None:
    cv2.putText(image, text, (x, y), FONT, scale, INK, 1, cv2.LINE_AA)


def _place(image: np.ndarray, face: Face, panel: _Panel, taken: list[tuple[Box, float]]) -> Box:
    """Where a panel covers least: beside the face, below or above it, or in a corner of the picture."""
    box, gap, width, height = face.box, 0.08 * _size(face), panel.width, panel.height
    right, bottom = max(image.shape[1] - width, 0), max(image.shape[0] - height, 0)
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    beside = [(box.right + gap, box.top), (box.left - gap - width, box.top)]
    along = [(box.left, box.bottom + gap), (box.left, box.top - gap - height)]
    places = [
        Box(x, y, x + width, y + height)
        for x, y in ((int(np.clip(x, 0, right)), int(np.clip(y, 0, bottom))) for x, y in (*beside, *along, *corners))
    ]
    return min(places, key=lambda place: _covered(place, taken))  # the first of equals


def _covered(place: Box, taken: list[tuple[Box, float]]) -> float:
    """Square px of `taken` that a place covers, each as often as it counts."""
    return sum(
        weight
        * max(0.0, min(place.right, box.right) - max(place.left, box.left))
        * max(0.0, min(place.bottom, box.bottom) - max(place.top, box.top))
        for box, weight in taken
    )
