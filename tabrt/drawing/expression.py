"""A layer that shows what faces do: the head's axes, where the eyes look, and bars of what moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from tabrt.faces import Face, Scene
from tabrt.measures import Gaze, Measures, Pose
from tabrt.measures.head import HEAD

AXES = ((90, 90, 255), (110, 225, 110), (255, 170, 90))  # BGR: red x, green y, blue out of the face
LENGTH = 0.05  # m, of an axis
GAZE = (90, 245, 255)  # BGR
SIGHT = 0.09  # m, of a line of sight
NOSE_TIP, PUPILS = 54, {"right": 96, "left": 97}
SHOWN = 6  # bars at most
LEAST = 0.1  # of a shape that has a bar
SHIFT = 4  # bits of a pixel's fraction that OpenCV draws with
FARTHEST = 2**15  # px


@dataclass(frozen=True)
class Expression:
    """A layer: axes at the tip of the nose, lines of sight, and the strongest shapes as bars beside each face."""

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        for face in scene.faces:
            pose, gaze, measures = face.pose, face.gaze, face.measures
            if pose is not None and gaze is not None and measures is not None:
                _draw_axes(image, face, pose)
                _draw_gaze(image, face, pose, gaze)
                _draw_bars(image, face, pose, measures)


def _size(face: Face) -> float:
    """Geometric mean of the sides of the points' box, px."""
    return math.sqrt(max(face.box.width, 1.0) * max(face.box.height, 1.0))


def _draw_axes(image: np.ndarray, face: Face, pose: Pose) -> None:
    """Seen along the line of sight, as the angles are told: of a face that looks into the lens the third is a dot."""
    directions = pose.rotation * (1, 1, -1)  # the third comes out of the face
    start = face.points[NOSE_TIP]
    pixels = LENGTH * pose.lens.focal / float(np.linalg.norm(pose.translation))
    ends = pixels * directions[:2].T / _scale(face) + start
    # What points away from the camera is drawn first.
    for axis in np.argsort(-directions[2]):
        _line(image, start, ends[axis], AXES[axis], face)


def _draw_gaze(image: np.ndarray, face: Face, pose: Pose, gaze: Gaze) -> None:
    for side, eye in (("right", gaze.right), ("left", gaze.left)):
        if eye is None or eye.confidence < 0.2:
            continue
        start = HEAD[PUPILS[side]] @ pose.unsighted.T + pose.translation
        direction = pose.unsighted @ pose.rotation.T @ eye.direction
        here, there = (_seen(place, pose) for place in (start, start + SIGHT * direction))
        _line(image, face.points[PUPILS[side]], face.points[PUPILS[side]] + (there - here) / _scale(face), GAZE, face)


def _seen(place: np.ndarray, pose: Pose) -> np.ndarray:
    """Where a place (3,) in the camera's axes is seen, px."""
    return place[:2] / max(float(place[2]), 1e-3) * pose.lens.focal + pose.lens.centre


def _scale(face: Face) -> np.ndarray:
    return np.array((1.0, 1.0) if face.sight is None else face.sight.scale)


def _line(image: np.ndarray, start: np.ndarray, end: np.ndarray, colour: tuple[int, int, int], face: Face) -> None:
    if not (np.isfinite(start).all() and np.isfinite(end).all()):
        return
    (x, y), (far_x, far_y) = np.round(np.clip([start, end], -FARTHEST, FARTHEST) * 2**SHIFT).astype(int).tolist()
    thickness = max(1, round(_size(face) / 90))
    cv2.line(image, (x, y), (far_x, far_y), (0, 0, 0), thickness + 2, cv2.LINE_AA, SHIFT)
    cv2.line(image, (x, y), (far_x, far_y), colour, thickness, cv2.LINE_AA, SHIFT)


def _draw_bars(image: np.ndarray, face: Face, pose: Pose, measures: Measures) -> None:
    """The head's angles, and the shapes that are strongest, on a plate beside the face."""
    strongest = sorted(((value, name) for name, value in measures.items() if value >= LEAST), reverse=True)[:SHOWN]
    yaw, pitch, roll = (round(angle) for angle in pose.angles)
    lines = [(f"yaw {yaw}  pitch {pitch}  roll {roll}", 0.0), *((name, value) for value, name in strongest)]
    scale = float(np.clip(_size(face) / 480, 0.35, 1.2))
    height = round(26 * scale)
    width = max(cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, scale * 0.8, 1)[0][0] for text, _ in lines) + height
    left, top = _place(image, face, width, height * len(lines))
    for number, (text, value) in enumerate(lines):
        y = top + number * height
        plate = image[y : y + height, left : left + width]
        if plate.size == 0:
            continue
        plate[...] = plate // 3
        plate[:, : round(width * value)] += np.uint8(70)
        where = (left + height // 3, y + round(height * 0.72))
        cv2.putText(image, text, where, cv2.FONT_HERSHEY_DUPLEX, scale * 0.8, (240, 240, 240), 1, cv2.LINE_AA)


def _place(image: np.ndarray, face: Face, width: int, height: int) -> tuple[int, int]:
    """The plate's corner: right of the face where there is room, else left of it, always in the picture."""
    gap = 0.08 * _size(face)
    left = face.box.right + gap
    if left + width > image.shape[1]:
        left = face.box.left - gap - width
    limits = max(image.shape[1] - width, 0), max(image.shape[0] - height, 0)
    return int(np.clip(left, 0, limits[0])), int(np.clip(face.box.top, 0, limits[1]))
