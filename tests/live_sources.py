"""Stand-ins for a camera and a tracker: what they do is written down, so that a test knows what must come out."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tabrt.engine import FakeEngine
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box

FILM = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"
FOREVER = 600.0  # seconds; nothing waits that long


def picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """A picture that tells its number: each of its pixels is (number, 40, 200)."""
    image = np.empty((height, width, 3), np.uint8)
    image[...] = number % 256, 40, 200
    return image


class ScriptedCapture:
    """Does what a script says: a picture is given, an error raised, a number of seconds slept, a function called."""

    def __init__(self, steps, rate: float | None = 30.0, live: bool = True, gap: float = 0.0):
        self.rate, self.live = rate, live
        self.given = 0  # pictures
        self.closed = threading.Event()
        self._steps, self._gap = iter(steps), gap

    def read(self) -> np.ndarray | None:
        time.sleep(self._gap)
        for step in self._steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, np.ndarray):
                self.given += 1
                return step
            if callable(step):
                step()
            else:
                time.sleep(step)
        return None

    def close(self) -> None:
        self.closed.set()


class Opener:
    """Opens scripted captures one after the other; an error in their place is raised. The last one again and again."""

    def __init__(self, *captures):
        self.captures, self.opened = list(captures), 0

    def __call__(self):
        capture = self.captures[min(self.opened, len(self.captures) - 1)]
        self.opened += 1
        if isinstance(capture, Exception):
            raise capture
        return capture


class ScriptedTracker:
    """Finds one face, the same in each frame; ids grow with each reset, as a real tracker's do."""

    def __init__(self, seconds: float = 0.0, **_options):
        self.engine = FakeEngine(np.full((98, 2), 128.0))
        self.resets = 0
        self._seconds = seconds

    def __call__(self, frame: Frame) -> Scene:
        time.sleep(self._seconds)
        height, width = frame.image.shape[:2]
        angles = np.linspace(0, 2 * np.pi, 98, endpoint=False)
        points = np.column_stack([width / 2 + width / 5 * np.cos(angles), height / 2 + height / 4 * np.sin(angles)])
        face = Face(self.resets, points, points, np.full(98, 0.9), Box.of(points, 0.9))
        return Scene(frame, (face,))

    def reset(self) -> None:
        self.resets += 1

    def close(self) -> None:
        pass

    def __enter__(self) -> ScriptedTracker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def wait(done, seconds: float = 60.0) -> None:
    """Until `done()`; raises TimeoutError when that takes too long even for a busy machine."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve_film(url: str, film: Path = FILM) -> subprocess.Popen:
    """ffmpeg sending a film in real time, again and again, as HTTP MJPEG or H.264 over UDP."""
    if shutil.which("ffmpeg") is None:
        import pytest  # not at the top: the programs under test need no test runner

        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    if url.startswith("http"):
        form = ["-f", "mpjpeg", "-q:v", "5", "-listen", "1"]
    else:
        form = ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12", "-f", "mpegts"]
        url += "?pkt_size=1316"
    command = ["ffmpeg", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", str(film), "-an", *form, url]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL)


def wait_for_port(port: int, seconds: float = 60.0) -> None:
    """Until somebody listens; told by the system's list, for a server of one visitor must not be visited."""
    listening = f":{port:04X} 00000000:0000 0A"
    wait(lambda: listening in Path("/proc/net/tcp").read_text(), seconds)


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """The process, killed at the end if it still runs."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
