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
import threading
import types
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import posix
from films import make_film
from live_sources import (
    FILM,
    FOREVER,
    H264,
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

import tabrt.commands.live
from tabrt.commands.live import LiveSummary
from tabrt.commands.options import LiveOptions
from tabrt.drawing import Drawing
from tabrt.errors import TabrtError
from tabrt.faces import Frame, Scene
from tabrt.film.reading import open_film
from tabrt.live.camera import LiveCamera
from tabrt.live.loop import follow
from tabrt.live.metrics import MetricsServer, metrics_text
from tabrt.live.recorder import Recorder, Snapshots, unused
from tabrt.live.run import Counting, Run, Wish, quit_by_signal
from tabrt.live.sources import FilmCapture
from tabrt.live.status import MAX_LATENCY, Numbers, State, Status
from tabrt.sinks import Sink, host_and_port, landmark_lines

PROGRAM = Path(__file__).parent / "live_program.py"
LIMIT = 60.0  # seconds that a test waits for something at most
STEADY = {"stall": LIMIT, "patience": LIMIT, "waits": (0.05,), "tick": 0.02}  # only what a script says is a stall


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


class Calling(Sink):
    """Calls a function with each scene, and another one, if given, at each tick."""

    def __init__(self, scene, tick=lambda last: None):
        self._scene, self._tick = scene, tick

    def __call__(self, scene: Scene) -> None:
        self._scene(scene)

    def tick(self, last: Scene | None) -> None:
        self._tick(last)


def run_scripted(camera: LiveCamera, tracker: ScriptedTracker, sink=lambda run, scene: None, **options) -> Numbers:
    """The loop with a sink that knows the run."""
    run = Run(camera)
    follow(camera, tracker, run, [Calling(lambda scene: sink(run, scene)), Counting(run)], **options)
    return run.numbers


def live(source: str | Path, **options) -> LiveSummary:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    return tabrt.commands.live.live(LiveOptions(camera=str(source), **options), ScriptedTracker())


def enough(run: Run) -> None:
    run.ask(Wish("quit", why="enough"))


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

    def sink(run, scene):
        indices.append(scene.frame.index)
        if len(indices) == 10:
            enough(run)

    numbers = run_scripted(LiveCamera(Opener(capture), **STEADY), Slow(), sink)
    assert min(after - before for before, after in itertools.pairwise(indices)) > 1  # it jumped to the newest
    assert numbers.frames == 10
    assert numbers.frames + numbers.dropped == indices[-1] - indices[0] + 1


def test_sinks_are_told_that_time_goes_by_while_nothing_comes():
    scenes: list[Scene] = []
    ticks: list[Scene | None] = []
    camera = LiveCamera(Opener(ScriptedCapture([picture(1), FOREVER])), **STEADY)
    run = Run(camera)

    def tick(last):
        ticks.append(last)
        if scenes and ticks[-3:] == scenes * 3:
            enough(run)

    follow(camera, ScriptedTracker(), run, [Calling(scenes.append, tick)])
    assert len(scenes) == 1
    assert set(ticks) <= {None, *scenes}


def test_ids_start_afresh_when_the_source_was_opened_anew():
    seen: dict[int, int] = {}  # picture to id
    first = ScriptedCapture([picture(1), lambda: wait(lambda: seen)])
    camera = LiveCamera(Opener(first, ScriptedCapture(map(picture, itertools.repeat(100)), gap=0.01)), **STEADY)

    def sink(run, scene):
        number = int(scene.frame.image[0, 0, 0])
        seen[number] = scene.faces[0].id
        if number == 100:
            enough(run)

    run_scripted(camera, ScriptedTracker(), sink)
    assert seen == {1: 0, 100: 1}


def test_a_pause_writes_nothing_shows_the_last_picture_and_drops_nothing():
    """Pictures 3 to 5 come while it is paused. Each comes when the one before it was dealt with."""
    shown, written = [], []
    script = [step for number in range(9) for step in (lambda n=number: wait(lambda: len(shown) == n), picture(number))]
    camera = LiveCamera(Opener(ScriptedCapture(script, live=False)), **STEADY | {"tick": LIMIT})
    run = Run(camera)

    def show(scene, ticked=False):
        shown.append((None if ticked else scene.frame.index, int(scene.picture[0, 0, 0])))
        run.ask(Wish("pause", on=len(shown) in (3, 4, 5)))

    view = Calling(show, lambda last: show(last, ticked=True))
    follow(camera, ScriptedTracker(), run, [view, Counting(run), Calling(lambda s: written.append(s.frame.index))])
    assert shown == [(0, 0), (1, 1), (2, 2), (None, 2), (None, 2), (None, 2), (6, 6), (7, 7), (8, 8)]
    assert written == [0, 1, 2, 6, 7, 8]
    assert (run.numbers.frames, run.numbers.dropped) == (6, 0)


def test_what_is_drawn_can_be_changed_while_the_picture_stands_still():
    marks = []

    def mark(value):
        return Drawing((lambda image, _scene: image.__setitem__(slice(None), value),))

    camera = LiveCamera(Opener(ScriptedCapture([picture(1), FOREVER])), **STEADY)
    run = Run(camera)

    def tick(last):
        if last is not None:
            marks.append(int(last.picture[0, 0, 0]))
            run.ask(Wish("boundaries", on=True))
            if len(marks) == 3:
                enough(run)

    follow(camera, ScriptedTracker(), run, [Calling(lambda scene: None, tick)], (mark(7), mark(8)))
    assert marks == [7, 8, 8]


def test_no_sink_of_a_run_that_hides_faces_sees_the_raw_picture():
    camera = LiveCamera(Opener(ScriptedCapture(map(picture, range(1, 6)), live=False)), **STEADY)
    run = Run(camera)
    hidden = Drawing(hide=lambda image, _scene: image.__setitem__(slice(None), 0))
    seen: list[int] = []

    def look(scene):
        seen.extend((int(scene.frame.image.max()), int(scene.picture.max())))

    follow(camera, ScriptedTracker(), run, [Calling(look)], (hidden, hidden))
    assert seen and not any(seen)


def test_wishes_come_from_any_thread_and_the_status_is_a_value():
    run = Run(LiveCamera(Opener(ScriptedCapture([]))))
    before = run.status
    wishes = [Wish("record"), Wish("pause", on=True), Wish("snapshot"), Wish("snapshot"), Wish("boundaries")]
    threads = [threading.Thread(target=run.ask, args=[wish]) for wish in wishes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert run.status is before
    after = run.refresh()
    assert (after.recording, after.paused, after.boundaries, after.snapshots) == (True, True, True, 2)
    assert before == Status()
    run.ask(Wish("record"))
    run.ask(Wish("pause", on=True))
    assert (run.refresh().recording, run.status.paused) == (False, True)


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

    def full(_run, _scene):
        raise TabrtError("no room left; free some space")

    camera = LiveCamera(Opener(ScriptedCapture(map(picture, itertools.count()), gap=0.01)), **STEADY)
    with pytest.raises(TabrtError, match="no room left"):
        run_scripted(camera, ScriptedTracker(), full)
    assert caplog.messages[-1] == "Stopped: no room left; free some space"


def test_a_signal_that_comes_twice_at_once_as_from_timeout_counts_once():
    run = Run(LiveCamera(Opener(ScriptedCapture([]))))
    with quit_by_signal(run):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert run.refresh().quit == "SIGTERM" and run.status.signal == signal.SIGTERM


def test_the_first_signal_asks_and_handlers_come_back(monkeypatch):
    monkeypatch.setattr("tabrt.live.run.TOGETHER", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    run = Run(LiveCamera(Opener(ScriptedCapture([]))))
    with quit_by_signal(run):
        signal.raise_signal(signal.SIGTERM)
        assert run.refresh().quit == "SIGTERM" and run.status.signal == signal.SIGTERM
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
    assert numbers.now().fps == pytest.approx(30.0)
    assert numbers.now().lines() == ("30.0 fps, latency 40 ms (95 %: 40 ms)", "2 faces, 0 dropped")
    clock.now += 10  # the source is lost
    assert numbers.now().fps == 0
    assert np.isnan(numbers.now().latency)
    assert numbers.now().lines()[0] == "0.0 fps"
    clock.now += 1
    for index in (300, 301, 302):
        clock.now += 0.5
        numbers.add(scene(index, clock.now))
    assert numbers.now().fps == pytest.approx(2.0)


def test_numbers_stay_small_and_bear_what_cannot_be():
    clock = Clock()
    numbers = Numbers(clock)
    assert (numbers.now().fps, numbers.latency(0.5)) == (0, 0)
    assert numbers.summary() == "no frame came"
    clock.now = 99.0
    numbers.add(scene(5, 100.0))
    clock.now = 1e6
    numbers.add(scene(2, 0.0))
    assert numbers.dropped == 0
    assert numbers.latency(0.5) == 0
    assert numbers.latency(1.0) == MAX_LATENCY / 1000


# ---------------------------------------------------------------------------------------------------------- outputs


def test_live_writes_what_it_saw(short_film, tmp_path):
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
    header, *rows = landmark_lines(tmp_path / "seen.jsonl")
    assert (header["source"], header["width"], header["height"]) == (str(short_film), 640, 360)
    assert len(rows) == summary.numbers.frames > 0
    with open_film(tmp_path / "seen.mp4") as film:
        times = [frame.time for frame in film]
    assert np.allclose(times, [row["time"] - rows[0]["time"] for row in rows], atol=1e-3)
    assert summary.signal == summary.reconnections == 0
    assert summary.lines[1:] == (f"wrote {tmp_path / 'seen.mp4'}", f"wrote {tmp_path / 'seen.jsonl'}")
    check_osc(bundle, rows)
    assert json.loads((tmp_path / "seen.jsonl").read_text().splitlines()[-1]) == {"end": {"frames": len(rows)}}


def check_osc(bundle: bytes, rows: list[dict]) -> None:
    from pythonosc.osc_bundle import OscBundle

    frame, face = OscBundle(bundle)
    row = next(row for row in rows if row["frame"] == frame.params[0])
    assert frame.address == "/tabrt/frame"
    assert frame.params[1:] == [pytest.approx(row["time"], abs=1e-5), 640, 360, 1]
    assert face.address == "/tabrt/face"
    assert face.params[0] == row["faces"][0]["id"]
    assert np.allclose(np.reshape(face.params[2:], (98, 2)), row["faces"][0]["points"], atol=0.01)


def test_csv_and_camera_lost(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with ended(serve_film(url)) as server:
        wait_for_port(port)

        class Killing(ScriptedTracker):
            def __call__(self, frame):
                if frame.index > 3:
                    server.kill()
                return super().__call__(frame)

        options = LiveOptions(camera=url, window=False, landmarks=str(tmp_path / "seen.csv"), exit_when_lost=True)
        with pytest.raises(TabrtError, match=r"was lost .*stopped sending"):
            tabrt.commands.live.live(options, Killing())
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
        ({"size": "640x480"}, "--size and --fps are for cameras"),
    ],
)
def test_outputs_that_cannot_be(monkeypatch, tmp_path, options, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    monkeypatch.setattr(tabrt.commands.live, "follow", lambda *_: pytest.fail("said only once the camera runs"))
    with pytest.raises(TabrtError, match=said) as problem:
        live(FILM, window=False, **{"metrics_port": 0} | options)
    assert "\n" not in str(problem.value)


def test_no_screen_no_window(monkeypatch, short_film, tmp_path):
    monkeypatch.delenv("DISPLAY", raising=False)
    with pytest.raises(TabrtError, match=r"DISPLAY is not set.*--serve.*--landmarks"):
        live(short_film)
    assert live(short_film, landmarks=tmp_path / "seen.jsonl").numbers.frames > 0


def test_virtual_camera(monkeypatch, short_film):
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


def still(index: int, rate: float = 30.0) -> Scene:
    return Scene(Frame(picture(9), index, 5 + index / rate))


def new_run(recording: bool = False) -> tuple[Run, LiveCamera]:
    camera = LiveCamera(Opener(ScriptedCapture([])), **STEADY)
    return Run(camera, recording), camera


def test_films_begin_and_end_on_demand_and_each_is_told_of_once(tmp_path):
    run, camera = new_run()
    said = []
    with Recorder(run, camera, tmp_path / "unused", tmp_path / "first.mp4") as recorder:
        for index, wanted in enumerate((1, 1, 0, 0, 1, 1)):
            run.note(recording=bool(wanted), message="")
            recorder(still(index))
            said.append(run.status.message)
    assert said[0] == f"recording {tmp_path / 'first.mp4'}"
    assert said[2] == f"wrote {tmp_path / 'first.mp4'}"
    assert said[4] == f"recording {tmp_path / 'first-2.mp4'}"
    assert said[1] == said[3] == said[5] == ""
    assert recorder.notes == [f"wrote {tmp_path / name}" for name in ("first.mp4", "first-2.mp4")]
    for path in tmp_path.glob("*.mp4"):
        with open_film(path) as film:
            assert len(list(film)) == 2


def test_a_film_ends_while_the_picture_stands_still(tmp_path):
    run, camera = new_run(recording=True)
    with Recorder(run, camera, tmp_path) as recorder:
        recorder(still(0))
        run.ask(Wish("record", on=False))
        run.refresh()
        recorder.tick(None)
        assert run.status.message.startswith("wrote ")


def test_closing_a_long_film_takes_no_time(tmp_path):
    """Moving the index of a day's film to its front would take minutes, and as much room again: it stays behind."""
    run, camera = new_run(recording=True)
    with Recorder(run, camera, tmp_path, tmp_path / "long.mp4") as recorder:
        for index in range(29):
            recorder(still(index, rate=10.0))
        assert run.status.recorded == pytest.approx(2.8)
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
    run, camera = new_run(recording=True)
    with Recorder(run, camera, tmp_path / "gone") as recorder:
        recorder(still(0))
    assert not run.status.recording
    assert "there is no folder" in run.status.message
    assert recorder.notes == []
    run, camera = new_run(recording=True)
    with Recorder(run, camera, tmp_path, tmp_path / "gone" / "out.mp4") as recorder, pytest.raises(TabrtError):
        recorder(still(0))


@pytest.fixture(scope="module")
def clapper(tmp_path_factory) -> Path:
    """A film of 3 s, dark and silent, that turns white and loud at 1.5 s."""
    path = tmp_path_factory.mktemp("clapper") / "clapper.ts"
    pictures = "color=black:s=160x120:r=25:d=1.5[a];color=white:s=160x120:r=25:d=1.5[b];[a][b]concat"
    sound = "aevalsrc='0.5*sin(2*PI*440*t)*gte(t,1.5)':s=44100:d=3"
    make = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", pictures, "-f", "lavfi", "-i", sound]
    coding = [*H264, "-pix_fmt", "yuv420p", "-c:a", "aac", "-t", "3"]
    try:
        subprocess.run([*make, *coding, str(path)], check=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed (apt install ffmpeg)")
    return path


def clap(path: Path) -> tuple[float, float]:
    """Seconds at which the pictures turn white, and at which the sound sets in."""
    with av.open(str(path)) as film:
        white = next(each.time for each in film.decode(video=0) if each.to_ndarray(format="gray").mean() > 128)
    with av.open(str(path)) as film:
        loud = next(each.time for each in film.decode(audio=0) if np.abs(each.to_ndarray()).max() > 0.1)
    return white, loud


def test_a_film_played_live_is_recorded_with_its_sound(clapper, tmp_path):
    live(clapper, window=False, out=tmp_path / "seen.mp4")
    white, loud = clap(tmp_path / "seen.mp4")
    assert white == pytest.approx(1.5, abs=0.3) and loud == pytest.approx(white, abs=0.15)


def test_a_stream_is_recorded_with_its_sound(clapper, tmp_path):
    port = free_port()
    send = ["ffmpeg", "-v", "quiet", "-re", "-i", str(clapper), "-c", "copy", "-f", "mpegts", "-listen", "1"]
    with ended(subprocess.Popen([*send, f"http://127.0.0.1:{port}/"], stdin=subprocess.DEVNULL)):
        wait_for_port(port)
        with pytest.raises(TabrtError, match="was lost"):
            live(f"http://127.0.0.1:{port}/", window=False, out=tmp_path / "seen.mp4", exit_when_lost=True)
    white, loud = clap(tmp_path / "seen.mp4")
    assert loud == pytest.approx(white, abs=0.25)


def test_a_recording_begun_once_its_source_is_closed_is_a_film_without_sound(tmp_path):
    """As of the last pictures of a film that wait to be shown: to look at the sound of a closed file ends Python."""
    source = make_film(tmp_path / "source.mkv", sound=("aac",))
    camera = LiveCamera(lambda: FilmCapture(source), **STEADY)
    frames = [frame for frame in camera if frame is not None]
    with Recorder(Run(camera, True), camera, tmp_path, tmp_path / "late.mp4") as recorder:
        for frame in frames:
            recorder(Scene(frame, []))
    with av.open(str(tmp_path / "late.mp4")) as film:
        assert [stream.type for stream in film.streams] == ["video"]


def test_no_source_is_closed_while_a_recording_of_it_begins():
    capture = ScriptedCapture([picture(1)], live=False)
    camera = LiveCamera(Opener(capture), **STEADY)
    frames = iter(camera)
    with camera.soundtrack.held:
        assert next(frame for frame in frames if frame is not None)
        assert not capture.closed.wait(0.2)
    assert set(frames) <= {None}
    assert capture.closed.wait(LIMIT)


def test_what_is_not_shown_is_not_heard(tmp_path):
    run, camera = new_run(recording=True)
    camera.soundtrack.waiting.append("what was said while it was paused")
    with Recorder(run, camera, tmp_path) as recorder:
        recorder.tick(None)
    assert not camera.soundtrack.waiting


def test_snapshots_have_names_of_their_own(tmp_path):
    first = tmp_path / "shot.png"
    first.touch()
    assert unused(first) == tmp_path / "shot-2.png"
    run, _ = new_run()
    snapshots = Snapshots(run, tmp_path)
    snapshots.tick(None)
    run.ask(Wish("snapshot"))
    snapshots.tick(None)  # nothing is shown yet
    snapshots(still(0))
    snapshots(still(1))
    assert len([path for path in tmp_path.glob("tabrt-*.png") if path.stat().st_size]) == 1
    assert run.status.message.startswith("wrote ")
    run.ask(Wish("snapshot"))
    snapshots.tick(still(1))
    assert len(list(tmp_path.glob("tabrt-*.png"))) == 2


def test_metrics():
    assert 'tabrt_latency_seconds{quantile="0.5"} NaN' in metrics_text(Status())
    numbers, _ = counted([0.05] * 3)
    status = Status(State.STARTING, counts=numbers.now())
    with closing(MetricsServer(0, lambda: status)) as server:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=LIMIT) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/", timeout=LIMIT)
        with pytest.raises(TabrtError, match=r"port \d+ cannot be used \(Address already in use\)"):
            MetricsServer(server.port, lambda: status)
    assert text == metrics_text(status)
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


@posix
@pytest.mark.usefixtures("hangups_end")
@pytest.mark.parametrize(
    ("name", "stuck", "code"),
    [("SIGINT", False, 130), ("SIGTERM", True, 143), ("SIGHUP", False, 129)],
)
def test_a_signal_leaves_whole_files_even_while_a_read_is_stuck(name, stuck, code, tmp_path):
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
            process.send_signal(signal.Signals[name])
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


@posix
def test_a_run_under_nohup_goes_on_when_its_terminal_is_closed(short_film, tmp_path):
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with ended(tabrt_live("--camera", short_film, "--no-window", "--landmarks", "-", **ignore)) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, errors


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
