"""A layer that shows what faces do: the head's axes, where the eyes look, and bars of what moves.

Small faces get their axes alone: the rest would cover them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from tabrt.drawing.overlay import PALETTE, label_places
from tabrt.faces import Face, Scene
from tabrt.geometry import Box
from tabrt.measures import SHAPES, Gaze, Measures, Person, Pose

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
GAP = 0.08  # face sizes between a face and its panel, and how far it may move before the panel does
STEADY = 0.15  # change of a face's size, as a logarithm, before the letters change theirs
WIDEST_NAME = max(SHAPES, key=lambda name: cv2.getTextSize(name, FONT, 1.0, 1)[0][0])
WIDEST_ANGLES = "00  yaw -00  pitch -00  roll -000"


@dataclass(frozen=True)
class Expression:
    """A layer: axes at the tip of the nose, lines of sight, and the strongest shapes as bars beside each face.

    kept: the place in a picture that something else will be written on. Scenes are to come in their order: a panel
    stays where it was in the one before, while it covers nothing there.
    """

    kept: Callable[[np.ndarray], Box] | None = None
    _panels: WeakKeyDictionary[Person, _Kept] = field(default_factory=WeakKeyDictionary, init=False, compare=False)

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        taken = [(face.box, 1.0) for face in scene.faces]
        taken += [(place, LABEL) for place in label_places(image, scene.faces)]
        if self.kept is not None:
            taken.append((self.kept(image), LABEL))
        for number, face in enumerate(scene.faces):
            pose, gaze, measures, sight = face.pose, face.gaze, face.measures, face.sight
            if pose is None or gaze is None or measures is None or sight is None:
                continue
            _draw_axes(image, face, pose)
            if _size(face) >= SMALL:
                _draw_gaze(image, face, pose, gaze)
                last = [self._panels.get(other.sight.person) for other in scene.faces[number + 1 :] if other.sight]
                theirs = [(kept.place, 1.0) for kept in last if kept is not None]
                kept = _draw_panel(image, face, pose, measures, [*taken, *theirs], self._panels.get(sight.person))
                self._panels[sight.person] = kept
                taken.append((kept.place, 1.0))


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
    """Whose it is, the head's angles, and bars of at most so many shapes below; all sizes in px.

    It is as wide, whatever the numbers and names in it are, so that it need not move for them.
    """

    most: int
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
    def stripe(self) -> int:
        """In the face's colour, at the left."""
        return max(3, round(6 * self.scale))

    @property
    def height(self) -> int:
        return self.high(self.most)

    def high(self, bars: int) -> int:
        return self.line * (1 + bars) + self.pad

    @property
    def names(self) -> int:
        """Width of the widest name of a bar."""
        return self.wide(WIDEST_NAME)

    @property
    def width(self) -> int:
        bars = self.names + 2 * self.pad + self.bar + self.wide("0.00") if self.most else 0
        return max(bars, self.wide(WIDEST_ANGLES)) + 2 * self.pad + self.stripe

    def wide(self, text: str) -> int:
        return cv2.getTextSize(text, FONT, self.scale, 1)[0][0]


@dataclass(frozen=True)
class _Kept:
    """How a panel was drawn."""

    panel: _Panel
    spot: int  # of those around the face
    place: Box


def _draw_panel(
    image: np.ndarray,
    face: Face,
    pose: Pose,
    measures: Measures,
    taken: list[tuple[Box, float]],
    last: _Kept | None,
) -> _Kept:
    """The face's id, the head's angles, and the shapes that are strongest, beside the face; how it was drawn.

    taken: what is not to be covered, and how bad it is to do so. last: how it was drawn in the frame before.
    """
    kept = _placed(image, face, taken, last)
    strongest = sorted(((value, name) for name, value in measures.items() if value >= LEAST), reverse=True)
    left, top = int(kept.place.left), int(kept.place.top)
    _draw_lines(image, kept.panel, face.id, pose, strongest[: kept.panel.most], left, top)
    return kept


def _draw_lines(
    image: np.ndarray, panel: _Panel, owner: int, pose: Pose, bars: list[tuple[float, str]], left: int, top: int
) -> None:
    plate = image[top : top + panel.high(len(bars)), left : left + panel.width]
    if plate.size == 0:
        return
    colour = PALETTE[(owner - 1) % len(PALETTE)]
    plate[...] = (plate * PANEL).astype(np.uint8)
    plate[:, : panel.stripe] = colour
    left += panel.stripe + panel.pad
    y, letters = top + panel.pad // 2, round(0.7 * panel.line)
    number = f"{owner}  "
    _write(image, number, left, y + letters, panel.scale, colour)
    angles = "  ".join(f"{name} {round(getattr(pose, name))}" for name in ("yaw", "pitch", "roll"))
    _write(image, angles, left + panel.wide(number), y + letters, panel.scale)
    for value, name in bars:
        y += panel.line
        _write(image, name, left, y + letters, panel.scale)
        start, upper, lower = left + panel.pad + panel.names, y + round(0.3 * panel.line), y + round(0.8 * panel.line)
        cv2.rectangle(image, (start, upper), (start + panel.bar, lower), TRACK, -1)
        cv2.rectangle(image, (start, upper), (start + round(panel.bar * value), lower), FILL, -1)
        _write(image, f"{value:.2f}", start + panel.bar + panel.pad, y + letters, panel.scale)


def _write(image: np.ndarray, text: str, x: int, y: int, scale: float, colour: tuple[int, int, int] = INK) -> None:
    cv2.putText(image, text, (x, y), FONT, scale, colour, 1, cv2.LINE_AA)


def _placed(image: np.ndarray, face: Face, taken: list[tuple[Box, float]], last: _Kept | None) -> _Kept:
    """Where it was, as long as it covers little there; else where it covers least, with fewer bars if need be."""
    scale = float(np.clip(_size(face) / 420, SMALLEST, LARGEST))
    if last is not None and abs(math.log(scale / last.panel.scale)) < STEADY:
        scale = last.panel.scale
    for most in SHOWN:
        panel = _fitting(most, scale, image.shape[1])
        spots, covered = _spots(image, face, panel), COVERED * panel.width * panel.height
        if last is not None and most == last.panel.most:
            place = _followed(image, face, panel, spots[last.spot], last.place)
            if _covered(place, taken) <= covered:
                return _Kept(panel, last.spot, place)
        elif last is not None and most > last.panel.most:
            covered = 0  # more bars come back where there is room to spare, or they would come and go
        usual = 0 if last is None else last.spot
        least, _, spot = min((_covered(place, taken), spot != usual, spot) for spot, place in enumerate(spots))
        if least <= covered:
            break
    return _Kept(panel, spot, spots[spot])


def _fitting(most: int, scale: float, width: int) -> _Panel:
    """With letters of a scale, or the largest hundredth below it with which the panel is no wider than the picture."""
    panel, hundredths = _Panel(most, scale), int(100 * scale)
    while panel.width > width and hundredths > 1:
        panel, hundredths = _Panel(most, hundredths / 100), hundredths - 1
    return panel


def _followed(image: np.ndarray, face: Face, panel: _Panel, spot: Box, last: Box) -> Box:
    """Where a panel lay, drawn along by its face no sooner than it must: so it rests while the face trembles."""
    slack, (height, width) = GAP * _size(face), image.shape[:2]
    x = min(max(last.left, spot.left - slack), spot.left + slack, max(width - panel.width, 0))
    y = min(max(last.top, spot.top - slack), spot.top + slack, max(height - panel.height, 0))
    x, y = int(max(x, 0)), int(max(y, 0))
    return Box(x, y, x + panel.width, y + panel.height)


def _spots(image: np.ndarray, face: Face, panel: _Panel) -> list[Box]:
    """Where a panel may lie: beside the face, below or above it, or in a corner of the picture."""
    box, gap, width, height = face.box, GAP * _size(face), panel.width, panel.height
    right, bottom = max(image.shape[1] - width, 0), max(image.shape[0] - height, 0)
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom)]
    beside = [(box.right + gap, box.top), (box.left - gap - width, box.top)]
    along = [(box.left, box.bottom + gap), (box.left, box.top - gap - height)]
    return [
        Box(x, y, x + width, y + height)
        for x, y in ((int(np.clip(x, 0, right)), int(np.clip(y, 0, bottom))) for x, y in (*beside, *along, *corners))
    ]


def _covered(place: Box, taken: list[tuple[Box, float]]) -> float:
    """Square px of `taken` that a place covers, each as often as it counts."""
    return sum(
        weight
        * max(0.0, min(place.right, box.right) - max(place.left, box.left))
        * max(0.0, min(place.bottom, box.bottom) - max(place.top, box.top))
        for box, weight in taken
    )
