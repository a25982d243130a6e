"""Layers of a picture: what was found in a frame.

Each face is drawn inside its own rectangle of one copy of the frame, so that the cost follows the faces' size.
Lines and points are placed to 1/16 px and grow with the face; what the network is unsure of fades.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np

from tabrt.faces import Face, Layer, Scene
from tabrt.geometry import STRIDE, Box, Crop
from tabrt.topology import Topology

# BGR, by id: told apart with any colour vision, and all brighter than skin in shade.
PALETTE = (
    (255, 208, 79),  # sky
    (77, 210, 255),  # amber
    (190, 235, 90),  # mint
    (203, 140, 255),  # pink
    (90, 150, 255),  # orange
    (120, 245, 225),  # lime
    (255, 160, 160),  # periwinkle
    (240, 240, 240),  # white
)
SHIFT = 4  # bits of a pixel's fraction that OpenCV draws with
CURVE_STEPS = 6  # straight pieces between two landmarks
# Chosen by eye on faces of 30 to 800 px. A face's size is the geometric mean of the sides of its points' box, px.
LINE_WIDTH = 1 / 170  # of a curve, in face sizes; at least 1 px …
THIN_LINES = 500  # px: … so that smaller faces have paler curves
POINT_RADIUS, MIN_RADIUS = 1 / 160, 0.55  # face sizes; px
GLOW_RIM = 1.2  # px at least around points on boundary heatmaps
DENSE_POINTS = 130  # px: smaller faces have paler points, which would lie side by side
FONT_SCALE = 1 / 260  # of the id, in OpenCV's units a px of face size
LABEL_GAP = 0.45  # face sizes between the brows and the id
MIN_OPACITY = 0.1  # of a point with no confidence at all
MAP_OPACITY = 0.75  # of the boundary heatmaps where they are 1
MAX_COORDINATE = 2**16  # px: OpenCV draws with 32-bit numbers
MAP_OFFSET = (STRIDE - 1) / 2  # crop px of the middle of cell 0, unless a model's card says otherwise


def draw(scene: Scene, topology: Topology, boundaries: bool = False) -> np.ndarray:
    """Draw the faces of a scene on a copy of its frame: uint8 (H, W, 3) BGR.

    With `boundaries`, the network's boundary heatmaps glow on the faces that carry them, in place of the curves.
    """
    return replace(scene, layers=face_layers(topology, boundaries)).picture


def face_layers(topology: Topology, boundaries: bool = False, offset: float = MAP_OFFSET) -> tuple[Layer, ...]:
    """The layers of a picture that show its faces, as `draw` does.

    offset: crop px of the middle of a heatmap's first cell, as the model's card says.
    """
    return (Boundaries(offset), Points(topology, over_maps=True)) if boundaries else (Points(topology),)


@dataclass(frozen=True)
class Boundaries:
    """A layer: boundary heatmaps that glow on the faces that carry them. offset: crop px of the middle of cell 0."""

    offset: float = MAP_OFFSET

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        for face in scene.faces:
            if face.boundaries is not None and face.crop is not None and np.isfinite(face.points).all():
                _draw_maps(image, face.crop, face.boundaries, self.offset)


@dataclass(frozen=True)
class Points:
    """A layer: points, the curves through them and the id. over_maps: no curves where boundary heatmaps glow."""

    topology: Topology
    over_maps: bool = False

    def __call__(self, image: np.ndarray, scene: Scene) -> None:
        for face in scene.faces:
            if np.isfinite(face.points).all():
                with_maps = self.over_maps and face.boundaries is not None and face.crop is not None
                _draw_face(image, face, None if with_maps else self.topology)


def _draw_face(image: np.ndarray, face: Face, curves: Topology | None) -> None:
    size = _size(face.points)
    colour = PALETTE[(face.id - 1) % len(PALETTE)]
    canvas = _Canvas(image, face.points, margin=0.05 * size + 4)
    if canvas.visible:
        if curves is not None:
            _draw_curves(canvas, face, curves, size)
            canvas.blend(colour)
        _draw_points(canvas, face, size, on_maps=curves is None)
        canvas.blend(_lighter(colour))
    _draw_label(image, face, colour)


def _size(points: np.ndarray) -> float:
    """Geometric mean of the sides of the points' box, px."""
    width, height = np.ptp(points, axis=0)
    return float(np.clip(math.sqrt(max(width, 1.0) * max(height, 1.0)), 1.0, MAX_COORDINATE))


class _Canvas:
    """A sheet as large as a face's rectangle in the image: alpha is drawn on it, then blended in as a colour."""

    def __init__(self, image: np.ndarray, points: np.ndarray, margin: float):
        height, width = image.shape[:2]
        low = np.floor(np.clip(points.min(axis=0) - margin, 0, (width, height))).astype(int)
        high = np.ceil(np.clip(points.max(axis=0) + margin + 1, 0, (width, height))).astype(int)
        self.origin = low
        self.part = image[low[1] : high[1], low[0] : high[0]]
        self.visible = self.part.size > 0
        self.alpha = np.zeros(self.part.shape[:2], np.uint8)
        self.shade = np.zeros(self.part.shape[:2], np.uint8)

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (..., 2) in frame px, to int32 in 1/16 px of the sheet."""
        local = np.clip(points - self.origin, -MAX_COORDINATE, MAX_COORDINATE)
        return np.round(local * 2**SHIFT).astype(np.int32)

    def blend(self, colour: tuple[int, int, int]) -> None:
        """Darken the part under the shade, lay the colour on by alpha, and clear the sheet."""
        shade = cv2.max(self.shade, self.alpha)
        keep = cv2.cvtColor(255 - shade, cv2.COLOR_GRAY2BGR)
        tint = cv2.LUT(cv2.cvtColor(self.alpha, cv2.COLOR_GRAY2BGR), _ramps(colour))
        self.part[...] = cv2.add(cv2.multiply(self.part, keep, scale=1 / 255), tint)
        self.alpha[...] = 0
        self.shade[...] = 0


@lru_cache(maxsize=64)
def _ramps(colour: tuple[int, int, int]) -> np.ndarray:
    """(256, 1, 3): a colour times alpha."""
    ramp = np.arange(256)[:, None, None] * np.asarray(colour) / 255
    return np.round(ramp).astype(np.uint8)


def _lighter(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    blue, green, red = ((value + 2 * 255) // 3 for value in colour)
    return blue, green, red


def _alphas(confidence: np.ndarray) -> np.ndarray:
    """(…,): how strongly something of this confidence is drawn, 0…1."""
    return MIN_OPACITY + (1 - MIN_OPACITY) * np.clip(np.nan_to_num(confidence), 0, 1) ** 1.5


def _draw_curves(canvas: _Canvas, face: Face, topology: Topology, size: float) -> None:
    thickness = max(1, round(size * LINE_WIDTH))
    strength = min(1.0, 0.55 + size / THIN_LINES)  # thinner than a pixel on a small face: paler instead
    alphas = _alphas(face.confidence) * strength
    for boundary in topology.boundaries.values():
        indices = list(boundary)
        curve = canvas.place(_curve(face.points[indices]))
        ends = alphas[indices]
        for piece, alpha in enumerate(((ends[:-1] + ends[1:]) / 2).tolist()):
            part = [curve[piece * CURVE_STEPS : (piece + 1) * CURVE_STEPS + 1]]
            cv2.polylines(canvas.shade, part, False, 90 * alpha, thickness + 2, cv2.LINE_AA, SHIFT)
            cv2.polylines(canvas.alpha, part, False, 215 * alpha, thickness, cv2.LINE_AA, SHIFT)


def _draw_points(canvas: _Canvas, face: Face, size: float, on_maps: bool) -> None:
    # On a small face the points would lie side by side: paler, so that eyes and lips still show.
    alphas = _alphas(face.confidence) * float(np.clip(size / DENSE_POINTS, 0.3, 1.0))
    radius = max(MIN_RADIUS, size * POINT_RADIUS)
    rim = min(1.0, radius / 2)  # dark, so that light points show on light skin
    dark = 110
    if on_maps:  # whose glow is as light as the points are
        rim, dark = max(GLOW_RIM, 0.7 * radius), 255
    radii = radius * (0.6 + 0.4 * alphas)
    for (x, y), radius, alpha in zip(canvas.place(face.points).tolist(), radii.tolist(), alphas.tolist(), strict=True):
        cv2.circle(canvas.shade, (x, y), round((radius + rim) * 2**SHIFT), dark * alpha, -1, cv2.LINE_AA, SHIFT)
        cv2.circle(canvas.alpha, (x, y), round(radius * 2**SHIFT), 255 * alpha, -1, cv2.LINE_AA, SHIFT)


def _curve(points: np.ndarray) -> np.ndarray:
    """A Catmull-Rom spline through points (n, 2), in straight pieces: ((n - 1) · CURVE_STEPS + 1, 2)."""
    return _curve_matrix(len(points)) @ points


@lru_cache(maxsize=64)
def _curve_matrix(knots: int) -> np.ndarray:
    """(samples, knots): the spline as a linear map; the ends are continued straight."""
    at = np.arange((knots - 1) * CURVE_STEPS + 1) / CURVE_STEPS
    first = np.minimum(at.astype(int), knots - 2)
    t = (at - first)[:, None]
    eye = np.eye(knots)
    padded = np.vstack([2 * eye[:1] - eye[1:2], eye, 2 * eye[-1:] - eye[-2:-1]])
    a, b, c, d = (padded[first + offset] for offset in range(4))
    return (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3) / 2


def _draw_maps(image: np.ndarray, crop: Crop, boundaries: np.ndarray, offset: float) -> None:
    """Lay boundary heatmaps (16, S, S) over the crop's part of the image, brightest where they are."""
    last = boundaries.shape[-1] - 1  # cell
    corners = crop.to_frame(np.array([[0, 0], [0, last], [last, 0], [last, last]]) * STRIDE + offset)
    canvas = _Canvas(image, corners, margin=0)
    if not canvas.visible:
        return
    heat = np.nan_to_num(boundaries[:-1]).max(axis=0).clip(0, 1)
    cells = np.array([[0, 0], [last, 0], [0, last]], np.float32)
    matrix = cv2.getAffineTransform(cells, (crop.to_frame(cells * STRIDE + offset) - canvas.origin).astype(np.float32))
    size = canvas.part.shape[1::-1]
    warped = cv2.warpAffine((heat**1.5 * 255).astype(np.uint8), matrix, size, flags=cv2.INTER_CUBIC)
    keep = cv2.cvtColor(255 - cv2.LUT(warped, _map_opacity()), cv2.COLOR_GRAY2BGR)
    light = cv2.LUT(cv2.cvtColor(warped, cv2.COLOR_GRAY2BGR), _map_colours())
    canvas.part[...] = cv2.add(cv2.multiply(canvas.part, keep, scale=1 / 255), light)


@lru_cache(maxsize=1)
def _map_opacity() -> np.ndarray:
    """(256,): how much of the picture a value of the heatmap hides."""
    return np.round(np.linspace(0, 1, 256) ** 1.2 * MAP_OPACITY * 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _map_colours() -> np.ndarray:
    """(256, 1, 3): the colour of a value, already weighed by how much it hides."""
    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO)
    return np.round(ramp * (_map_opacity()[:, None, None] / 255)).astype(np.uint8)


@dataclass(frozen=True)
class _Label:
    """The plate with a face's id, and how its letters are written."""

    place: Box  # whole px
    scale: float  # of the letters, in OpenCV's units
    thickness: int
    letters: tuple[int, int]  # width, height, px


def _pad(height: int) -> int:
    """Around letters of this height, px."""
    return max(3, round(0.35 * height))


def _label(image: np.ndarray, face: Face) -> _Label | None:
    """Above the face and in the picture; None where that has no room for it."""
    size = _size(face.points)
    scale = float(np.clip(size * FONT_SCALE, 0.4, 3.0))
    thickness = max(1, round(1.6 * scale))
    (width, height), _ = cv2.getTextSize(str(face.id), cv2.FONT_HERSHEY_DUPLEX, scale, thickness)
    pad = _pad(height)
    plate = np.array([max(width, 2 * height) + 2 * pad, height + 3 * pad])
    limits = np.array(image.shape[1::-1]) - plate
    if (limits < 0).any():
        return None
    top = face.points[:, 1].min() - LABEL_GAP * size - plate[1]
    corner = np.clip((face.points[:, 0].mean() - plate[0] / 2, top), 0, limits).astype(int)
    return _Label(Box(*corner.tolist(), *(corner + plate).tolist()), scale, thickness, (width, height))


def label_places(image: np.ndarray, faces: tuple[Face, ...]) -> list[Box]:
    """Where the ids of faces are drawn."""
    labels = [_label(image, face) for face in faces if np.isfinite(face.points).all()]
    return [label.place for label in labels if label is not None]


def _draw_label(image: np.ndarray, face: Face, colour: tuple[int, int, int]) -> None:
    """The id on a small plate above the face, and a bar under it as long as the face is sure."""
    label = _label(image, face)
    if label is None:
        return
    place = label.place
    left, top, right, bottom = (int(side) for side in (place.left, place.top, place.right, place.bottom))
    _draw_plate(image[top:bottom, left:right], face, colour, _pad(label.letters[1]))
    width, height = label.letters
    origin = left + (right - left - width) // 2, top + _pad(height) + height
    cv2.putText(image, str(face.id), origin, cv2.FONT_HERSHEY_DUPLEX, label.scale, colour, label.thickness, cv2.LINE_AA)


def _draw_plate(part: np.ndarray, face: Face, colour: tuple[int, int, int], pad: int) -> None:
    part[...] = part // 3
    bar = max(1, pad // 2)
    full = part.shape[1] - 2 * pad
    sure = float(np.clip(np.nan_to_num(face.confidence).mean(), 0, 1))
    bottom = part.shape[0] - pad // 2
    part[bottom - bar : bottom, pad : pad + round(full * sure)] = colour
