from __future__ import annotations

import csv
import itertools
import json
import logging
import shutil
import signal
import socket
import subprocess
import sys
import types
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from live_sources import (
    FILM,
    FOREVER,
    Opener,
    ScriptedCapture,
    ScriptedTracker,
    ended,
    free_port,
    picture,
    serve_film,
    wait,
    wait_for_port,
)

import tabrt.live.loop
import tabrt.live.outputs
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.film.reading import open_film
from tabrt.live.camera import LiveCamera
from tabrt.live.loop import live, quit_by_signal, run
from tabrt.live.outputs import MetricsServer, Recorder, metrics_text, stamped
from tabrt.live.status import LONGEST, Controls, Numbers
from tabrt.sinks import host_and_port, read_landmarks

PROGRAM = Path(__file__).parent / "live_program.py"
LIMIT = 60.0  # seconds that a test waits for something at most
STEADY = {"stall": LIMIT, "patience": LIMIT, "waits": (0.05,), "tick": 0.02}  # only what a script says is a stall


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(tabrt.live.loop, "Tracker", ScriptedTracker)


@pytest.fixture(scope="module")
def short_film(tmp_path_factory) -> Path:
    """The first 20 frames of the film that ships with tabrt."""
    path = tmp_path_factory.mktemp("film") / "short.mp4"
    cut = ["ffmpeg", "-v", "error", "-i", str(FILM), "-frames:v", "20", "-an", str(path)]
    try:
        subprocess.run(cut, check=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    return path


def run_scripted(camera: LiveCamera, tracker: ScriptedTracker, views=(), sinks=(), controls=None, **options) -> Numbers:
    numbers = Numbers()
    run(camera, tracker, list(views), list(sinks), lambda scene: None, controls or Controls(), numbers, **options)
    return numbers


def tabrt_live(*arguments: str | Path, **options) -> subprocess.Popen:
    command = [sys.executable, str(PROGRAM), "live", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {"PYTHONPATH": str(PROGRAM.parents[1]), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(command, **pipes | {"env": environment} | options)


# ------------------------------------------------------------------------------------------------------------- loop


def test_a_slow_tracker_drops_frames_and_never_queues_them():
    capture = ScriptedCapture(map(picture, itertools.count()), gap=0.001)

    class Slow(ScriptedTracker):
        def __call__(self, frame):
            wait(lambda: capture.given > frame.index + 5)
            return super().__call__(frame)

    indices: list[int] = []
    controls = Controls()

    def sink(scene, _picture):
        indices.append(scene.frame.index)
        controls.quit = "enough" if len(indices) == 10 else ""

    numbers = run_scripted(LiveCamera(Opener(capture), **STEADY), Slow(), sinks=[sink], controls=controls)
    assert min(after - before for before, after in itertools.pairwise(indices)) > 1  # it jumped to the newest
    assert numbers.frames == 10
    assert numbers.frames + numbers.dropped == indices[-1] - indices[0] + 1


def test_views_are_asked_to_look_up_while_nothing_comes():
    calls: list[Scene | None] = []
    controls = Controls()

    def view(scene, _picture):
        calls.append(scene)
        controls.quit = "enough" if calls[-3:] == [None] * 3 and any(calls) else ""

    camera = LiveCamera(Opener(ScriptedCapture([picture(1), FOREVER])), **STEADY)
    run_scripted(camera, ScriptedTracker(), [view], controls=controls)
    assert sum(scene is not None for scene in calls) == 1


def test_ids_start_afresh_when_the_source_was_opened_anew():
    seen: dict[int, int] = {}  # picture to id
    controls = Controls()
    first = ScriptedCapture([picture(1), lambda: wait(lambda: seen)])
    camera = LiveCamera(Opener(first, ScriptedCapture(map(picture, itertools.repeat(100)), gap=0.01)), **STEADY)

    def sink(scene, _picture):
        number = int(scene.frame.image[0, 0, 0])
        seen[number] = scene.faces[0].id
        controls.quit = "enough" if number == 100 else ""

    run_scripted(camera, ScriptedTracker(), sinks=[sink], controls=controls)
    assert seen == {1: 0, 100: 1}


def test_a_pause_writes_nothing_shows_the_last_picture_and_drops_nothing():
    """Pictures 3 to 5 come while it is paused. Each comes when the one before it was dealt with."""
    shown, written = [], []
    script = [step for number in range(9) for step in (lambda n=number: wait(lambda: len(shown) == n), picture(number))]
    controls, numbers = Controls(), Numbers()

    def view(scene, drawn):
        shown.append((scene and scene.frame.index, drawn))
        controls.paused = len(shown) in (3, 4, 5)

    camera = LiveCamera(Opener(ScriptedCapture(script, live=False)), **STEADY | {"tick": LIMIT})
    sinks = [lambda scene, _: written.append(scene.frame.index)]
    run(camera, ScriptedTracker(), [view], sinks, lambda scene: scene.frame.index, controls, numbers)
    assert shown == [(0, 0), (1, 1), (2, 2), (None, 2), (None, 2), (None, 2), (6, 6), (7, 7), (8, 8)]
    assert written == [0, 1, 2, 6, 7, 8]
    assert (numbers.frames, numbers.dropped) == (6, 0)


def test_stop_after(caplog):
    caplog.set_level(logging.INFO, "tabrt")
    camera = LiveCamera(Opener(ScriptedCapture(map(picture, itertools.count()), gap=0.01)), **STEADY)
    run_scripted(camera, ScriptedTracker(), stop_after=0.3)
    assert caplog.messages[-1] == "Stopped: 0.3 s are over"
    silent = LiveCamera(Opener(ScriptedCapture([FOREVER])), **STEADY)
    numbers = run_scripted(silent, ScriptedTracker(), stop_after=0.1)
    assert numbers.summary() == "no frame came"


def test_a_problem_of_the_tracker_comes_out_and_lets_the_camera_go():
    class Failing(ScriptedTracker):
        def __call__(self, frame):
            raise TabrtError("the network is gone; start again")

    capture = ScriptedCapture(map(picture, itertools.count()), gap=0.01)
    with pytest.raises(TabrtError, match="the network is gone"):
        run_scripted(LiveCamera(Opener(capture), **STEADY), Failing())
    assert capture.closed.wait(LIMIT)


def test_a_problem_of_an_output_is_why_it_stopped(caplog):
    caplog.set_level(logging.INFO, "tabrt")

    def full(_scene, _picture):
        raise TabrtError("no room left; free some space")

    camera = LiveCamera(Opener(ScriptedCapture(map(picture, itertools.count()), gap=0.01)), **STEADY)
    with pytest.raises(TabrtError, match="no room left"):
        run_scripted(camera, ScriptedTracker(), sinks=[full])
    assert caplog.messages[-1] == "Stopped: no room left; free some space"


def test_the_first_signal_asks_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    controls = Controls()
    with quit_by_signal(controls):
        signal.raise_signal(signal.SIGTERM)
        assert controls.quit == "SIGTERM" and controls.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------------------------------------------------- numbers


def scene(index: int, time: float, faces: int = 0) -> Scene:
    return Scene(Frame(picture(0), index, time), (None,) * faces)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def counted(latencies: list[float], rate: float = 30.0) -> tuple[Numbers, Clock]:
    """Numbers of frames that came at a steady rate, each shown after its latency, and their clock."""
    clock = Clock()
    numbers = Numbers(clock)
    for index, latency in enumerate(latencies):
        clock.now = index / rate + latency
        numbers.add(scene(index, index / rate, faces=index % 3))
    return numbers, clock


def test_numbers_of_a_run():
    numbers, clock = counted([0.04] * 90 + [0.2] * 10)
    clock.now = 4.04
    numbers.add(scene(110, 4.0))
    assert numbers.frames == 101
    assert numbers.dropped == 10
    assert numbers.latency(0.5) == 0.04
    assert numbers.latency(0.95) == 0.2
    assert numbers.most_faces == 2
    assert "101 frames in 4.0 s (25.0 fps), 10 dropped" in numbers.summary()
    assert "median 40 ms, 95 % within 200 ms" in numbers.summary()


def test_numbers_on_the_screen_are_of_the_last_seconds():
    numbers, clock = counted([0.04] * 300)
    assert numbers.fps == pytest.approx(30.0)
    assert numbers.lines() == ("30.0 fps, latency 40 ms (95 %: 40 ms)", "2 faces, 0 dropped")
    clock.now += 10  # the source is lost
    assert numbers.fps == 0
    assert np.isnan(numbers.recent_latency(0.5))
    assert numbers.lines()[0] == "0.0 fps"
    clock.now += 1
    for index in (300, 301, 302):
        clock.now += 0.5
        numbers.add(scene(index, clock.now))
    assert numbers.fps == pytest.approx(2.0)


def test_numbers_stay_small_and_bear_what_cannot_be():
    clock = Clock()
    numbers = Numbers(clock)
    assert (numbers.fps, numbers.latency(0.5)) == (0, 0)
    assert numbers.summary() == "no frame came"
    clock.now = 99.0
    numbers.add(scene(5, 100.0))
    clock.now = 1e6
    numbers.add(scene(2, 0.0))
    assert numbers.dropped == 0
    assert numbers.latency(0.5) == 0
    assert numbers.latency(1.0) == LONGEST / 1000


# ---------------------------------------------------------------------------------------------------------- outputs


def test_live_writes_what_it_saw(scripted, short_film, tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear:
        ear.bind(("127.0.0.1", 0))
        ear.settimeout(LIMIT)
        summary = live(
            short_film,
            window=False,
            out=tmp_path / "seen.mp4",
            landmarks=tmp_path / "seen.jsonl",
            osc=f"127.0.0.1:{ear.getsockname()[1]}",
        )
        bundle = ear.recv(65536)
    header, *rows = read_landmarks(tmp_path / "seen.jsonl")
    assert (header["source"], header["width"], header["height"]) == (str(short_film), 640, 360)
    assert len(rows) == summary.numbers.frames > 0
    with open_film(tmp_path / "seen.mp4") as film:
        times = [frame.time for frame in film]
    assert np.allclose(times, [row["time"] - rows[0]["time"] for row in rows], atol=1e-3)
    assert summary.signal == summary.reconnections == 0
    assert summary.lines[1:] == (f"wrote {tmp_path / 'seen.mp4'}", f"wrote {tmp_path / 'seen.jsonl'}")
    check_osc(bundle, rows)


def check_osc(bundle: bytes, rows: list[dict]) -> None:
    from pythonosc.osc_bundle import OscBundle

    frame, face = OscBundle(bundle)
    row = next(row for row in rows if row["frame"] == frame.params[0])
    assert frame.address == "/tabrt/frame"
    assert frame.params[1:] == [pytest.approx(row["time"], abs=1e-5), 640, 360, 1]
    assert face.address == "/tabrt/face"
    assert face.params[0] == row["faces"][0]["id"]
    assert np.allclose(np.reshape(face.params[2:], (98, 2)), row["faces"][0]["points"], atol=0.01)


def test_csv_and_camera_lost(scripted, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with ended(serve_film(url)) as server:
        wait_for_port(port)
        real = tabrt.live.loop.run

        def run_and_kill(camera, tracker, views, *rest):
            def view(scene, _picture):
                if scene is not None and scene.frame.index > 3:
                    server.kill()

            real(camera, tracker, [*views, view], *rest)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(TabrtError, match=r"was lost .*stopped sending"):
            patch.setattr(tabrt.live.loop, "run", run_and_kill)
            live(url, window=False, landmarks=tmp_path / "seen.csv", exit_when_lost=True)
    rows = list(csv.DictReader((tmp_path / "seen.csv").open()))
    assert len(rows) >= 2 and rows[0]["id"] == "1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"osc": "nowhere"}, "nowhere is no HOST:PORT"),
        ({"osc": "127.0.0.1:99999"}, "is no HOST:PORT"),
        ({"metrics_port": 70000}, "port 70000 cannot be used"),
        ({"virtual_camera": True}, "--virtual-camera needs pyvirtualcam .*pip install pyvirtualcam"),
        ({"landmarks": "points.txt"}, "points.txt: landmarks are written as"),
        ({"out": "film.txt"}, "film.txt: films are written as .mp4"),
        ({"out": "/nowhere/film.mp4"}, "there is no folder /nowhere"),
        ({"out": FILM}, "is read or written already"),
        ({"size": (640, 480)}, "--size and --fps are for cameras"),
    ],
)
def test_outputs_that_cannot_be(scripted, monkeypatch, tmp_path, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    monkeypatch.setattr(tabrt.live.loop, "run", lambda *_: pytest.fail("said only once the camera runs"))
    with pytest.raises(TabrtError, match=said) as problem:
        live(FILM, window=False, **options)
    assert "\n" not in str(problem.value)


def test_no_screen_no_window(scripted, monkeypatch, short_film, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(TabrtError, match=r"DISPLAY is not set.*--serve.*--landmarks"):
        live(short_film)
    assert live(short_film, landmarks=tmp_path / "seen.jsonl").numbers.frames > 0


def test_virtual_camera(scripted, monkeypatch, short_film):
    sent = []

    class Camera:
        device = "/dev/video99"

        def __init__(self, width, height, fps, fmt):
            assert (width, height, fmt) == (640, 360, "BGR")
            assert fps == pytest.approx(23.976, abs=0.01)

        def send(self, frame):
            assert frame.shape == (360, 640, 3)
            sent.append(frame)

        def close(self):
            sent.append("closed")

    fake = types.SimpleNamespace(Camera=Camera, PixelFormat=types.SimpleNamespace(BGR="BGR"))
    monkeypatch.setitem(sys.modules, "pyvirtualcam", fake)
    summary = live(short_film, window=False, virtual_camera=True)
    assert len(sent) == summary.numbers.frames + 1
    assert sent[-1] == "closed"
    plain = next(iter(open_film(short_film))).image
    assert any((frame != plain).any() for frame in sent[:-1])  # the faces are drawn

    def absent(*_arguments, **_options):
        raise RuntimeError("no loopback device\nmore lines")

    fake.Camera = absent
    with pytest.raises(TabrtError, match=r"no virtual camera \(no loopback device\); on Linux: sudo modprobe"):
        live(short_film, window=False, virtual_camera=True)


def test_films_begin_and_end_on_demand(tmp_path):
    with closing(Recorder(tmp_path, tmp_path / "first.mp4")) as recorder:
        said = [recorder.follow(wanted, picture(9), i / 30, 30.0) for i, wanted in enumerate((1, 1, 0, 0, 1, 1))]
    assert said[0] == f"recording {tmp_path / 'first.mp4'}"
    assert said[2] == f"wrote {tmp_path / 'first.mp4'}"
    assert said[1] == said[3] == said[5] == ""
    assert len(list(tmp_path.glob("*.mp4"))) == 2
    for path in tmp_path.glob("*.mp4"):
        with open_film(path) as film:
            assert len(list(film)) == 2


def test_closing_a_long_film_takes_no_time(tmp_path):
    """Moving the index of a day's film to its front would take minutes, and as much room again: it stays behind."""
    with closing(Recorder(tmp_path, tmp_path / "long.mp4")) as recorder:
        for index in range(29):
            recorder.follow(True, picture(9), 5 + index / 10, 10.0)
        assert recorder.seconds == pytest.approx(2.8)
    with open_film(tmp_path / "long.mp4") as film:
        assert [frame.time for frame in film] == pytest.approx([index / 10 for index in range(29)])
    kinds = boxes_of(tmp_path / "long.mp4")
    assert kinds.count("moov") == 1 and kinds.index("mdat") < kinds.index("moov") and "moof" not in kinds


def boxes_of(path: Path) -> list[str]:
    """The kinds of a film's outermost boxes, in their order."""
    data, at, kinds = path.read_bytes(), 0, []
    while at < len(data):
        kinds.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4]) or len(data)
    return kinds


def test_a_film_begun_by_hand_that_fails_does_not_end_the_run(tmp_path):
    controls = Controls(recording=True)
    camera = LiveCamera(Opener(ScriptedCapture([])), **STEADY)
    with closing(Recorder(tmp_path / "gone")) as recorder:
        sink = tabrt.live.loop._recording(recorder, camera, controls, required=False)
        sink(scene(0, 0.0), picture(0))
    assert not controls.recording
    assert "there is no folder" in controls.message
    with closing(Recorder(tmp_path, tmp_path / "gone" / "out.mp4")) as recorder, pytest.raises(TabrtError):
        tabrt.live.loop._recording(recorder, camera, Controls(recording=True), required=True)(scene(0, 0.0), picture(0))


def test_snapshots_have_names_of_their_own(tmp_path):
    first = stamped(tmp_path, ".png")
    first.touch()
    assert stamped(tmp_path, ".png") != first
    controls = Controls(snapshot=True)
    sink = tabrt.live.loop._snapshots(tmp_path, controls)
    sink(scene(0, 0.0), picture(0))
    sink(scene(1, 0.0), picture(0))
    assert len([path for path in tmp_path.glob("*.png") if path.stat().st_size]) == 1
    assert controls.message.startswith("wrote ") and not controls.snapshot


def test_metrics():
    camera = LiveCamera(Opener(ScriptedCapture([])))
    assert 'tabrt_latency_seconds{quantile="0.5"} NaN' in metrics_text(Numbers(), camera)
    numbers, _ = counted([0.05] * 3)
    with closing(MetricsServer(0, numbers, camera)) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=LIMIT) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=LIMIT)
        with pytest.raises(TabrtError, match=r"port \d+ cannot be used \(Address already in use\)"):
            MetricsServer(server.port, numbers, camera)
    assert text == metrics_text(numbers, camera)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["tabrt_faces"] == "2" and values["tabrt_frames_total"] == "3"
    assert values['tabrt_latency_seconds{quantile="0.5"}'] == "0.0500"
    assert values['tabrt_state{state="Starting"}'] == "1" and values['tabrt_state{state="Running"}'] == "0"


def test_addresses():
    assert host_and_port("9000") == ("127.0.0.1", 9000)
    assert host_and_port("[::1]:9000") == ("::1", 9000)
    for wrong in ("", "host", "host:", "host:0", "host:x", "host:-1"):
        with pytest.raises(TabrtError, match="is no HOST:PORT"):
            host_and_port(wrong)


# ------------------------------------------------------------------------------------------------------ command line


@pytest.mark.parametrize(("number", "stuck", "code"), [(signal.SIGINT, False, 130), (signal.SIGTERM, True, 143)])
def test_a_signal_leaves_whole_files_even_while_a_read_is_stuck(number, stuck, code, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    film = tmp_path / "seen.mp4"
    with ended(serve_film(url)) as server:
        wait_for_port(port)
        with ended(tabrt_live("--camera", url, "--no-window", "--landmarks", "-", "--out", film)) as process:
            lines = [json.loads(process.stdout.readline()) for _ in range(6)]
            if stuck:
                server.send_signal(signal.SIGSTOP)
                wait(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
            process.send_signal(number)
            rest, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == code, errors
    assert lines[0]["format"] == "tabrt-landmarks" and lines[5]["faces"][0]["id"] == 1
    rows = [*lines[1:], *map(json.loads, rest.splitlines())]
    with open_film(film) as seen:
        assert len(list(seen)) == len(rows)
    assert "Traceback" not in errors
    assert "frames in" in errors and f"wrote {film}" in errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--camera", "no such camera"], "tabrt: there is no camera, film or address no such camera; "),
        (["--camera", FILM], "tabrt: no window can be opened (DISPLAY is not set); watch in a browser with --serve"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    with ended(tabrt_live(*arguments)) as process:
        output, errors = process.communicate(timeout=LIMIT)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(said) and errors.count("\n") == 1


# ------------------------------------------------------------------------------------------------------------- soak


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads Linux' /proc")
def test_a_run_leaves_no_threads_and_files_behind(tmp_path):
    """The long one is `python -m benchmarks soak`."""
    soak = pytest.importorskip("benchmarks.soak", reason="needs matplotlib: pip install matplotlib")
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    results = soak.soak(ScriptedTracker(), frames=60, port=free_port())
    assert results["frames"] == 60
    over_time = results["over_time"]
    assert soak.is_flat(over_time["threads"]) and soak.is_flat(over_time["files"])
    assert soak.is_flat([7, 8, 8, 8]) and not soak.is_flat([7, 8, 9, 10])
    report = soak.Report("soak", "smoke", None, results, [1], folder=tmp_path)
    soak._judge(report, results, 90)
    assert "60 frames of 90" in report.losses  # a run that was stopped says so
    soak.plots(report)
    assert "| dropped |" in soak.table(report)
    assert (tmp_path / "soak.png").stat().st_size > 10_000
