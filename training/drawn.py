"""Faces as people draw, print and sew them, in which a network is to see no face."""

from __future__ import annotations

import cv2
import numpy as np

SIDE = 352  # px
Pair = tuple[float, float]
Colour = tuple[int, int, int]
_SKIN = ((150, 190, 235), (110, 150, 200), (70, 100, 150), (45, 60, 95), (120, 200, 250), (200, 205, 240))  # BGR


def draw_face(number: int) -> np.ndarray:
    """The drawn face of this number, uint8 (352, 352, 3) BGR: ovals, dots and lines, now and then with some shading."""
    rng = np.random.default_rng(number)
    image = _ground(rng)
    x, y = (SIDE / 2 + rng.normal(0, 12, 2)).tolist()
    across, down = SIDE * rng.uniform(0.22, 0.36), SIDE * rng.uniform(0.26, 0.38)
    skin = np.clip(_SKIN[rng.integers(len(_SKIN))] + rng.normal(0, 14, 3), 0, 255)
    ink = _dark(rng)
    if rng.random() < 0.5:  # shoulders
        _oval(image, (x, y + down * 1.5), (across * 1.3, down * 0.8), _colour(rng))
    rim = ink if rng.random() < 0.4 else None
    _oval(image, (x, y), (across, down), _colour(rng) if rng.random() < 0.25 else skin, rim)
    if rng.random() < 0.7:  # hair
        top = y - down * rng.uniform(0.6, 0.95)
        _oval(image, (x, top), (across * 1.1, down * rng.uniform(0.3, 0.6)), _colour(rng))
    _features(image, rng, (x, y), (across, down), ink)
    if rng.random() < 0.5:
        _shade(image, rng)
    turn = cv2.getRotationMatrix2D((SIDE / 2, SIDE / 2), rng.normal(0, 12), 1)
    image = cv2.warpAffine(image, turn, (SIDE, SIDE), borderMode=cv2.BORDER_REFLECT)
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 2.0))


def _ground(rng: np.random.Generator) -> np.ndarray:
    """One colour, with a few boxes and lines on it, or none."""
    image = np.empty((SIDE, SIDE, 3), np.uint8)
    image[:] = _colour(rng)
    for _ in range(int(rng.integers(0, 7))):
        one, other = (tuple(map(int, rng.integers(0, SIDE, 2))) for _ in range(2))
        cv2.rectangle(image, one, other, _colour(rng), -1 if rng.random() < 0.6 else int(rng.integers(1, 6)))
    return image


def _features(image: np.ndarray, rng: np.random.Generator, middle: Pair, half: Pair, ink: Colour) -> None:
    (x, y), (across, down) = middle, half
    apart, level = across * rng.uniform(0.3, 0.5), y + down * rng.uniform(-0.25, 0.05)
    size, kind, thick = across * rng.uniform(0.08, 0.26), rng.integers(4), int(rng.integers(1, 6))
    brow = size * rng.uniform(1.1, 1.8) if rng.random() < 0.5 else 0
    round_to = rng.uniform(0.5, 1)
    iris = _colour(rng)
    for eye in (x - apart, x + apart):
        if kind == 0:  # a button, a dot
            _oval(image, (eye, level), (size * 0.8, size * 0.8), ink)
        elif kind == 1:  # white, iris, pupil
            _oval(image, (eye, level), (size, size * round_to), (245, 245, 245), ink)
            _oval(image, (eye, level), (size * 0.5, size * 0.5), iris)
            _oval(image, (eye, level), (size * 0.25, size * 0.25), ink)
        elif kind == 2:  # shut
            cv2.ellipse(image, _whole(eye, level), _whole(size, size * 0.6), 0, 180, 360, ink, thick, cv2.LINE_AA)
        else:  # a slit
            _oval(image, (eye, level), (size, size * 0.35), ink)
        if brow:
            _line(image, (eye - size, level - brow), (eye + size, level - brow * 1.1), ink, thick + 1)
    tip = y + down * rng.uniform(0.1, 0.25)
    nose = rng.integers(3)
    if nose == 0:
        _oval(image, (x, tip), (size * 0.5, size * 0.6), _colour(rng) if rng.random() < 0.5 else ink)
    elif nose == 1:
        _line(image, (x, level), (x + size / 3, tip), ink, thick)
    _mouth(image, rng, (x, y + down * rng.uniform(0.4, 0.65)), across * rng.uniform(0.2, 0.5), ink, thick)


def _mouth(image: np.ndarray, rng: np.random.Generator, middle: Pair, wide: float, ink: Colour, thick: int) -> None:
    (x, y), kind = middle, rng.integers(4)
    colour = ink if rng.random() < 0.5 else (40, 40, int(rng.integers(120, 230)))
    if kind == 0:  # a smile, or its contrary
        start = 0 if rng.random() < 0.7 else 180
        size = _whole(wide, wide * rng.uniform(0.3, 0.8))
        cv2.ellipse(image, _whole(x, y), size, 0, start, start + 180, colour, thick + 1, cv2.LINE_AA)
    elif kind == 1:  # open
        _oval(image, middle, (wide * 0.7, wide * rng.uniform(0.2, 0.6)), colour, ink)
    else:
        _line(image, (x - wide, y), (x + wide, y), colour, thick + 1)
        for at in np.arange(-wide, wide, 8) if kind == 3 else ():  # stitches
            _line(image, (x + at, y - 5), (x + at, y + 5), ink, 1)


def _shade(image: np.ndarray, rng: np.random.Generator) -> None:
    """Light that falls off to one side."""
    ys, xs = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    light = 1 - rng.uniform(0.1, 0.4) * (1 + xs * np.cos(angle) + ys * np.sin(angle))
    image[:] = np.clip(image * light[..., None], 0, 255)


def _oval(image: np.ndarray, middle: Pair, half: Pair, colour: Colour | np.ndarray, rim: Colour | None = None) -> None:
    shape = _whole(*middle), _whole(*half), 0, 0, 360
    cv2.ellipse(image, *shape, tuple(map(int, colour)), -1, cv2.LINE_AA)
    if rim is not None:
        cv2.ellipse(image, *shape, rim, 2, cv2.LINE_AA)


def _line(image: np.ndarray, one: Pair, other: Pair, colour: Colour, thick: int) -> None:
    cv2.line(image, _whole(*one), _whole(*other), colour, thick, cv2.LINE_AA)


def _whole(x: float, y: float) -> tuple[int, int]:
    return round(float(x)), round(float(y))


def _colour(rng: np.random.Generator) -> Colour:
    b, g, r = rng.integers(0, 256, 3).tolist()
    return b, g, r


def _dark(rng: np.random.Generator) -> Colour:
    b, g, r = rng.integers(0, 70, 3).tolist()
    return b, g, r
