"""Drawn pictures of what a detector takes for faces, and what is none."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

SIZE = (640, 360)  # px, width and height
INK, SKIN = (40, 30, 30), (140, 180, 225)  # BGR


def _stage(seed: int, shade: int = 90) -> np.ndarray:
    grain = np.random.default_rng(seed).normal(0, 3, (SIZE[1], SIZE[0], 3))
    ramp = np.linspace(-20, 20, SIZE[0])[None, :, None]
    return np.clip(shade + grain + ramp, 0, 255).astype(np.uint8)


def letters(index: int) -> np.ndarray:
    """A title: large and small letters."""
    image = _stage(index, 30)
    cv2.putText(image, "season's", (60, 160), cv2.FONT_HERSHEY_SIMPLEX, 3.5, (230, 230, 230), 9, cv2.LINE_AA)
    cv2.putText(image, "GOOD MOODS 8%&", (70, 300), cv2.FONT_HERSHEY_TRIPLEX, 1.6, (200, 220, 240), 2, cv2.LINE_AA)
    return image


def shirt(index: int) -> np.ndarray:
    """A jumper from behind, with stripes and folds."""
    image = _stage(index, 190)
    cv2.ellipse(image, (320, 90), (45, 60), 0, 0, 360, (30, 25, 20), -1, cv2.LINE_AA)  # hair
    body = np.array([(235, 150), (405, 150), (440, 350), (200, 350)], np.int32)
    cv2.fillPoly(image, [body], (110, 105, 105), cv2.LINE_AA)
    for row in range(165, 350, 13):
        cv2.line(image, (225, row), (418, row + 3), (85, 80, 80), 3, cv2.LINE_AA)
    for x, y in ((285, 220), (355, 222), (320, 280)):
        cv2.ellipse(image, (x, y), (22, 7), 5, 0, 360, (70, 66, 66), -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 1.5)


def table(index: int) -> np.ndarray:
    """A round table with things on it."""
    image = _stage(index, 150)
    cv2.ellipse(image, (320, 190), (130, 90), 0, 0, 360, (215, 220, 225), -1, cv2.LINE_AA)
    for x, y in ((275, 165), (365, 168)):
        cv2.circle(image, (x, y), 16, (60, 60, 60), -1, cv2.LINE_AA)
    cv2.rectangle(image, (290, 225), (350, 240), (90, 90, 140), -1)
    return image


def socket(index: int) -> np.ndarray:
    """A wall socket: two holes and a frame."""
    image = _stage(index, 200)
    cv2.rectangle(image, (260, 120), (380, 240), (235, 235, 235), -1)
    cv2.circle(image, (320, 180), 48, (215, 215, 215), -1, cv2.LINE_AA)
    for x in (300, 340):
        cv2.circle(image, (x, 180), 7, INK, -1, cv2.LINE_AA)
    return image


def emoji(index: int) -> np.ndarray:
    """A yellow disc with dots and an arc."""
    image = _stage(index, 60)
    cv2.circle(image, (320, 180), 70, (40, 200, 250), -1, cv2.LINE_AA)
    for x in (295, 345):
        cv2.ellipse(image, (x, 160), (8, 14), 0, 0, 360, INK, -1, cv2.LINE_AA)
    cv2.ellipse(image, (320, 185), (40, 32), 0, 20, 160, INK, 6, cv2.LINE_AA)
    return image


def doll(index: int) -> np.ndarray:
    """A rag doll: buttons for eyes, a stitched mouth."""
    image = _stage(index, 110)
    cv2.ellipse(image, (320, 180), (60, 72), 0, 0, 360, SKIN, -1, cv2.LINE_AA)
    cv2.ellipse(image, (320, 118), (66, 30), 0, 180, 360, (30, 60, 150), -1, cv2.LINE_AA)
    for x in (298, 342):
        cv2.circle(image, (x, 168), 10, INK, -1, cv2.LINE_AA)
    cv2.line(image, (298, 222), (342, 222), (50, 50, 170), 3, cv2.LINE_AA)
    for x in range(300, 345, 8):
        cv2.line(image, (x, 217), (x, 227), INK, 1, cv2.LINE_AA)
    return image


NON_FACES: dict[str, Callable[[int], np.ndarray]] = {
    "letters": letters, "shirt": shirt, "table": table, "socket": socket, "emoji": emoji, "doll": doll,
}  # fmt: skip
