"""A face by the VMC protocol: blend shapes, and the head's turn where the receiver takes it.

The messages are those of https://protocol.vmc.info (version 3.1, MIT). Axes are Unity's, seen from the avatar that
looks along z: x to its right, y up. An avatar does what the person does: it turns to its left as they do to theirs.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable, Mapping
from typing import Any

from tabrt.faces import Scene
from tabrt.measures import SHAPES
from tabrt.sinks.osc import bundle, message, require_osc
from tabrt.sinks.udp import Performer, Told, UdpSink

MOST_BYTES = 1500  # of a bundle, by the protocol
PRESETS = ("A", "I", "U", "O", "Blink", "Blink_L", "Blink_R", "Joy", "Angry", "Sorrow")  # of VRM 0, that are told
# Where VRM heads usually have these bones, in metres from the bone below: some receivers take the position too, and
# one of 0 would draw the head into the neck.
BONES = {"Neck": (0.0, 0.11, 0.0), "Head": (0.0, 0.09, 0.0)}


class VmcSink(UdpSink):
    """Sends the performer's face to HOST[:39540] in two OSC bundles a frame.

    head: send its turn, too, half of it in each of the bones Neck and Head. Without a face only the availability is
    sent. Raises TabrtError for an address that is none, and without python-osc.
    """

    option, port = "--vmc", 39540

    def __init__(self, address: str, head: bool = False):
        super().__init__(address)
        require_osc("VMC")
        self._performer, self._head = Performer(), head
        names = (*SHAPES, *PRESETS)
        half = len(names) // 2
        self._bundles = [_Shapes(names[:half]), _Shapes(names[half:])]
        self._shapes = dict.fromkeys(names, 0.0)  # a shape that is not told now, of an eye that is shut, stays
        self._start = time.monotonic()

    def packets(self, scene: Scene) -> Iterable[bytes]:
        told = self._performer(scene)
        end = [
            message("/VMC/Ext/OK", [1, 3, 0, int(told is not None)]),
            message("/VMC/Ext/T", [time.monotonic() - self._start]),
        ]
        if told is None:
            yield bundle(end)
            return
        self._shapes |= told.measures
        self._shapes |= presets(told.measures)
        first, second = (shapes.fill(self._shapes) for shapes in self._bundles)
        yield bundle([]) + first
        apply = message("/VMC/Ext/Blend/Apply", [])
        yield bundle([]) + second + _contents([apply, *(_bones(told) if self._head else []), *end])


class _Shapes:
    """Messages `/VMC/Ext/Blend/Val name value` as the contents of a bundle, built once, their values put in place."""

    def __init__(self, names: Iterable[str]):
        self._data = bytearray()
        self._places: dict[str, int] = {}
        for name in names:
            self._data += _contents([message("/VMC/Ext/Blend/Val", [name, 0.0])])
            self._places[name] = len(self._data) - 4  # the value is the last of a message

    def fill(self, values: Mapping[str, float]) -> bytes:
        for name, place in self._places.items():
            struct.pack_into(">f", self._data, place, values[name])
        return bytes(self._data)


def _contents(messages: Iterable[Any]) -> bytes:
    """Messages as they stand in a bundle, each after its length."""
    return b"".join(struct.pack(">i", one.size) + one.dgram for one in messages)


def presets(m: Mapping[str, float]) -> dict[str, float]:
    """The blend shapes of VRM 0 that follow from ARKit's, by their names."""
    funnel, pucker = m["mouthFunnel"], m["mouthPucker"]
    left, right = m["eyeBlinkLeft"], m["eyeBlinkRight"]
    both = min(left, right)  # the presets add up on most models
    return {
        "A": m["jawOpen"] * (1 - funnel),
        "I": _mean(m, "mouthStretch"),
        "U": pucker,
        "O": funnel,
        "Blink": both,
        "Blink_L": left - both,
        "Blink_R": right - both,
        "Joy": _mean(m, "mouthSmile"),
        "Angry": _mean(m, "browDown"),
        "Sorrow": _mean(m, "mouthFrown"),
    }


def _mean(measures: Mapping[str, float], name: str) -> float:
    return (measures[f"{name}Left"] + measures[f"{name}Right"]) / 2


def _bones(told: Told) -> list[Any]:
    """Neck and Head, each with half of the head's turn.

    In Unity's left-handed axes, with x to the avatar's right and z before it, the numbers of the quaternion are those
    of the pose in the camera's axes: x is turned round, and so is the sense of every turn.
    """
    x, y, z, w = told.pose.quaternion.tolist()
    half = math.sqrt(2 * (1 + w))  # of the angle: q + 1, brought to length 1
    turn = x / half, y / half, z / half, (1 + w) / half
    return [message("/VMC/Ext/Bone/Pos", [bone, *position, *turn]) for bone, position in BONES.items()]
