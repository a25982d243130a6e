"""What is sent with each scene as datagrams."""

from __future__ import annotations

import logging
import socket
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tabrt.errors import TabrtError
from tabrt.faces import Face, Scene
from tabrt.measures import Gaze, Measures, Pose
from tabrt.sinks.sink import Sink

MOST_BYTES = 1472  # of a datagram that no usual network cuts in pieces

log = logging.getLogger("tabrt")


class UdpSink(Sink):
    """Sends the datagrams of each scene to HOST[:PORT].

    UDP promises nothing, and whoever listens may come later or go and come back: the first sending that fails is
    told, and none ends the run. Raises TabrtError for an address that is none.
    """

    option: str  # of the command line, for messages
    port: int | None = None  # where none is given; None: one must be

    def __init__(self, address: str):
        self._address = address
        host, port = host_and_port(address, self.port)
        try:
            family, kind, _, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
            self._socket = socket.socket(family, kind)
            self._socket.setblocking(False)
        except (OSError, UnicodeError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise TabrtError(f"{self.option} {address}: {reason}; check the host") from None
        self._target: tuple[Any, ...] = target
        self._told = False

    def __call__(self, scene: Scene) -> None:
        for packet in self.packets(scene):
            try:
                self._socket.sendto(packet, self._target)
            except OSError as problem:
                if not self._told:
                    log.warning("%s %s: cannot send (%s); trying on", self.option, self._address, problem.strerror)
                self._told = True

    @abstractmethod
    def packets(self, scene: Scene) -> Iterable[bytes]:
        """The datagrams of a scene."""

    def close(self) -> None:
        self._socket.close()


@dataclass(frozen=True, eq=False)
class Told:
    """A face of which pose, gaze and measures are known."""

    face: Face
    pose: Pose
    gaze: Gaze
    measures: Measures

    @classmethod
    def of(cls, face: Face) -> Told | None:
        """None for a face without a pose."""
        pose, gaze, measures = face.pose, face.gaze, face.measures
        return None if pose is None or gaze is None or measures is None else cls(face, pose, gaze, measures)


class Performer:
    """Whom an avatar follows: the largest face, and then the same one for as long as it is there."""

    def __init__(self) -> None:
        self._id: int | None = None

    def __call__(self, scene: Scene) -> Told | None:
        if not scene.faces:
            return None
        same = next((face for face in scene.faces if face.id == self._id), None)
        face = same or max(scene.faces, key=lambda face: face.box.width * face.box.height)
        self._id = face.id
        return Told.of(face)


def host_and_port(address: str, default: int | None = None) -> tuple[str, int]:
    """HOST:PORT, [IPv6]:PORT or PORT (of this machine); HOST alone where there is a default port. Raises TabrtError."""
    host, colon, port = address.rpartition(":")
    if default is not None and address and not port.isdecimal() and (not colon or address.endswith("]")):
        host, port = address, str(default)
    if not (port.isdecimal() and 0 < int(port) < 65536):
        example = "127.0.0.1:9000" if default is None else f"127.0.0.1 or 127.0.0.1:{default}"
        raise TabrtError(f"{address} is no HOST:PORT; write it like {example}")
    return host.strip("[]") or "127.0.0.1", int(port)
