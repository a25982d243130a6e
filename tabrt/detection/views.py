"""What a face detector is shown, and what becomes of what it gives: tiles, views, boxes, non-maximum suppression.

A picture is shrunk by area averaging into a square view: bilinear shrinking skips pixels, and misses a third of the
faces below 60 px in a 640 px picture. A large picture is also looked at in overlapping tiles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tabrt.geometry import Box

VIEW_SIZE = 192  # px: the full-range model's own input
MIN_PICTURE = 16  # px: no face fits into a picture with a shorter side
MIN_FACE = 12.0  # px, longer side of the landmarks' box: below it nothing is left to place points by
WHOLE_SIZE = 640  # px: a picture with a longer side is also looked at in tiles
TILE_SIZE = 480  # px of a tile; more where MAX_TILES would be passed
TILE_OVERLAP = 0.2  # share of a tile that its neighbour sees too
MAX_TILES = 12
SAME_FACE = 0.5  # intersection over minimum from which two boxes are one face

Window = tuple[int, int, int, int]  # left, top, right, bottom; px of the picture


@dataclass(frozen=True, eq=False)
class Detection:
    """A face as BlazeFace gives it, in px of a view counted from the corner of its first pixel."""

    keypoints: np.ndarray  # (6, 2): eye, eye, nose tip, mouth, ear, ear, in the picture's left to right
    centre: np.ndarray  # (2,) of its box
    width: float  # of its box
    score: float


@dataclass(frozen=True)
class Calibration:
    """From a detection to the box of the 98 points, by robust least squares (`python -m export.calibration`).

    centre: weights of eyes, nose, mouth, ears, and the detection's box; they add up to 1, so the map turns and
    scales with the face. side: weights of box width, eyes to mouth, ear to ear, and eyes to ears, which is the longer
    the more a face is turned, while ear to ear becomes the shorter.
    """

    centre: tuple[float, float, float, float, float]
    side: tuple[float, float, float, float]


def tiles(width: int, height: int) -> list[Window]:
    """The overlapping tiles in which a picture is looked at, at most MAX_TILES; none for a small picture."""
    if max(width, height) <= WHOLE_SIZE:
        return []
    size = float(TILE_SIZE)
    while _tiles_along(width, size) * _tiles_along(height, size) > MAX_TILES:
        size *= 1.1
    return [
        (left, top, right, bottom)
        for top, bottom in _spread(height, size)
        for left, right in _spread(width, size)
        if (right - left, bottom - top) != (width, height)
    ]


def _tiles_along(length: int, size: float) -> int:
    return max(1, math.ceil((length - TILE_OVERLAP * size) / ((1 - TILE_OVERLAP) * size)))


def _spread(length: int, size: float) -> list[tuple[int, int]]:
    span = min(length, math.ceil(size))
    return [(int(start), int(start) + span) for start in np.linspace(0, length - span, _tiles_along(length, size))]


def view_of(image: np.ndarray, window: Window) -> tuple[np.ndarray, float]:
    """The window, shrunk into the top left of a black square: uint8 (192, 192, 3) RGB, and the scale."""
    left, top, right, bottom = window
    scale = VIEW_SIZE / max(right - left, bottom - top)
    width, height = (max(1, round(length * scale)) for length in (right - left, bottom - top))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image[top:bottom, left:right], (width, height), interpolation=interpolation)
    view = np.zeros((VIEW_SIZE, VIEW_SIZE, 3), np.uint8)
    view[:height, :width] = small[:, :, ::-1]
    return view, scale


def turned_back(detection: Detection, quarters: int) -> Detection:
    """What was detected in a view turned by `numpy.rot90(view, quarters)`, in the view."""
    points = np.vstack([detection.keypoints, detection.centre])
    for _ in range(quarters):
        points = np.stack([VIEW_SIZE - points[:, 1], points[:, 0]], axis=1)
    return Detection(points[:-1], points[-1], detection.width, detection.score)


def boxes_of(
    detections: list[Detection], calibration: Calibration, window: Window, scale: float, shape: tuple[int, ...]
) -> list[Box]:
    """The boxes of the 98 points, in frame px, of what was detected in the view of a window of a picture (H, W, …)."""
    # BlazeFace counts from the corner of the first pixel, tabrt from its centre.
    offset = np.array(window[:2]) - 0.5
    boxes = [calibrated(detection, calibration, scale, offset) for detection in detections]
    return [box for box in boxes if _is_sound(box, shape)]


def calibrated(detection: Detection, calibration: Calibration, scale: float, offset: np.ndarray) -> Box:
    """The box of the 98 points, in frame px, of a detection in a view of this scale and offset."""
    anchors, lengths, roll = measured(detection, scale, offset)
    x, y = np.dot(calibration.centre, anchors)
    half = float(np.dot(calibration.side, lengths)) / 2
    return Box(float(x - half), float(y - half), float(x + half), float(y + half), detection.score, roll)


def measured(detection: Detection, scale: float, offset: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """What a calibration weighs, in frame px: places for the centre (5, 2), lengths for the side (4,); and the roll."""
    points, centre = detection.keypoints / scale + offset, detection.centre / scale + offset
    eyes, nose, mouth, ears = (points[0] + points[1]) / 2, points[2], points[3], (points[4] + points[5]) / 2
    across, down = points[1] - points[0], mouth - eyes
    roll = math.atan2(across[1] - down[0], across[0] + down[1])  # as Topology.roll
    lengths = np.linalg.norm([down, points[5] - points[4], eyes - ears], axis=1)
    return np.stack([eyes, nose, mouth, ears, centre]), np.array([detection.width / scale, *lengths]), roll


def _is_sound(box: Box, shape: tuple[int, ...]) -> bool:
    """Whether a box is finite, of a face's size, and centred in the picture."""
    x, y = box.centre
    if not (math.isfinite(x) and math.isfinite(y) and math.isfinite(box.roll)):
        return False
    return MIN_FACE <= box.width <= 2 * max(shape[:2]) and 0 <= x < shape[1] and 0 <= y < shape[0]


def non_maximum_suppression(boxes: list[Box]) -> list[Box]:
    """Boxes without those that share a face with an earlier one."""
    kept: list[Box] = []
    for box in boxes:
        if all(intersection_over_minimum(box, other) < SAME_FACE for other in kept):
            kept.append(box)
    return kept


def intersection_over_minimum(a: Box, b: Box) -> float:
    """Share of the smaller box that lies inside the other, both taken upright."""
    width = min(a.right, b.right) - max(a.left, b.left)
    height = min(a.bottom, b.bottom) - max(a.top, b.top)
    smaller = min(a.width * a.height, b.width * b.height)
    return width * height / smaller if width > 0 and height > 0 and smaller > 0 else 0.0
