"""What people would use instead, on the same frames, cores and minutes: MediaPipe's Face Landmarker and dlib."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.contract import Report, Timing, markdown, pick
from benchmarks.peer_environments import ENVIRONMENT_OF, python_of
from benchmarks.plots import figure, ink, save
from tabrt.card import ModelCard
from tabrt.commands.demo import DEMO_FILM
from tabrt.errors import TabrtError
from tabrt.faces import Frame
from tabrt.film import open_film
from tabrt.topology import to_68
from tabrt.tracking import Tracker

SIZE = 640, 480  # px, of the frames
FACE_X = 415  # px in the demo film: where its face is
MOST_OF_MEDIAPIPE = 1.5  # times the Face Landmarker's milliseconds that the tracker may take
PEERS = tuple(ENVIRONMENT_OF)
MESH = ("mediapipe", "mediapipe-refined")
# The vertex of MediaPipe's mesh nearest to each 300w68 point.
MESH_TO_68 = np.array(
    [
        *(162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389),  # jaw
        *(71, 63, 105, 66, 107, 336, 296, 334, 293, 301),  # brows
        *(168, 197, 5, 4, 75, 97, 2, 326, 305),  # nose
        *(33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380),  # eyes
        *(61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181),  # outer lip
        *(78, 82, 13, 312, 308, 317, 14, 87),  # inner lip
    ]
)


class Peer:
    """A peer in its own process and environment, on the first `cores` cores. Raises TabrtError where it is not made."""

    def __init__(self, name: str, cores: int):
        python = python_of(name)
        if not python.is_file():
            raise TabrtError(f"{name} has no environment; make it with python -m benchmarks.peer_environments")
        self.name = name
        worker = Path(__file__).with_name("peer_worker.py")
        self._process = subprocess.Popen(
            [python, worker, name, str(cores)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        self._answer()
        self.box: tuple[float, ...] | None = None  # of the last detection, where the peer tells it
        self.seconds = 0.0  # of the last picture

    def __call__(
        self, image: np.ndarray, time: float | None = None, box: tuple[float, ...] | None = None
    ) -> np.ndarray | None:
        """The peer's own points (K, 2) of the first face in image uint8 (H, W, 3) BGR, in px, or None.

        time: of a frame of the film that start() began, s; None for a picture of its own.
        """
        self._send({"shape": image.shape[:2], "time": time, "box": box}, np.ascontiguousarray(image).data)
        answer = self._answer()
        self.seconds, self.box = answer["seconds"], answer["box"]
        return None if answer["points"] is None else np.array(answer["points"])

    def start(self) -> None:
        """Forget the face: a new film begins."""
        self._send({"reset": True})
        self._answer()

    def _send(self, request: dict, picture: bytes | memoryview = b"") -> None:
        self._in.write(json.dumps(request).encode() + b"\n")
        self._in.write(picture)
        self._in.flush()

    def _answer(self) -> dict:
        line = self._out.readline()
        if not line:
            raise TabrtError(
                f"{self.name} has ended; make its environment again: python -m benchmarks.peer_environments"
            )
        return json.loads(line)

    def close(self) -> None:
        self._in.close()
        self._process.wait(10)


def peer_68(name: str, points: np.ndarray) -> np.ndarray:
    """A peer's own points (..., K, 2) as 300w68 points, by a fixed choice."""
    return points[..., MESH_TO_68, :] if name in MESH else points


def open_peers(stack: ExitStack, cores: int, notes: list[str]) -> dict[str, Peer]:
    """The peers that are here. Of the others, a note says how to get them."""
    found = {}
    for name in PEERS:
        try:
            found[name] = peer = Peer(name, cores)
            stack.callback(peer.close)
        except TabrtError as problem:
            notes.append(str(problem))
    return found


@contextmanager
def on_cores(cores: int) -> Iterator[None]:
    """Keep this process, and threads it starts now, on its first `cores` cores."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(effort: str, model: str, faces: Path | None) -> Report:
    """Milliseconds a frame of the demo film at 640×480, one face, everything included but decoding the film."""
    frames = film(pick(effort, 300, 150, 4))
    rounds = pick(effort, 3, 2, 1)
    notes = [
        "The demo film at 640×480, one face; the tracker itself, without reading or writing a film. On one thread a "
        "process is held on one core, on two on two. Peers and tabrt take turns, film by film; warm-up frames left out."
    ]
    milliseconds: dict[str, dict[str, Timing]] = {}
    card: ModelCard | None = None
    for cores in _cores(effort):
        with ExitStack() as stack:
            peers = open_peers(stack, cores, notes if not milliseconds else [])
            ours, card = _ours(stack, model, cores)
            timings: dict[str, list[float]] = {name: [] for name in ("tabrt", *peers)}
            for _ in range(rounds):
                timings["tabrt"] += _time_ours(ours, frames, cores)
                for name, peer in peers.items():
                    peer.start()
                    timings[name] += _time_peer(peer, frames)
        milliseconds[str(cores)] = {name: Timing.of(seconds) for name, seconds in timings.items()}
    results = {"milliseconds": milliseconds, "frames": len(frames), "rounds": rounds}
    report = Report("peers", effort, card, results, _cores(effort), notes=notes)
    _judge(report)
    return report


def _cores(effort: str) -> list[int]:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return [cores for cores in pick(effort, (1, 2), (1, 2), (1,)) if cores <= here]


def film(count: int) -> list[Frame]:
    """The first frames of the demo film, enlarged and cut to SIZE around its face."""
    width, height = SIZE
    with open_film(DEMO_FILM) as source:
        scale = height / source.height
        left = int(min(FACE_X * scale - width / 2, source.width * scale - width))
        return [
            replace(frame, image=cv2.resize(frame.image, None, fx=scale, fy=scale)[:, left : left + width].copy())
            for frame in islice(source, count)
        ]


def _ours(stack: ExitStack, model: str, cores: int) -> tuple[Tracker, ModelCard]:
    with on_cores(cores):
        tracker = stack.enter_context(Tracker(model=model, faces=1, threads=cores))
        return tracker, tracker.engine.card


def _time_ours(tracker: Tracker, frames: list[Frame], cores: int) -> list[float]:
    tracker.reset()
    with on_cores(cores):
        return _without_start(frames, lambda frame: _clock(tracker, frame))


def _time_peer(peer: Peer, frames: list[Frame]) -> list[float]:
    def seconds(frame: Frame) -> float:
        peer(frame.image, frame.time)
        return peer.seconds

    return _without_start(frames, seconds)


def _without_start(frames: list[Frame], seconds: Callable[[Frame], float]) -> list[float]:
    """The seconds of each frame; the first tenth is warm-up."""
    return [seconds(frame) for frame in frames][len(frames) // 10 :]


def _clock(tracker: Tracker, frame: Frame) -> float:
    start = time.perf_counter()
    tracker(frame)
    return time.perf_counter() - start


def _judge(report: Report) -> None:
    """Say who is faster, as ratios within this run; beside MediaPipe's Face Landmarker, whether the goal is met."""
    for cores, row in report.results["milliseconds"].items():
        for name, timing in row.items():
            if name == "tabrt":
                continue
            ratio = row["tabrt"].median / timing.median
            goal = f"; wanted: at most {MOST_OF_MEDIAPIPE}" if name == "mediapipe" else ""
            line = f"{cores} thread(s): tabrt takes {ratio:.2f} times as long as {name}{goal}"
            (report.wins if ratio <= (MOST_OF_MEDIAPIPE if goal else 1) else report.losses).append(line)


def table(report: Report) -> str:
    """Speed, and beside it accuracy and steadiness where accounts of the same model lie in the same folder."""
    rows = []
    accuracy, steadiness = (_other(report, name) for name in ("accuracy", "stability"))
    milliseconds = report.results["milliseconds"]
    for name in next(iter(milliseconds.values())):
        speeds = [milliseconds[cores].get(name) for cores in milliseconds]
        rows.append([name, *speeds, *_accuracy(accuracy, name), *_steadiness(steadiness, name)])
    header = ["", *(f"ms a frame, {cores} thread(s)" for cores in milliseconds), "NME 68, %", "NME inner 51, %"]
    return markdown([*header, "jitter, % of eye distance", "lag, ms"], rows)


def _other(report: Report, name: str) -> dict:
    path = report.folder / f"{name}.json"
    account = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    same = report.model is not None and account.get("model") == asdict(report.model)
    return account["results"] if same else {}


_FAIR_MAPS = ("own", "to_68", "best linear map")


def _accuracy(results: dict, name: str) -> tuple[float | None, float | None]:
    for row in results.get("rows", ()):
        boxes = "tracker" if name == "tabrt" else "detector"
        if (row["set"], row["method"], row["boxes"]) == ("portraits", name, boxes) and row["map"] in _FAIR_MAPS:
            whole, inner = (None if row[key] is None else 100 * row[key] for key in ("nme", "nme_inner"))
            return whole, inner
    return None, None


def _steadiness(results: dict, name: str) -> tuple[float | None, float | None]:
    row = results.get("curves", {}).get("chosen", {}).get(name)
    return (row["jitter"], row["lag"]) if row else (None, None)


def plots(report: Report) -> None:
    """Milliseconds a frame, with quartiles, on each number of threads."""
    milliseconds = report.results["milliseconds"]
    fig, axes = figure(len(milliseconds), width=5.4, height=2.6)
    for ax, (cores, row) in zip(axes, milliseconds.items(), strict=True):
        for place, (name, timing) in enumerate(row.items()):
            reach = [[timing.median - timing.lower], [timing.upper - timing.median]]
            ax.barh(place, timing.median, xerr=reach, color=ink(name), height=0.7, error_kw={"lw": 1})
            ax.text(timing.upper, place, f"  {timing.median:.1f}", va="center", fontsize=8)
        ax.set_yticks(range(len(row)), row)
        ax.invert_yaxis()
        ax.set_xlim(0, 1.15 * max(timing.upper for timing in row.values()))
        ax.set_xlabel("milliseconds a frame: median and quartiles")
        ax.set_title(f"{cores} thread{'s' * (int(cores) > 1)}, 640×480, one face", fontsize=10)
        ax.grid(axis="y", visible=False)
    save(fig, report.folder / "peers.png")


def ours_68(points: np.ndarray) -> np.ndarray:
    """wflw98 points as 300w68 points; those of other schemes with 68 points as they are."""
    return to_68(points) if points.shape[-2] == 98 else points
