from __future__ import annotations

import itertools
import logging
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path

import av
import cv2
import pytest
from conftest import SHARED
from live_sources import FILM, FOREVER, Opener, ScriptedCapture, ended, free_port, picture, serve_film, wait_for_port

from tabrt.errors import TabrtError
from tabrt.files import without_password
from tabrt.live import sources as module
from tabrt.live.camera import MAX_STUCK, REOPEN_DELAYS, LiveCamera
from tabrt.live.devices import Camera
from tabrt.live.devices.video4linux import set_up
from tabrt.live.sources import DeviceCapture, FilmCapture, StreamCapture, find_device, live_camera
from tabrt.live.status import State

QUICK = {"stall": 0.3, "patience": 5.0, "waits": (0.05,), "tick": 0.02}
LIMIT = 60.0  # seconds that a test waits for something at most
STEADY = QUICK | {"stall": LIMIT, "patience": LIMIT}  # where only what the script says counts as a stall


def watch(camera: LiveCamera, until) -> list:
    """The frames that come until `until(frames)`; ticks are left out."""
    frames, deadline = [], time.monotonic() + LIMIT
    with closing(iter(camera)) as items:
        for item in items:
            if item is not None:
                frames.append(item)
            if until(frames):
                return frames
            assert time.monotonic() < deadline, f"{camera.state}: {camera.reason}"
    return frames


def numbers(frames) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in frames]


def many(first: int = 0):
    return (picture(number) for number in itertools.count(first))


def test_a_slow_reader_gets_the_newest_picture_and_the_index_counts_them_all():
    camera = LiveCamera(Opener(ScriptedCapture(map(picture, range(60)), live=False, gap=0.002)), **QUICK)
    frames = []
    for frame in camera:
        if frame is not None:
            frames.append(frame)
            time.sleep(0.03)
    indices = [frame.index for frame in frames]
    assert numbers(frames) == indices
    assert len(frames) < 60
    assert indices == sorted(set(indices))
    assert indices[-1] == 59
    assert [frame.time for frame in frames] == sorted(frame.time for frame in frames)


def test_a_source_that_raises_is_opened_anew_and_says_why(caplog):
    caplog.set_level(logging.INFO, "tabrt")
    first = ScriptedCapture([picture(1), OSError("the cable is out")])
    camera = LiveCamera(Opener(first, ScriptedCapture(many(10), gap=0.01)), "desk", **STEADY)
    frames = watch(camera, lambda frames: len(frames) >= 3)
    assert numbers(frames)[:2] == [1, 10]
    assert [frame.index for frame in frames][:2] == [0, 1]
    assert first.closed.is_set()
    assert camera.openings == 2
    states = [record.message.split(":")[0] for record in caplog.records]
    assert states == ["Starting", "Running", "Stalled", "Reconnecting", "Running", "Stopped"]
    assert "the cable is out" in caplog.text


def test_the_log_says_why_it_stopped(caplog):
    caplog.set_level(logging.INFO, "tabrt")
    list(LiveCamera(Opener(ScriptedCapture([picture(1)], live=False)), **STEADY))
    assert caplog.messages[-1] == "Stopped: the film ended"
    camera = LiveCamera(Opener(ScriptedCapture(many(), gap=0.01)), **STEADY)
    for _ in camera:
        camera.stop("q was pressed")
    assert caplog.messages[-1] == "Stopped: q was pressed"


def test_a_source_that_blocks_is_left_to_itself_and_opened_anew():
    stuck = ScriptedCapture([picture(1), FOREVER])
    camera = LiveCamera(Opener(stuck, ScriptedCapture(many(10), gap=0.01)), **QUICK)
    frames = watch(camera, lambda frames: len(frames) >= 2)
    assert numbers(frames)[:2] == [1, 10]
    assert not stuck.closed.is_set()


def test_stopping_does_not_wait_for_a_stuck_read():
    camera = LiveCamera(Opener(ScriptedCapture([picture(1), FOREVER])), **STEADY)
    items = iter(camera)
    assert next(item for item in items if item is not None).index == 0
    camera.stop()
    assert set(items) <= {None}
    assert camera.state is State.STOPPED


def test_a_frozen_picture_is_a_stall():
    frozen = ScriptedCapture(itertools.repeat(picture(7)), gap=0.01)
    camera = LiveCamera(Opener(frozen, ScriptedCapture(many(10), gap=0.01)), frozen=0.2, **QUICK)
    frames = watch(camera, lambda frames: 10 in numbers(frames))
    assert set(numbers(frames)) == {7, 10}
    assert frozen.closed.wait(LIMIT)


def test_a_film_may_stand_still_and_may_pause():
    still = ScriptedCapture([picture(7), picture(7), 0.4, picture(7)], live=False, gap=0.1)
    camera = LiveCamera(Opener(still), frozen=0.05, **QUICK)
    assert numbers(watch(camera, lambda _: False)) == [7, 7, 7]
    assert (camera.state, camera.openings) == (State.STOPPED, 1)


def test_pictures_of_another_size_are_fitted_into_the_first_ones():
    wide = ScriptedCapture([picture(200, 100, 48), FOREVER])
    camera = LiveCamera(Opener(ScriptedCapture([picture(1)]), wide), **QUICK)
    frame = watch(camera, lambda frames: len(frames) == 2)[-1]
    assert frame.image.shape == (48, 64, 3)
    assert not frame.image[0].any() and not frame.image[-1].any()
    assert frame.image[24].tolist() == [[200, 40, 200]] * 64


def test_it_waits_longer_after_each_attempt_and_starts_over_once_pictures_come(caplog):
    gone = OSError("no such device")
    back, again = ScriptedCapture([picture(2)]), ScriptedCapture(many(10), gap=0.01)
    camera = LiveCamera(
        Opener(ScriptedCapture([picture(1)]), gone, gone, gone, back, again), **QUICK | {"waits": (0.01, 0.02, 0.04)}
    )
    watch(camera, lambda frames: len(frames) >= 3)
    waits = [record.message.split("again in ")[1] for record in caplog.records if "again in" in record.message]
    assert waits == ["0.01 s", "0.02 s", "0.04 s", "0.04 s", "0.01 s"]


def test_waits_are_those_promised():
    assert REOPEN_DELAYS == (1, 2, 4, 8, 16, 30)


def test_a_source_that_cannot_be_opened_at_all_is_a_stated_problem():
    with pytest.raises(TabrtError, match=r"desk: OSError: no such device; check the source"):
        list(LiveCamera(Opener(OSError("no such device")), "desk", **QUICK))
    with pytest.raises(TabrtError, match="no picture for"):
        list(LiveCamera(Opener(ScriptedCapture([FOREVER])), **QUICK | {"patience": 0.1}))


def test_exit_when_lost():
    camera = LiveCamera(Opener(ScriptedCapture([picture(1)])), "desk", exit_when_lost=True, **QUICK)
    with pytest.raises(TabrtError, match=r"desk was lost \(the stream ended\)"):
        list(camera)


def test_hanging_readers_do_not_pile_up():
    opener = Opener(*(ScriptedCapture([picture(number), FOREVER]) for number in range(10)))
    camera = LiveCamera(opener, **QUICK | {"stall": 0.02, "waits": (0.0,), "tick": 0.01})
    ticks = itertools.count()
    watch(camera, lambda _: opener.opened >= MAX_STUCK and next(ticks) > 30)
    assert opener.opened == MAX_STUCK


def test_mirror():
    image = picture(0)
    image[:, :32] = 255
    camera = LiveCamera(Opener(ScriptedCapture([image], live=False)), mirror=True, **QUICK)
    frame = watch(camera, lambda frames: frames)[0]
    assert (frame.image[:, 32:] == 255).all() and not (frame.image[:, :32] == 255).all(axis=2).any()


def test_a_film_plays_in_real_time_to_its_end(tmp_path):
    film = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for number in range(10):
        writer.write(picture(20 * number))
    writer.release()
    camera = live_camera(film)
    frames = watch(camera, lambda _: False)
    assert frames[-1].index == 9
    assert frames[-1].time - frames[0].time >= 0.04 * (9 - frames[0].index)  # steps of 50 ms, and some slack
    assert (camera.state, camera.size, camera.rate) == (State.STOPPED, (64, 48), 20.0)


def test_the_address_of_a_film(tmp_path):
    film = tmp_path / "two words.mp4"
    film.symlink_to(FILM)
    camera = live_camera(film.as_uri())
    assert watch(camera, lambda frames: len(frames) >= 2)[0].image.shape == (360, 640, 3)
    with pytest.raises(TabrtError, match="there is no film .*gone.mp4; check the address"):
        live_camera((tmp_path / "gone.mp4").as_uri())


# ---------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("kind", ["http", "udp", "rtsp"])
def test_a_stream_killed_in_mid_run_comes_back(kind):
    port = free_port()
    url = f"{kind}://127.0.0.1:{port}"
    camera = live_camera(url, stall=3.0, patience=10.0, waits=(0.1,), tick=0.02)
    servers = [serve_film(url)]
    before = after = 0
    deadline = time.monotonic() + LIMIT
    with ExitStack() as stack:
        stack.enter_context(ended(servers[0]))
        if kind == "http":
            wait_for_port(port)
        for frame in camera:
            assert time.monotonic() < deadline, f"{camera.state}: {camera.reason}"
            if camera.openings >= 2:
                after += frame is not None
            else:
                before += frame is not None
            if before == 10:
                servers[0].kill()
                servers[0].wait()
            if before >= 10 and camera.state is State.STALLED and len(servers) == 1:
                servers.append(stack.enter_context(ended(serve_film(url))))
            if after == 10:
                camera.stop()
    assert camera.size == (640, 360)
    assert camera.openings >= 2 and after >= 10


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("http://127.0.0.1:9/video", "cannot open http://127.0.0.1:9/video .*Connection refused.*check the address"),
        ("rtsp://me:secret@127.0.0.1:9/1", "cannot open rtsp://127.0.0.1:9/1 "),
        ("gopher://127.0.0.1/1", "gopher://127.0.0.1/1 cannot be read live; use rtsp"),
        ("concat://a|b", "cannot be read live"),
    ],
)
def test_wrong_addresses(source, said):
    with pytest.raises(TabrtError, match=said) as problem:
        list(live_camera(source))
    assert "secret" not in str(problem.value)
    assert "\n" not in str(problem.value)


def test_passwords_are_not_shown():
    assert without_password("rtsp://me:p@ss@10.0.0.1/1") == "rtsp://10.0.0.1/1"
    assert without_password("/dev/video0") == "/dev/video0"
    assert without_password("http://cam/x.m3u8?a=1&access_token=abc&b=2") == "http://cam/x.m3u8?a=1&access_token=…&b=2"
    assert without_password("rtsp://10.0.0.5/user=admin&password=abc&channel=1") == (
        "rtsp://10.0.0.5/user=admin&password=…&channel=1"
    )
    assert without_password("film with key=3.mp4") == "film with key=3.mp4"


def test_a_program_quits_while_a_read_is_stuck():
    program = """
import socket, sys
from tabrt.live.sources import live_camera
silent = socket.create_server(("127.0.0.1", 0))
camera = live_camera(f"tcp://127.0.0.1:{silent.getsockname()[1]}", patience=300.0)
for number, frame in enumerate(camera):
    if number == 3:
        break
print(camera.state)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT)
    assert (done.returncode, done.stderr) == (0, "")


# ---------------------------------------------------------------------------------------------------------- devices

LISTED = [Camera("/dev/video90", "Desk camera", "/dev/v4l/by-id/usb-desk"), Camera("/dev/video92", "Door camera")]


def test_no_such_camera_lists_those_there_are(monkeypatch):
    monkeypatch.setattr(module, "cameras", lambda: LISTED)
    for source in ("7", "garden", "/dev/video93"):
        with pytest.raises(TabrtError, match=rf"no camera, film or address {source}; .*/dev/video90 \(Desk camera, "):
            live_camera(source)
    with pytest.raises(TabrtError, match="2 cameras are called camera"):
        live_camera("camera")
    monkeypatch.setattr(module, "cameras", lambda: [])
    with pytest.raises(TabrtError, match="no camera is plugged in"):
        live_camera(0)


def test_a_camera_by_name_and_by_stable_path(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "cameras", lambda: LISTED)
    assert find_device("door") == "/dev/video92"
    stable = tmp_path / "usb-desk"
    stable.symlink_to("/dev/null")
    assert find_device(str(stable)) == "/dev/null"


@pytest.mark.skipif(sys.platform != "linux", reason="asks Video4Linux")
def test_a_device_that_gives_no_pictures(capfd):
    with pytest.raises(TabrtError, match="camera /dev/null gives no pictures; close the program that uses it"):
        list(live_camera("/dev/null"))
    assert capfd.readouterr().err == ""


def test_a_camera_that_falls_silent(monkeypatch):
    class Silent:
        def isOpened(self):
            return True

        def set(self, *_property):
            return True

        def get(self, _property):
            return 30.0

        def read(self):
            return False, None

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", lambda *_where: Silent())
    with closing(DeviceCapture("/dev/null")) as capture, pytest.raises(TabrtError, match="gives no pictures"):
        capture.read()


class Working:
    """A camera by its path: those in `dead` give nothing."""

    dead = ("/dev/video90",)

    def __init__(self, device, *_asked):
        self.device = device
        if device in self.dead:
            raise TabrtError(f"camera {device} gives no pictures")
        self.rate, self.live, self.sound, self.hear = 30.0, True, (), None

    def read(self):
        return picture(int(self.device[-2:]))

    def close(self):
        pass


def test_without_a_name_it_is_the_first_camera_that_gives_pictures(monkeypatch):
    monkeypatch.setattr(module, "cameras", lambda: LISTED)
    monkeypatch.setattr(module, "DeviceCapture", Working)
    monkeypatch.setattr(module.sys, "platform", "linux")
    camera = live_camera()
    assert numbers(watch(camera, lambda frames: len(frames) == 1)) == [92]
    assert camera.name == "/dev/video92 (Door camera)"
    monkeypatch.setattr(Working, "dead", ("/dev/video90", "/dev/video92"))
    with pytest.raises(TabrtError, match="video90 gives no pictures; camera /dev/video92 gives no pictures"):
        list(live_camera())
    monkeypatch.setattr(module, "cameras", lambda: [])
    with pytest.raises(TabrtError, match="no camera is plugged in: give an address or a film with --camera"):
        live_camera()


def test_a_film_of_narrow_pixels_is_shown_as_it_should_be(tmp_path):
    with av.open(str(tmp_path / "narrow.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)
        film.mux(stream.encode(av.VideoFrame.from_ndarray(picture(9), format="bgr24")))
        film.mux(stream.encode(None))
    frames = watch(live_camera(tmp_path / "narrow.mp4"), lambda frames: bool(frames))
    assert frames[0].image.shape == (48, 128, 3)


class Driver:
    """A camera driver: the rate it gives, by pixel format and width."""

    def __init__(self, rates: dict[tuple[str, int], float]):
        self.rates, self.values = rates, {cv2.CAP_PROP_FOURCC: cv2.VideoWriter.fourcc(*"YUYV")}

    def set(self, what, value):
        self.values[what] = value

    def get(self, what):
        if what == cv2.CAP_PROP_FPS:
            return self.rates[self.format, int(self.values.get(cv2.CAP_PROP_FRAME_WIDTH, 640))]
        return self.values.get(what, 0)

    @property
    def format(self) -> str:
        return int(self.values[cv2.CAP_PROP_FOURCC]).to_bytes(4, "little").decode()


@pytest.mark.parametrize(("plain", "chosen"), [(30.0, "YUYV"), (10.0, "MJPG")])
def test_mjpeg_where_it_doubles_the_rate(plain, chosen):
    driver = Driver({("YUYV", 1280): plain, ("MJPG", 1280): 30.0})
    set_up(driver, (1280, 720), None)
    assert driver.format == chosen
    assert driver.get(cv2.CAP_PROP_FRAME_WIDTH) == 1280
    assert driver.get(cv2.CAP_PROP_BUFFERSIZE) == 1


def test_size_and_rate_are_for_cameras():
    with pytest.raises(TabrtError, match="--size and --fps are for cameras"):
        live_camera(FILM, size=(640, 480))


def test_what_is_done_to_the_pictures_of_a_stream_is_told(caplog):
    hdr = Path(__file__).parent / "data" / "hdr_pq.mov"
    with caplog.at_level(logging.INFO, "tabrt"):
        capture = StreamCapture(av.open(str(hdr)), "stream")
        assert capture.read() is not None
        capture.close()
    assert [record.message.split(":")[0] for record in caplog.records] == ["HDR is tone-mapped"]


def test_what_is_done_to_a_film_is_told_in_a_live_run_too(caplog):
    film = SHARED / "cases" / "preview_first.mp4"
    if not film.exists():
        pytest.skip("needs ../shared/cases/preview_first.mp4")
    with caplog.at_level(logging.INFO, "tabrt"):
        capture = FilmCapture(film)
        assert capture.read() is not None
        capture.close()
    assert any("picture track 2 of 2 is read" in record.message for record in caplog.records)
