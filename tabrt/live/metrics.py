"""Numbers of a live run for Prometheus."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tabrt.errors import TabrtError, first_line
from tabrt.live.status import State, Status


class MetricsServer:
    """Numbers of a live run on http://127.0.0.1:port/metrics. Raises TabrtError for a taken port."""

    def __init__(self, port: int, status: Callable[[], Status]):
        class Handler(BaseHTTPRequestHandler):
            timeout = 5  # seconds

            def do_GET(self) -> None:
                if self.path != "/metrics":
                    self.send_error(404, "the numbers are at /metrics")
                    return
                body = metrics_text(status()).encode()
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
            raise TabrtError(
                f"port {port} cannot be used ({first_line(problem)}); choose another --metrics-port"
            ) from None
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="tabrt-metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def metrics_text(status: Status) -> str:
    """A status in Prometheus' text format."""
    counts = status.counts
    rows: list[tuple[str, str, str, list[tuple[str, object]]]] = [
        ("frames_total", "counter", "Frames tracked and shown.", [("", counts.frames)]),
        ("dropped_frames_total", "counter", "Frames let go because newer ones were there.", [("", counts.dropped)]),
        ("reconnections_total", "counter", "Times the source was opened anew.", [("", status.reconnections)]),
        ("faces", "gauge", "Faces in the last frame.", [("", counts.faces)]),
        ("frames_per_second", "gauge", "Frames shown a second, lately.", [("", round(counts.fps, 3))]),
        (
            "latency_seconds",
            "gauge",
            "From captured to shown, lately.",
            [
                ('{quantile="0.5"}', _seconds(counts.latency)),
                ('{quantile="0.95"}', _seconds(counts.latency95)),
            ],
        ),
        (
            "state",
            "gauge",
            "1 for the state that the source is in.",
            [(f'{{state="{state}"}}', int(status.state is state)) for state in State],
        ),
    ]
    lines = []
    for name, kind, text, values in rows:
        lines += [f"# HELP tabrt_{name} {text}", f"# TYPE tabrt_{name} {kind}"]
        lines += [f"tabrt_{name}{labels} {value}" for labels, value in values]
    return "\n".join(lines) + "\n"


def _seconds(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.4f}"
