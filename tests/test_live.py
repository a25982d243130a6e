from __future__ import annotations

import csv
import itertools
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
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
    wait_for_port,
)

import tabrt.live
from tabrt.camera import LiveCamera
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.live import live, quit_by_signal, run
from tabrt.outputs import MetricsServer, Recorder, host_and_port, metrics_text, stamped
from tabrt.records import read_landmarks
from tabrt.status import LONGEST, Controls, Numbers
from tabrt.video import open_film

PROGRAM = Path(__file__).parent / "live_program.py"
LIMIT = 60.0  # seconds that a test waits for something at most
QUICK = {"stall": 0.3, "patience": 5.0, "waits": (0.05,), "tick": 0.02}


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(tabrt.live, "Tracker", ScriptedTracker)


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
    capture = ScriptedCapture(map(picture, range(100)), live=False, gap=0.005)
    seen: list[Scene] = []
    camera = LiveCamera(Opener(capture), **QUICK)
    numbers = run_scripted(camera, ScriptedTracker(0.03), sinks=[lambda scene, _: seen.append(scene)])
    indices = [scene.frame.index for scene in seen]
    assert indices == sorted(set(indices))
    assert len(seen) == numbers.frames < 60
    assert numbers.frames + numbers.dropped == indices[-1] - indices[0] + 1
    waits = [after - before for before, after in itertools.pairwise(indices)]
    assert max(waits) < 60  # it jumped to the newest, again and again


def test_views_are_asked_to_look_up_while_nothing_comes():
    calls: list[Scene | None] = []
    controls = Controls()

    def view(scene, _picture):
        calls.append(scene)
        controls.quit = calls.count(None) >= 3

    camera = LiveCamera(Opener(ScriptedCapture([picture(1), FOREVER])), **QUICK | {"stall": 60.0})
    run_scripted(camera, ScriptedTracker(), [view], controls=controls)
    assert sum(scene is not None for scene in calls) == 1


def test_ids_start_afresh_when_the_source_was_opened_anew():
    captures = [ScriptedCapture(map(picture, range(3)), gap=0.05), ScriptedCapture(map(picture, range(9)), gap=0.05)]
    tracker, seen = ScriptedTracker(), []
    camera = LiveCamera(Opener(*captures), **QUICK)
    controls = Controls()

    def sink(scene, _picture):
        seen.append((camera.openings, scene.faces[0].id))
        controls.quit = camera.openings == 2

    run_scripted(camera, tracker, sinks=[sink], controls=controls)
    assert seen[0] == (1, 0)
    assert seen[-1] == (2, 1)


def test_while_paused_nothing_is_written():
    controls = Controls(paused=True)
    capture = ScriptedCapture(map(picture, range(10)), live=False, gap=0.005)
    numbers = run_scripted(
        LiveCamera(Opener(capture), **QUICK),
        ScriptedTracker(),
        sinks=[lambda *_: pytest.fail("written while paused")],
        controls=controls,
    )
    assert numbers.frames == 0


def test_stop_after():
    camera = LiveCamera(Opener(ScriptedCapture(map(picture, itertools.count()), gap=0.01)), **QUICK)
    assert run_scripted(camera, ScriptedTracker(), stop_after=0.3).frames > 0
    silent = LiveCamera(Opener(ScriptedCapture([FOREVER])), **QUICK | {"patience": 60.0})
    assert run_scripted(silent, ScriptedTracker(), stop_after=0.1).frames == 0


def test_a_problem_of_the_tracker_comes_out_and_lets_the_camera_go():
    class Failing(ScriptedTracker):
        def __call__(self, frame):
            raise TabrtError("the network is gone; start again")

    capture = ScriptedCapture(map(picture, itertools.count()), gap=0.01)
    with pytest.raises(TabrtError, match="the network is gone"):
        run_scripted(LiveCamera(Opener(capture), **QUICK), Failing())
    assert capture.closed.wait(LIMIT)


def test_the_first_signal_asks_and_handlers_come_back():
    before = signal.getsignal(signal.SIGTERM)
    controls = Controls()
    with quit_by_signal(controls):
        signal.raise_signal(signal.SIGTERM)
        assert controls.quit and controls.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


# ---------------------------------------------------------------------------------------------------------- numbers


def scene(index: int, time: float, faces: int = 0) -> Scene:
    return Scene(Frame(picture(0), index, time), (None,) * faces)


def test_numbers_of_a_run():
    numbers = Numbers()
    for index, latency in enumerate([0.04] * 90 + [0.2] * 10):
        numbers.add(scene(index, index / 30, faces=index % 3), now=index / 30 + latency)
    numbers.add(scene(110, 4.0), now=4.04)
    assert numbers.frames == 101
    assert numbers.dropped == 10
    assert numbers.latency(0.5) == 0.04
    assert numbers.latency(0.95) == 0.2
    assert numbers.most_faces == 2
    assert "101 frames in 4.0 s (25.0 fps), 10 dropped" in numbers.summary()
    assert "median 40 ms, 95 % within 200 ms" in numbers.summary()


def test_numbers_stay_small_and_bear_what_cannot_be():
    numbers = Numbers()
    assert (numbers.fps, numbers.latency(0.5), numbers.recent_latency(0.5)) == (0, 0, 0)
    assert numbers.summary().startswith("0 frames in 0.0 s")
    numbers.add(scene(5, 100.0), now=99.0)
    numbers.add(scene(2, 0.0), now=1e6)
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
        real = tabrt.live.run

        def run_and_kill(camera, tracker, views, *rest):
            def view(scene, _picture):
                if scene is not None and scene.frame.index > 3:
                    server.kill()

            real(camera, tracker, [*views, view], *rest)

        with pytest.MonkeyPatch.context() as patch, pytest.raises(TabrtError, match=r"was lost .*stopped sending"):
            patch.setattr(tabrt.live, "run", run_and_kill)
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
        ({"out": "/nowhere/film.mp4"}, "there is no folder /nowhere"),
        ({"out": FILM}, "is read or written already"),
        ({"size": (640, 480)}, "--size and --fps are for cameras"),
    ],
)
def test_outputs_that_cannot_be(scripted, monkeypatch, tmp_path, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(TabrtError, match=said) as problem:
        live(FILM, window=False, stop_after=5.0, **options)
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


def test_a_film_begun_by_hand_that_fails_does_not_end_the_run(tmp_path):
    controls = Controls(recording=True)
    camera = LiveCamera(Opener(ScriptedCapture([])), **QUICK)
    with closing(Recorder(tmp_path / "gone")) as recorder:
        sink = tabrt.live._recording(recorder, camera, controls, required=False)
        sink(scene(0, 0.0), picture(0))
    assert not controls.recording
    assert "there is no folder" in controls.message
    with closing(Recorder(tmp_path, tmp_path / "gone" / "out.mp4")) as recorder, pytest.raises(TabrtError):
        tabrt.live._recording(recorder, camera, Controls(recording=True), required=True)(scene(0, 0.0), picture(0))


def test_snapshots_have_names_of_their_own(tmp_path):
    first = stamped(tmp_path, ".png")
    first.touch()
    assert stamped(tmp_path, ".png") != first
    controls = Controls(snapshot=True)
    sink = tabrt.live._snapshots(tmp_path, controls)
    sink(scene(0, 0.0), picture(0))
    sink(scene(1, 0.0), picture(0))
    assert len([path for path in tmp_path.glob("*.png") if path.stat().st_size]) == 1
    assert controls.message.startswith("wrote ") and not controls.snapshot


def test_metrics():
    camera, numbers = LiveCamera(Opener(ScriptedCapture([]))), Numbers()
    numbers.add(scene(0, 0.0, faces=2), now=0.05)
    with closing(MetricsServer(0, numbers, camera)) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=LIMIT) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(TabrtError, match=r"port \d+ cannot be used \(Address already in use\)"):
            MetricsServer(server.port, numbers, camera)
    assert text == metrics_text(numbers, camera)
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["tabrt_faces"] == "2" and values["tabrt_frames_total"] == "1"
    assert values['tabrt_latency_seconds{quantile="0.5"}'] == "0.05"
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
                time.sleep(0.3)
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
    report = soak.Report("soak", "smoke", None, results, [1])
    soak.plots(report, tmp_path)
    assert "| dropped |" in soak.table(report)
    assert (tmp_path / "soak.png").stat().st_size > 10_000
