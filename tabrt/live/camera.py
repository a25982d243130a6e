"""Live pictures that come for days: cameras, network streams and films played in real time, watched and reopened.

A capture is read in a thread of its own, which keeps only the newest picture. When it stalls it is left to itself, for
a driver may block in `read()` for ever, and opened anew: first after one second, then after two, four … thirty.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import av
import cv2
import numpy as np
from av.error import FFmpegError

from tabrt.ahead import ahead
from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film.pictures import fit
from tabrt.film.reading import MAX_PIXELS, MAX_SIDE, open_film
from tabrt.live.devices import cameras

SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp", "rtp", "srt", "rtmp")
WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds before each attempt to reopen; the last one again and again
MAX_STUCK = 4  # abandoned readers that may hang at once
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

log = logging.getLogger("tabrt")


class State(StrEnum):
    """How a live source is. Stalled: waiting before the next attempt; Reconnecting: being opened anew."""

    STARTING = "Starting"
    RUNNING = "Running"
    STALLED = "Stalled"
    RECONNECTING = "Reconnecting"
    STOPPED = "Stopped"


class Capture(Protocol):
    """An open source. `rate`: pictures a second, None if unknown; `live`: it has no end, so it is watched."""

    rate: float | None
    live: bool

    def read(self) -> np.ndarray | None:
        """Wait for the next picture, uint8 (H, W, 3) BGR; None at the end."""
        ...

    def close(self) -> None: ...


class LiveCamera:
    """The newest frame of a source, for as long as it takes.

    Iterating gives Frames whose `time` is the monotonic clock when the picture had been read and whose `index` counts
    every picture that came, dropped ones too; and None every `tick` seconds in which nothing came. Pictures keep the
    size of the first one: others are fitted into it. `openings` grows each time pictures begin to come (again).

    stall: seconds without a picture, frozen: seconds of one and the same picture, before the source is reopened;
    patience: seconds for opening it, until the first picture. waits: seconds before each attempt to reopen.
    Raises TabrtError, from iterating, when the source cannot be opened the first time; with `exit_when_lost` also when
    it is lost later.
    """

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        name: str = "camera",
        *,
        mirror: bool = False,
        exit_when_lost: bool = False,
        stall: float = 2.0,
        patience: float = 10.0,
        frozen: float = 10.0,
        waits: tuple[float, ...] = WAITS,
        tick: float = 0.1,
    ):
        self.name = name
        self.state, self.reason = State.STARTING, ""
        self.size: tuple[int, int] | None = None  # width, height
        self.rate: float | None = None
        self.openings = 0
        self._open, self._mirror, self._exit_when_lost = open_capture, mirror, exit_when_lost
        self._stall, self._patience, self._frozen, self._waits, self._tick = stall, patience, frozen, waits, tick
        self._stop = threading.Event()
        self._why = "let go"  # it stopped
        self._readers: list[_Reader] = []
        self._pictures = 0
        self._failures = 0  # since the picture last changed
        self._sample: np.ndarray | None = None

    def stop(self, reason: str = "") -> None:
        """Let the source go. Iterating ends within a tick, even while a read is stuck. reason: for the log."""
        self._why = reason or self._why
        self._stop.set()

    def __iter__(self) -> Iterator[Frame | None]:
        self._enter(State.STARTING, f"opening {self.name}")
        try:
            while not self._stop.is_set():
                reader = self._new_reader()
                lost = yield from self._frames(reader)
                if not lost:
                    self._why = self._why if self._stop.is_set() else "the film ended"
                    return
                self._why = lost
                self._check_lost(lost)
                yield from self._wait_to_reopen(lost)
        finally:
            self._release()

    def _new_reader(self) -> _Reader:
        if self.size is not None:
            self._enter(State.RECONNECTING, f"opening {self.name}")
        reader = _Reader(self._open)
        self._readers.append(reader)
        return reader

    def _frames(self, reader: _Reader):
        """Frames, and ticks, until the source is lost; returns why, or "" at its end or when it was stopped."""
        last = changed = time.monotonic()
        limit = self._patience
        while not self._stop.is_set():
            try:
                picture = reader.take(self._tick)
            except _Ended as end:
                return str(end)
            now = time.monotonic()
            if picture is None:
                if reader.live and now - last > limit:
                    return f"no picture for {now - last:.1f} s"
                yield None
                continue
            self._running(reader)
            last, limit = now, self._stall
            if self._has_changed(picture.image):
                changed, self._failures = now, 0
            elif reader.live and now - changed > self._frozen:
                return f"the picture is frozen for {now - changed:.1f} s"
            yield Frame(self._fitted(picture.image), self._pictures + picture.index, picture.time)
        return ""

    def _running(self, reader: _Reader) -> None:
        if self.state is not State.RUNNING:
            self.rate = reader.rate
            self.openings += 1
            self._enter(State.RUNNING, self.name)

    def _has_changed(self, image: np.ndarray) -> bool:
        sample = image[::8, ::8].copy()
        same = self._sample is not None and np.array_equal(sample, self._sample)
        self._sample = sample
        return not same

    def _fitted(self, image: np.ndarray) -> np.ndarray:
        """Mirrored if asked for, and in the size of the first picture, with bars where the shape differs."""
        if self._mirror:
            image = cv2.flip(image, 1)
        size = image.shape[1], image.shape[0]
        if self.size is None:
            self.size = size
        return image if size == self.size else fit(image, *self.size)

    def _check_lost(self, lost: str) -> None:
        if self.size is None:
            raise TabrtError(lost if self.name in lost else f"{self.name}: {lost}; check the source")
        if self._exit_when_lost:
            raise TabrtError(f"{self.name} was lost ({lost}); leave --exit-when-lost out to wait for it")

    def _wait_to_reopen(self, lost: str) -> Iterator[None]:
        reader = self._readers[-1]
        reader.abandon()
        self._pictures += reader.pictures
        wait = self._waits[min(self._failures, len(self._waits) - 1)]
        self._failures += 1
        self._enter(State.STALLED, f"{lost}; opened again in {wait:g} s")
        until = time.monotonic() + wait
        while time.monotonic() < until or self._stuck() >= MAX_STUCK:
            if self._stop.wait(self._tick):
                return
            yield None

    def _stuck(self) -> int:
        self._readers = [reader for reader in self._readers if reader.alive]
        return len(self._readers)

    def _release(self) -> None:
        for reader in self._readers[:-1]:
            reader.abandon()
        for reader in self._readers[-1:]:
            reader.abandon(0.3)
        self._enter(State.STOPPED, self._why)

    def _enter(self, state: State, reason: str) -> None:
        self.state, self.reason = state, reason
        troubled = state in (State.STALLED, State.RECONNECTING)
        log.log(logging.WARNING if troubled else logging.INFO, "%s: %s", state, reason)


@dataclass(frozen=True)
class _Picture:
    """One picture as it came: image uint8 (H, W, 3), its number, the monotonic time."""

    image: np.ndarray
    index: int
    time: float


class _Reader:
    """Opens and reads one capture in a thread of its own, keeping the newest picture. It closes what it opened."""

    def __init__(self, open_capture: Callable[[], Capture]):
        self.pictures = 0  # that came
        self.rate: float | None = None
        self.live = True
        self._newest = ahead(self._read(open_capture), drop=True)

    @property
    def alive(self) -> bool:
        return self._newest.alive

    def take(self, timeout: float) -> _Picture | None:
        """The newest picture not taken yet, waited for at most `timeout` seconds. Raises _Ended."""
        try:
            return self._newest.take(timeout)
        except StopIteration:
            raise _Ended("the stream ended" if self.live else "") from None
        except TabrtError as problem:
            raise _Ended(str(problem)) from None
        except Exception as problem:  # whatever a driver throws, it is a reason to open it anew
            raise _Ended(f"{type(problem).__name__}: {problem}".splitlines()[0][:200]) from None

    def abandon(self, patience: float = 0.0) -> None:
        self._newest.close(patience)

    def _read(self, open_capture: Callable[[], Capture]) -> Iterator[_Picture]:
        with closing(open_capture()) as capture:
            self.rate, self.live = capture.rate, capture.live
            while (image := capture.read()) is not None:
                self.pictures += 1
                yield _Picture(image, self.pictures - 1, time.monotonic())


class _Ended(Exception):
    """No more pictures come; says why, or nothing where a film has come to its end."""


# ---------------------------------------------------------------------------------------------------------- sources


def live_camera(
    source: str | int, size: tuple[int, int] | None = None, fps: float | None = None, **watching
) -> LiveCamera:
    """The camera of this index, name or path; or the stream or film of this address or file.

    size: width and height, and fps, are asked of a camera, which gives the nearest it can. watching: what LiveCamera
    takes. Raises TabrtError for a source that cannot be one; other problems show when it is iterated over.
    """
    source = _local(str(source))
    if not _is_device(source) and (size or fps):
        raise TabrtError("--size and --fps are for cameras; a stream or film comes as it is: leave them out")
    if _is_device(source):
        find_device(source)
    stall, patience = watching.get("stall", 2.0), watching.get("patience", 10.0)

    def open_capture() -> Capture:
        if _scheme(source):
            return open_stream(source, patience, stall)
        if os.path.isfile(source):
            return FilmCapture(source)
        return DeviceCapture(find_device(source), size, fps)

    return LiveCamera(open_capture, shown(source), **watching)


def _local(source: str) -> str:
    """The path behind a file URL; anything else as it is."""
    if not source.lower().startswith("file://"):
        return source
    path = unquote(urlsplit(source).path)
    if not os.path.isfile(path):
        raise TabrtError(f"there is no film {path}; check the address")
    return path


def shown(source: str) -> str:
    """The source without the user name and password an address may carry."""
    return re.sub(r"(?<=://)[^/]*@", "", source)


def _scheme(source: str) -> str | None:
    """The scheme of an address; None for anything else. Raises TabrtError for one that is not read."""
    found = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*)://", source)
    if not found:
        return None
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        raise TabrtError(f"{shown(source)} cannot be read live; use {', '.join(SCHEMES)}, or the path of a film")
    return scheme


def _is_device(source: str) -> bool:
    return _scheme(source) is None and not os.path.isfile(source)


def find_device(source: str) -> str | int:
    """What to open for a camera's index, path or (part of a) name. Raises TabrtError, listing the cameras there are."""
    if source.isdecimal() and sys.platform != "linux":
        return int(source)
    path = f"/dev/video{source}" if source.isdecimal() else source
    if os.path.exists(path) and not os.path.isdir(path):
        return os.path.realpath(path)  # a stable path leads elsewhere once it is plugged in anew
    named = [camera for camera in cameras() if source.lower() in camera.name.lower()]
    if len(named) == 1 and not source.isdecimal():
        return named[0].path
    problem = (
        f"{len(named)} cameras are called {source}"
        if len(named) > 1
        else f"there is no camera, film or address {source}"
    )
    raise TabrtError(f"{problem}; {_camera_list()}")


def _camera_list() -> str:
    found = [f"{camera.path} ({camera.name}{_stable(camera.stable_path)})" for camera in cameras()]
    if not found:
        return "no camera is plugged in: give an address or a film with --camera"
    return f"the cameras here: {', '.join(found)}"


def _stable(path: str | None) -> str:
    return f", {path}" if path else ""


class DeviceCapture:
    """A camera of this machine through OpenCV, with the smallest buffer its driver allows."""

    live = True

    def __init__(self, device: str | int, size: tuple[int, int] | None = None, fps: float | None = None):
        self._device = device
        _check_device(device)
        backend = cv2.CAP_V4L2 if sys.platform == "linux" else cv2.CAP_ANY
        with _quiet_opencv():
            self._capture = cv2.VideoCapture(device, backend)
            if not self._capture.isOpened():
                raise TabrtError(self._no_pictures())
            set_up(self._capture, size, fps)
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or None

    def read(self) -> np.ndarray:
        came, image = self._capture.read()
        if not came:
            raise TabrtError(self._no_pictures())
        return image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)

    def close(self) -> None:
        self._capture.release()

    def _no_pictures(self) -> str:
        return f"camera {self._device} gives no pictures; close the program that uses it, or plug it in again"


def _check_device(device: str | int) -> None:
    if isinstance(device, int):
        return
    try:
        os.close(os.open(device, os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        raise TabrtError(
            f"camera {device} may not be opened; add yourself to the group video, and log in again"
        ) from None
    except OSError as problem:
        raise TabrtError(
            f"camera {device} cannot be opened ({problem.strerror}); close the program that uses it"
        ) from None


def set_up(capture: cv2.VideoCapture, size: tuple[int, int] | None, fps: float | None) -> None:
    """Ask for size, rate and one buffer; for MJPEG where it brings at least twice the rate."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    _ask(capture, size, fps)
    plain, plain_rate = capture.get(cv2.CAP_PROP_FOURCC), capture.get(cv2.CAP_PROP_FPS)
    plain_width = capture.get(cv2.CAP_PROP_FRAME_WIDTH)
    capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*"MJPG"))
    _ask(capture, size, fps)
    larger = capture.get(cv2.CAP_PROP_FRAME_WIDTH) > plain_width
    if not larger and capture.get(cv2.CAP_PROP_FPS) < 2 * plain_rate:
        capture.set(cv2.CAP_PROP_FOURCC, plain)
        _ask(capture, size, fps)


def _ask(capture: cv2.VideoCapture, size: tuple[int, int] | None, fps: float | None) -> None:
    if size:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, size[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, size[1])
    if fps:
        capture.set(cv2.CAP_PROP_FPS, fps)


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """OpenCV's own warnings say less than ours."""
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


class FilmCapture:
    """A film file played in real time, as if it came from a camera, once."""

    live = False

    def __init__(self, source: str | Path):
        self._film = open_film(source)
        self._frames = iter(self._film)
        self._began: float | None = None
        self.rate = float(self._film.rate)

    def read(self) -> np.ndarray | None:
        frame = next(self._frames, None)
        if frame is None:
            return None
        self._began = time.monotonic() - frame.time if self._began is None else self._began
        time.sleep(max(0.0, self._began + frame.time - time.monotonic()))
        return frame.image

    def close(self) -> None:
        self._film.close()


def open_stream(url: str, patience: float, stall: float) -> Capture:
    """The stream of an address; a film that lies on a web server is played in real time. Raises TabrtError."""
    try:
        container = av.open(url, options=LIVE_OPTIONS, timeout=(patience, max(stall, 1.0)))
    except (FFmpegError, OSError, ValueError) as problem:
        raise TabrtError(f"cannot open {shown(url)} ({_reason(problem)}); check the address and the network") from None
    if container.duration and _scheme(url) in ("http", "https"):  # cameras may name a duration in RTSP, and go on
        container.close()
        return FilmCapture(url)
    try:
        return StreamCapture(container, shown(url))
    except BaseException:
        container.close()
        raise


class StreamCapture:
    """A network stream, decoded as it comes."""

    live = True

    def __init__(self, container: av.container.InputContainer, name: str):
        self._container, self._name = container, name
        if not container.streams.video:
            raise TabrtError(f"{name} carries no pictures; check the address")
        self._stream = container.streams.video[0]
        self._stream.thread_type = "SLICE"  # frame threads would each hold a picture back
        rate = self._stream.average_rate or self._stream.guessed_rate
        self.rate = float(rate) if rate and 1 <= rate <= 1000 else None
        self._images = self._decode()

    def read(self) -> np.ndarray | None:
        return next(self._images, None)

    def close(self) -> None:
        self._container.close()

    def _decode(self) -> Iterator[np.ndarray]:
        try:
            for packet in self._container.demux(self._stream):
                for picture in self._pictures(packet):
                    if 0 < picture.width <= MAX_SIDE and 0 < picture.height <= MAX_SIDE:
                        yield picture.to_ndarray(format="bgr24")
        except (FFmpegError, OSError) as problem:
            raise TabrtError(f"{self._name} stopped sending ({_reason(problem)}); check the network") from None

    def _pictures(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.EOFError:
            return []
        except FFmpegError:  # damaged on its way, or joined in the middle
            return []


def _reason(problem: Exception) -> str:
    if isinstance(problem, av.error.ExitError):  # how a timeout shows
        return "nothing came in time"
    text = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
    return text.splitlines()[0][:200]
