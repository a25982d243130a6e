"""The mean head: where the 98 points lie on it, in 3D.

The figures are means of two free models, resampled at the points of WFLW: MediaPipe's canonical face (Apache-2.0) and
the ICT-FaceKit's mean face (MIT). See NOTICE.

Axes of the head: x to the picture's right (the person's left), y down, z from the face into the head, so that a face
that looks into the camera has the camera's own axes (OpenCV's). Lengths in metres, origin in the middle of the four
eye corners.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from tabrt.topology import WFLW98

# Degrees by which people who look straight ahead hold their heads higher than those models: 5.1 on the frontal
# photographs of Pointing'04, 4.4 on 10,000 photographs of all kinds.
ZERO_PITCH = 5.0

# cm; x to the right, y up, z out of the face. Points in the left half of the picture; the others mirror them.
_HALF = """
0:-7.66,0.42,-5.71 1:-7.61,-0.71,-6.01 2:-7.52,-1.86,-6.17 3:-7.43,-3.01,-6.07 4:-7.26,-4.17,-6.00 5:-7.05,-5.31,-5.93
6:-6.77,-6.42,-5.75 7:-6.45,-7.42,-5.27 8:-6.01,-8.29,-4.62 9:-5.53,-8.97,-3.82 10:-5.00,-9.54,-2.95
11:-4.37,-10.02,-2.09 12:-3.70,-10.43,-1.24 13:-2.96,-10.84,-0.44 14:-2.16,-11.13,0.34 15:-1.15,-11.42,0.81
16:0,-11.56,0.93 33:-5.68,1.68,-0.64 34:-4.99,2.42,0.25 35:-3.91,2.69,1.04 36:-2.60,2.64,1.64 37:-1.29,2.45,1.91
38:-1.26,1.78,1.77 39:-2.50,2.04,1.60 40:-3.83,2.15,1.11 41:-4.80,1.91,0.50 51:0,0.48,1.82 52:0,-0.87,2.73
53:0,-2.08,3.57 54:0,-3.12,4.10 55:-1.34,-4.48,1.78 56:-0.60,-4.64,2.37 57:0,-4.71,2.54 60:-4.48,0.07,-0.29
61:-4.01,0.35,0.24 62:-3.30,0.47,0.53 63:-2.51,0.39,0.49 64:-1.86,-0.07,0.29 65:-2.50,-0.26,0.38 66:-3.28,-0.32,0.38
67:-4.00,-0.22,0.13 76:-2.51,-6.98,0.90 77:-1.58,-6.21,2.05 78:-0.72,-5.95,2.50 79:0,-6.02,2.61 85:0,-7.95,2.20
86:-0.87,-7.88,2.07 87:-1.57,-7.65,1.71 88:-2.19,-6.93,0.75 89:-0.77,-6.71,1.79 90:0,-6.73,1.93 94:0,-7.04,2.01
95:-0.83,-7.02,1.87 96:-3.21,0.15,-0.04
"""


def _table() -> np.ndarray:
    cos, sin = math.cos(math.radians(ZERO_PITCH)), math.sin(math.radians(ZERO_PITCH))
    head = np.full((WFLW98.points, 3), np.nan)
    for entry in _HALF.split():
        index, _, numbers = entry.partition(":")
        x, y, z = (float(number) / 100 for number in numbers.split(","))
        head[int(index)] = x, -y * cos - z * sin, y * sin - z * cos
    half = np.flatnonzero(np.isfinite(head[:, 0]))
    head[WFLW98.mirror[half]] = head[half] * (-1, 1, 1)
    return head


HEAD = _table()  # (98, 3)
HEAD.flags.writeable = False
EYE_DISTANCE = float(HEAD[72, 0] - HEAD[60, 0])  # m, between the outer corners

ANGLE = 5.0  # degrees between the entries of a TurnedHead
RIGID = np.array([60, 64, 68, 72, *range(51, 60)])  # points at eye corners and nose: what no expression moves
CORNERS = 4  # the first of them, of the eyes: right and left of the picture's left eye, then of the other
USED = np.concatenate([RIGID, np.arange(0, 33, 2)])  # points that a pose rests on: they, and half of the jaw's
JAW_WEIGHT = 0.2  # its points slide along the outline, but there are many of them and they calm the pose
RIGID_MIRROR = np.array([RIGID.tolist().index(point) for point in WFLW98.mirror[RIGID]])  # within RIGID


@dataclass(frozen=True, eq=False)
class TurnedHead:
    """The mean head as a network marks it, seen from −90 … 90° in steps of ANGLE: above 0 from the picture's left.

    What a turn hides a network puts, as people do who label pictures, on the outline of what is seen: points slide over
    the head as it turns. And people's heads are not the mean one: what is left between them tells how a pose is off.
    """

    places: np.ndarray  # (37, 98, 3) metres
    sureness: np.ndarray  # (37, 98) 0…1: weight of a point, over that in a frontal view
    left: np.ndarray  # (37, 26, 3) rotation vector, in radians, by what is left of x, then y, of RIGID in eye distances

    @classmethod
    def of(cls, slides: np.ndarray, left: np.ndarray) -> TurnedHead:
        """From one side, 0 … 90°. slides (19, 98, 4): metres off HEAD, and sureness; left (19, 26, 3)."""
        both = np.concatenate([slides[:0:-1, WFLW98.mirror] * (-1, 1, 1, 1), slides])
        swapped = left.reshape(len(left), 2, -1, 3)[:0:-1, :, RIGID_MIRROR] * (1, -1, -1)
        swapped[:, 0] *= -1
        return cls(HEAD + both[..., :3], both[..., 3], np.concatenate([swapped.reshape(-1, *left.shape[1:]), left]))

    @classmethod
    def read(cls, path: Path) -> TurnedHead:
        with np.load(path, allow_pickle=False) as file:
            return cls.of(file["slides"].astype(float), file["left"].astype(float))

    @cached_property
    def sides(self) -> np.ndarray:
        """(37, 8, N): of the points USED, homogeneous places, how they slide as the side changes, and weights."""
        places = self.places[:, USED].transpose(0, 2, 1)
        slides = np.gradient(places, math.radians(ANGLE), axis=0)
        weights = self.sureness[:, USED] * np.where(np.isin(USED, RIGID), 1.0, JAW_WEIGHT)
        return np.concatenate([places, np.ones_like(weights)[:, None], slides, weights[:, None]], axis=1)

    @cached_property
    def steps(self) -> np.ndarray:
        """(36, 8, N): from each of `sides` to the next."""
        return np.diff(self.sides, axis=0)

    @cached_property
    def left_steps(self) -> np.ndarray:
        """(36, 26, 3): from each of `left` to the next."""
        return np.diff(self.left, axis=0)

    @cached_property
    def layers(self) -> np.ndarray:
        """(37, 5, 98) eye distances: where each point lies, x, y and z, and how far back it is to its place on HEAD."""
        back = (HEAD - self.places)[..., :2]
        return np.concatenate([self.places, back], axis=2).transpose(0, 2, 1) / EYE_DISTANCE

    @cached_property
    def layer_steps(self) -> np.ndarray:
        """(36, 5, 98): from each of `layers` to the next."""
        return np.diff(self.layers, axis=0)

    def marked(self, sight: np.ndarray) -> np.ndarray:
        """(98, 3) metres: the points as they are marked where the head is seen along a direction.

        sight (3,): of the line from the camera to the head, in the head's axes: the third row of a pose's rotation.
        """
        before, share = side_of(*sight.tolist())
        return self.places[before] + share * (self.places[before + 1] - self.places[before])


def side_of(x: float, y: float, z: float) -> tuple[int, float]:
    """From which side a head is seen along a direction in its axes: the entry of a TurnedHead before, and the share of
    the way to the next."""
    place = (math.degrees(math.atan2(-x, math.hypot(y, z))) + 90) / ANGLE
    before = min(int(place), round(180 / ANGLE) - 1)
    return before, place - before


# As the networks that ship mark it: made by `python -m training heads`. See docs/measures.md.
TURNED_FILE = Path(__file__).with_name("turned.npz")
TURNED_HEAD = TurnedHead.read(TURNED_FILE)
marked = TURNED_HEAD.marked
