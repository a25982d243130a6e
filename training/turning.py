"""Faces turned out of the picture's plane: what portraits teach of profiles.

A face's 3D mesh is turned about the head's vertical and horizontal axes, the picture is warped after it triangle by
triangle, and the landmarks are carried along. Those that the turn hides are put where WFLW's annotators put them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np

from tabrt.topology import WFLW98

_BEHIND = 60.0  # px behind the mesh's mean depth: where the axes of the turn lie
# Size over the oval's, and share of the turn: hair goes along, the background stays.
_RINGS = ((1.25, 0.9), (1.6, 0.6), (2.6, 0.0))
_TEMPLES = (234, 454)  # vertices at the left and the right ear: they tell where a head looks
# Degrees: up to the first the far jaw follows the cheek's outline, from the second on a straight line.
_OUTLINE, _LINE = 45.0, 75.0
_SUNK = (3.0, 9.0)  # px behind the surface in front: from here a point counts as hidden, more and more
_SQUEEZED = 0.15  # of a hidden point's distance from the outline is kept
_JAW = np.arange(33)
_SHIFT = 4  # binary places of a polygon's corners


@dataclass(frozen=True)
class Shape:
    """What all meshes have in common: triangles (T, 3), those of the face first, and the oval (K,) around it."""

    triangles: np.ndarray
    surface: int
    oval: np.ndarray

    @property
    def all(self) -> np.ndarray:
        """(T + 6K, 3): the triangles, and those of the rings, whose vertices follow the mesh's 478."""
        count = len(self.oval)
        rings = [self.oval, *(478 + count * i + np.arange(count) for i in range(len(_RINGS)))]
        strips = []
        for inner, outer in pairwise(rings):
            ahead_in, ahead_out = np.roll(inner, -1), np.roll(outer, -1)
            strips += [np.stack([inner, outer, ahead_out], axis=1), np.stack([inner, ahead_out, ahead_in], axis=1)]
        return np.concatenate([self.triangles, *strips]).astype(int)


def yaw_of(mesh: np.ndarray) -> float:
    """Degrees by which a mesh (478, 3) is turned about the vertical; positive: its left in the picture is nearer."""
    across = mesh[_TEMPLES[1]] - mesh[_TEMPLES[0]]
    return math.degrees(math.atan2(across[2], across[0]))


def turn(
    image: np.ndarray, mesh: np.ndarray, points: np.ndarray, shape: Shape, yaw: float, pitch: float
) -> tuple[np.ndarray, np.ndarray]:
    """A face turned until its yaw is this, and by this pitch more, in degrees: its picture, and its points.

    image uint8 (H, W, 3); mesh (478, 3) in its px, z growing away from the camera; points (98, 2) in its px. The face
    is set upright first. Returns a picture of the same size and points (98, 2).
    """
    upright, middle, still, turned = _stood_and_turned(mesh, points, shape, yaw, pitch)
    triangles = shape.all
    seen = _Seen.of(turned, triangles, image.shape[:2])
    background = upright.T, middle - upright.T @ middle
    picture = _warped(image, seen, still, background)
    moved, depths = _carried(points, still, turned, triangles)
    beside = np.zeros_like(moved)
    moved[_JAW], depths[_JAW], beside[_JAW] = _along_oval(points[_JAW], mesh, turned, shape.oval, upright)
    return picture, _settled(moved, depths, beside, seen, shape.surface, yaw).astype(np.float32)


def turned_mesh(mesh: np.ndarray, points: np.ndarray, shape: Shape, yaw: float, pitch: float) -> np.ndarray:
    """The mesh (478, 3) of the face in the picture that `turn` makes of the same, in that picture's px."""
    return _stood_and_turned(mesh, points, shape, yaw, pitch)[3][: len(mesh)]


def _stood_and_turned(
    mesh: np.ndarray, points: np.ndarray, shape: Shape, yaw: float, pitch: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The rotation (2, 2) that sets a face upright and the middle (2,) it is set about; mesh and rings as they are,
    and as they are turned (478 + 3K, 3).
    """
    upright = _rotation(-WFLW98.roll(points))
    middle = mesh[shape.oval, :2].mean(axis=0)
    still = _with_rings(mesh, shape.oval)
    standing = np.column_stack([(still[:, :2] - middle) @ upright.T, still[:, 2]])
    by = math.radians(yaw - yaw_of(standing))
    turned = _turned(standing, len(mesh), by, math.radians(pitch), len(shape.oval))
    turned[:, :2] += middle
    return upright, middle, still, turned


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _with_rings(mesh: np.ndarray, oval: np.ndarray) -> np.ndarray:
    """The mesh, and the vertices of the rings behind it: (478 + 3K, 3)."""
    edge = mesh[oval]
    centre = edge.mean(axis=0) * (1, 1, 0)
    grown = [np.column_stack([centre[:2] + size * (edge[:, :2] - centre[:2]), edge[:, 2]]) for size, _ in _RINGS]
    return np.concatenate([mesh, *grown]).astype(np.float64)


def _turned(standing: np.ndarray, face: int, yaw: float, pitch: float, ring: int) -> np.ndarray:
    """Every vertex turned by its share of the angles, in radians, about axes behind the face."""
    shares = np.concatenate([np.ones(face), *(np.full(ring, share) for _, share in _RINGS)])
    depth = standing[:face, 2].mean() + _BEHIND
    x, y, z = standing[:, 0], standing[:, 1], standing[:, 2] - depth
    cos, sin = np.cos(yaw * shares), np.sin(yaw * shares)
    x, z = x * cos - z * sin, x * sin + z * cos
    cos, sin = np.cos(pitch * shares), np.sin(pitch * shares)
    y, z = y * cos - z * sin, y * sin + z * cos
    return np.stack([x, y, z + depth], axis=1)


@dataclass(frozen=True, eq=False)
class _Seen:
    """Which triangle is in front at each pixel, or −1, and where the triangles are."""

    front: np.ndarray  # (H, W) int32
    corners: np.ndarray  # (T, 3, 3): of the turned triangles
    vertices: np.ndarray  # (T, 3)

    @classmethod
    def of(cls, turned: np.ndarray, triangles: np.ndarray, size: tuple[int, int]) -> _Seen:
        corners = turned[triangles]
        front = np.full(size, -1, np.int32)
        fixed = np.round(corners[..., :2] * 2**_SHIFT).astype(np.int32)
        for i in np.argsort(-corners[..., 2].mean(axis=1)).tolist():  # the farthest first: nearer ones cover it
            cv2.fillConvexPoly(front, fixed[i], i, cv2.LINE_8, _SHIFT)
        return cls(front, corners, triangles)

    def planes(self, values: np.ndarray) -> np.ndarray:
        """(T, 3, K): the values (T, 3, K) at the corners as factors of x, y, 1 over each turned triangle."""
        places = np.concatenate([self.corners[..., :2], np.ones((len(self.corners), 3, 1))], axis=2)
        flat = np.abs(np.linalg.det(places)) < 1e-3
        places[flat] = np.eye(3)  # seen edge-on: a pixel of it at most shows
        return np.linalg.solve(places, values)


def _warped(image: np.ndarray, seen: _Seen, still: np.ndarray, background: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    height, width = image.shape[:2]
    linear, offset = background
    behind = np.column_stack([linear, offset]).T[None]  # the last: what −1 stands for
    planes = np.concatenate([seen.planes(still[seen.vertices][..., :2]), behind])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    planes = planes.astype(np.float32)[seen.front]  # (H, W, 3, 2)
    maps = planes[..., 0, :] * x[..., None] + planes[..., 1, :] * y[..., None] + planes[..., 2, :]
    return cv2.remap(image, maps[..., 0], maps[..., 1], cv2.INTER_LINEAR)


def _carried(
    points: np.ndarray, still: np.ndarray, turned: np.ndarray, triangles: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The points (98, 2) after the turn, each at its place in the triangle it lay in; and their depths (98,)."""
    corners = still[triangles][..., :2]
    places = np.concatenate([corners, np.ones((len(corners), 3, 1))], axis=2)
    places[np.abs(np.linalg.det(places)) < 1e-3] = 1e6 * np.eye(3)
    shares = np.linalg.solve(places.transpose(0, 2, 1)[None], np.column_stack([points, np.ones(98)])[:, None, :, None])
    shares = shares[..., 0]  # (98, T, 3)
    lies_in = shares.min(axis=2).argmax(axis=1)  # the triangle it lies in, or least far out of
    own = shares[np.arange(98), lies_in]
    moved = (own[:, :, None] * turned[triangles[lies_in]]).sum(axis=1)
    return moved[:, :2], moved[:, 2]


def _along_oval(
    points: np.ndarray, mesh: np.ndarray, turned: np.ndarray, oval: np.ndarray, upright: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places of the oval nearest to points of the jaw, after the turn; their depths; how far beside they lie.

    A few px inside of it the surface of a portrait already lies much nearer, and would take them onto the cheek.
    """
    starts, ends = mesh[oval, :2], mesh[np.roll(oval, -1), :2]
    steps = ends - starts
    along = ((points[:, None] - starts) * steps).sum(axis=2) / np.maximum((steps**2).sum(axis=1), 1e-9)
    along = np.clip(along, 0, 1)[..., None]  # (33, K, 1)
    away = points[:, None] - (starts + along * steps)
    nearest = (away**2).sum(axis=2).argmin(axis=1)
    rows = np.arange(len(points))
    share, away = along[rows, nearest], away[rows, nearest]
    moved = (1 - share) * turned[oval[nearest]] + share * turned[np.roll(oval, -1)[nearest]]
    return moved[:, :2], moved[:, 2], away @ upright.T


def _settled(
    points: np.ndarray, depths: np.ndarray, beside: np.ndarray, seen: _Seen, surface: int, yaw: float
) -> np.ndarray:
    """Hidden points moved to where people mark them: to the face's outline, or, of the jaw, to a line at its front.

    beside (98, 2): what is added to the points once it is known which are hidden.
    """
    far = 1 if yaw > 0 else -1  # the side of the picture that the face looks to
    hidden = _hidden(points, depths, seen)
    rows = _outline(seen.front, surface, far)
    edge = rows[np.clip(np.round(points[:, 1]).astype(int), 0, len(rows) - 1)]
    known = np.isfinite(edge)
    jaw = np.isin(np.arange(98), _JAW)
    kept = np.where(jaw, 0.0, _SQUEEZED)
    squeezed = edge + kept * (points[:, 0] - edge)
    out = points.copy()
    share = np.where(known & _far_side(far), hidden, 0.0)
    out[:, 0] = (1 - share) * points[:, 0] + share * np.where(known, squeezed, 0.0)
    return _far_jaw(out + beside, far, abs(yaw))


def _far_side(far: int) -> np.ndarray:
    """(98,) bool: points that a turn to this side hides; those of the midline too."""
    left = np.zeros(98, bool)
    left[[i for i in range(98) if WFLW98.mirror[i] != i and _is_left(i)]] = True
    return ~left if far > 0 else left | (WFLW98.mirror == np.arange(98))


def _is_left(i: int) -> bool:
    return i < WFLW98.mirror[i] if i < 33 or i >= 51 else i <= 41


def _hidden(points: np.ndarray, depths: np.ndarray, seen: _Seen) -> np.ndarray:
    """(98,) 0…1: how surely something lies in front of a point."""
    height, width = seen.front.shape
    x, y = (np.clip(np.round(points[:, i]).astype(int), 0, limit - 1) for i, limit in ((0, width), (1, height)))
    front = seen.front[y, x]
    plane = seen.planes(seen.corners[..., 2:])[front][..., 0]
    nearest = plane[:, 0] * points[:, 0] + plane[:, 1] * points[:, 1] + plane[:, 2]
    low, high = _SUNK
    return np.where(front < 0, 0.0, np.clip((depths - nearest - low) / (high - low), 0, 1))


def _outline(front: np.ndarray, surface: int, far: int) -> np.ndarray:
    """(H,): the x at which each row of the face ends on the far side; NaN where there is no face."""
    face = (front >= 0) & (front < surface)
    width = face.shape[1]
    ends = width - 1 - face[:, ::-1].argmax(axis=1) if far > 0 else face.argmax(axis=1)
    return np.where(face.any(axis=1), ends, np.nan).astype(np.float64)


def _far_jaw(points: np.ndarray, far: int, yaw: float) -> np.ndarray:
    """The far half of the jaw, moved towards a straight line from the chin to the far eye's outer corner."""
    share = float(np.clip((yaw - _OUTLINE) / (_LINE - _OUTLINE), 0, 1))
    share = share * share * (3 - 2 * share)
    indices = np.arange(17, 33) if far > 0 else np.arange(15, -1, -1)
    corner = points[72 if far > 0 else 60]
    along = (np.arange(1, 17) / 16)[:, None]
    out = points.copy()
    out[indices] = (1 - share) * points[indices] + share * ((1 - along) * points[16] + along * corner)
    return out
