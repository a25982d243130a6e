"""Scenes as OSC messages over UDP."""

from __future__ import annotations

import logging

import numpy as np

from tabrt.errors import TabrtError, install_extra
from tabrt.faces import Scene
from tabrt.sinks.sink import Sink

log = logging.getLogger("tabrt")


class OscSink(Sink):
    """Sends each scene to HOST:PORT as one OSC bundle.

    `/tabrt/frame index time width height faces`, time a double in seconds; then for each face
    `/tabrt/face id score x0 y0 x1 y1 …`, in frame px. Raises TabrtError for an address that is none, and without
    python-osc.
    """

    def __init__(self, address: str):
        host, port = host_and_port(address)
        try:
            from pythonosc.udp_client import UDPClient
        except ModuleNotFoundError:
            raise TabrtError(f"OSC needs one more package; {install_extra('osc')}") from None
        self._address = address
        try:
            self._client = UDPClient(host, port)
        except OSError as problem:
            raise TabrtError(f"--osc {address}: {problem.strerror or problem}; check the host") from None

    def __call__(self, scene: Scene) -> None:
        from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder

        bundle = OscBundleBuilder(IMMEDIATELY)
        for message in _messages(scene):
            bundle.add_content(message)
        try:
            self._client.send(bundle.build())
        except OSError as problem:  # the other side may come back: UDP promises nothing
            log.debug("OSC to %s: %s", self._address, problem)


def _messages(scene: Scene) -> list:
    height, width = scene.frame.image.shape[:2]
    frame = _message("/tabrt/frame", [scene.frame.index, (scene.frame.time, "d"), width, height, len(scene.faces)])
    faces = [
        _message("/tabrt/face", [face.id, float(face.box.score), *np.float32(face.points).ravel().tolist()])
        for face in scene.faces
    ]
    return [frame, *faces]


def _message(address: str, values: list):
    from pythonosc.osc_message_builder import OscMessageBuilder

    message = OscMessageBuilder(address)
    for value in values:
        if isinstance(value, tuple):
            message.add_arg(*value)
        else:
            message.add_arg(value)
    return message.build()


def host_and_port(address: str) -> tuple[str, int]:
    """HOST:PORT, [IPv6]:PORT or PORT (of this machine). Raises TabrtError."""
    host, _, port = address.rpartition(":")
    if not (port.isdecimal() and 0 < int(port) < 65536):
        raise TabrtError(f"{address} is no HOST:PORT; write it like 127.0.0.1:9000")
    return host.strip("[]") or "127.0.0.1", int(port)
