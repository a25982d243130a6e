"""The window of a live run: the picture with the faces drawn, numbers in its corner, and keys."""

from __future__ import annotations

import ctypes
import os
import sys

import cv2
import numpy as np

from tabrt.errors import TabrtError
from tabrt.status import Controls

HELP = (
    "q, Esc\tquit",
    "space\tpause",
    "s\tsnapshot",
    "r\trecord on / off",
    "b\tboundaries on / off",
    "i\tnumbers on / off",
    "h\tthis help",
)
ESCAPE = 27
FIRST_SIZE = 1280, 800  # px, at most, before anyone resizes it


def press(key: int, controls: Controls) -> None:
    """Do what a key stands for; -1 and keys that stand for nothing do nothing."""
    letter = chr(key).lower() if 0 <= key < 128 else ""
    if letter == "q" or key == ESCAPE:
        controls.quit = True
    elif letter == "s":
        controls.snapshot = True
    elif letter in _SWITCHES:
        name = _SWITCHES[letter]
        setattr(controls, name, not getattr(controls, name))


_SWITCHES = {" ": "paused", "r": "recording", "b": "boundaries", "i": "numbers", "h": "help"}


class Window:
    """A resizable window. Raises TabrtError where there is no screen: without this check the program would abort."""

    def __init__(self, title: str):
        problem = no_screen()
        if problem:
            raise TabrtError(
                f"no window can be opened ({problem}); watch in a browser with --serve, "
                "or write the points with --landmarks FILE"
            )
        # Qt complains of fonts that this window does not use.
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        self._title = f"tabrt: {title}"
        self._picture: np.ndarray | None = None
        self._sized = False
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)

    def show(self, picture: np.ndarray | None, controls: Controls, lines: tuple[str, ...]) -> None:
        """Show picture uint8 (H, W, 3) BGR, or the last one again where it is None, and heed the keys.

        lines: written in its corner.
        """
        if picture is not None:
            self._picture = picture
        if self._picture is not None:
            self._size(self._picture)
            cv2.imshow(self._title, annotated(self._picture, (*lines, *(HELP if controls.help else ()))))
        while (key := cv2.waitKey(1)) != -1:  # all that were pressed since the last frame
            press(key, controls)
        if self._picture is not None and self._closed():
            controls.quit = True

    def close(self) -> None:
        cv2.destroyAllWindows()
        cv2.waitKey(1)

    def _size(self, picture: np.ndarray) -> None:
        if not self._sized:
            self._sized = True
            scale = min(1.0, FIRST_SIZE[0] / picture.shape[1], FIRST_SIZE[1] / picture.shape[0])
            cv2.resizeWindow(self._title, round(picture.shape[1] * scale), round(picture.shape[0] * scale))

    def _closed(self) -> bool:
        try:
            return cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1
        except cv2.error:
            return True


def annotated(picture: np.ndarray, lines: tuple[str, ...]) -> np.ndarray:
    """A copy of the picture with lines of text on a dark plate in its top left corner; a tab leads to a column."""
    if not lines:
        return picture
    picture = picture.copy()
    scale = max(0.4, picture.shape[0] / 1000)
    step, margin, column = round(34 * scale), round(12 * scale), round(110 * scale)
    thickness = max(1, round(1.4 * scale))
    pieces = [
        (margin + column * at, row * step - margin // 4, text)
        for row, line in enumerate(lines, start=1)
        for at, text in enumerate(line.split("\t"))
    ]
    ends = [x + cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0] for x, _, text in pieces]
    plate = picture[: step * len(lines) + margin, : max(ends) + margin]
    plate[...] = plate // 3
    for x, y, text in pieces:
        cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thickness, cv2.LINE_AA)
    return picture


def no_screen() -> str | None:
    """Why no window can be opened here; None where one can."""
    if not sys.platform.startswith("linux"):
        return None
    display = os.environ.get("DISPLAY")
    if not display:
        return "DISPLAY is not set"
    try:  # what the window's own toolkit links to; it would abort the process where this says no
        xcb = ctypes.CDLL("libxcb.so.1")
    except OSError:
        return "libxcb.so.1 is not installed"
    xcb.xcb_connect.restype = ctypes.c_void_p
    connection = ctypes.c_void_p(xcb.xcb_connect(None, None))
    refused = xcb.xcb_connection_has_error(connection)
    xcb.xcb_disconnect(connection)
    return f"DISPLAY={display} cannot be reached" if refused else None
