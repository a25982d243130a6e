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
from urllib.parse import urlsplit

import numpy as np

from tabrt.engines.engine import FakeEngine
from tabrt.faces import Face, Frame, Scene
from tabrt.geometry import Box
from tabrt.live.sources import ignore_sound
from tabrt.topology import WFLW98

FILM = Path(__file__).parents[1] / "tabrt" / "demo" / "pexels_face.mp4"
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "12")
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
        self.sound, self.hear = (), ignore_sound
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
        self.topology = WFLW98
        self.seconds: dict[str, float] = {}
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


def serve_film(url: str, film: Path = FILM) -> subprocess.Popen | RtspServer:
    """ffmpeg sending a film in real time, again and again, as HTTP MJPEG or H.264 over UDP or RTSP."""
    if shutil.which("ffmpeg") is None:
        import pytest  # not at the top: the programs under test need no test runner

        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    if url.startswith("rtsp"):
        return RtspServer(urlsplit(url).port, film)
    if url.startswith("http"):
        form = ["-f", "mpjpeg", "-q:v", "5", "-listen", "1"]
    else:
        form = [*H264, "-f", "mpegts"]
        url += "?pkt_size=1316"
    return _sender(film, *form, url)


def _sender(film: Path, *form: str) -> subprocess.Popen:
    command = ["ffmpeg", "-v", "quiet", "-re", "-stream_loop", "-1", "-i", str(film), "-an", *form]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


class RtspServer:
    """An RTSP camera for one visitor at a time, RTP inside the connection; it names a duration, as some cameras do."""

    def __init__(self, port: int, film: Path):
        self._packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", 0))
        self._door = socket.create_server(("127.0.0.1", port))
        self._visitors: list[socket.socket] = []
        self._ffmpeg = _sender(film, *H264, "-f", "rtp", f"rtp://127.0.0.1:{self._packets.getsockname()[1]}")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self._ffmpeg.kill()
        for each in (self._door, self._packets, *self._visitors):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def wait(self) -> None:
        self._ffmpeg.wait()
        self._thread.join(10)

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # killed
            while True:
                visitor, _ = self._door.accept()
                self._visitors.append(visitor)
                with contextlib.suppress(ConnectionError):
                    self._answer(visitor)

    def _answer(self, visitor: socket.socket) -> None:
        sdp = (
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\na=range:npt=0-20\r\nm=video 0 RTP/AVP 96\r\n"
            "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track\r\n"
        )
        more = {
            "OPTIONS": ("Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n", ""),
            "DESCRIBE": (f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n", sdp),
            "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n", ""),
        }
        requests = visitor.makefile("r", newline="\r\n")
        while (line := requests.readline()) and line.strip():
            method = line.split()[0]
            lines = list(iter(lambda: requests.readline().strip(), ""))
            number = next(each for each in lines if each.lower().startswith("cseq"))
            headers, body = more.get(method, ("", ""))
            visitor.sendall(f"RTSP/1.0 200 OK\r\n{number}\r\nSession: 1\r\n{headers}\r\n{body}".encode())
            while method == "PLAY":
                packet = self._packets.recv(65536)
                visitor.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)


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
