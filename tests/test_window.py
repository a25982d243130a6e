from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_sources import Opener, ScriptedCapture, ended, free_port, serve_film, wait, wait_for_port
from made_faces import changed, face, scene, seen

from tabrt.drawing import Drawing, Expression
from tabrt.errors import TabrtError
from tabrt.film.reading import open_film
from tabrt.live.camera import LiveCamera
from tabrt.live.run import Run
from tabrt.live.status import Counts, State, Status
from tabrt.live.window import AMBER, HELP, RED, Corner, Window, annotated, no_screen, numbers_place, press

PROGRAM = Path(__file__).parent / "live_program.py"
LIMIT = 120.0  # seconds that a test waits for something at most

needs_screen = pytest.mark.skipif(
    not (shutil.which("Xvfb") and shutil.which("xdotool") and shutil.which("ffmpeg")),
    reason="needs a virtual screen (apt install xvfb xdotool ffmpeg)",
)


# ------------------------------------------------------------------------------------------------------------- keys


RUNNING = Status(State.RUNNING)
STALLED = Status(State.STALLED, "gone " * 40, counts=Counts(9, 0, 1, 30.0, 0.04, 0.04), recording=True, paused=True)


def new_run() -> Run:
    return Run(LiveCamera(Opener(ScriptedCapture([]))))


def test_each_key_in_the_help_does_something():
    keys = {" " if line.startswith("space") else line[0] for line in HELP} | {chr(27)}
    assert keys == set("qsrbnih \x1b")
    for key in keys:
        run, corner = new_run(), Corner()
        before = run.refresh()
        press(ord(key), run, corner)
        assert (run.refresh(), corner) != (before, Corner()), key


def test_keys():
    run, corner = new_run(), Corner()
    for key in "rbhR":
        press(ord(key), run, corner)
    status = run.refresh()
    assert (status.recording, status.boundaries, corner.help) == (False, True, True)
    press(ord(" "), run, corner)
    press(ord("i"), run, corner)
    press(ord("s"), run, corner)
    assert run.refresh().paused and run.status.snapshots == 1 and not corner.numbers
    run, corner = new_run(), Corner()
    before = run.refresh()
    for key in (-1, 0, ord("x"), 255, 65361):
        press(key, run, corner)
    assert (run.refresh(), corner) == (before, Corner())


def test_text_leaves_the_middle_of_the_picture_free():
    picture = np.full((480, 640, 3), 200, np.uint8)
    news = {"message": "wrote /home/someone/" + "a long name " * 9, "said": time.monotonic()}
    written = annotated(picture, replace(STALLED, recorded=75.0, **news), Corner(help=True))
    assert (picture == 200).all()
    assert (written[50:250, 150:] == 200).all()
    assert (written[:4, :4] < 100).all() and (written[-4:, :4] < 100).all()
    red, amber = ((written == colour).all(axis=2) for colour in (RED, AMBER))
    assert red[:4, -4:].all() and not red[:, :560].any()
    assert amber[:4].any() and amber[300:].any()
    assert (annotated(picture, RUNNING, Corner()) == picture).all()


@pytest.mark.parametrize("shape", [(8, 8, 3), (680, 450, 3), (1080, 1920, 3)])
def test_text_fits_any_picture(shape):
    status = replace(STALLED, message="wrote " + "x" * 300, said=time.monotonic())
    written = annotated(np.full(shape, 200, np.uint8), status, Corner(help=True))
    assert written.shape == shape


@pytest.mark.parametrize("at", [(-0.2, -0.15, 0.3), (0.15, -0.1, 0.3), (0.1, -0.15, 0.4)])
def test_the_numbers_cover_no_panel_of_measures(at):
    high = scene(face(seen(-10, 0, 0, at, changed(((93, 94, 95, 84, 85, 86), (0, 0.25))))))
    high.frame.image[...] = 255
    numbers = Counts(fps=30.0, frames=9, faces=1, dropped=12, latency=0.04, latency95=0.05)
    plate = (annotated(high.frame.image, Status(State.RUNNING, counts=numbers), Corner()) < 255).any(axis=2)
    panels = []
    for kept in (None, numbers_place):
        drawn = Drawing((Expression(kept),))(high).picture
        panels.append((np.abs(drawn.astype(int) - 76) <= 1).all(axis=2))  # their background
    assert (panels[0] & plate).sum() > 1000  # this face would have it there
    assert panels[1].sum() > 3000 and (panels[1] & plate).sum() < 20


# ----------------------------------------------------------------------------------------------------------- screen


@pytest.mark.skipif(sys.platform != "linux", reason="asks X11")
def test_without_a_screen_it_says_what_to_do(monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    assert no_screen() == "DISPLAY is not set"
    monkeypatch.setenv("DISPLAY", ":4711")
    assert no_screen() == "DISPLAY=:4711 cannot be reached"
    with pytest.raises(TabrtError, match=r"DISPLAY=:4711 cannot be reached.*--serve.*--landmarks"):
        Window("desk", new_run())


@pytest.fixture(scope="module")
def screen():
    """The name of a virtual screen of 900x700."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "900x700x24", "-nolisten", "tcp", "-noreset"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with ended(server), os.fdopen(read) as pipe:
        yield f":{pipe.readline().strip()}"


@pytest.fixture
def program(screen, tmp_path):
    """`tabrt live` on that screen, in a folder of its own, with its window open; it writes `errors`."""
    environment = os.environ | {"DISPLAY": screen, "PYTHONPATH": str(PROGRAM.parents[1])}
    port = free_port()
    url = f"http://127.0.0.1:{port}/"
    with ended(serve_film(url)), (tmp_path / "errors").open("w") as errors:
        wait_for_port(port)
        command = [sys.executable, str(PROGRAM), "live", "--camera", url]
        with ended(subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=errors)) as process:
            # The screen is not looked at before: a window that opens in that very moment may stay blank under Xvfb.
            wait(lambda: process.poll() is not None or "Running" in (tmp_path / "errors").read_text())
            yield process


@contextlib.contextmanager
def window_program(screen: str, loop: str):
    """A program that shows a window again and again, as `loop` says, and prints why it quit."""
    text = f"""
import numpy as np
from tabrt.faces import Frame, Scene
from tabrt.live.camera import LiveCamera
from tabrt.live.run import Run
from tabrt.live.window import Window
run, shown = Run(LiveCamera(lambda: None)), 0
run.note(reason="opening the camera")
with Window("alone", run) as window:
    while not run.refresh().quit:
        {loop}
        shown += 1
        if shown == 20:
            print("shown", flush=True)
print(run.status.quit)
"""
    environment = os.environ | {"DISPLAY": screen, "PYTHONPATH": str(PROGRAM.parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with ended(subprocess.Popen([sys.executable, "-c", text], env=environment, text=True, **pipes)) as process:
        assert process.stdout.readline() == "shown\n", process.stderr.read()
        # Nobody looks at the screen while the window opens: under Xvfb it may then stay blank. On a busy machine it may
        # all the same, for no window manager has it drawn once more: another size has.
        window = xdotool(screen, "search", "--sync", "--onlyvisible", "--name", "tabrt: ").split()[-1]
        xdotool(screen, "windowsize", "--sync", window, "99%", "99%")
        yield process


def xdotool(screen: str, *arguments: str) -> str:
    command = ["xdotool", *arguments]
    environment = os.environ | {"DISPLAY": screen}
    return subprocess.run(command, env=environment, check=True, timeout=LIMIT, capture_output=True, text=True).stdout


def key(screen: str, name: str) -> None:
    window = xdotool(screen, "search", "--onlyvisible", "--name", "tabrt: ").split()[-1]
    xdotool(screen, "windowfocus", "--sync", window, "key", "--clearmodifiers", name)


def screenshot(screen: str, path: Path) -> np.ndarray:
    command = ["ffmpeg", "-v", "error", "-y", "-f", "x11grab", "-video_size", "900x700", "-i", screen]
    subprocess.run([*command, "-frames:v", "1", str(path)], check=True, timeout=LIMIT, stdin=subprocess.DEVNULL)
    return cv2.imread(str(path))


class _ClientMessage(ctypes.Structure):
    _fields_ = (
        *(("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int)),
        *(("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong)),
        *(("format", ctypes.c_int), ("data", ctypes.c_long * 20)),
    )


def close_window(screen: str, window: int) -> None:
    """Ask the window to close, as a click on its cross does: the message that a window manager sends."""
    x11 = ctypes.CDLL("libX11.so.6")
    x11.XOpenDisplay.restype = ctypes.c_void_p
    x11.XInternAtom.restype = ctypes.c_ulong
    display = ctypes.c_void_p(x11.XOpenDisplay(screen.encode()))
    protocols, close = (x11.XInternAtom(display, name, 0) for name in (b"WM_PROTOCOLS", b"WM_DELETE_WINDOW"))
    message = _ClientMessage(type=33, window=window, message_type=protocols, format=32)
    message.data[0] = close
    x11.XSendEvent(display, ctypes.c_ulong(window), 0, ctypes.c_long(0), ctypes.byref(message))
    x11.XCloseDisplay(display)


NUMBERS, HELP_ROWS = slice(0, 30), slice(240, 330)  # of the window's 360 rows


@needs_screen
def test_keys_in_a_real_window(screen, program, tmp_path):
    def look() -> np.ndarray:
        return screenshot(screen, tmp_path / ".shot.png")

    def plates(*colours) -> bool:
        shot = look()
        return all((shot == colour).all(axis=2).any() == (colour in colours) for colour in (RED, AMBER))

    def written(rows: slice) -> bool:  # on the left, where the film is dark
        return (look()[rows, :150] > 200).all(axis=2).sum() > 50

    key(screen, "i")
    wait(lambda: not written(NUMBERS))
    assert plates() and not written(HELP_ROWS)
    key(screen, "r")
    wait(lambda: plates(RED))
    key(screen, "space")
    wait(lambda: plates(RED, AMBER))
    key(screen, "s")  # of the picture that stands still
    wait(lambda: list(tmp_path.glob("tabrt-*.png")))
    key(screen, "h")
    wait(lambda: written(HELP_ROWS))
    keep = os.environ.get("TABRT_SCREENSHOTS")
    if keep:
        shutil.copy(tmp_path / ".shot.png", Path(keep) / "window.png")
    key(screen, "i")
    wait(lambda: written(NUMBERS))
    key(screen, "space")
    wait(lambda: plates(RED))
    key(screen, "r")
    wait(lambda: plates())
    key(screen, "q")
    program.wait(LIMIT)
    errors = (tmp_path / "errors").read_text()
    assert program.returncode == 0, errors
    assert "Traceback" not in errors and "frames in" in errors and "Stopped: q was pressed" in errors
    snapshot = cv2.imread(str(next(tmp_path.glob("tabrt-*.png"))))
    assert snapshot.shape == (360, 640, 3)
    with open_film(next(tmp_path.glob("tabrt-*.mp4"))) as film:
        assert list(film)


@needs_screen
def test_closing_the_window_quits(screen):
    with window_program(screen, "window(Scene(Frame(np.full((200, 300, 3), (40, 90, 200), np.uint8))))") as process:
        close_window(screen, int(xdotool(screen, "search", "--onlyvisible", "--name", "tabrt: ").split()[-1]))
        assert process.communicate(timeout=LIMIT) == ("the window was closed\n", "")


@needs_screen
def test_before_the_first_picture_it_says_so_and_heeds_keys(screen, tmp_path):
    with window_program(screen, "window.tick(None)") as process:
        wait(lambda: (screenshot(screen, tmp_path / "screen.png") == AMBER).all(axis=2).sum() > 500)
        key(screen, "Escape")
        assert process.communicate(timeout=LIMIT) == ("Esc was pressed\n", "")
