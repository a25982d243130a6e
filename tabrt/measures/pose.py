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

from tabrt.measures.head import CORNERS, EYE_DISTANCE, HEAD, RIGID, TURNED_HEAD, USED, TurnedHead, side_of
from tabrt.measures.lens import Lens

USUAL_SIZE = 0.05  # standard deviation of the rigid points over their distance: of a face at 0.6 m
LEAST_CONFIDENCE = 0.05
STEPS = 30  # of Gauss-Newton at most
DONE = 6e-3  # radians, and shares of the distance, of a step after which there is no need of another …
LONGEST = 0.5  # … and that one step may make
SIDEWAYS = 1e-3  # least part of a line of sight across a profile: straight across, no turn brings it farther
FARTHER = 30.0  # degrees that a second start is turned more
LOST = 0.12  # eye distances, misfit from which a pose is sought anew; of faces that are followed it is 0.08 at most
LEFT = 0.009  # m, that people's heads differ from the mean one: what is left beyond is believed less …
BETTERED = 0.35  # … and radians, that a pose is turned by it at most


@dataclass(frozen=True, eq=False)
class Fit:
    """The pose in which the mean head lies nearest to points."""

    rotation: np.ndarray  # (3, 3) the head's axes to the camera's
    translation: np.ndarray  # (3,) metres
    left: np.ndarray  # (2, 13) metres: how far RIGID of the mean head lie from those seen, as far as it is believed
    misfit: float  # root mean square distance of those points, weighed by confidence, in eye distances
    corners: np.ndarray  # (2, 4) metres: the same of the corners of the eyes alone, all of it


@dataclass(frozen=True, eq=False)
class Held:
    """Corners of the eyes, CORNERS of them, that are not where lids which shut have drawn them."""

    share: np.ndarray  # (4,) 0…1: how far each is taken to be where it was
    off: np.ndarray  # (2, 4) metres: how far it was from the mean head's, as in Fit.corners


@dataclass(frozen=True, eq=False)
class Pose:
    """A head's six degrees of freedom. See the module for axes and signs."""

    rotation: np.ndarray  # (3, 3) the head's axes to the camera's, the line of sight taken off
    translation: np.ndarray  # (3,) metres, of the middle between the eyes, for a head of mean size
    unsighted: np.ndarray = field(repr=False)  # (3, 3) the rotation with the line of sight left in
    lens: Lens
    fit: Fit = field(repr=False)  # what it was told from; the next is sought near it

    @property
    def misfit(self) -> float:
        """Root mean square distance of the rigid points from where the mean head has them, in eye distances."""
        return self.fit.misfit

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


def head_pose(
    points: np.ndarray, confidence: np.ndarray, lens: Lens, last: Pose | None = None, held: Held | None = None
) -> Pose | None:
    """The pose of wflw98 points (98, 2) in frame px with confidence (98,).

    `last`: the pose of the frame before, near which the solution is sought; the result hardly depends on it. `held`:
    what is known of corners of eyes that are shut; of no use without `last`. None where the points are no face's: not
    finite, or in one place.
    """
    fit = best_fit(points, confidence, lens, None if last is None else last.fit, held=held)
    if fit is None:
        return None
    sight = to_sight(fit.translation)
    rotation = _bettered(sight @ fit.rotation, fit.left)
    return Pose(rotation, fit.translation, sight.T @ rotation, lens, fit)


def best_fit(
    points: np.ndarray,
    confidence: np.ndarray,
    lens: Lens,
    last: Fit | None = None,
    head: TurnedHead = TURNED_HEAD,
    held: Held | None = None,
) -> Fit | None:
    """Where a head, the mean one unless another is given, fits points (98, 2); see `head_pose`."""
    across, down = lens.centre
    seen = (points.T.take(USED, axis=1) - np.array([[across], [down]])) / lens.focal  # (2, N)
    confidence = np.maximum(confidence.take(USED), LEAST_CONFIDENCE)
    found = None
    if last is not None:
        found = _refine(head, seen, confidence, last.rotation, last.translation, held)
    if found is None or found.misfit > LOST:
        if not math.isfinite(float(seen.sum() + confidence.sum())):
            return None
        tried = [found, *(_refine(head, seen, confidence, *start) for start in _starts(seen.T))]
        found = min((fit for fit in tried if fit is not None), key=lambda fit: fit.misfit, default=None)
    return found


def _bettered(rotation: np.ndarray, left: np.ndarray) -> np.ndarray:
    """A rotation (3, 3) against the line of sight, turned by what is left (2, 13) of the rigid points.

    A person's head is not the mean one, and some differences go with a pose that is a little off: the table has, for
    each side from which a head is seen, the regression of the one on the other.
    """
    before, share = side_of(*rotation[2].tolist())
    told = TURNED_HEAD.left_steps[before] * share
    told += TURNED_HEAD.left[before]
    cosine, sine = uprighting(rotation)
    x, y, z = (upright(left, cosine, sine).ravel() @ told).tolist()
    share = min(1.0, BETTERED / max(math.hypot(x, y, z), BETTERED))
    turn = np.array([cosine * x + sine * y, cosine * y - sine * x, z])
    return cv2.Rodrigues(turn * share)[0] @ rotation


def uprighting(rotation: np.ndarray) -> tuple[float, float]:
    """Cosine and sine of the turn about the line of sight that brings the head's own y axis straight down."""
    aside, down = float(rotation[0, 1]), float(rotation[1, 1])
    length = max(math.hypot(aside, down), 1e-9)
    return down / length, aside / length


def upright(left: np.ndarray, cosine: float, sine: float) -> np.ndarray:
    """What is left (2, N), turned by that."""
    return np.array([[cosine, -sine], [sine, cosine]]) @ left


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
    rotation = to_sight(translation).T @ cv2.Rodrigues(vector)[0]
    farther_round = rotation @ rotation_of(math.copysign(FARTHER, -float(rotation[2, 0])), 0, 0)
    return [(rotation, translation), (farther_round, translation)]


_MODEL = np.ascontiguousarray(HEAD[RIGID])
_MIDDLE = len(USED) // 2
_SMALL_TURNS = np.cross(np.eye(3)[:, None], np.eye(3)).transpose(2, 0, 1).reshape(3, 9)  # a turn each three columns


def _refine(
    head: TurnedHead,
    seen: np.ndarray,
    confidence: np.ndarray,
    rotation: np.ndarray,
    translation: np.ndarray,
    held: Held | None = None,
) -> Fit | None:
    """Gauss-Newton on the weighed errors of points (2, N) seen by a focal length of 1, in metres in each point's plane.

    They are weighed anew each step: a point that lies farther off than most counts less, 1 / max(1, e / median e). A
    point that is held has the error that it had, whatever the pose: it pulls as before, so that the pose does not jump.
    """
    squared = confidence * confidence
    turn, at = rotation, translation
    # Errors, and what changes them: a small turn about each of the head's axes, then a shift. That in depth counts as
    # much as one aside: without that the equations of a far face cannot be solved.
    deep = float(translation[2]) / EYE_DISTANCE
    system = np.zeros((7, 2, len(USED)))
    system[4, 0] = system[5, 1] = 1
    system[6] = -deep * seen
    away, flat = system[0], system.reshape(7, -1)
    corners, shut = system[:, :, :CORNERS], np.zeros(CORNERS) if held is None else held.share
    maps = np.zeros((4, 3, 7))  # from a side's places and slides to the camera's axes: itself, and by each turn
    for _ in range(STEPS):
        x, y, z = (at @ turn).tolist()  # the line of sight in the head's axes
        before, share = side_of(x, y, z)
        side = head.steps[before] * share
        side += head.sides[before]
        aside = max(math.hypot(y, z), SIDEWAYS * abs(x))
        maps[0, :, :3], maps[0, :, 3] = turn, at
        maps[1:, :, :3] = (turn @ _SMALL_TURNS).reshape(3, 3, 3).swapaxes(0, 1)
        np.multiply(turn, z / aside, out=maps[2, :, 4:])
        np.multiply(turn, -y / aside, out=maps[3, :, 4:])
        placed = (maps.reshape(12, 7) @ side[:7]).reshape(4, 3, -1)
        if placed[0, 2].min() <= 1e-3:
            return None
        np.subtract(placed[:, :2], seen * placed[:, 2:], out=system[:4])
        off = corners[0].copy()
        if held is not None:
            corners[0] += (held.off - off) * shut
        errors = np.hypot(away[0], away[1])
        usual = max(sorted(errors.tolist())[_MIDDLE], 1e-9)
        weights = side[7] * squared / np.maximum(errors * (1 / usual), 1.0)
        normal = (system * weights).reshape(7, -1) @ flat.T
        if held is not None:  # no step changes what is held
            normal[1:] -= (corners[1:] * (weights[:CORNERS] * shut)).reshape(6, -1) @ corners.reshape(7, -1).T
        solved, step = cv2.solve(normal[1:, 1:], normal[0, 1:], flags=cv2.DECOMP_CHOLESKY)
        far = float(at[2])
        *by, right, down, out = step[:, 0].tolist()
        sizes = (*map(abs, by), abs(right / far), abs(down / far), abs(out * deep / far))
        if not (solved and math.isfinite(sum(sizes))):
            return None
        size = max(sizes)
        share = -min(1.0, LONGEST / max(size, LONGEST))
        turn = turn @ cv2.Rodrigues(step[:3] * share)[0]
        at = at + np.array([right, down, out * deep]) * share
        if size < DONE:
            break
    moved = (step[:, 0] * share @ flat[1:]).reshape(2, -1)[:, : len(RIGID)]  # by the last step
    off += moved[:, :CORNERS]
    moved[:, :CORNERS] *= 1 - shut
    left = away[:, : len(RIGID)] + moved
    x, y = left
    squares, sure = x * x + y * y, confidence[: len(RIGID)]
    misfit = math.sqrt(float(squares @ sure) / float(sure.sum())) / EYE_DISTANCE
    return Fit(turn, at, left * (sure / np.maximum(squares * (1 / LEFT**2), 1.0)), misfit, off)


def to_sight(translation: np.ndarray) -> np.ndarray:
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
