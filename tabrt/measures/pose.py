"""Head pose: how a face is turned, and where it is.

The axes are those of OpenCV's camera: x to the picture's right, y down, z away from the camera, right-handed. The
head's own axes are the same while it looks into the camera. Angles in degrees, each right-handed about its axis, with
rotation = Ry(yaw) · Rx(pitch) · Rz(roll):

    yaw   > 0  the nose turns to the picture's left: the person looks to their right
    pitch > 0  the nose goes down
    roll  > 0  the head tilts clockwise in the picture: towards the person's left shoulder

The rotation is that against the line of sight from the camera to the head, not against the camera's own axis: 0, 0, 0
is a face that looks into the lens wherever it is in the picture, and a wrong focal length does not turn it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from tabrt.measures.head import ANGLE, EYE_DISTANCE, HEAD, MARKED, SURENESS, side_of
from tabrt.measures.lens import Lens

RIGID = np.array([60, 64, 68, 72, *range(51, 60)])  # eye corners and nose: what no expression moves
JAW = np.arange(0, 33, 2)
JAW_WEIGHT = 0.2  # its points slide along the outline, but there are many of them and they calm the pose
USED = np.concatenate([RIGID, JAW])
USUAL_SIZE = 0.05  # standard deviation of the rigid points over their distance: of a face at 0.6 m
LEAST_CONFIDENCE = 0.05
STEPS = 30  # of Gauss-Newton at most
DONE = 6e-3  # radians, and shares of the distance, of a step after which there is no need of another …
LONGEST = 0.5  # … and that one step may make
SIDEWAYS = 1e-3  # least part of a line of sight across a profile: straight across, no turn brings it farther
FARTHER = 30.0  # degrees that a second start is turned more
LOST = 0.25  # eye distances, misfit of a pose from which a solution is sought anew


@dataclass(frozen=True, eq=False)
class Pose:
    """A head's six degrees of freedom. See the module for axes and signs."""

    rotation: np.ndarray  # (3, 3) the head's axes to the camera's, the line of sight taken off
    translation: np.ndarray  # (3,) metres, of the middle between the eyes, for a head of mean size
    unsighted: np.ndarray = field(repr=False)  # (3, 3) the rotation with the line of sight left in
    lens: Lens
    misfit: float  # rms distance of the points it rests on from where the mean head has them, in eye distances

    @cached_property
    def angles(self) -> tuple[float, float, float]:
        """Yaw, pitch and roll in degrees."""
        return angles_of(self.rotation)

    @property
    def yaw(self) -> float:
        return self.angles[0]

    @property
    def pitch(self) -> float:
        return self.angles[1]

    @property
    def roll(self) -> float:
        return self.angles[2]

    @cached_property
    def quaternion(self) -> np.ndarray:
        """(4,) x, y, z, w of the rotation, w ≥ 0."""
        return quaternion_of(self.rotation)

    @property
    def guessed(self) -> bool:
        """Whether the focal length, and with it the distance, is a guess."""
        return self.lens.guessed

    @property
    def camera_rotation(self) -> np.ndarray | None:
        """(3, 3) the head's axes to the camera's with nothing taken off; None while the focal length is a guess."""
        return None if self.guessed else self.unsighted

    def project(self, points: np.ndarray) -> np.ndarray:
        """Where points (..., 3) of the head, in its axes and metres, are seen: (..., 2) frame px."""
        placed = points @ self.unsighted.T + self.translation
        return placed[..., :2] / placed[..., 2:] * self.lens.focal + self.lens.centre


def head_pose(points: np.ndarray, confidence: np.ndarray, lens: Lens, last: Pose | None = None) -> Pose | None:
    """The pose of wflw98 points (98, 2) in frame px with confidence (98,).

    `last`: the pose of the frame before, near which the solution is sought; the result hardly depends on it. None
    where the points are no face's: not finite, or in one place.
    """
    across, down = lens.centre
    seen = (points.T.take(USED, axis=1) - np.array([[across], [down]])) / lens.focal  # (2, N)
    confidence = np.maximum(confidence.take(USED), LEAST_CONFIDENCE)
    found = None
    if last is not None:
        found = _refine(seen, confidence, last.unsighted, last.translation)
    if found is None or found[2] > LOST:
        if not math.isfinite(float(seen.sum() + confidence.sum())):
            return None
        tried = [found, *(_refine(seen, confidence, *start) for start in _starts(seen.T))]
        found = min((pose for pose in tried if pose is not None), key=lambda pose: pose[2], default=None)
    if found is None:
        return None
    rotation, translation, misfit = found
    return Pose(_to_sight(translation) @ rotation, translation, rotation, lens, misfit)


def _starts(seen: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rotations and translations from the rigid points alone, from no guess (SQPnP: Terzakis and Lourakis 2020).

    They are seen as if from a usual distance, where the solver is at its best, and then moved away. It takes a profile
    for less of a turn than it is, as it does not know of points that slide: so the second start is turned farther.
    """
    rigid = seen[: len(RIGID)]
    middle = rigid.mean(axis=0)
    farther = USUAL_SIZE / max(float((rigid - middle).std()), 1e-12)
    try:
        done, vector, near = cv2.solvePnP(_MODEL, (rigid - middle) * farther, np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
    except cv2.error:
        return []
    if not done or not np.isfinite(vector).all() or near[2, 0] <= 0:
        return []
    distance = float(near[2, 0]) * farther
    translation = np.array([*(middle * distance + near[:2, 0]), distance])
    rotation = _to_sight(translation).T @ cv2.Rodrigues(vector)[0]
    farther_round = rotation @ rotation_of(math.copysign(FARTHER, -float(rotation[2, 0])), 0, 0)
    return [(rotation, translation), (farther_round, translation)]


_MODEL = np.ascontiguousarray(HEAD[RIGID])
_MIDDLE = len(USED) // 2


def _heads() -> np.ndarray:
    """(37, 17, N): the head seen from each angle of MARKED. Rows: homogeneous places of the points; how they move with
    a small turn about each of the head's axes; how they slide as the side changes from which it is seen; their weights.
    """
    places = MARKED[:, USED]
    turned = np.cross(np.eye(3)[:, None, None], places)  # turn, angle, point, axis
    # By axis of the head, then turn, so that one product brings them to the camera's axes.
    moved = turned.transpose(1, 3, 0, 2).reshape(len(places), 9, -1)
    slides = np.gradient(places, math.radians(ANGLE), axis=0).transpose(0, 2, 1)
    weights = SURENESS[:, USED] * np.where(np.isin(USED, RIGID), 1.0, JAW_WEIGHT)
    rows = [places.transpose(0, 2, 1), np.ones_like(weights)[:, None], moved, slides, weights[:, None]]
    return np.concatenate(rows, axis=1)


_HEADS = _heads()
_STEPS = np.diff(_HEADS, axis=0)


def _refine(
    seen: np.ndarray, confidence: np.ndarray, rotation: np.ndarray, translation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """Gauss-Newton on the weighed errors of points (2, N) seen by a focal length of 1, in metres in each point's plane.

    They are weighed anew each step: a point that lies farther off than most counts less, 1 / max(1, e / median e).
    """
    squared = confidence * confidence
    pose = np.empty((3, 4))
    pose[:, :3], pose[:, 3] = rotation, translation
    # A small turn about the head's axes, then a shift. That in depth counts as much as one aside: without that the
    # equations of a far face cannot be solved.
    deep = float(translation[2]) / EYE_DISTANCE
    moves = np.zeros((6, 2, len(USED)))
    moves[3, 0] = moves[4, 1] = 1
    moves[5] = -deep * seen
    turns, flat = moves[:3].swapaxes(0, 1), moves.reshape(6, -1)
    for _ in range(STEPS):
        x, y, z = (pose[:, 3] @ pose[:, :3]).tolist()  # the line of sight in the head's axes
        before, share = side_of(x, y, z)
        head = _STEPS[before] * share
        head += _HEADS[before]
        placed = pose @ head[:4]
        depth = placed[2]
        if depth.min() <= 1e-3:
            return None
        away = placed[:2] - seen * depth
        errors = np.hypot(away[0], away[1])
        usual = max(float(np.partition(errors, _MIDDLE)[_MIDDLE]), 1e-9)
        weights = head[16] * squared / np.maximum(errors * (1 / usual), 1.0)
        turned = (pose[:, :3] @ head[4:13].reshape(3, -1)).reshape(3, 3, -1)  # axis of the camera, turn, point
        slides, aside = pose[:, :3] @ head[13:16], max(math.hypot(y, z), SIDEWAYS * abs(x))
        turned[:, 1] += slides * (z / aside)
        turned[:, 2] -= slides * (y / aside)
        np.subtract(turned[:2], seen[:, None] * turned[2], out=turns)
        weighed = (moves * weights).reshape(6, -1)
        solved, step = cv2.solve(weighed @ flat.T, weighed @ away.ravel(), flags=cv2.DECOMP_CHOLESKY)
        far = float(pose[2, 3])
        *turn, right, down, out = step[:, 0].tolist()
        sizes = (*map(abs, turn), abs(right / far), abs(down / far), abs(out * deep / far))
        if not (solved and math.isfinite(sum(sizes))):
            return None
        size = max(sizes)
        share = -min(1.0, LONGEST / max(size, LONGEST))
        pose[:, :3] = pose[:, :3] @ cv2.Rodrigues(step[:3] * share)[0]
        pose[:, 3] += (right * share, down * share, out * deep * share)
        if size < DONE:
            break
    return pose[:, :3], pose[:, 3], _misfit(errors, confidence)


def _misfit(errors: np.ndarray, confidence: np.ndarray) -> float:
    """Root mean square of the rigid points' errors (N,) in metres, weighed by their confidence, in eye distances."""
    away, sure = errors[: len(RIGID)], confidence[: len(RIGID)]
    return math.sqrt(float(away * away @ sure) / float(sure.sum())) / EYE_DISTANCE


def _to_sight(translation: np.ndarray) -> np.ndarray:
    """(3, 3): the smallest rotation that brings this direction onto the camera's axis."""
    x, y, z = translation.tolist()
    length = math.hypot(x, y, z)
    x, y, z = x / length, y / length, z / length
    k = 1 / (1 + z)
    return np.array([[1 - x * x * k, -x * y * k, -x], [-x * y * k, 1 - y * y * k, -y], [x, y, z]])


def angles_of(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch, roll in degrees of a rotation (3, 3) = Ry(yaw) · Rx(pitch) · Rz(roll); pitch is −90…90."""
    yaw = math.atan2(rotation[0, 2], rotation[2, 2])
    pitch = math.asin(min(1.0, max(-1.0, -rotation[1, 2])))
    roll = math.atan2(rotation[1, 0], rotation[1, 1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def rotation_of(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """(3, 3) of angles in degrees."""
    (cy, sy), (cp, sp), (cr, sr) = ((math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (yaw, pitch, roll))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def quaternion_of(rotation: np.ndarray) -> np.ndarray:
    """(4,) x, y, z, w of a rotation (3, 3), w ≥ 0."""
    m = rotation
    # The largest of the four is told first, and divides the others: no small number ever does.
    squares = np.array([1 + m[0, 0] - m[1, 1] - m[2, 2], 1 - m[0, 0] + m[1, 1] - m[2, 2],
                        1 - m[0, 0] - m[1, 1] + m[2, 2], 1 + m[0, 0] + m[1, 1] + m[2, 2]])  # fmt: skip
    symmetric = np.array([
        [squares[0], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0], m[2, 1] - m[1, 2]],
        [m[0, 1] + m[1, 0], squares[1], m[1, 2] + m[2, 1], m[0, 2] - m[2, 0]],
        [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], squares[2], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], squares[3]],
    ])  # fmt: skip
    row = symmetric[int(squares.argmax())]
    quaternion = row / np.linalg.norm(row)
    return -quaternion if quaternion[3] < 0 else quaternion
