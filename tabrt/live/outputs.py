"""What a live run hands to others: films, snapshots, a virtual camera, and numbers for Prometheus."""

from __future__ import annotations

import logging
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.film.writing import FilmWriter
from tabrt.live.camera import LiveCamera, State
from tabrt.live.status import Numbers

USUAL_RATE = 30.0  # pictures a second, of a source that does not say

log = logging.getLogger("tabrt")


class Recorder:
    """Films that begin and end on demand: the first into `out`, where given, later ones into `folder`.

    `seconds` counts those in the film being written.
    """

    def __init__(self, folder: Path, out: str | Path | None = None):
        self.seconds = 0.0
        self._began = 0.0
        self._folder, self._out = folder, out
        self._writer: FilmWriter | None = None

    def follow(self, wanted: bool, picture: np.ndarray, time: float, rate: float | None) -> str:
        """Begin, go on or end as wanted; picture uint8 (H, W, 3) BGR, time seconds. Returns what there is to tell.

        Raises TabrtError when the film cannot be written.
        """
        if not wanted:
            return self.close()
        said = ""
        if self._writer is None:
            path, self._out = self._out or stamped(self._folder, ".mp4"), None
            size = picture.shape[1], picture.shape[0]
            self._writer = FilmWriter(path, *size, rate or USUAL_RATE, index_first=False)
            self._began = time
            said = f"recording {path}"
        self._writer.write(picture, time)
        self.seconds = time - self._began
        return said

    def close(self) -> str:
        """End the film, if there is one."""
        writer, self._writer = self._writer, None
        if writer is None:
            return ""
        self.seconds = 0.0
        writer.close()
        return f"wrote {writer.path}"


def snapshot(folder: Path, picture: np.ndarray) -> str:
    """Write picture uint8 (H, W, 3) BGR as PNG. Returns what was written. Raises TabrtError."""
    path = stamped(folder, ".png")
    try:
        path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    except OSError as problem:
        raise TabrtError(f"cannot write {path} ({problem.strerror}); start tabrt in another folder") from None
    return f"wrote {path}"


def stamped(folder: Path, suffix: str) -> Path:
    """A new file name that says when it was made."""
    stem = time.strftime("tabrt-%Y%m%d-%H%M%S")
    path, number = folder / f"{stem}{suffix}", 1
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}{suffix}"
    return path


def find_pyvirtualcam():
    """The package behind VirtualCamera. Raises TabrtError where it is not installed."""
    try:
        import pyvirtualcam
    except ModuleNotFoundError:
        raise TabrtError("--virtual-camera needs pyvirtualcam (GPLv2); run: pip install pyvirtualcam") from None
    return pyvirtualcam


class VirtualCamera:
    """A camera that other programs can choose, through pyvirtualcam. Raises TabrtError where there is none."""

    def __init__(self, width: int, height: int, rate: float | None):
        pyvirtualcam = find_pyvirtualcam()
        try:
            self._camera = pyvirtualcam.Camera(width, height, rate or USUAL_RATE, fmt=pyvirtualcam.PixelFormat.BGR)
        except RuntimeError as problem:
            reason = str(problem).splitlines()[0][:120]
            raise TabrtError(f"no virtual camera ({reason}); on Linux: sudo modprobe v4l2loopback") from None
        log.info("virtual camera: %s", self._camera.device)

    def send(self, picture: np.ndarray) -> None:
        self._camera.send(picture)

    def close(self) -> None:
        self._camera.close()


class MetricsServer:
    """Numbers of a live run for Prometheus, on http://127.0.0.1:port/metrics. Raises TabrtError for a taken port."""

    def __init__(self, port: int, numbers: Numbers, camera: LiveCamera):
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # seconds

            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404, "the numbers are at /metrics")
                    return
                body = metrics_text(numbers, camera).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_message: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except (OSError, OverflowError) as problem:
            reason = getattr(problem, "strerror", None) or str(problem)
            raise TabrtError(f"port {port} cannot be used ({reason}); choose another --metrics-port") from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="tabrt-metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def metrics_text(numbers: Numbers, camera: LiveCamera) -> str:
    """The numbers in Prometheus' text format."""
    rows = [
        ("frames_total", "counter", "Frames tracked and shown.", [("", numbers.frames)]),
        ("dropped_frames_total", "counter", "Frames let go because newer ones were there.", [("", numbers.dropped)]),
        ("reconnections_total", "counter", "Times the source was opened anew.", [("", max(0, camera.openings - 1))]),
        ("faces", "gauge", "Faces in the last frame.", [("", numbers.faces)]),
        ("frames_per_second", "gauge", "Frames shown a second, lately.", [("", round(numbers.fps, 3))]),
        (
            "latency_seconds",
            "gauge",
            "From captured to shown, lately.",
            [(f'{{quantile="{share}"}}', _seconds(numbers.recent_latency(share))) for share in (0.5, 0.95)],
        ),
        (
            "state",
            "gauge",
            "1 for the state that the source is in.",
            [(f'{{state="{state}"}}', int(camera.state is state)) for state in State],
        ),
    ]
    lines = []
    for name, kind, text, values in rows:
        lines += [f"# HELP tabrt_{name} {text}", f"# TYPE tabrt_{name} {kind}"]
        lines += [f"tabrt_{name}{labels} {value}" for labels, value in values]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.4f}"
