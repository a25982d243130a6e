"""The window of a live run: the picture with the faces drawn, numbers in its corner, and keys."""

from __future__ import annotations

import ctypes
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.faces import Scene
from tabrt.geometry import Box
from tabrt.live.run import Run, Wish
from tabrt.live.status import Counts, Status
from tabrt.sinks import Sink

HELP = (
    "q, Esc\tquit",
    "space\tpause",
    "s\tsnapshot",
    "r\trecord on / off",
    "b\tboundaries on / off",
    "n\tfaces are at rest now",
    "i\tnumbers on / off",
    "h\tthis help",
)
ESCAPE = 27
MAX_FIRST_SIZE = 1280, 800  # px, at most, before anyone resizes it
EMPTY_SIZE = 640, 360  # px, before the first picture
RED, AMBER, WHITE = (52, 44, 190), (0, 120, 200), (255, 255, 255)  # BGR


@dataclass
class Corner:
    """What a viewer of the window has switched on in it."""

    numbers: bool = True
    help: bool = False


def press(key: int, run: Run, corner: Corner) -> None:
    """Do what a key stands for; -1 and keys that stand for nothing do nothing."""
    letter = chr(key).lower() if 0 <= key < 128 else ""
    if letter == "q" or key == ESCAPE:
        run.ask(Wish("quit", why="Esc was pressed" if key == ESCAPE else "q was pressed"))
    elif letter == "i":
        corner.numbers = not corner.numbers
    elif letter == "h":
        corner.help = not corner.help
    elif letter in _WISHES:
        run.ask(_WISHES[letter])


_WISHES = {
    " ": Wish("pause"),
    "r": Wish("record"),
    "b": Wish("boundaries"),
    "s": Wish("snapshot"),
    "n": Wish("neutral"),
}


class Window(Sink):
    """A resizable window with the run's picture. It opens at once, and may wait for the first scene.

    Raises TabrtError where there is no screen: without this check the program would abort.
    """

    def __init__(self, title: str, run: Run):
        problem = no_screen()
        if problem:
            raise TabrtError(
                f"no window can be opened ({problem}); watch in a browser with --serve, "
                "or write the points with --landmarks FILE"
            )
        # Qt complains of fonts that this window does not use.
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        self._title = f"tabrt: {title}"
        self._run, self._corner = run, Corner()
        self._sized = False
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        cv2.resizeWindow(self._title, *EMPTY_SIZE)
        self.tick(None)

    def __call__(self, scene: Scene) -> None:
        self._size(scene.picture)
        self._show(scene.picture)

    def tick(self, last: Scene | None) -> None:
        self._show(np.zeros((*EMPTY_SIZE[::-1], 3), np.uint8) if last is None else last.picture)

    def close(self) -> None:
        cv2.destroyAllWindows()
        cv2.waitKey(1)

    def _show(self, picture: np.ndarray) -> None:
        cv2.imshow(self._title, annotated(picture, self._run.status, self._corner))
        while (key := cv2.waitKey(1)) != -1:  # all that were pressed since the last frame
            press(key, self._run, self._corner)
        if self._closed():
            self._run.ask(Wish("quit", why="the window was closed"))

    def _size(self, picture: np.ndarray) -> None:
        if not self._sized:
            self._sized = True
            scale = min(1.0, MAX_FIRST_SIZE[0] / picture.shape[1], MAX_FIRST_SIZE[1] / picture.shape[0])
            cv2.resizeWindow(self._title, round(picture.shape[1] * scale), round(picture.shape[0] * scale))

    def _closed(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            return True


def annotated(picture: np.ndarray, status: Status, corner: Corner) -> np.ndarray:
    """A copy of the picture with small plates of text on it, which leave its middle free.

    Numbers are top left, what is on (recording, pause) top right, help, trouble and news bottom left.
    """
    picture = picture.copy()
    text = _Text(picture)
    text.plate(status.counts.lines() if corner.numbers and status.counts.frames else ())
    right, bottom = picture.shape[1], picture.shape[0]
    if status.recording:
        minutes, seconds = divmod(int(status.recorded), 60)
        right -= text.plate([f"REC {minutes}:{seconds:02}"], right=right, colour=RED)[0]
    if status.paused:
        text.plate(["PAUSED"], right=right, colour=AMBER)
    bottom -= text.plate(text.wrapped(status.news), bottom=bottom)[1]
    bottom -= text.plate(text.wrapped(status.trouble), bottom=bottom, colour=AMBER)[1]
    text.plate(HELP if corner.help else (), bottom=bottom)
    return picture


def numbers_place(picture: np.ndarray) -> Box:
    """Where the numbers are written on a picture at their longest, for what is drawn below them."""
    return Box(0, 0, *_Text(picture).size(_LONGEST.lines()))


_LONGEST = Counts(dropped=99_999, faces=20, fps=100.0, latency=1.0, latency95=1.0)


class _Text:
    """Writes on a picture uint8 (H, W, 3) BGR, in letters that grow with it."""

    def __init__(self, picture: np.ndarray):
        self._picture = picture
        self._scale = max(0.4, min(picture.shape[0], 0.75 * picture.shape[1]) / 1150)
        self._thickness = max(1, round(1.4 * self._scale))
        self._step, self._margin, self._column = (round(length * self._scale) for length in (36, 12, 135))

    def plate(
        self,
        lines: Sequence[str],
        right: int | None = None,
        bottom: int | None = None,
        colour: tuple[int, int, int] | None = None,
    ) -> tuple[int, int]:
        """Lines on a plate that ends at `right` and `bottom`, px, or else begins at 0; a tab leads to a second column.

        colour: of the plate, BGR; None darkens the picture. Returns the plate's width and height, px.
        """
        if not lines:
            return 0, 0
        width, height = self.size(lines)
        x = 0 if right is None else max(0, right - width)
        y = 0 if bottom is None else max(0, bottom - height)
        part = self._picture[y : y + height, x : x + width]
        part[...] = part // 3 if colour is None else colour
        style = cv2.FONT_HERSHEY_SIMPLEX, self._scale, WHITE, self._thickness, cv2.LINE_AA
        for dx, dy, text in self._pieces(lines):
            cv2.putText(self._picture, text, (x + dx, y + dy), *style)
        return width, height

    def size(self, lines: Sequence[str]) -> tuple[int, int]:
        """Width and height of a plate for lines, px."""
        width = max(left + self._width(text) for left, _, text in self._pieces(lines)) + self._margin
        return width, self._step * len(lines) + self._margin

    def _pieces(self, lines: Sequence[str]) -> list[tuple[int, int, str]]:
        """The texts of a plate, each with its place from the plate's corner, px."""
        return [
            (self._margin + self._column * at, row * self._step - self._margin // 4, text)
            for row, line in enumerate(lines, start=1)
            for at, text in enumerate(line.split("\t"))
        ]

    def wrapped(self, text: str) -> list[str]:
        """The text in lines that fit into the picture's width."""
        letters = (self._picture.shape[1] - 2 * self._margin) // max(1, self._width("n"))
        return textwrap.wrap(text, max(8, letters))

    def _width(self, text: str) -> int:
        return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self._scale, self._thickness)[0][0]


def no_screen() -> str | None:
    """Why no window can be opened here; None where one can."""
    if not sys.platform.startswith("linux"):
        return None
    display = os.environ.get("DISPLAY")
    if not display:
        return "DISPLAY is not set"
    try:
        _connect(display)
    except TabrtError as problem:
        return str(problem)
    return None


@lru_cache(maxsize=1)
def _connect(display: str) -> None:
    """Connect to the screen and stay connected: some servers start afresh when nobody is, and end who comes then.

    Raises TabrtError where the window's own toolkit, which uses the same library, would abort the process.
    """
    try:
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        raise TabrtError("libxcb.so.1 is not installed") from None
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(display.encode(), None))
    if xcb.xcb_connection_has_error(connection):
        xcb.xcb_disconnect(connection)
        raise TabrtError(f"DISPLAY={display} cannot be reached")
