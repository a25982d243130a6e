"""Scenes as OSC messages over UDP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tabrt.errors import TabrtError, install_extra
from tabrt.faces import Scene
from tabrt.sinks.udp import Told, UdpSink


class OscSink(UdpSink):
    """Sends each face to HOST:PORT as OSC bundles, each in one datagram of at most 1,472 bytes.

    Each begins with `/tabrt/frame index time width height faces`, time a double in seconds; a scene without faces is
    that alone. Then comes `/tabrt/face id score x0 y0 x1 y1 …`, in frame px. With `measures`, after it in the same
    bundle `/tabrt/pose id yaw pitch roll x y z qx qy qz qw` (degrees, metres), and in a second one `/tabrt/measures
    id name value name value …` with ARKit's names, `/tabrt/gaze id yaw pitch confidence` while eyes are seen, and
    `/tabrt/blink id time seconds depth` for a blink that has just ended. Raises TabrtError for an address that is
    none, and without python-osc.
    """

    option = "--osc"

    def __init__(self, address: str, measures: bool = False):
        super().__init__(address)
        self._measures = measures
        require_osc("OSC")

    def packets(self, scene: Scene) -> Iterable[bytes]:
        height, width = scene.frame.image.shape[:2]
        frame = message("/tabrt/frame", [scene.frame.index, (scene.frame.time, "d"), width, height, len(scene.faces)])
        if not scene.faces:
            yield bundle([frame])
        for face in scene.faces:
            points = np.float32(face.points).ravel().tolist()
            messages = [frame, message("/tabrt/face", [face.id, float(face.box.score), *points])]
            told = Told.of(face) if self._measures else None
            if told is None:
                yield bundle(messages)
                continue
            yield bundle([*messages, _pose(told)])
            yield bundle([frame, *_measured(told)])


def _pose(told: Told) -> Any:
    pose = told.pose
    return message("/tabrt/pose", [told.face.id, *pose.angles, *pose.translation.tolist(), *pose.quaternion.tolist()])


def _measured(told: Told) -> Iterator[Any]:
    number, measures = told.face.id, told.measures
    yield message("/tabrt/measures", [number, *(part for item in measures.items() for part in item)])
    gaze = told.gaze.both
    if gaze is not None:
        yield message("/tabrt/gaze", [number, gaze.yaw, gaze.pitch, gaze.confidence])
    if measures.blink is not None:
        blink = measures.blink
        yield message("/tabrt/blink", [number, (blink.time, "d"), blink.seconds, blink.depth])


def require_osc(what: str) -> None:
    """Raise TabrtError where python-osc, which this needs, is not installed."""
    try:
        import pythonosc  # noqa: F401
    except ModuleNotFoundError:
        raise TabrtError(f"{what} needs one more package; {install_extra('osc')}") from None


def bundle(messages: Iterable[Any]) -> bytes:
    """OSC messages as one bundle, to be taken at once."""
    from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder

    builder = OscBundleBuilder(IMMEDIATELY)
    for one in messages:
        builder.add_content(one)
    return builder.build().dgram


def message(address: str, values: Iterable[Any]) -> Any:
    from pythonosc.osc_message_builder import OscMessageBuilder

    builder = OscMessageBuilder(address)
    for value in values:
        if isinstance(value, tuple):
            builder.add_arg(*value)
        else:
            builder.add_arg(value)
    return builder.build()
