"""A face as iFacialMocap's text: what VSeeFace, Warudo, VMagicMirror, VNyan and Inochi Session take from a telephone.

The layout is that of https://www.ifacialmocap.com/for-developer/. Its axes are ARKit's: x to the person's left, y up, z
out of the face, all right-handed; so x > 0 looks down, y > 0 to the person's left, z > 0 tilts to their right. The
signs of the eyes agree with those of the sample on that page.
"""

from __future__ import annotations

from collections.abc import Iterable

from tabrt.faces import Scene
from tabrt.measures import EyeGaze
from tabrt.sinks.arkit import ARKIT
from tabrt.sinks.udp import Performer, Told, UdpSink


class IFacialMocapSink(UdpSink):
    """Sends the performer's face to HOST[:49983] as one line of text a frame; nothing without a face.

    All 52 names are sent, as receivers expect: those that points cannot tell are 0.
    """

    option, port = "--ifacialmocap", 49983

    def __init__(self, address: str):
        super().__init__(address)
        self._performer = Performer()

    def packets(self, scene: Scene) -> Iterable[bytes]:
        told = self._performer(scene)
        if told is not None:
            yield line(told).encode("ascii")


def line(told: Told) -> str:
    """The text of one face."""
    pose = told.pose
    x, y, z = pose.translation.tolist()
    shapes = "".join(f"{name}-{round(100 * told.measures.get(long, 0.0))}|" for long, name in _NAMES.items())
    head = _numbers(pose.pitch, -pose.yaw, -pose.roll, x, -y, -z)
    return f"{shapes}=head#{head}|rightEye#{_eye(told.gaze.right)}|leftEye#{_eye(told.gaze.left)}|"


def _eye(eye: EyeGaze | None) -> str:
    return _numbers(0, 0, 0) if eye is None else _numbers(eye.pitch, -eye.yaw, 0)


def _numbers(*values: float) -> str:
    return ",".join(f"{value:.4f}" for value in values)


def _short(name: str) -> str:
    """eyeBlinkLeft as eyeBlink_L; jawLeft and mouthLeft stay as they are."""
    for side in ("Left", "Right"):
        if name.endswith(side) and name not in (f"jaw{side}", f"mouth{side}"):
            return f"{name.removesuffix(side)}_{side[0]}"
    return name


_NAMES = {name: _short(name) for name in ARKIT}
