"""Faces as OpenSeeFace sends them: what VTube Studio, VSeeFace and Inochi Session take as their tracker.

The layout is that of its facetracker.py, and was checked against the receiver in its Unity/OpenSee.cs (BSD-2-Clause,
https://github.com/emilianavt/OpenSeeFace). It solves the pose with rows and columns swapped, on a head whose x goes to
the person's right, y up and z out of the face, with the tip of the nose as origin, and from a first guess of nothing:
that ends in a face behind the camera, which looks the same from afar. So the distance is below 0, and the rotation is
that of the solution behind the camera; receivers are made for it.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable

import numpy as np

from tabrt.faces import Scene
from tabrt.measures import Measures, Pose, rotation_of
from tabrt.measures.expression import facing
from tabrt.measures.head import EYE_DISTANCE, HEAD
from tabrt.measures.pose import quaternion_of
from tabrt.sinks.udp import Performer, Told, UdpSink
from tabrt.topology import to_68

PACKET = struct.Struct("<di2f2fBf4f3f3f68f136f210f14f")
assert PACKET.size == 1785
MOST_FACES = 36  # of 1,785 bytes in one datagram; OpenSeeFace sends fewer than 40
UNIT = EYE_DISTANCE / 0.65962  # m: its model of a head is so wide between the outer eye corners, in its units
EYEBALL_DEPTH = 0.385  # widths of an eye between its corners and the ball's centre
NOSE_TIP = 54

# Its points 0–47 are those of 300w68; then lips without their inner corners, and pupils. Indices in wflw98.
_LIPS_AND_PUPILS = (*range(77, 82), *range(83, 88), 76, 89, 90, 91, 82, 93, 94, 95, 96, 97)
_CORNERS = ((60, 64), (68, 72))  # of the person's right and left eye
_SWAP = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 1]])  # rows and columns
_BEHIND = np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, -1]])  # and the solution behind the camera


class OpenSeeFaceSink(UdpSink):
    """Sends the faces of each scene to HOST[:11573] in one datagram, as OpenSeeFace does; nothing without faces.

    The performer has id 0, which is all that most receivers look at; others keep their own.
    """

    option, port = "--openseeface", 11573

    def __init__(self, address: str):
        super().__init__(address)
        self._performer = Performer()

    def packets(self, scene: Scene) -> Iterable[bytes]:
        performer = self._performer(scene)
        if performer is None:
            return
        now = time.time()
        height, width = scene.frame.image.shape[:2]
        others = [Told.of(face) for face in scene.faces if face is not performer.face][: MOST_FACES - 1]
        shown = [(0, performer), *((told.face.id, told) for told in others if told is not None)]
        yield b"".join(packet(told, number, now, width, height) for number, told in shown)


def packet(told: Told, number: int, now: float, width: int, height: int) -> bytes:
    """The 1,785 bytes of one face; `now` is the time of day in seconds."""
    face, pose, measures = told.face, told.pose, told.measures
    rotation = _BEHIND @ pose.rotation
    translation = -_SWAP @ (pose.translation + pose.unsighted @ HEAD[NOSE_TIP]) / UNIT
    return PACKET.pack(
        *(now, number, width, height, measures.right_eye, measures.left_eye, 1, _misfit(pose)),
        *(*_quaternion(rotation).tolist(), *_euler(rotation), *translation.tolist()),
        *_taken(face.confidence[:, None].repeat(2, axis=1))[:, 0].clip(0, 1),
        *_taken(face.points).ravel(),
        *_points_3d(told).ravel(),
        *_features(measures),
    )


def _misfit(pose: Pose) -> float:
    """px; receivers drop faces from 100 on, and there is no reason for it in a face that is followed."""
    return min(pose.misfit * EYE_DISTANCE / float(pose.translation[2]) * pose.lens.focal, 99.0)


def _euler(rotation: np.ndarray) -> tuple[float, float, float]:
    """Degrees about x, y, z of Rz · Ry · Rx, as RQDecomp3x3 tells them: 180, 0, 90 for a face that looks ahead."""
    x = math.degrees(math.atan2(rotation[2, 1], rotation[2, 2]))
    y = math.degrees(math.asin(min(max(-rotation[2, 0], -1.0), 1.0)))
    z = math.degrees(math.atan2(rotation[1, 0], rotation[0, 0]))
    return x, y, z


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """x, y, z, w as its matrix_to_quaternion tells it: of the transposed matrix."""
    quaternion = quaternion_of(rotation.T)
    return -quaternion if quaternion[1] < 0 else quaternion


def _taken(points: np.ndarray) -> np.ndarray:
    """OpenSeeFace's 68 points (68, …) of wflw98 points (98, …)."""
    return np.concatenate([to_68(points)[:48], points[list(_LIPS_AND_PUPILS)]])


def _points_3d(told: Told) -> np.ndarray:
    """(70, 3) as sent, x to the person's right, y down, z into the head, in its units from the tip of the nose."""
    deep = np.column_stack([facing(told.face.square_points, told.pose) * EYE_DISTANCE, HEAD[:, 2]]) - HEAD[NOSE_TIP]
    taken = np.concatenate([_taken(deep[:, :2]), _taken(np.column_stack([deep[:, 2], deep[:, 2]]))[:, :1]], axis=1)
    balls = []
    for number, (corners, eye) in enumerate(zip(_CORNERS, (told.gaze.right, told.gaze.left), strict=True)):
        one, other = deep[list(corners)]
        depth = EYEBALL_DEPTH * np.linalg.norm(one - other)
        ball = (one + other) / 2 + (0, 0, depth)
        ahead = (0, 0, -1) if eye is None else -rotation_of(eye.yaw, eye.pitch, 0)[:, 2]
        taken[66 + number] = ball + np.multiply(ahead, depth)  # the pupil, as far before the ball's centre
        balls.append(ball)
    return np.concatenate([taken, balls]) * (-1, 1, 1) / UNIT


def _features(m: Measures) -> list[float]:
    """The 14 features, −1…1, in the order of the packet; steepness and quirk of brows are not told."""
    brows = [
        feature
        for side in ("Left", "Right")
        for feature in (0.0, max(m[f"browOuterUp{side}"], m["browInnerUp"]) - m[f"browDown{side}"], 0.0)
    ]
    corners = [
        feature
        for side in ("Left", "Right")
        for feature in (m[f"mouthSmile{side}"] - m[f"mouthFrown{side}"], m[f"mouthStretch{side}"] - m["mouthPucker"])
    ]
    eyes = [m[f"eyeWide{side}"] - m[f"eyeBlink{side}"] for side in ("Left", "Right")]
    wide = max(m["mouthStretchLeft"] + m["mouthStretchRight"], m["mouthSmileLeft"] + m["mouthSmileRight"]) / 2
    return [*eyes, *brows, *corners, m["jawOpen"], wide - max(m["mouthPucker"], m["mouthFunnel"])]
