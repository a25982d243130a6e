"""The live loop for a long time on a real stream: latency, drops, memory, threads and files, minute by minute.

ffmpeg sends the film that ships with tabrt as 640×480 at 30 frames/s, MJPEG over HTTP on this machine, again and again;
the live loop tracks it and draws every frame, as a window would have it.

All 20,000 frames take eleven minutes. Progress is printed each minute; Ctrl-C or SIGTERM ends the run early with a full
account of the frames until then.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from benchmarks.contract import Report, markdown, memory_mib, pick
from benchmarks.plots import figure, save
from tabrt.commands.demo import DEMO_FILM
from tabrt.drawing import Drawing, face_layers
from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.hardware import available_threads
from tabrt.live.loop import follow, warm_up
from tabrt.live.run import Counting, Run, Wish
from tabrt.live.sources import live_camera
from tabrt.live.status import Numbers
from tabrt.sinks import Sink
from tabrt.topology import topology_named
from tabrt.tracking import Tracker

RATE = 30  # frames a second
SIZE = 640, 480
WARM = 60  # frames that are not counted
MOST_LATENCY = 1.5  # frames
GROWTH = 5.0  # MiB a minute above which memory counts as growing
PORT = 18573


def run(effort: str, model: str, faces: Path | None) -> Report:
    frames = pick(effort, 20_000, 2_000, 90)
    with Tracker(model) as tracker:
        results = soak(tracker, frames)
        card = tracker.engine.card
    report = Report("soak", effort, card, results, [available_threads(None)])
    _judge(report, results, frames)
    return report


def soak(tracker: Tracker, frames: int, port: int = PORT) -> dict:
    """Run the live loop for this many frames, once it is warm. Returns what it measured, as plain data."""
    warm_up(tracker)
    drawing = Drawing(face_layers(topology_named(tracker.engine.card.topology)))
    with ExitStack() as stack:
        url = stack.enter_context(served(port))
        camera = live_camera(url)
        run = Run(camera)
        samples = _Samples(frames, run)
        follow(camera, tracker, run, [samples, Counting(run)], (drawing, drawing))
    return samples.results()


class _Samples(Sink):
    """Draws each scene, as a window would, and once it is warm takes a sample of the process now and then."""

    def __init__(self, frames: int, run: Run):
        self.numbers = Numbers()
        self._run, self._frames = run, frames
        self.rows: list[tuple[float, float, int, int, float, int]] = []
        self._every = max(1, min(RATE, frames // 20))

    def __call__(self, scene: Scene) -> None:
        _ = scene.picture
        if self._run.numbers.frames >= WARM:
            self._add(scene)
            if self.numbers.frames >= self._frames:
                self._run.ask(Wish("quit", why=f"{self._frames} frames are enough"))

    def _add(self, scene: Scene) -> None:
        self.numbers.add(scene)
        if self.numbers.frames % self._every == 0:
            threads, files = (len(os.listdir(f"/proc/self/{kind}")) for kind in ("task", "fd"))
            latency = 1e3 * self.numbers.now().latency
            row = time.monotonic(), memory_mib(os.getpid()), threads, files, latency, self.numbers.dropped
            self.rows.append(row)
        if self.numbers.frames % (60 * RATE) == 0:
            print(f"{self.numbers.summary()}; {memory_mib(os.getpid()):.0f} MiB", file=sys.stderr, flush=True)

    def results(self) -> dict:
        if not self.rows:
            raise TabrtError("the soak was stopped before it was warm; nothing was measured")
        seconds, memory, threads, files, latency, dropped = (list(column) for column in zip(*self.rows, strict=True))
        half = len(seconds) // 2
        slope = 60 * float(np.polyfit(seconds[half:], memory[half:], 1)[0]) if half >= 10 else None
        numbers = self.numbers
        return {
            "frames": numbers.frames,
            "dropped": numbers.dropped,
            "fps": (numbers.frames - 1) / numbers.seconds,
            "latency_ms": {"median": 1e3 * numbers.latency(0.5), "95 %": 1e3 * numbers.latency(0.95)},
            "slope_mib_a_minute": slope,
            "over_time": {
                "seconds": [second - seconds[0] for second in seconds],
                "memory_mib": memory,
                "threads": threads,
                "files": files,
                "latency_ms": latency,
                "dropped": dropped,
            },
        }


@contextmanager
def served(port: int) -> Iterator[str]:
    """The address at which ffmpeg sends the film in real time."""
    if shutil.which("ffmpeg") is None:
        raise TabrtError("the soak needs ffmpeg to play a camera; run: apt install ffmpeg")
    url = f"http://127.0.0.1:{port}/"
    with tempfile.TemporaryDirectory() as folder:
        film = Path(folder) / "camera.mkv"
        width, height = SIZE
        shape = f"scale={width}:{height}:force_original_aspect_ratio=increase,crop={width}:{height},fps={RATE}"
        start = ["ffmpeg", "-v", "error", "-nostdin"]
        # Encoded once before, so that the camera costs the tracker little of its cores.
        subprocess.run(
            [*start, "-i", str(DEMO_FILM), "-an", "-vf", shape, "-c:v", "mjpeg", "-q:v", "4", str(film)], check=True
        )
        form = ["-c", "copy", "-f", "mpjpeg", "-listen", "1", url]
        camera = subprocess.Popen(
            [*start, "-re", "-stream_loop", "-1", "-i", str(film), *form], stderr=subprocess.DEVNULL
        )
        try:
            _wait_for(port)
            yield url
        finally:
            camera.kill()
            camera.wait()


def _wait_for(port: int, seconds: float = 60.0) -> None:
    """Until somebody listens; read off the system's list, for ffmpeg serves one visitor only."""
    until = time.monotonic() + seconds
    while f":{port:04X} 00000000:0000 0A" not in Path("/proc/net/tcp").read_text():
        if time.monotonic() > until:
            raise TabrtError(f"ffmpeg does not listen on port {port}; is it taken?")
        time.sleep(0.05)


def _judge(report: Report, results: dict, frames: int) -> None:
    limit = 1e3 * MOST_LATENCY / RATE
    over_time = results["over_time"]
    lines = {
        f"{results['frames']} frames of {frames}": results["frames"] >= frames,
        f"{results['dropped']} of {results['frames']} frames dropped once warm": results["dropped"] == 0,
        f"{results['fps']:.1f} frames/s of {RATE}": results["fps"] > 0.99 * RATE,
        f"median latency {results['latency_ms']['median']:.0f} ms; wanted {limit:.0f}": (
            results["latency_ms"]["median"] <= limit
        ),
    }
    for name in ("threads", "files"):
        counts = over_time[name]
        lines[f"{name}: {counts[0]} at the start, {counts[-1]} at the end"] = is_flat(counts)
    slope = results["slope_mib_a_minute"]
    if slope is not None:
        lines[f"memory grows by {slope:.2f} MiB a minute once it is warm"] = slope <= GROWTH
    for line, kept in lines.items():
        (report.wins if kept else report.losses).append(line)


def is_flat(counts: list[int]) -> bool:
    """Whether the second half holds no more than the first did at some time: some threads are only made when needed."""
    half = len(counts) // 2
    return max(counts[half:]) <= max(counts[: half + 1])


def table(report: Report) -> str:
    results = report.results
    over_time = results["over_time"]
    rows = [
        ["frames", results["frames"]],
        ["dropped", results["dropped"]],
        ["frames/s", results["fps"]],
        ["latency, median, ms", results["latency_ms"]["median"]],
        ["latency, 95 % within, ms", results["latency_ms"]["95 %"]],
        ["memory, first and last, MiB", f"{over_time['memory_mib'][0]:.0f}, {over_time['memory_mib'][-1]:.0f}"],
        ["growth, MiB a minute", results["slope_mib_a_minute"]],
        ["threads, first and last", f"{over_time['threads'][0]}, {over_time['threads'][-1]}"],
        ["open files, first and last", f"{over_time['files'][0]}, {over_time['files'][-1]}"],
    ]
    return markdown(["", ""], rows)


def plots(report: Report) -> None:
    over_time = report.results["over_time"]
    minutes = np.asarray(over_time["seconds"]) / 60
    fig, axes = figure(1, width=7.0, height=1.9, rows=4)
    shown = (
        ("latency_ms", "latency, ms"),
        ("dropped", "dropped frames"),
        ("memory_mib", "memory, MiB"),
        ("threads", "threads, files"),
    )
    for ax, (name, label) in zip(axes, shown, strict=True):
        ax.plot(minutes, over_time[name], color="#0a7a5c", label=name)
        ax.set_ylabel(label, fontsize=8)
        ax.set_ylim(0, 1.15 * max(1, *over_time[name]))
    axes[-1].plot(minutes, over_time["files"], color="#3465a4", label="open files")
    axes[-1].legend(fontsize=8, frameon=False, loc="lower right")
    axes[-1].set_xlabel("minutes")
    save(fig, report.folder / "soak.png")
