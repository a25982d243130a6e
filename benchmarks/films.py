"""Films of a wanted size and number of faces, put together from the demo film's moving face; and what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from benchmarks.contract import memory_peak_mib
from tabrt.commands.demo import DEMO_FILM
from tabrt.commands.options import VideoOptions
from tabrt.commands.video import video
from tabrt.film import FilmWriter, open_film

FACE = (slice(10, 350), slice(245, 585))  # rows, columns of the demo film: a square around its face
SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
RATE = 25


def make(path: Path, size: tuple[int, int], faces: int, frames: int) -> Path:
    """Write a film of `frames` frames with this many faces, each at its own moment of the demo film."""
    squares = _squares()
    background = _background(size)
    with FilmWriter(path, *size, RATE, crf=23) as writer:
        for index in range(frames):
            picture = background.copy()
            for number, (left, top, side) in enumerate(_places(size, faces)):
                square = squares[(index + 29 * number) % len(squares)]
                picture[top : top + side, left : left + side] = _resized(square, side)
            writer.write(picture, index / RATE)
    return path


def _squares() -> list[np.ndarray]:
    with open_film(DEMO_FILM) as film:
        return [frame.image[FACE].copy() for frame in islice(film, 250)]


def _resized(square: np.ndarray, side: int) -> np.ndarray:
    interpolation = cv2.INTER_AREA if side < len(square) else cv2.INTER_LINEAR
    return cv2.resize(square, (side, side), interpolation=interpolation)


def _background(size: tuple[int, int]) -> np.ndarray:
    """A slanting shade with grain: something to encode, and nothing that a detector could take for a face."""
    width, height = size
    shade = 60 + 100 * (np.arange(height)[:, None] / height + np.arange(width) / width) / 2
    grain = np.random.default_rng(0).normal(0, 4, (height, width, 3))
    return (shade[..., None] + grain).clip(0, 255).astype(np.uint8)


def _places(size: tuple[int, int], faces: int) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of each face's square, in a grid that fills the picture."""
    if not faces:
        return
    width, height = size
    columns = min(range(1, faces + 1), key=lambda n: -min(width / n, height / math.ceil(faces / n)))
    rows = math.ceil(faces / columns)
    side = int(min(width / columns, height / rows)) // 2 * 2
    for number in range(faces):
        row, column = divmod(number, columns)
        yield int((column + 0.5) * width / columns - side / 2), int((row + 0.5) * height / rows - side / 2), side


def whole_command(film: Path, faces: int, model: str) -> dict:
    """What `tabrt video` does, in this process. Here, where nothing else is imported, its memory is its own."""
    out = film.with_name("out.mp4")
    start = time.perf_counter()
    summary = video(VideoOptions(source=str(film), out=str(out), model=model, faces=faces))
    seconds = time.perf_counter() - start
    out.unlink()
    return {"frames_a_second": summary.frames / seconds, "peak_memory_mib": memory_peak_mib()}
