"""What live pictures come from: cameras of this machine, network streams, and films played in real time."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import av
import cv2
import numpy as np
from av.error import FFmpegError

from tabrt.errors import TabrtError, first_line
from tabrt.faces import Frame
from tabrt.files import without_password
from tabrt.film import (
    MAX_PIXELS,
    MAX_SIDE,
    Converter,
    deinterlaced,
    open_film,
    picture_stream,
    pixel_aspect_of,
    quiet_opencv,
)
from tabrt.live.camera import Capture, LiveCamera
from tabrt.live.devices import Camera, cameras, open_camera, require_permission
from tabrt.tracking import as_shown

log = logging.getLogger("tabrt")

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "srt", "rtmp")

MAX_DELAY = 2.0  # seconds that a picture may be late by before its clock counts as another one
LIVE_OPTIONS = {  # nothing is held back, and a playlist may not name a local file
    "fflags": "nobuffer",
    "flags": "low_delay",
    "max_delay": "100000",  # microseconds
    "analyzeduration": "1000000",  # microseconds
    "probesize": "1000000",
    "rtsp_transport": "tcp",
    "max_pixels": str(MAX_PIXELS),
    "protocol_whitelist": "http,https,tls,tcp,udp,rtp,rtsp,rtsps,rtmp,srt,crypto,httpproxy",
}


def live_camera(
    source: str | int | None = None, size: tuple[int, int] | None = None, fps: float | None = None, **watching
) -> LiveCamera:
    """The camera of this index, name or path; or the stream or film of this address or file.

    None: the first camera that gives pictures. size: width and height, and fps, are asked of a camera, which gives the
    nearest it can. watching: what LiveCamera takes. Raises TabrtError for a source that cannot be one; other problems
    show when it is iterated over.
    """
    if source is None:
        return _first_camera(size, fps, watching)
    source = _local(str(source))
    if not _is_device(source) and (size or fps):
        raise TabrtError("--size and --fps are for cameras; a stream or film comes as it is: leave them out")
    if _is_device(source):
        find_device(source)
        require_permission()
    stall, patience = watching.get("stall", 2.0), watching.get("patience", 10.0)

    def open_capture() -> Capture:
        if _scheme(source):
            return open_stream(source, patience, stall)
        if os.path.isfile(source):
            return FilmCapture(source)
        return DeviceCapture(find_device(source), size, fps)

    return LiveCamera(open_capture, without_password(source), **watching)


def _first_camera(size: tuple[int, int] | None, fps: float | None, watching: dict) -> LiveCamera:
    """Cameras are tried in their order each time, for their numbers change when they are plugged in anew."""
    require_permission()
    if not cameras():
        if sys.platform == "linux":
            raise TabrtError(_camera_list())
        return live_camera(0, size, fps, **watching)  # those that cannot be listed may be there

    def open_capture() -> Capture:
        problems = []
        for found in cameras():
            try:
                capture = DeviceCapture(found.path if found.number is None else found, size, fps)
                with _closed_on_failure(capture):
                    capture.read()
            except TabrtError as problem:
                problems.append(str(problem))
                continue
            camera.name = str(found)
            return capture
        raise TabrtError("; ".join(problems) or _camera_list())

    camera = LiveCamera(open_capture, "the first camera", **watching)
    return camera


@contextlib.contextmanager
def _closed_on_failure(capture: Capture | av.container.InputContainer) -> Iterator[None]:
    try:
        yield
    except BaseException:
        capture.close()
        raise


def _local(source: str) -> str:
    """The path behind a file URL; anything else as it is."""
    if not source.lower().startswith("file://"):
        return source
    path = unquote(urlsplit(source).path)
    if not os.path.isfile(path):
        raise TabrtError(f"there is no film {path}; check the address")
    return path


def _scheme(source: str) -> str | None:
    """The scheme of an address; None for anything else. Raises TabrtError for one that is not read."""
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", source)
    if not found:
        return None
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise TabrtError(
            f"{without_password(source)} cannot be read live; use {', '.join(SCHEMES)}, or the path of a film"
        )
    return scheme


def _is_device(source: str) -> bool:
    return _scheme(source) is None and not os.path.isfile(source)


def find_device(source: str) -> str | Camera:
    """What to open for a camera's index, path, id or (part of a) name. Raises TabrtError, listing those there are."""
    path = f"/dev/video{source}" if source.isdecimal() else source
    if sys.platform == "linux" and os.path.exists(path) and not os.path.isdir(path):
        return os.path.realpath(path)  # a stable path leads elsewhere once it is plugged in anew
    here = cameras()
    if source.isdecimal() and not here and sys.platform != "linux":
        return Camera(source, f"camera {source}", number=int(source))
    named = _named(source, here)
    if len(named) == 1:
        return named[0].path if named[0].number is None else named[0]
    if os.path.isdir(source):
        raise TabrtError(f"{source} is a folder; name a film in it, or a camera: {_camera_list()}")
    problem = (
        f"{len(named)} cameras are called {source}"
        if len(named) > 1
        else f"there is no camera, film or address {source}"
    )
    raise TabrtError(f"{problem}; {_camera_list()}")


def _named(source: str, here: list[Camera]) -> list[Camera]:
    """The cameras of this path, id or whole name, or else those that have it in their name; a number is no name."""
    wanted = source.casefold()
    exact = [each for each in here if source in (each.path, each.stable_path) or wanted == each.name.casefold()]
    if exact or source.isdecimal():
        return exact
    return [each for each in here if wanted in each.name.casefold()]


def _camera_list() -> str:
    found = [f"{camera.path} ({camera.name}{_stable(camera.stable_path)})" for camera in cameras()]
    if not found:
        return "no camera is plugged in: give an address or a film with --camera"
    return f"the cameras here: {', '.join(found)}"


def _stable(path: str | None) -> str:
    return f", {path}" if path else ""


def ignore_sound(_packet: av.Packet) -> None:
    """What a capture does with sound until somebody hears."""


class DeviceCapture:
    """A camera of this machine through OpenCV, with the smallest buffer its driver allows. Without sound."""

    live = True
    sound: Sequence[av.AudioStream] = ()
    hear: Callable[[av.Packet], None] = staticmethod(ignore_sound)

    def __init__(self, device: str | Camera, size: tuple[int, int] | None = None, fps: float | None = None):
        self._device = device
        with quiet_opencv():
            self._capture = open_camera(device, size, fps)
        if not self._capture.isOpened():
            raise TabrtError(self._no_pictures())
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or None

    def read(self) -> np.ndarray:
        came, image = self._capture.read()
        if not came:
            raise TabrtError(self._no_pictures())
        return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)

    def close(self) -> None:
        self._capture.release()

    def _no_pictures(self) -> str:
        also = ", or allow desktop apps the camera in Settings, Privacy" if sys.platform == "win32" else ""
        return f"camera {self._device} gives no pictures; close the program that uses it, or plug it in again{also}"


class FilmCapture:
    """A film file played in real time, as if it came from a camera, once."""

    live = False

    def __init__(self, source: str | Path):
        self._film = open_film(source)
        self._frames = iter(self._film)
        self._soundtrack = self._film.soundtrack()
        self._began: float | None = None
        self.rate: float | None = float(self._film.rate)
        streams = self._soundtrack.streams
        self.sound: Sequence[av.AudioStream] = [each for each in streams if isinstance(each, av.AudioStream)]
        self.hear: Callable[[av.Packet], None] = ignore_sound

    def read(self) -> np.ndarray | None:
        frame = next(self._frames, None)
        if frame is None:
            return None
        self._began = time.monotonic() - frame.time if self._began is None else self._began
        for packet in self._soundtrack.take(frame.time):
            if packet.stream.type == "audio":
                self.hear(later(packet, self._began))
        time.sleep(max(0.0, self._began + frame.time - time.monotonic()))
        return as_shown(frame).image

    def close(self) -> None:
        _tell(self._film.notes)
        self._film.close()


def _tell(notes: Sequence[str]) -> None:
    """Log what was done to the pictures, a line each."""
    for note in notes:
        log.info("%s", note)


def later(packet: av.Packet, seconds: float) -> av.Packet:
    """The packet, moved to another clock."""
    ticks = round(seconds / packet.time_base)
    packet.pts, packet.dts = (None if each is None else each + ticks for each in (packet.pts, packet.dts))
    return packet


def open_stream(url: str, patience: float, stall: float) -> Capture:
    """The stream of an address; a film that lies on a web server is played in real time. Raises TabrtError."""
    try:
        container = av.open(url, options=LIVE_OPTIONS, timeout=(patience, max(stall, 1.0)))
    except (FFmpegError, OSError, ValueError) as problem:
        raise TabrtError(
            f"cannot open {without_password(url)} ({_reason(problem)}); check the address and the network"
        ) from None
    if container.duration and _scheme(url) in ("http", "https"):  # cameras may name a duration in RTSP, and go on
        container.close()
        return FilmCapture(url)
    with _closed_on_failure(container):
        return StreamCapture(container, without_password(url))


class StreamCapture:
    """A network stream, decoded as it comes."""

    live = True

    def __init__(self, container: av.container.InputContainer, name: str):
        self._container, self._name = container, name
        self._stream, _, _ = picture_stream(container, name, None)
        self._stream.thread_type = "SLICE"  # frame threads would each hold a picture back
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate: float | None = float(rate) if rate and 1 <= rate <= 1000 else None
        self.sound: Sequence[av.AudioStream] = container.streams.audio
        self.hear: Callable[[av.Packet], None] = ignore_sound
        self._zero: float | None = None  # monotonic time at 0 of the stream's clock, as the first picture tells it
        self._notes: list[str] = []
        self._convert = Converter(self.rate or 25.0)
        self._images = self._decode()

    def read(self) -> np.ndarray | None:
        return next(self._images, None)

    def close(self) -> None:
        _tell([*self._notes, *self._convert.notes])
        self._container.close()

    def _decode(self) -> Iterator[np.ndarray]:
        """Pictures as they are shown: in SDR, whole, with square pixels."""
        for picture in deinterlaced(self._decode_raw(), self._notes):
            frame = Frame(self._convert(picture), pixel_aspect=float(pixel_aspect_of(self._stream) or 1))
            yield as_shown(frame).image

    def _decode_raw(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._container.demux(self._stream, *self.sound):
                if packet.stream.type == "audio":
                    if self._zero is not None and packet.size:
                        self.hear(later(packet, self._zero))
                    continue
                for picture in self._pictures(packet):
                    if 0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE:
                        self._tell_clocks(picture.time)
                        yield picture
        except (FFmpegError, OSError) as problem:
            raise TabrtError(f"{self._name} stopped sending ({_reason(problem)}); check the network") from None

    def _tell_clocks(self, shown: float | None) -> None:
        """Keep the clocks of stream and machine together: they jump when a sender starts afresh."""
        if shown is not None:
            zero = time.monotonic() - shown
            if self._zero is None or zero < self._zero or zero - self._zero > MAX_DELAY:
                self._zero = zero

    def _pictures(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.EOFError:
            return []
        except FFmpegError:  # damaged on its way, or joined in the middle
            return []


def _reason(problem: Exception) -> str:
    return "nothing came in time" if isinstance(problem, av.error.ExitError) else first_line(problem)  # a timeout
